"""Metrics that are undefined on a part of the rows, and reports that fail: a run ends with its results all the same."""

import json
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.cli import main
from resemb_ext.runtime.files import plain
from resemb_ext.runtime.progress import RunWarning
from resemb_ext.testing.strategies import examples
from resemb_ext.train import report, run
from resemb_ext.train.statistics import METRICS, summarise

SMALL = {"epochs": 1, "batch_size": 256, "dim": 4, "hidden": (4,), "progress": False, "threads": 1}


def labelled(path):
    """A log with labels: of each user 12 events, at random times."""
    rng = np.random.default_rng(0)
    pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(40), 12),
            "item_id": rng.integers(1, 40, 480),
            "timestamp": rng.permutation(480),
            "label": rng.integers(0, 2, 480),
        }
    ).to_csv(path, index=False)
    return str(path)


def news(path):
    """A log in which every item lives for a short time: none is met before and after a cut."""
    rng = np.random.default_rng(1)
    frame = {"user_id": rng.integers(0, 30, 600), "item_id": np.arange(600) // 30 * 5 + rng.integers(0, 5, 600)}
    pd.DataFrame({**frame, "timestamp": np.arange(600)}).to_csv(path, index=False)
    return str(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Both arms with two seeds on a labelled log, each user with one test row."""
    folder = tmp_path_factory.mktemp("run")
    options = {"split": "leave-last-out", "metric": "auc", "seed": (0, 1)}
    return run(data=labelled(folder / "clicks.csv"), out=str(folder / "out"), **options, **SMALL)


def test_one_test_row_a_user_leaves_gauc_open(finished):
    result = json.loads((finished.folder / "result.json").read_text())
    for entry in result["runs"]:
        assert entry["test"]["gauc"] is None and entry["test"]["gauc_users"] == 0 and 0 <= entry["test"]["auc"] <= 1
    test = result["summary"]["difference"]["test"]
    assert test["gauc"] == {"mean": None, "low": None, "high": None, "level": 0.95, "n": 2}
    assert test["auc"]["low"] < test["auc"]["mean"] < test["auc"]["high"]
    plain_row = finished.table.splitlines()[2].split()
    assert plain_row[:2] == ["plain", "-"] and "nan" not in finished.table
    text = (finished.folder / "summary.md").read_text()
    assert "gAUC -, AUC " in text and "Test gAUC is undefined (-)" in text
    assert "Res-embedding's test AUC is " in text and "nan" not in text and "None" not in text


def test_no_test_item_with_a_training_event(tmp_path):
    done = run(data=news(tmp_path / "news.csv"), split="time", out=str(tmp_path / "out"), seed=(0, 1), **SMALL)
    entry = done.result["runs"][0]["test"]
    assert entry["seen"]["rows"] == 0 and entry["seen"]["logloss"] is None and entry["gauc"] > 0
    assert "Seen gAUC is undefined (-)" in (done.folder / "summary.md").read_text()


def test_a_run_that_ended_without_its_result_is_finished(finished, capsys):
    """As one that an error of its reports had ended: all arms are there, nothing is trained again."""
    for name in ("result.json", "summary.md", "curves.png"):
        (finished.folder / name).unlink()
    assert main(["train", "--resume", str(finished.folder), "--quiet"]) == 0
    assert "test AUC is" in capsys.readouterr().out
    result = json.loads((finished.folder / "result.json").read_text())
    assert result["runs"] == finished.result["runs"] and result["summary"] == finished.result["summary"]
    assert (finished.folder / "summary.md").exists() and (finished.folder / "curves.png").exists()


def places(value, place=()):
    """Every number of a result's runs, as a path of keys."""
    if isinstance(value, dict):
        return [p for key, inner in value.items() for p in places(inner, (*place, key))]
    return [place] if isinstance(value, float) and place[-1] in METRICS else []


@given(st.data())
@examples(40)
def test_any_metric_may_be_undefined_in_every_report(finished, tmp_path_factory, data):
    result = deepcopy(finished.result)
    parts = {"valid": result["runs"][0]["valid"], "test": result["runs"][0]["test"]}
    gone = data.draw(st.sets(st.sampled_from(places(parts))))
    for entry in result["runs"]:
        for *way, last in gone:
            inner = entry
            for key in way:
                inner = inner[key]
            inner[last] = None
        entry["test"]["gauc_users"] = int(entry["test"]["gauc"] is not None)
    arms = data.draw(st.sampled_from([("plain", "res"), ("plain",), ("res",)]))
    result["runs"] = [entry for entry in result["runs"] if entry["embedding"] in arms]
    scores = {"auc": None, "gauc": data.draw(st.sampled_from([None, 0.5]))}
    result["bayes"] = {part: {**scores, "seen": scores, "exact": False} for part in ("valid", "test")}
    result["summary"] = plain(summarise(result["runs"]))
    text = report.closing(result, finished.folder) + report.summary(result)
    assert not any(word in text for word in ("nan", "None"))
    report.draw_curves(result, tmp_path_factory.mktemp("curves") / "curves.png")


@pytest.mark.parametrize("broken", ["draw_curves", "summary"])
def test_a_report_that_fails_is_one_line(tmp_path, monkeypatch, capsys, broken):
    def fail(*_):
        raise RuntimeError("no font\nis there")

    path, out = labelled(tmp_path / "clicks.csv"), tmp_path / "out"
    small = [
        "--epochs",
        "1",
        "--dim",
        "4",
        "--hidden",
        "4",
        "--threads",
        "1",
        "--metric",
        "auc",
        "--embedding",
        "plain",
    ]
    file = {"draw_curves": "curves.png", "summary": "summary.md"}[broken]
    with monkeypatch.context() as patch:
        patch.setattr(report, broken, fail)
        assert main(["train", "--data", path, "--out", str(out), "--quiet", *small]) == 0
    shown = capsys.readouterr()
    assert shown.err == f"resemb train: warning: cannot write {out / file}: no font is there; the results are whole\n"
    assert file not in shown.out.splitlines()[-1] and "result.json" in shown.out.splitlines()[-1]
    assert (out / "result.json").exists() and not (out / file).exists()
    # What is missing is made when the run is looked at again.
    assert main(["train", "--resume", str(out), "--quiet"]) == 0
    assert (out / file).exists()


def test_a_radius_that_cannot_be_taken_is_one_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("embedding of item 3 is not finite")

    monkeypatch.setattr("resemb_ext.train.arm.metrics.aggregation_radius", fail)
    frame = pd.read_csv(labelled(tmp_path / "clicks.csv")).assign(category=lambda f: f.item_id % 3)
    frame.to_csv(tmp_path / "shop.csv", index=False)
    with pytest.warns(RunWarning, match="plain seed 0: no aggregation radius: embedding of item 3 is not finite"):
        done = run(data=str(tmp_path / "shop.csv"), metric="auc", embedding="plain", out=str(tmp_path / "out"), **SMALL)
    assert [entry["aggregation_radius"] for entry in done.result["runs"]] == [None]
    assert "domains: none taken" in (done.folder / "summary.md").read_text()


@pytest.mark.parametrize("part", ["best_possible", "_about_graph"])
def test_what_needs_no_training_is_found_before_it(tmp_path, monkeypatch, part):
    def fail(*_, **__):
        raise MemoryError("no memory")

    def train_arm(*_, **__):
        raise AssertionError("trained")

    monkeypatch.setattr(f"resemb_ext.train.runner.{part}", fail)
    monkeypatch.setattr("resemb_ext.train.runner.train_arm", train_arm)
    with pytest.raises(MemoryError):
        run(data=labelled(tmp_path / "clicks.csv"), out=str(tmp_path / "out"), **SMALL)
