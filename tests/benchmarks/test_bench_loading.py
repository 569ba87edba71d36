"""Shards are timed against the folder that they were packed of."""

import json
from pathlib import Path

import pytest

from convmae.tools import benchmark

BRIEF = [
    "--pictures",
    "4",
    "--workers",
    "0",
    "--repeats",
    "1",
    "--threads",
    "1",
    "--img-size",
    "32",
    "--batch-size",
    "2",
]


def test_each_packing_has_a_row_beside_the_folders(tmp_path: Path) -> None:
    output = tmp_path / "loading.json"
    assert benchmark.main(["loading", *BRIEF, "--shards", "0", "64", "--output", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [row["from"] for row in rows] == ["folder", "shards", "shards, 64 px"]
    assert [row["pictures"] for row in rows] == [4, 4, 4]
    assert rows[0]["MB"] == rows[1]["MB"] > rows[2]["MB"]
    assert all(row["ratio"] > 0 and row["read ratio"] > 0 for row in rows)


def test_a_side_below_none_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main(["loading", *BRIEF, "--shards", "-1"]) == 2
    assert "--workers and --shards 0 or more" in capsys.readouterr().err
