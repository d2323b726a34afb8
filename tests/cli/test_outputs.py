"""Files that commands write: never one that they read, never one that is somebody else's."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from resemb_ext.cli import main
from resemb_ext.graph import InterestGraph


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, with a log that is reached by several paths."""
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [3, 4, 4, 5], "timestamp": range(4)})
    frame.to_parquet("log.parquet")
    (tmp_path / "link.parquet").symlink_to(tmp_path / "log.parquet")
    os.link("log.parquet", "hard.parquet")
    (tmp_path / "inner").mkdir()
    return tmp_path


def refused(capsys, *arguments):
    """The one line of a command that must not touch a file."""
    before = contents()
    assert main([str(word) for word in arguments]) == 2
    seen = capsys.readouterr()
    assert contents() == before and len(seen.err.splitlines()) == 1 and seen.out == ""
    return seen.err


def contents():
    return {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()}


SAME = ["log.parquet", "./inner/../log.parquet", "link.parquet", "hard.parquet"]


@pytest.mark.parametrize("out", SAME)
@pytest.mark.parametrize(
    "command",
    [
        ("graph", "build", "--data", "log.parquet"),
        ("graph", "build", "--stream", "--data", "log.parquet"),
        ("data", "convert", "log.parquet"),
        ("predict", "run", "log.parquet"),
    ],
)
def test_out_is_never_the_input(place, capsys, command, out):
    line = refused(capsys, *command, "--out", out)
    assert line.endswith("is the input log.parquet; choose another file to write\n") and "error: out: " in line


def test_the_input_is_not_the_file_beside_out_either(place, capsys):
    (place / "g.json").write_text('{"user": 1, "item": 2, "time": 3}\n')
    assert "out: g.json is the input g.json" in refused(capsys, "graph", "build", "--data", "g.json", "--out", "g")


@pytest.mark.parametrize("name", ["test_scores.parquet", "valid_candidates.parquet"])
def test_predict_replaces_no_file_of_the_run(place, capsys, name):
    (place / "run").mkdir()
    (place / "run" / name).write_text("of the run")
    line = refused(capsys, "predict", "run", "log.parquet", "--out", f"run/{name}")
    assert f"out: run/{name} is the input run/{name}" in line and (place / "run" / name).read_text() == "of the run"


@pytest.mark.parametrize("held", ["notes", "[1]", '{"rows": 3}'])
@pytest.mark.parametrize(
    "command", [("graph", "build", "--data", "log.parquet"), ("predict", "run", "log.parquet")], ids=lambda c: c[0]
)
def test_a_foreign_file_in_the_place_of_the_report_stays(place, capsys, command, held):
    (place / "new.parquet.json").write_text(held)
    line = refused(capsys, *command, "--out", "new.parquet")
    assert "out: new.parquet.json would be replaced, and is no report of this command; move it" in line


@pytest.mark.parametrize("out", ["parts/new.parquet", "parts/day=2/../day=1/0.parquet", "to-part.parquet"])
@pytest.mark.parametrize("command", [("graph", "build", "--data"), ("data", "convert")], ids=lambda c: c[0])
def test_nothing_is_written_into_a_folder_that_is_read_as_a_whole(place, capsys, command, out):
    for day in ("1", "2"):
        (place / "parts" / f"day={day}").mkdir(parents=True)
        pd.read_parquet("log.parquet").to_parquet(place / "parts" / f"day={day}" / "0.parquet")
    (place / "to-part.parquet").symlink_to(place / "parts" / "day=1" / "0.parquet")
    line = refused(capsys, *command, "parts", "--out", out)
    assert f"out: {Path(out)} lies in the input parts, all of which is read; choose another folder" in line
    assert main([*command, "parts", "--out", "parts.parquet"]) == 0


@pytest.mark.parametrize(
    "command", [("train",), ("tune", "--trials", "1"), ("study", "untuned")], ids=lambda command: command[0]
)
def test_no_folder_of_results_lies_in_the_folder_of_its_log(place, capsys, command):
    (place / "parts").mkdir()
    pd.read_parquet("log.parquet").to_parquet(place / "parts" / "0.parquet")
    if command[0] == "tune":
        pytest.importorskip("optuna")
    line = refused(capsys, *command, "--data", "parts", "--out", "parts/run")
    assert "out: parts/run lies in the input parts, all of which is read; choose another folder" in line
    assert [path.name for path in (place / "parts").iterdir()] == ["0.parquet"]


def test_a_graph_is_built_again_in_the_same_place(place, capsys):
    build = ["graph", "build", "--data", "log.parquet", "--out", "g.npz"]
    assert main(build) == 0 and main([*build, "--window", "1"]) == 0
    assert json.loads((place / "g.npz.json").read_text())["hash"] == InterestGraph.load("g.npz").hash
