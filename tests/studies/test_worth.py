"""The whole tool: on stand-ins in the place of trainings, and once on these themselves."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from convmae.backbones import ConvViT
from convmae.engine.pictures import scenes
from convmae.studies import page
from convmae.studies.worth import Study
from convmae.tools import worth

Called = Callable[[Path], list[str]]
RUNS = [f"share_{share}_seed_{seed}_lr_0.001" for seed in (0, 1, 2) for share in (25, 100)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> scenes.Layouts:
    return scenes.generate(tmp_path_factory.mktemp("data") / "made", train=8, val=2, size=64)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "study"


def of_one_seed(task: str, root: Path, study: Path, *shares: str) -> list[str]:
    given = [task, str(root), "--work-dir", str(study), "--shares", *shares]
    return [*given, "--seeds", "0", "--rates", "1", "--jobs", "2"]


def words(data: scenes.Layouts, study: Path, *more: str) -> list[str]:
    given = [
        "det",
        str(data.coco),
        "--work-dir",
        str(study),
        "--shares",
        "25",
        "100",
        "--rates",
        "1",
        "3",
        "--jobs",
        "2",
    ]
    return [*given, *more, "--cfg-options", "schedule.steps=40", "runtime.device=cpu"]


def answer(study: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((study / "worth.json").read_text())
    return found


def test_a_study_from_the_plan_to_the_answer(
    data: scenes.Layouts, study: Path, stand_ins: Called, capsys: pytest.CaptureFixture
) -> None:
    assert worth.main([*words(data, study), "--plan"]) == 0
    said = capsys.readouterr().out
    assert "arms: scratch, pretrained\nlabels: 25 % (2 pictures), 100 % (8 pictures); seeds 0, 1, 2" in said
    assert "40 steps a run, about" in said
    assert "(0.5 s a step" in said
    assert (
        "1 of pretraining, 8 to try rates (0.001, 0.003) at 25 % by 2 draws, 12 that count; 2 at a time: about" in said
    )
    timed = {"scratch/timing_0 -", "scratch/timing_1 -", "pretrained/timing -"}
    assert set(stand_ins(study)) == timed
    assert not (study / "report").exists()

    assert worth.main(words(data, study)) == 0
    said = capsys.readouterr().out
    names = {*(f"search_share_25_seed_{seed}_lr_{rate}" for rate in (0.001, 0.003) for seed in (1000, 1001)), *RUNS}
    expected = {f"{arm}/{name} -" for arm in ("scratch", "pretrained") for name in names} | {"pretrained/pretraining -"}
    assert set(stand_ins(study)) == expected | timed
    assert len(stand_ins(study)) == len(expected | timed)  # none twice
    assert re.search(r"^mask AP, % +25 % \(2\) +100 % \(8\)$", said, re.MULTILINE)
    assert re.search(r"^scratch +46\.0 ± 1\.0 +61\.0 ± 1\.0$", said, re.MULTILINE)
    assert re.search(r"^pretrained +53\.7 ± 1\.2 +61\.2 ± 1\.2$", said, re.MULTILINE)
    sentence = "Yes, pretrained pays against scratch: +4.0 points of mask AP on average over the shares of labels"
    assert sentence in said
    found = answer(study)
    assert found["answer"].startswith(sentence)
    assert found["missing"] == 0
    assert found["pictures"] == {"25": 2, "100": 8}
    (gain,) = found["differences"]
    assert gain["shares"]["25"]["mean"] == pytest.approx(0.075 + 0.002)
    assert gain["shares"]["100"]["seeds"] == [0, 1, 2]
    assert gain["all"]["mean"] == pytest.approx(0.0395)
    assert gain["all"]["interval"][0] < gain["all"]["mean"] < gain["all"]["interval"][1]
    assert [found["arms"][arm]["rate"] for arm in ("scratch", "pretrained")] == [0.001, 0.001]
    tried = {(one["rate"], one["seed"], round(one["score"], 3)) for one in found["rates"] if one["arm"] == "scratch"}
    assert tried == {(0.001, 1000, 0.46), (0.001, 1001, 0.47), (0.003, 1000, 0.41), (0.003, 1001, 0.42)}
    weights = list(study.rglob("*.pth"))
    assert weights == [study / "pretrained" / "pretraining" / "encoder.pth"]
    text = (study / "report" / "index.html").read_text(encoding="utf-8")
    assert sentence in text
    for part in (
        "Mask AP over labels",
        "Differences in mask AP",
        "Scores",
        "Labels that are saved",
        "Time",
        "Learning rates",
        "by 2 runs each, of which the mean counts, on 25 % of the labels, drawn by seeds (1000 to 1001)",
    ):
        assert part in text, part
    assert "runs are missing" not in text

    assert worth.main(words(data, study)) == 0  # all is there
    assert len(stand_ins(study)) == len(expected | timed)
    # Another seed adds its runs alone.
    assert worth.main(words(data, study, "--seeds", "0", "1", "2", "3")) == 0
    assert len(stand_ins(study)) == len(expected | timed) + 4


def test_a_page_is_written_after_each_run(
    data: scenes.Layouts, study: Path, stand_ins: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, str]] = []
    write = page.write_answer

    def watched(one: Study) -> None:
        write(one)
        told.append((answer(study)["missing"], answer(study)["answer"]))

    monkeypatch.setattr(page, "write_answer", watched)
    assert worth.main(words(data, study, "--jobs", "1")) == 0
    missing = [count for count, _ in told]
    assert missing == [*[12] * 9, *range(11, -1, -1), 0]
    assert "can't be told yet" in told[0][1]
    assert "can't be told from one seed" in told[13][1]
    assert told[-1][1].startswith("Yes, pretrained pays")


def test_a_part_says_what_is_missing_and_failures_are_told(
    data: scenes.Layouts, study: Path, stand_ins: Called, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "pretrained/share_100_seed_1")
    assert worth.main(words(data, study)) == 0
    text = (study / "report" / "index.html").read_text(encoding="utf-8")
    assert "1 of 12 runs are missing, 1 of seed 1" in text
    assert "the gradient was not finite" in text
    found = answer(study)
    assert list(found["failures"]) == ["pretrained, 100 % of the labels, seed 1"]
    (gain,) = found["differences"]
    assert gain["all"]["seeds"] == [0, 2]
    assert found["answer"].endswith(", and 1 run of the two failed, which this leaves out.")
    monkeypatch.delenv("STAND_IN_FAILS")
    assert worth.main(words(data, study)) == 0
    assert answer(study)["missing"] == 0
    assert answer(study)["failures"] == {}


@pytest.mark.parametrize("written", ['{"segm_mAP": NaN}', '{"segm_mAP": null}', "{}", '{"segm_mAP'])
def test_a_score_that_is_none_is_a_run_that_failed_and_is_run_again(
    written: str, data: scenes.Layouts, study: Path, stand_ins: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_WRITES", written)
    monkeypatch.setenv("STAND_IN_BREAKS", "scratch/share_100_seed_1")
    given = [*words(data, study, "--seeds", "0", "1"), "--rates", "1"]
    assert worth.main(given) == 0
    assert list(answer(study)["failures"]) == ["scratch, 100 % of the labels, seed 1"]
    monkeypatch.delenv("STAND_IN_BREAKS")
    assert worth.main(given) == 0
    assert answer(study)["failures"] == {}
    assert answer(study)["missing"] == 0


@pytest.mark.parametrize(
    ("rates", "fails", "arm"),
    [
        (["1"], "pretrained/pretraining", "pretrained"),
        (["1", "3"], "pretrained/pretraining", "pretrained"),
        (["1"], "scratch/share", "scratch"),
    ],
)
def test_an_arm_without_a_score_ends_the_study(
    rates: list[str], fails: str, arm: str, data: scenes.Layouts, study: Path, stand_ins: Called,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("STAND_IN_FAILS", fails)
    assert worth.main([*words(data, study, "--seeds", "0", "1"), "--rates", *rates]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: The arm {arm} can't be trained: ")
    assert f"{fails}" in said
    assert "is missing" not in said


def test_a_rate_one_of_whose_runs_failed_is_told(
    data: scenes.Layouts, study: Path, stand_ins: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "scratch/search_share_25_seed_1001_lr_0.001")
    assert worth.main(words(data, study, "--seeds", "0", "1")) == 0
    found = answer(study)
    assert list(found["failures"]) == ["scratch, rate 0.001, seed 1001"]
    assert [found["arms"][arm]["rate"] for arm in ("scratch", "pretrained")] == [0.003, 0.001]
    assert "mean of 1 of 2 runs" in (study / "report" / "index.html").read_text(encoding="utf-8")


def test_more_shares_add_their_runs(data: scenes.Layouts, study: Path, stand_ins: Called) -> None:
    given = words(data, study, "--seeds", "0")
    assert worth.main([*given, "--shares", "100"]) == 0
    before = stand_ins(study)
    assert worth.main([*given, "--shares", "25", "100"]) == 0  # the middle is another, by which rates are tried anew
    again = {line for line in stand_ins(study)[len(before) :] if line in before}
    assert not again


def test_ctrl_c_ends_it_cleanly_and_the_same_command_continues(
    data: scenes.Layouts, study: Path, stand_ins: Called, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("STAND_IN_WAITS", "pretrained/share_25_seed_1")

    def interrupt() -> None:
        while not list(study.glob("pretrained/share_25_seed_1*/waits")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert worth.main(words(data, study)) == 130
    assert "Stopped; the same command continues." in capsys.readouterr().err
    before, missing = stand_ins(study), answer(study)["missing"]
    assert 0 < missing < 12
    assert worth.main(words(data, study)) == 0
    assert answer(study)["missing"] == 0
    again = [line for line in stand_ins(study)[len(before) :] if line in before]
    assert set(again) <= {line for line in before if "_seed_1_" in line}  # those that were going, of two at a time


def test_a_rate_that_fails_is_not_chosen_and_an_arm_without_a_rate_ends_the_study(
    data: scenes.Layouts, study: Path, stand_ins: Called, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "lr_0.001")
    assert worth.main(words(data, study, "--seeds", "0")) == 0
    assert {one["rate"] for one in answer(study)["arms"].values()} == {0.003}
    assert "chosen, at the edge" in (study / "report" / "index.html").read_text(encoding="utf-8")
    monkeypatch.setenv("STAND_IN_FAILS", "pretrained/search")
    assert worth.main(words(data, study.with_name("other"))) == 2
    assert "The arm pretrained can't be trained: train_det ended with 2: the gradient was" in capsys.readouterr().err


def test_what_can_not_be_is_said_in_a_line(
    data: scenes.Layouts, study: Path, stand_ins: Called, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert worth.main(words(data, study, "--budget", "-1")) == 2
    assert worth.main(words(data, study, "--encoder", "scratch=a.pth")) == 2
    assert not study.exists()
    assert worth.main(words(data, study, "--budget", "0.001")) == 2
    assert worth.main(words(data, study, "--budget", "nan")) == 2
    assert "--budget is nan; expected hours above 0" in capsys.readouterr().err
    assert worth.main(words(data, study, "--budget", "0.001")) == 2
    assert "--budget is 4 s, and the least, one seed of scratch and pretrained at 25 %" in capsys.readouterr().err
    monkeypatch.setenv("STAND_IN_FAILS", "timing")  # as options do that make no run
    assert worth.main(words(data, study.with_name("other"))) == 2
    assert "ended with 2" in capsys.readouterr().err


def test_a_budget_leaves_seeds_out(
    data: scenes.Layouts, study: Path, stand_ins: Called, capsys: pytest.CaptureFixture
) -> None:
    for budget, seeds in (("1", "0, 1, 2"), (f"{140 / 3600}", "0, 1")):  # three seeds take 160 s by what is timed
        short = ("--pretrain-options", "schedule.steps=3")
        assert worth.main([*words(data, study, "--budget", budget, *short), "--plan"]) == 0
        assert f"; seeds {seeds}\n" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["cls", "seg"])
def test_other_tasks_and_weights_that_are_given(
    data: scenes.Layouts, study: Path, stand_ins: Called, tmp_path: Path, task: str
) -> None:
    torch.save({"model": ConvViT("tiny", num_classes=0).state_dict()}, tmp_path / "mine.pth")
    root = {"cls": data.classes, "seg": data.ade20k}[task]
    given = of_one_seed(task, root, study, "50", "100")
    more = ["--encoder", f"mine={tmp_path / 'mine.pth'}", "--further", "mine", "--cfg-options", "runtime.device=cpu"]
    assert worth.main([*given, *more]) == 0
    found = answer(study)
    assert list(found["arms"]) == ["scratch", "pretrained", "mine_pretrained", "mine"]
    assert len(found["differences"]) == 5
    assert found["rates"] == []
    text = (study / "report" / "index.html").read_text(encoding="utf-8")
    assert "scratch has none (1)" in text  # the recipes have layer decay
    assert "No rates were tried" in text


def test_real_runs_from_pretraining_to_the_page(data: scenes.Layouts, study: Path) -> None:
    common = [
        "data.batch_size=2",
        "runtime.device=cpu",
        "runtime.precision=fp32",
        "model.img_size=32",
        "schedule.steps=2",
    ]
    given = of_one_seed("cls", data.classes, study, "50")
    pretraining = ["--pretrain-options", "model.method=convmae", *common]
    assert worth.main([*given, "--cfg-options", *common, *pretraining]) == 0
    found = answer(study)
    assert found["missing"] == 0
    assert found["measure"] == "top1"
    assert [one["arm"] for one in found["scores"]] == ["scratch", "pretrained"]
    assert all(0 <= one["score"] <= 1 for one in found["scores"])
    scratch, pretrained = (study / arm / "share_50_seed_0_lr_0.0005" for arm in ("scratch", "pretrained"))
    used = (
        f"data: {found['pictures']['50']} of 38 training pictures are used, data.share=0.5 drawn by data.share_seed=0"
    )
    for folder, loaded in ((scratch, False), (pretrained, True)):
        log = (folder / "log.txt").read_text()
        assert used in log
        assert ("pretraining/encoder.pth" in log) == loaded
        assert not list(folder.glob("*.pth"))
    assert (study / "pretrained" / "pretraining" / "encoder.pth").is_file()
    assert found["arms"]["pretrained"]["seconds"]["pretraining"] > 0
