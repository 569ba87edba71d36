"""tools/pack.py beside files of the user's, which stay; what it began itself and what it no longer needs, which goes."""

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from convmae.engine.packing.held import NOTES
from convmae.engine.pictures.folders import list_images
from convmae.engine.shards.index import INDEX
from convmae.tools import pack

Pack = Callable[..., Path]


def interrupt(*_: object) -> bytes:
    raise KeyboardInterrupt


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_users_shards_and_class_list_are_not_replaced(
    overwrite: list[str], classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("shard-000123.tar", "classes.txt"):
        output = tmp_path / f"holds_{name}"
        output.mkdir()
        (output / name).write_text("theirs")
        assert pack.main([str(classes), str(output), *overwrite]) == 2
        assert f"{output / name} " in capsys.readouterr().err
        assert names(output) == [name]
        assert (output / name).read_text() == "theirs"


def test_overwriting_leaves_what_no_index_names(
    tree: Path, tmp_path: Path, packed: Pack, capsys: pytest.CaptureFixture
) -> None:
    shards = packed(tree, tmp_path / "shards", "--per-shard", "2")
    (shards / "packing").mkdir()
    (shards / "packing" / "thesis.txt").write_text("theirs")
    (shards / "shard-000999.tar").write_text("theirs")
    assert pack.main([str(tree), str(shards), "--overwrite"]) == 2
    assert "shard-000999.tar was not packed here" in capsys.readouterr().err
    assert len(list_images(shards)) == 19
    (shards / "shard-000999.tar").unlink()
    packed(tree, shards, "--overwrite")
    assert names(shards) == [INDEX, "packing", "shard-000000.tar"]
    assert (shards / "packing" / "thesis.txt").read_text() == "theirs"


def test_what_is_kept_of_an_interrupted_packing_goes_with_its_end(
    tree: Path, tmp_path: Path, packed: Pack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shards = tmp_path / "shards"
    with monkeypatch.context() as patch:  # once all shards are there
        patch.setattr("convmae.engine.packing.writing.Index.dump", interrupt)
        assert pack.main([str(tree), str(shards), "--per-shard", "2", "--processes", "1"]) == 130
    (shards / ".shard-000000.tar.7.part").write_bytes(b"half")
    assert len(names(shards)) == 12
    packed(tree, shards, "--per-shard", "10")  # fewer shards
    assert names(shards) == [INDEX, "shard-000000.tar", "shard-000001.tar"]
    # Killed between the index and the notes.
    (shards / NOTES).mkdir()
    (shards / NOTES / "shard-000000.tar.json").write_text("{}")
    capsys.readouterr()
    packed(tree, shards, "--per-shard", "10")
    assert "holds the shards of these pictures already" in capsys.readouterr().out
    assert names(shards) == [INDEX, "shard-000000.tar", "shard-000001.tar"]


def test_refused_it_leaves_nothing(tree: Path, tmp_path: Path, packed: Pack) -> None:
    (tmp_path / "empty").mkdir()
    for root in ("empty", "nowhere"):
        assert pack.main([str(tmp_path / root), str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()
    shards = packed(tree, tmp_path / "shards")
    before = names(shards)
    assert pack.main([str(tree), str(shards), "--per-shard", "2"]) == 2
    assert names(shards) == before


def test_one_that_comes_while_another_packs_waits_for_it(
    tree: Path, tmp_path: Path, packed: Pack, capsys: pytest.CaptureFixture
) -> None:
    shards = packed(tree, tmp_path / "shards")
    (shards / NOTES).mkdir()
    place = os.open(shards, os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)

    def end() -> None:
        time.sleep(0.5)
        (shards / NOTES).rmdir()
        os.close(place)

    other = threading.Thread(target=end)
    other.start()
    capsys.readouterr()
    packed(tree, shards)
    other.join()
    assert "holds the shards of these pictures already" in capsys.readouterr().out
