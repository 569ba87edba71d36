"""What a person at the command line meets: clear refusals, nothing overwritten unasked."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from names import NASTY
from PIL import Image

from convmae.engine.commands.cli import alone_in, prepare_report_dir, prepare_work_dir, run_tool
from convmae.engine.errors import UserError
from convmae.engine.files import write_whole
from convmae.engine.log import log, start_log
from convmae.tools import cli, pretrain


def test_a_mistake_of_input_is_one_message_and_status_2(capsys: pytest.CaptureFixture) -> None:
    def fail() -> None:
        raise UserError("found this; expected that")

    assert run_tool(fail) == 2
    assert capsys.readouterr().err == "error: found this; expected that\n"


def test_a_name_that_is_no_unicode_is_printed_logged_and_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")  # as another system's encoding, or a zip file's, leaves it
    (tmp_path / "run.py").write_text(
        "import os, sys; from pathlib import Path; from convmae.engine.commands.cli import run_tool\n"
        "from convmae.engine.files import write_whole; from convmae.engine.log import log, start_log\n"
        "def main():\n"
        "    start_log(Path())\n"
        "    for say in (log.warning, print, lambda text: write_whole(Path('page.html'), text)): say(sys.argv[1] + ' é')\n"
        "sys.exit(run_tool(main))\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "run.py", name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "caf\\xe9.jpg é\ncaf\\udce9.jpg é\n"
    assert "caf\\xe9.jpg é" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "caf\\udce9.jpg é" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_is_cut_off_is_named_without_a_traceback(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "pictures" / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    options = ["data.root=pictures", "data.batch_size=1", f"data.workers={workers}", "model.img_size=32"]
    assert pretrain.main(["--config", "convmae_tiny_96px.yaml", "--cfg-options", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: pictures/cut.jpg can't be read as a picture")
    assert error.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_name_can_be_printed_and_logged(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminals = {name: io.TextIOWrapper(io.BytesIO(), encoding) for name in ("stdout", "stderr")}
    for name, terminal in terminals.items():
        monkeypatch.setattr(sys, name, terminal)
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", log.propagate)  # put back after the test, which changes it

    def main() -> None:
        start_log(tmp_path)
        for name in NASTY:
            print(name)
            log.warning(f"the class {name}")
        raise UserError("".join(NASTY))

    try:
        assert run_tool(main) == 2
    finally:
        for handler in log.handlers:
            handler.close()
    for terminal in terminals.values():
        terminal.flush()
    said = {name: terminal.buffer.getvalue().decode(encoding) for name, terminal in terminals.items()}  # type: ignore[attr-defined]
    assert "the class crane" in said["stdout"]
    assert "h\\udcfcnd" in said["stdout"]
    assert said["stderr"].startswith("error: ")
    assert "\x07" not in said["stderr"]
    text = (tmp_path / "log.txt").read_bytes().decode("utf-8")
    assert "the class 行人" in text
    assert "the class \\ud800 half" in text
    assert "the class h\\xfcnd" in text
    assert "\x07" not in text


def test_a_work_directory_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"h\\xfc, is not in UTF-8.*another by --work-dir"):
        prepare_work_dir(tmp_path / os.fsdecode(b"h\xfc"), resume=False, overwrite=False)
    prepare_work_dir(tmp_path / "行人 $x$", resume=False, overwrite=False)


def test_too_little_gpu_memory_is_a_message_with_what_helps(capsys: pytest.CaptureFixture) -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    assert run_tool(fail) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: CUDA out of memory. Tried to allocate 20.00 GiB.")
    assert "data.accumulate=4" in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_full_disk_is_a_message(capsys: pytest.CaptureFixture) -> None:
    def write() -> None:
        Path("/dev/full").write_text("loss")

    assert run_tool(write) == 2
    assert capsys.readouterr().err == (
        "error: [Errno 28] No space left on device. Make room; a training run goes on with --resume.\n"
    )


def test_a_missing_file_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    def read() -> None:
        (tmp_path / "nowhere").read_text()

    with pytest.raises(FileNotFoundError):
        run_tool(read)


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_tool(fail)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config", "nowhere.yaml"], "No recipe 'nowhere.yaml'"),
        (["--cfg-options", "optim.lrr=1"], "Did you mean 'lr'"),
        (["--cfg-options", "data.root=nowhere"], "no folder nowhere"),
        (["--cfg-options", "data.root=empty"], "holds no pictures"),
        (["--cfg-options", "model.mask_ratio=0.999", "data.root=one"], "mask_ratio"),
        (["--cfg-options", "model.init=text.pth", "data.root=one"], "text.pth"),
        (["--resume", "--overwrite", "--cfg-options", "data.root=one"], "give one of them"),
        (["--work-dir", "text.pth/run", "--cfg-options", "data.root=one"], "can't be written"),
        (["--launcher", "pytorch", "--cfg-options", "data.root=one"], "torchrun"),
        (["--cfg-options", "model.decoder_dim=-512"], "model.decoder_dim is -512; expected from 4 to 8192"),
        (["--cfg-options", "model.decoder_dim=1000000000"], "model.decoder_dim is 1e+09; expected from 4 to 8192"),
        (["--overwrite", "--cfg-options", "model.init=loop.pth", "data.root=one"], "loop.pth"),
        (["--overwrite", "--work-dir", "loop.pth", "--cfg-options", "model.init=text.pth", "data.root=one"], "can't"),
        (["--cfg-options", "model.decoder_heads=0"], "model.decoder_heads is 0; expected at least 1"),
        (["--cfg-options", "model.img_size=100000"], "model.img_size is 100000; expected from 32 to"),
        (["--cfg-options", "model.groups=4", "data.root=one"], "model.groups is for fastconvmae, not for convmae"),
    ],
)
def test_pretraining_refuses_before_it_starts(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "one"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "one" / "a.png")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    if "--config" not in argv:
        argv = ["--config", "convmae_tiny_96px.yaml", *argv]
    assert pretrain.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("step_*.pth"))


def write_run(folder: Path, *names: str) -> None:
    """Writes files as a run does, which puts them on the folder's list."""
    for name in names:
        write_whole(folder / name, "of a run")


