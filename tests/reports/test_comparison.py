"""What two runs of any task share on a page: names that tell them apart, differences, curves, options."""

import re
from pathlib import Path

import pytest

from convmae.engine.errors import UserError
from convmae.reports.comparison import (
    add_curves,
    add_numbers,
    add_options,
    gain_number,
    gain_numbers,
    listed,
    most_changed,
    read_runs,
)
from convmae.reports.intervals import Interval
from convmae.reports.page import Page, Share


def write_run(folder: Path, lr: float, scalars: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text('{"mIoU": 0.5}')
    (folder / "config.yaml").write_text(f"optim:\n  lr: {lr}\n  name: same\ndata:\n  sizes: [1, 2]\n")
    (folder / "scalars.jsonl").write_text(scalars)
    return folder


def written(page: Page, folder: Path) -> str:
    page.write(folder / "index.html")
    return (folder / "index.html").read_text()


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    one, other = (write_run(tmp_path / name / "test", 0.1) for name in ("small", "large"))
    assert [run.name for run in read_runs([one, other])] == ["small/test", "large/test"]
    assert [run.name for run in read_runs([one, write_run(tmp_path / "alone", 0.1)])] == ["test", "alone"]
    assert read_runs([one, other])[0].metrics == {"mIoU": 0.5}


def test_a_table_of_differences_leaves_out_what_is_unknown(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / name, 0.1) for name in ("a", "b")])
    page = Page("t")
    rows = [("cat", 0.25, 0.75), ("dog", None, 0.5), ("hen", 0.50001, 0.5)]
    add_numbers(
        page,
        "Classes",
        "class",
        runs,
        [(name, [None if one is None else Share(one) for one in values]) for name, *values in rows],
    )
    cells = re.findall(r"</span>([^<]*)</td>|<td[^>]*>([^<]+)</td>", written(page, tmp_path))
    assert [first or second for first, second in cells] == [
        "cat", "25.0", "75.0", "+50.0", "dog", "–", "50.0", "–", "hen", "50.0", "50.0", "0.0",
    ]  # fmt: skip


def test_options_and_curves_show_both_runs(tmp_path: Path) -> None:
    scalars = '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n'
    runs = read_runs([write_run(tmp_path / "a", 0.125, scalars), write_run(tmp_path / "b", 0.25)])
    page = Page("t")
    add_options(page, runs)
    add_curves(page, "Loss", runs, "loss", "loss")
    add_curves(page, "Nothing logged", runs, "mIoU", "mIoU")
    text = written(page, tmp_path)
    assert re.findall(r"data-key=\"([^\"]*)\"", text) == ["optim.lr", "0.125", "0.25"]
    assert text.count("<svg") == 2  # of one chart, for wide and for narrow windows
    page = Page("t")
    add_options(page, read_runs([tmp_path / "a", write_run(tmp_path / "c", 0.125)]))
    assert "<p>None.</p>" in written(page, tmp_path)
    page = Page("t")
    add_options(page, read_runs([tmp_path / name for name in ("a", "c", "b")]))
    assert re.findall(r"data-key=\"([^\"]*)\"", written(page, tmp_path)) == ["optim.lr", "0.125", "0.125", "0.25"]


def test_a_single_score_of_each_run_is_no_curve(tmp_path: Path) -> None:
    once, twice = '{"step": 1, "mIoU": 0.5}\n', '{"step": 1, "mIoU": 0.5}\n{"step": 2, "mIoU": 0.6}\n'
    runs = read_runs([write_run(tmp_path / name, 0.1, said) for name, said in (("a", once), ("b", once), ("c", twice))])
    for compared, figures in ((runs[:2], 0), (runs[1:], 1)):
        page = Page("t")
        add_curves(page, "Validation", compared, "mIoU", "mIoU, %", 100)
        assert written(page, tmp_path).count('class="wide"') == figures


def test_a_third_run_is_measured_by_the_first(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / name, 0.1) for name in ("a", "b", "c")])
    assert listed(runs) == "a, b and c"
    page = Page("t")
    add_numbers(page, "Errors", "error", runs, [("missed", [5, 7, 4])])
    text = written(page, tmp_path)
    assert re.findall(r"<th[^>]*>([^<]*)</th>", text) == ["error", "a", "b", "c", "b less a", "c less a"]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", text) == ["missed", "5", "7", "4", "2", "-1"]
    numbers = gain_numbers("AP", runs, [0.5, 0.25, 0.5])
    assert [(one.label, one.value) for one in numbers] == [("AP, b", "-25.0"), ("AP, c", "0.0")]
    with pytest.raises(UserError, match="expected the work directories of two runs or more"):
        read_runs([tmp_path / "a"])


def test_folders_that_hold_no_two_runs_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", 0.1)
    for folder, message in (
        (run, "twice"),
        (tmp_path / "a" / ".." / "a", "twice"),
        (tmp_path, "holds no metrics.json"),
    ):
        with pytest.raises(UserError, match=message):
            read_runs([run, folder])
    other = write_run(tmp_path / "b", 0.1)
    (other / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        read_runs([run, other])
    (other / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"holds no config\.yaml"):
        read_runs([run, other])


def test_what_changed_most_stands_first_and_what_did_not_is_left_out() -> None:
    before, after = [0.5, 0.9, 0.2, 0.7, 0.4], [0.6, 0.1, 0.2, 0.6, 0.9]
    assert most_changed([before, after], 6) == [[1, 3], [4, 0]]
    assert most_changed([before, after], 1) == [[1], [4]]
    assert most_changed([before, after, [0.55, 0.1, 0.9, 0.7, 0.3]], 6) == [[1], [4, 0], [2]]
    number = gain_number("AP", 0.5, 0.4)
    assert (number.value, number.note) == ("-10.0", "from 50.0 to 40.0\u00a0%")
    assert (
        gain_number("AP", 0.5, 0.4, Interval(-0.2, 0.05)).note
        == "from 50.0 to 40.0\u00a0%; 95\u00a0%:\u00a0-20.0\u00a0to\u00a0+5.0"
    )
