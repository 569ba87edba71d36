"""Which files of a folder are taken for pictures, and what is said of the others."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image, features

from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Fault
from convmae.engine.pictures.folders import list_images, picture_endings
from convmae.engine.pictures.images import read_image


def write(path: Path, kind: str = "PNG", size: tuple[int, int] = (4, 3)) -> Path:
    """Writes a picture of a format under any name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    Image.new("L", size, 80).save(content, kind)
    path.write_bytes(content.getvalue())
    return path


def listed(folder: Path, once: bool = False) -> tuple[list[str], dict[str, Fault]]:
    """Returns what is listed, relative to the folder, and what is reported, by kind."""
    faults: list[Fault] = []
    names = [path.relative_to(folder).as_posix() for path in list_images(folder, faults.append, once)]
    return names, {fault.kind: fault for fault in faults}


def test_a_folder_is_listed_with_what_lies_below_it(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("b/c/2.JPG", "b/1.png", ".hidden.png", "note.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["1.png", "2.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        list_images(tmp_path / "empty")
    with pytest.raises(UserError, match="no folder"):
        list_images(tmp_path / "nowhere")


def test_the_order_is_that_of_the_paths(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/2.PNG", "a/10.png", "a b/1.png", "A.png", "a.png", "a-/1.png"):
        write(tmp_path / name)
    expected = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert list_images(tmp_path) == expected


def test_every_ending_of_what_pillow_saves_and_opens_is_listed_and_read(tmp_path: Path) -> None:
    tried = 0
    for ending, kind in Image.registered_extensions().items():
        content = io.BytesIO()
        mode = {"MSP": "1", "XBM": "1"}.get(kind, "RGB")
        if kind in ("PDF", "EPS", "PALM") or kind not in Image.SAVE:
            continue
        try:
            Image.new(mode, (32, 32), 1).save(content, kind)
            Image.open(io.BytesIO(content.getvalue())).load()
        except (OSError, ValueError, KeyError):  # by itself Pillow does not write that format, or not read it
            continue
        (tmp_path / f"{tried}{ending.upper() if tried % 2 else ending}").write_bytes(content.getvalue())
        tried += 1
    assert tried > 30
    found = list_images(tmp_path)
    assert len(found) == tried
    assert {read_image(path).size for path in found if path.suffix.lower() != ".icns"} == {(32, 32)}


def test_what_pillow_knows_but_does_not_decode_is_no_picture(tmp_path: Path) -> None:
    assert not picture_endings().keys() & {
        ".pdf",
        ".eps",
        ".ps",
        ".mpg",
        ".mpeg",
        ".h5",
        ".hdf",
        ".grib",
        ".bufr",
        ".wmf",
    }
    assert {".jfif", ".jpe", ".pgm", ".mpo", ".tga"} <= picture_endings().keys()
    assert (".avif" in picture_endings()) == features.check("avif")


def test_a_file_that_shares_its_ending_with_pictures_is_opened_to_tell(tmp_path: Path) -> None:
    write(tmp_path / "photo.tga", "TGA")
    write(tmp_path / "map.jpg", "JPEG")
    (tmp_path / "map.pcd").write_text("# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z\n")
    names, said = listed(tmp_path)
    assert names == ["map.jpg", "photo.tga"]
    assert "1 file of other endings passed over: 1 .pcd" in str(said["folders with files that are no pictures"])


def test_companions_are_noted_and_what_may_be_a_picture_is_warned_of(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", "JPEG")
    for name in ("a.txt", "b.txt", "a.json", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_text("words")
    _, said = listed(tmp_path)
    (note,) = said.values()
    assert note.effect is Effect.NOTE
    assert "5 files of other endings passed over: 2 .txt, " in str(note)
    for name in ("b.HEIC", "c.heic", "deep/d.heic"):
        write(tmp_path / name)
    _, said = listed(tmp_path)
    (doubt,) = said.values()
    assert doubt.effect is Effect.DOUBTFUL
    assert "8 files of other endings passed over: 3 .heic, 2 .txt, " in str(doubt)
    assert "does not open" in str(doubt)


@pytest.mark.parametrize("name", ["IMG_0001", "photo.jpg.1", "photo.jpg~", "photo.jpg_large", ".photo.png"])
def test_a_picture_under_another_ending_or_none_is_found_out(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.png")
    path = write(tmp_path / name, "JPEG")
    _, said = listed(tmp_path)
    assert said["folders with files that may be pictures"].effect is Effect.DOUBTFUL
    assert f"{path} is a picture (JPEG)" in str(said["folders with files that may be pictures"])


@pytest.mark.parametrize(
    ("head", "kind"), [(bytes(128) + b"DICM" + bytes(60), "DICOM"), (b"\0\0\0\x18ftypheic" + bytes(60), "HEIF")]
)
def test_scans_and_phone_pictures_without_an_ending_are_known_by_their_first_bytes(
    tmp_path: Path, head: bytes, kind: str
) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "IM000001").write_bytes(head)
    _, said = listed(tmp_path)
    assert f"is a picture ({kind})" in str(said["folders with files that may be pictures"])


def test_a_folder_of_what_is_not_read_alone_is_refused_with_the_cause(tmp_path: Path) -> None:
    write(tmp_path / "g", "JPEG")
    with pytest.raises(
        UserError, match=r"holds no pictures.*1 file of other endings passed over: 1 without an ending.*JPEG"
    ):
        list_images(tmp_path)


def test_what_systems_and_programs_keep_beside_the_pictures_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    for name in (
        "__MACOSX/._a.png",
        ".ipynb_checkpoints/a-checkpoint.png",
        "@eaDir/a.png/thumb.jpg",
        "lost+found/x.png",
    ):
        write(tmp_path / "deep" / name)
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")
    names, said = listed(tmp_path)
    assert names == ["a.png"]
    assert {fault.effect for fault in said.values()} == {Effect.NOTE}
    write(tmp_path / ".frames" / "b.png")
    names, said = listed(tmp_path)
    assert names == ["a.png"]
    assert said["hidden folders with pictures"].effect is Effect.DOUBTFUL
    assert list_images(tmp_path / ".frames")  # hidden, but asked for


def test_what_tools_of_this_project_drew_is_no_data(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png")
    for name in ("run/config.yaml", "run/scalars.jsonl", "out/legend.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("run/reconstructions.png", "out/legend.png", "out/labels/a.png", "out/overlays/a.png", "labels/a.png"):
        write(tmp_path / name)
    names, said = listed(tmp_path)
    assert names == ["images/a.png", "labels/a.png"]
    assert said.keys() >= {"drawings of this project's tools"}


def test_links_are_followed(tmp_path: Path) -> None:
    for name in ("store/x/1.png", "store/y/2.png"):
        write(tmp_path / name)
    (tmp_path / "set" / "y").mkdir(parents=True)
    (tmp_path / "set" / "x").symlink_to("../store/x")
    (tmp_path / "set" / "y" / "5.png").symlink_to(tmp_path / "store" / "y" / "2.png")
    assert listed(tmp_path / "set", once=True) == (["x/1.png", "y/5.png"], {})


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    """Two of them would double the folders at each of the 40 levels that a system follows."""
    top = tmp_path / "top"
    write(top / "a.png")
    write(top / "b" / "c" / "d.png")
    write(tmp_path / "beside" / "e.png")
    for name, target in (("one", "."), ("two", "."), ("b/c/three", "../.."), ("up", ".."), ("b/self", "self")):
        (top / name).symlink_to(target)
    for once in (True, False):
        names, said = listed(top, once)
        assert names == ["a.png", "b/c/d.png"]
    assert said["links that lead back"].effect is Effect.NOTE


def test_folders_that_link_to_one_another_end(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(9)]
    for name in names:
        write(tmp_path / name / "a.png", size=(3, 3))
    for name in names:
        for other in names:
            if other != name:
                (tmp_path / name / f"to_{other}").symlink_to(f"../{other}")
    assert listed(tmp_path, once=True)[0] == [f"{name}/a.png" for name in names]


def test_what_linked_classes_share_is_listed_in_each(tmp_path: Path) -> None:
    write(tmp_path / "store" / "more" / "1.png")
    for name in ("a", "b"):
        write(tmp_path / "store" / name / "2.png")
        for link in ("more", "again"):
            (tmp_path / "store" / name / link).symlink_to("../more")
        (tmp_path / "top").mkdir(exist_ok=True)
        (tmp_path / "top" / name).symlink_to(f"../store/{name}")
    names, said = listed(tmp_path / "top")
    assert names == ["a/2.png", "a/again/1.png", "b/2.png", "b/again/1.png"]
    assert list(said) == ["links that another leads to"]
    assert f"{tmp_path / 'top/b/more'} leads to {tmp_path / 'store/more'}, as another link" in str(*said.values())


def test_what_two_links_lead_to_counts_once_where_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "z" / "1.png")
    write(tmp_path / "store" / "2.png")
    top = tmp_path / "top"
    (top / "z").mkdir(parents=True)
    write(top / "z" / "3.png")
    os.link(top / "z" / "3.png", top / "z" / "4.png")  # another file, as far as anyone can tell
    (top / "latest").symlink_to("z")
    for name in ("5.png", "6.png"):
        (top / name).symlink_to(tmp_path / "store" / "2.png")
    names, said = listed(top, once=True)
    assert names == ["5.png", "z/3.png", "z/4.png"]
    doubt = said["folders with pictures linked twice"]
    assert doubt.effect is Effect.DOUBTFUL
    assert "3 links lead to pictures that are listed already" in str(doubt)
    assert listed(top)[0] == ["5.png", "6.png", "latest/3.png", "latest/4.png", "z/3.png", "z/4.png"]


def test_a_link_that_leads_nowhere_is_named_at_the_start(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("gone.png")
    with pytest.raises(UserError, match=r"b\.png is a link to gone\.png, which is not there"):
        list_images(tmp_path)


@pytest.mark.parametrize("link", [True, False])
def test_what_may_not_be_looked_at_is_named_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    write(tmp_path / "a.png")
    if link:
        (tmp_path / "b.png").symlink_to("a.png")
    else:
        os.mkfifo(tmp_path / "b.png")

    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("convmae.engine.pictures.folders.kind_of_file", refused)
    with pytest.raises(UserError, match=r"b\.png can't be read \(Permission denied\); allow it"):
        list_images(tmp_path)


def test_a_folder_that_cant_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "b" / "c.png")
    scandir = os.scandir

    def refused(path: Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("convmae.engine.pictures.folders.os.scandir", refused)
    with pytest.raises(UserError, match=r"b can't be read \(Permission denied\)"):
        list_images(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    os.mkfifo(tmp_path / "c")
    pictures, faults = listed(tmp_path)
    assert pictures == ["a.png"]
    assert [str(fault) for fault in faults.values()] == [
        f"{tmp_path / 'b.png'} is a pipe, not a file, and is passed over"
    ]