def test_an_earlier_run_is_neither_lost_nor_overwritten_unasked(tmp_path: Path) -> None:
    prepare_work_dir(tmp_path, resume=False, overwrite=False)
    write_run(tmp_path, "log.txt")  # of a run that was refused
    prepare_work_dir(tmp_path, resume=False, overwrite=False)
    write_run(tmp_path, "config.yaml", "model.pth", "report/index.html")
    with pytest.raises(UserError, match="--resume, replace it with"):
        prepare_work_dir(tmp_path, resume=False, overwrite=False)
    prepare_work_dir(tmp_path, resume=True, overwrite=False)
    assert (tmp_path / "config.yaml").exists()
    prepare_work_dir(tmp_path, resume=False, overwrite=True)
    assert {path.name for path in tmp_path.rglob("*")} == {"files.txt", "report"}


MINE = (
    "encoder.py",
    "encoder.txt",
    "step_by_step.pth",
    "pretrained.zip",
    "notes/best.pth",
    "report/figure.png",
    ".model.pth.1.part",
)


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_file_of_the_user_is_removed_or_replaced(overwrite: bool, tmp_path: Path) -> None:
    for name in MINE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    prepare_work_dir(tmp_path, resume=False, overwrite=overwrite)
    write_run(tmp_path, "config.yaml", "encoder.pth", "step_3.pth")
    (tmp_path / ".encoder.pth.77.part").write_text("of a run that was killed")
    prepare_work_dir(tmp_path, resume=False, overwrite=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*MINE, "files.txt"}
    assert all((tmp_path / name).read_text() == "mine" for name in MINE)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "encoder.pth",
        "config.yaml",
        "metrics.json",
        "step_by_step.pth",
        "report/index.html",
        "log.txt",
        "reconstructions.png",
    ],
)
def test_a_folder_whose_files_a_run_would_replace_is_refused(name: str, overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / name).write_text("mine")
    if name == "step_by_step.pth":  # no checkpoint's name
        prepare_work_dir(tmp_path, resume=False, overwrite=overwrite)
        return
    with pytest.raises(UserError, match=f"holds {name}, which would be replaced and stands on no list"):
        prepare_work_dir(tmp_path, resume=False, overwrite=overwrite)
    assert (tmp_path / name).read_text() == "mine"


