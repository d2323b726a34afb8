"""Loggers of a run: what they are told, once, also of a run that was stopped; and those that fail.

The named ones are tested in tests/integrations/loggers.
"""

import importlib.util
import json

import pytest

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.runtime.progress import RunWarning
from resemb_ext.train import RunConfig, RunLogger, run, tune
from resemb_ext.train import loop as loop_module
from resemb_ext.train import prepare as prepare_module

SMALL = {"epochs": 2, "batch_size": 256, "dim": 8, "hidden": (8,), "progress": False, "threads": 1}


class Stopped(Exception):
    """Stands for a process that dies."""


@pytest.fixture(autouse=True)
def small_simulation(monkeypatch):
    whole = rx.data.simulate
    monkeypatch.setattr(
        prepare_module.data, "simulate", lambda **o: whole(users=120, items=100, domains=4, events_per_user=(5, 9), **o)
    )


class Notes(RunLogger):
    """Writes down what it is told, and fails where it is asked to."""

    def __init__(self, fails=None):
        self.told, self.values, self.fails = [], {}, fails

    def _note(self, *what):
        self.told.append(what)
        if what == self.fails:
            raise RuntimeError(f"no more\nof {what}")

    def begin(self, run):
        self.config, self.place = run.config, run.place
        self._note("begin", run.resumed, dict(run.kept))
        run.kept["begun"] = run.kept.get("begun", 0) + 1

    def epoch(self, arm, seed, epoch, values):
        self.values[arm, seed, epoch] = dict(values)
        self._note("epoch", arm, seed, epoch)

    def arm_done(self, arm, seed, values):
        self.values[arm, seed] = dict(values)
        self._note("done", arm, seed)

    def end(self, result):
        self.result = result
        self._note("end")

    def close(self, finished):
        self._note("close", finished)


ARMS = [step for arm in ("plain", "res") for step in (("epoch", arm, 3, 1), ("epoch", arm, 3, 2), ("done", arm, 3))]


def test_a_logger_is_told_everything_once(tmp_path):
    notes = Notes()
    done = run(**SMALL, seed=(3,), out=str(tmp_path / "run"), log_to=[notes])
    assert notes.told == [("begin", False, {}), *ARMS, ("end",), ("close", True)]
    assert notes.config["epochs"] == 2 and notes.place.parent == tmp_path / "run"
    for entry in done.result["runs"]:
        arm = entry["embedding"]
        for epoch in entry["history"]:
            values = notes.values[arm, 3, epoch["epoch"]]
            assert values["loss"] == epoch["loss"] and values["train_s"] == epoch["train_s"]
            assert values["valid/gauc"] == epoch["valid"]["gauc"]
            assert values["valid/seen/auc"] == epoch["valid"]["seen"]["auc"]
            assert all(isinstance(value, float) for value in values.values())
        last = notes.values[arm, 3]
        assert last["test/gauc"] == entry["test"]["gauc"] and last["best_epoch"] == entry["best_epoch"]
    assert notes.result["summary"] == done.result["summary"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["loggers"] == {"Notes": None}


def test_a_resumed_run_tells_no_epoch_twice_and_leaves_none_out(tmp_path, monkeypatch):
    whole, told = loop_module._Training.save, []
    for saves in (0, 1, 2, 4):  # of each arm at the start, and after two epochs
        left = [saves]

        def save(self, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped
            whole(self)

        monkeypatch.setattr(loop_module._Training, "save", save)
        folder, first, second = tmp_path / str(saves), Notes(), Notes()
        with pytest.raises(Stopped):
            run(**SMALL, seed=(3,), out=str(folder), log_to=[first])
        assert first.told[-1] == ("close", False)
        monkeypatch.setattr(loop_module._Training, "save", whole)
        run(**SMALL, seed=(3,), out=str(folder), log_to=[second], resume=True)
        assert second.told[0] == ("begin", True, {"begun": 1})
        assert [*first.told[1:-1], *second.told[1:-2]] == ARMS
        told.append(len(first.told) - 2)
    assert told == sorted(told) and told[0] == 0 < told[-1]


@pytest.mark.parametrize("when", [("epoch", "plain", 3, 1), ("done", "plain", 3), ("end",)])
def test_a_logger_that_fails_does_not_end_the_run_and_is_named(tmp_path, when):
    bad, good = Notes(when), Notes()
    with pytest.warns(RunWarning, match="log_to: Notes failed at .*: no more of .*; the run goes on without it"):
        done = run(**SMALL, seed=(3,), out=str(tmp_path / "run"), log_to=[bad, good])
    assert good.told[1:-1] == [*ARMS, ("end",)] and bad.told[-2:] == [when, ("close", True)]
    failed = json.loads((tmp_path / "run" / "logged" / "state.json").read_text())
    if when == ("end",):
        return  # after the result was written
    assert "no more of" in done.result["loggers"]["Notes"] and done.result["loggers"]["Notes 2"] is None
    assert failed["Notes"]["failed"] == done.result["loggers"]["Notes"]


def test_a_logger_that_cannot_start_ends_the_run_before_training(tmp_path):
    bad = Notes(("begin", False, {}))
    with pytest.raises(ValueError, match="log_to: Notes cannot start: no more of"):
        run(**SMALL, out=str(tmp_path / "run"), log_to=[bad])
    assert bad.told[-1] == ("close", False) and not (tmp_path / "run" / "arms").exists()


def test_names_that_are_no_loggers(tmp_path, capsys):
    for names, message in (
        (("tensor",), "log_to is 'tensor', expected tensorboard or tensorboard=WHERE, wandb or"),
        (("mlflow=",), "log_to is 'mlflow='"),
        (("mlflow", "mlflow=x"), "log_to must name a logger once"),
    ):
        with pytest.raises(ValueError, match=message):
            RunConfig(log_to=names)
    with pytest.raises(TypeError, match="log_to holds a int, expected a name such as 'tensorboard' or a resemb_ext"):
        run(**SMALL, out=str(tmp_path / "run"), log_to=[3])
    with pytest.raises(ValueError, match="log_to: a search keeps its trials in its folder"):
        tune(RunConfig(log_to=("mlflow",)), trials=1)
    assert main(["train", "--log-to", "csv", "--out", str(tmp_path / "run")]) == 2
    assert "log_to is 'csv'" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_said_before_training(tmp_path, capsys, name):
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    assert main(["train", "--log-to", f"{name}=x", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert f"log_to: {name} needs the package {name}" in said and 'pip install "resemb_ext[log]"' in said
    assert not (tmp_path / "run").exists()


def test_an_earlier_log_goes_with_an_earlier_run(tmp_path):
    options = {**SMALL, "embedding": "plain", "seed": (3,), "epochs": 1, "out": str(tmp_path / "run")}
    run(**options, log_to=[Notes()])
    (tmp_path / "run" / "logged" / "tensorboard").mkdir()
    again = Notes()
    run(**options, overwrite=True, log_to=[again])
    assert again.told[0] == ("begin", False, {}) and ("epoch", "plain", 3, 1) in again.told
    assert not (tmp_path / "run" / "logged" / "tensorboard").exists()
