"""A run whose log or graph lies elsewhere now, that is continued from another folder, or by other instructions."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.train import RunConfig, inputs, run, tune

SMALL = {"epochs": 1, "batch_size": 256, "dim": 4, "hidden": (4,), "threads": 1, "embedding": "res"}


def log_file(path, seed=0):
    rng = np.random.default_rng(seed)
    items = np.concatenate([rng.permutation(30)[:6] for _ in range(20)])
    frame = pd.DataFrame({"user_id": np.repeat(np.arange(20), 6), "item_id": items, "timestamp": range(120)})
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)


def unfinished(folder):
    """As one that was stopped: it has its checkpoints, but neither result nor finished arms."""
    (folder / "result.json").unlink()
    (folder / "arms" / "res-seed0" / "run.json").unlink()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with log.csv and an unfinished run of it, begun there by a relative path; another folder to be in."""
    place = tmp_path / "project"
    log_file(place / "log.csv")
    monkeypatch.chdir(place)
    run(RunConfig(data="log.csv", out="runs/first", **SMALL), progress=False)
    unfinished(place / "runs" / "first")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return place


def resumed(folder, *options):
    return main(["train", "--resume", str(folder), "--quiet", *options])


def config_of(folder):
    return json.loads((folder / "config.resolved.json").read_text())


def test_from_another_folder(project):
    assert resumed("../project/runs/first") == 0
    assert config_of(project / "runs" / "first")["data"] == "log.csv"


@pytest.mark.full
def test_moved_together(project, tmp_path):
    there = tmp_path / "other machine"
    shutil.move(project, there)
    assert resumed(there / "runs" / "first") == 0


@pytest.mark.full
def test_the_run_alone_was_moved(project, tmp_path):
    shutil.move(project / "runs" / "first", tmp_path / "first")
    assert resumed(tmp_path / "first") == 0


def test_the_log_alone_was_moved(project, tmp_path, capsys):
    shutil.move(project / "log.csv", tmp_path / "elsewhere" / "renamed.csv")
    folder = project / "runs" / "first"
    assert resumed(folder) == 2
    said = capsys.readouterr().err
    assert "data log.csv is not there" in said and "--data says where it lies now" in said
    assert resumed(folder, "--data", "nowhere.csv") == 2
    assert "nowhere.csv" in capsys.readouterr().err and config_of(folder)["data"] == "log.csv"
    assert resumed(folder, "--data", "renamed.csv") == 0
    assert config_of(folder)["data"] == "renamed.csv"
    # From then on the run knows the new place.
    unfinished(folder)
    (tmp_path / "far").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "far")
        assert resumed(folder) == 0


def test_another_content_is_refused_by_name(project, capsys):
    folder = project / "runs" / "first"
    log_file(project / "other.csv", seed=1)
    before = config_of(folder)
    for options in (["--data", str(project / "other.csv")], ["--data", "simulated"]):
        assert resumed(folder, *options) == 2
        said = capsys.readouterr().err
        assert "begun on other inputs (data, split," in said and f"{options[1]} is another log" in said
    assert config_of(folder) == before
    # One of the same name in the current folder comes first, and the message says the way out.
    log_file(project.parent / "elsewhere" / "log.csv", seed=1)
    assert resumed(folder) == 2
    assert "say with --data where the run's lies" in capsys.readouterr().err
    assert resumed(folder, "--data", str(project / "log.csv")) == 0


@pytest.mark.full
def test_runs_of_older_versions_have_no_places(project, capsys):
    folder = project / "runs" / "first"
    kept = json.loads((folder / "inputs.json").read_text())
    (folder / "inputs.json").write_text(
        json.dumps({k: v for k, v in kept.items() if k not in (inputs.PLACES, inputs.COMPUTED)})
    )
    (folder / "SHA256SUMS").unlink()
    assert resumed(folder) == 0
    assert "has no SHA256SUMS" in capsys.readouterr().err


@pytest.mark.full
def test_a_graph_given_by_its_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log_file(tmp_path / "log.csv")
    train = rx.data.split(rx.data.read_log("log.csv")).train
    rx.InterestGraph.from_log(train, top_k=3).save("graph.npz")
    options = {"data": "log.csv", "graph": "graph.npz", **SMALL}
    pytest.importorskip("optuna")
    tune(RunConfig(**options, out="tuned"), trials=1, progress=False)
    run(RunConfig(**options, out="first"), progress=False)
    unfinished(tmp_path / "first")
    (tmp_path / "far").mkdir()
    monkeypatch.chdir(tmp_path / "far")
    more = ["tune", "--resume", "../tuned", "--trials", "2", "--quiet"]
    assert main(more) == 0 and resumed("../first") == 0
    # Gone: the run has a copy of its own, the search has none.
    unfinished(tmp_path / "first")
    (tmp_path / "graph.npz").rename(tmp_path / "far" / "mine.npz")
    assert resumed("../first") == 0
    more[4] = "3"
    assert main(more) == 2
    assert "graph graph.npz is not there" in capsys.readouterr().err
    assert main([*more, "--graph", "mine.npz"]) == 0
    rx.InterestGraph.from_log(train, top_k=2).save("mine.npz")
    more[4] = "4"
    assert main(more) == 2
    assert "mine.npz is another graph than the run's" in capsys.readouterr().err


def test_other_instructions_are_said(project, monkeypatch, capsys):
    folder = project / "runs" / "first"
    assert json.loads((folder / "inputs.json").read_text())[inputs.COMPUTED] == inputs.computed_by()
    now = {**inputs.computed_by(), "instructions": "another", "torch": "9.9"}
    monkeypatch.setattr(inputs, "computed_by", lambda: now)
    assert resumed(folder) == 0
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "instructions another (begun: " in said and "torch 9.9 (begun: " in said
    assert "torch's instructions" not in said and "last bits" in said


@pytest.mark.full
def test_instructions_chosen_by_the_environment_are_seen(project):
    import os
    import subprocess
    import sys

    folder = project / "runs" / "first"
    begun = inputs.computed_by()
    if begun["instructions"] == "baseline":
        pytest.skip("the processor has no other instructions")
    command = [sys.executable, "-m", "resemb_ext", "train", "--resume", str(folder), "--quiet"]
    environment = {**os.environ, "RESEMB_ISA": "baseline", "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"instructions baseline (begun: {begun['instructions']})" in done.stderr
    assert "torch's instructions DEFAULT (begun: " in done.stderr