def test_a_run_that_has_nothing_to_continue_replaces_no_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"holds config\.yaml, which would be replaced"):
        prepare_work_dir(tmp_path, resume=True, overwrite=False)
    (tmp_path / "step_3.pth").write_text("of a run of an earlier version, which had no list")
    prepare_work_dir(tmp_path, resume=True, overwrite=False)


def test_a_list_that_names_a_folder_removes_none(tmp_path: Path) -> None:
    prepare_work_dir(tmp_path, resume=False, overwrite=False)
    (tmp_path / "mine").mkdir()
    with (tmp_path / "files.txt").open("a") as file:
        file.write("mine\n")
    prepare_work_dir(tmp_path, resume=False, overwrite=True)
    assert (tmp_path / "mine").is_dir()


def test_a_list_that_names_files_elsewhere_removes_none(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    folder = tmp_path / "run"
    prepare_work_dir(folder, resume=False, overwrite=False)
    with (folder / "files.txt").open("a") as file:
        file.write(f"../mine.txt\n{tmp_path / 'mine.txt'}\n")
    prepare_work_dir(folder, resume=False, overwrite=True)
    assert (tmp_path / "mine.txt").exists()


def test_a_report_does_not_replace_a_training_run(tmp_path: Path) -> None:
    prepare_report_dir(tmp_path, overwrite=False)
    write_run(tmp_path, "metrics.json")
    with pytest.raises(UserError, match=r"an earlier report \(metrics\.json\)\. Replace it with --overwrite"):
        prepare_report_dir(tmp_path, overwrite=False)
    prepare_report_dir(tmp_path, overwrite=True)
    assert not (tmp_path / "metrics.json").exists()
    write_run(tmp_path, "step_3.pth")
    with pytest.raises(UserError, match="holds a training run"):
        prepare_report_dir(tmp_path, overwrite=True)
    assert (tmp_path / "step_3.pth").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_list_of_the_users_stays(resume: bool, tmp_path: Path) -> None:
    """files.txt is a name that others give, too."""
    (tmp_path / "files.txt").write_text("train/a.jpg\n")
    with pytest.raises(
        UserError, match=r"files\.txt is no list of what a run wrote\. Give another --work-dir, or move it"
    ):
        prepare_work_dir(tmp_path, resume, overwrite=False)
    assert (tmp_path / "files.txt").read_text() == "train/a.jpg\n"
    (tmp_path / "files.txt").write_text("")  # as of a run that was killed there
    prepare_work_dir(tmp_path, resume, overwrite=False)


@pytest.mark.parametrize("name", ["model.pth", "best.pth", "encoder.safetensors"])
def test_a_report_does_not_remove_a_runs_weights(name: str, tmp_path: Path) -> None:
    """As where a run's checkpoints were removed to make room; weights that the user put there are no run's."""
    (tmp_path / "given.pth").write_text("the user's")
    prepare_report_dir(tmp_path, overwrite=True)
    write_run(tmp_path, "config.yaml", "metrics.json", name)
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"holds a training run.*Give another --work-dir"):
            prepare_report_dir(tmp_path, overwrite)
    assert (tmp_path / name).exists()
    (tmp_path / name).unlink()
    prepare_report_dir(tmp_path, overwrite=True)
    assert (tmp_path / "given.pth").exists()


def test_overwriting_refuses_to_remove_a_runs_own_teacher(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_run(tmp_path, "encoder.pth")
    options = [f"teachers.weights.dino={tmp_path}/encoder.pth", f"data.root={tmp_path}"]
    argv = ["--config", "convmae_tiny_96px.yaml", "--work-dir", str(tmp_path), "--overwrite", "--cfg-options", *options]
    assert pretrain.main(argv) == 2
    assert "teachers.weights.dino=" in (said := capsys.readouterr().err)
    assert "which --overwrite clears; move it first" in said
    assert (tmp_path / "encoder.pth").exists()


def test_two_runs_in_one_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmae.engine.run_files._PATIENCE", 0.3)
    with alone_in(tmp_path), pytest.raises(UserError, match="Another run is writing to"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


def test_the_command_lists_its_tools_and_knows_no_others(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["--help"]) == 0
    assert cli.main(["pretian"]) == 2
    assert "no tool 'pretian'" in capsys.readouterr().err
    for name in cli.TOOLS:
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0
    assert "schedule.epochs" in capsys.readouterr().out
