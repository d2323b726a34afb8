"""resemb train --log-to with TensorBoard, Weights & Biases offline, and MLflow's file store."""

import json
import shutil
import struct

import pytest

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.runtime.progress import RunWarning
from resemb_ext.train import loop as loop_module
from resemb_ext.train import prepare as prepare_module
from resemb_ext.train import run, saved_config
from tests.integrations.conftest import framework

framework("tensorboard", __file__)
framework("wandb", __file__)
mlflow = framework("mlflow", __file__)

SMALL = {"epochs": 3, "patience": 3, "batch_size": 256, "dim": 8, "hidden": (8,), "progress": False, "threads": 1}
NAMES = ("tensorboard", "wandb", "mlflow")
ARMS = ("plain-seed0", "res-seed0")


class Stopped(Exception):
    """Stands for a process that dies."""


@pytest.fixture(autouse=True)
def small_simulation(monkeypatch):
    whole = rx.data.simulate
    monkeypatch.setattr(
        prepare_module.data, "simulate", lambda **o: whole(users=120, items=100, domains=4, events_per_user=(5, 9), **o)
    )
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.delenv("WANDB_MODE", raising=False)


def stopped_and_resumed(folder, names, monkeypatch):
    """A run that dies in its second epoch of the second arm, resumed without naming the loggers again."""
    left, whole = [6], loop_module._Training.save

    def save(self):
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        whole(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop_module._Training, "save", save)
        with pytest.raises(Stopped):
            run(**SMALL, out=str(folder), log_to=names)
    assert saved_config(folder).log_to == tuple(names)
    return run(**SMALL, out=str(folder), resume=True).result


def expected(result):
    """By arm, the values of each metric over the epochs, and those of the end."""
    curves, ends = {}, {}
    for entry in result["runs"]:
        key = f"{entry['embedding']}-seed{entry['seed']}"
        curves[key] = {"loss": [e["loss"] for e in entry["history"]]}
        for name in ("gauc", "auc", "logloss"):
            curves[key][f"valid/{name}"] = [e["valid"][name] for e in entry["history"]]
            curves[key][f"valid/seen/{name}"] = [e["valid"]["seen"][name] for e in entry["history"]]
        ends[key] = {f"test/{name}": entry["test"][name] for name in ("gauc", "auc")}
    return curves, ends


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}, events


@pytest.mark.parametrize("place", ["", "=WHERE"])
def test_tensorboard(tmp_path, monkeypatch, place):
    where = place.replace("WHERE", str(tmp_path / "boards"))
    result = stopped_and_resumed(tmp_path / "run", [f"tensorboard{where}"], monkeypatch)
    root = tmp_path / "boards" / "run" if place else tmp_path / "run" / "logged" / "tensorboard"
    curves, ends = expected(result)
    for key in ARMS:
        found, events = scalars(root / key)
        for name, values in curves[key].items():
            assert [step for step, _ in found[name]] == [1, 2, 3]
            assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-6)
        for name, value in ends[key].items():
            assert found[name] == [(3, pytest.approx(value, rel=1e-6))]
        assert "config/text_summary" in events.Tags()["tensors"]
    assert result["loggers"] == {"tensorboard": None}


def wandb_records(content):
    """The records of a .wandb file: a header of 7 bytes, then a log of LevelDB."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no record begins so late in a block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


def test_wandb_offline(tmp_path, monkeypatch):
    from wandb.proto import wandb_internal_pb2

    result = stopped_and_resumed(tmp_path / "run", ["wandb=shop"], monkeypatch)
    found = {}
    for file in sorted((tmp_path / "run" / "logged").glob("wandb/offline-run-*/*.wandb")):
        for data in wandb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                run_ = record.run
                assert run_.project == "shop" and run_.run_group == "run"
                config = {item.key: json.loads(item.value_json) for item in run_.config.update}
                assert config["epochs"] == 3 or not config
                rows = found.setdefault(run_.display_name, {"ids": set(), "steps": {}})
                rows["ids"].add(run_.run_id)
            elif record.WhichOneof("record_type") == "history":
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                rows["steps"][int(items["_step"])] = items
    curves, _ = expected(result)
    assert set(found) == {f"run {key}" for key in ARMS}
    for key in ARMS:
        rows = found[f"run {key}"]
        assert len(rows["ids"]) == 1 and sorted(rows["steps"]) == [1, 2, 3]  # one run, also after the stop
        for name, values in curves[key].items():
            assert [rows["steps"][step][name] for step in (1, 2, 3)] == values


@pytest.mark.parametrize("place", ["", "=WHERE"])
def test_mlflow_file_store(tmp_path, monkeypatch, place):
    where = place.replace("WHERE", str(tmp_path / "store"))
    result = stopped_and_resumed(tmp_path / "run", [f"mlflow{where}"], monkeypatch)
    root = tmp_path / "store" if place else tmp_path / "run" / "logged" / "mlruns"
    client = mlflow.tracking.MlflowClient(tracking_uri=root.as_uri())
    experiment = client.get_experiment_by_name("resemb")
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {f"run {key}" for key in ARMS}
    curves, ends = expected(result)
    for key in ARMS:
        found = runs[f"run {key}"]
        assert found.info.status == "FINISHED" and found.data.params["epochs"] == "3"
        for name, values in curves[key].items():
            history = client.get_metric_history(found.info.run_id, name)
            assert [(m.step, m.value) for m in history] == list(enumerate(values, 1))
        for name, value in ends[key].items():
            assert found.data.metrics[name] == value


def test_the_command_takes_several_and_one_that_fails_later_is_named(tmp_path, monkeypatch, capsys):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items() if isinstance(value, int)]
    options = [o for o in options if not o.startswith("--progress")]
    folder = tmp_path / "run"

    def gone(self, *arguments):
        shutil.rmtree(folder / "logged" / "mlruns")
        (folder / "logged" / "mlruns").write_text("not a store")
        whole(self, *arguments)

    from resemb_ext.train.log_writers import MlflowLogger

    whole = MlflowLogger.arm_done
    monkeypatch.setattr(MlflowLogger, "arm_done", gone)
    command = ["train", *options, "--hidden", "8", "--embedding", "res", "--quiet", "--out", str(folder)]
    assert main([*command, "--log-to", "tensorboard", "mlflow"]) == 0
    said = capsys.readouterr().err
    assert "warning: log_to: mlflow failed at the end of res-seed0" in said and "goes on without it" in said
    result = json.loads((folder / "result.json").read_text())
    assert result["loggers"]["tensorboard"] is None and "the end of res-seed0" in result["loggers"]["mlflow"]
    found, _ = scalars(folder / "logged" / "tensorboard" / "res-seed0")
    assert len(found["loss"]) == 3


def test_a_store_that_cannot_be_made_is_said_before_training(tmp_path):
    (tmp_path / "taken").write_text("a file")
    for name in ("tensorboard", "mlflow"):
        with pytest.raises(ValueError, match=f"log_to: {name} cannot start"):
            run(**SMALL, out=str(tmp_path / name), log_to=[f"{name}={tmp_path / 'taken'}"])
        assert not (tmp_path / name / "arms").exists()


def test_own_loggers_beside_named_ones(tmp_path):
    class Broken(rx.train.RunLogger):
        def epoch(self, arm, seed, epoch, values):
            raise OSError("the disk is full")

    with pytest.warns(RunWarning, match="Broken failed at epoch 1 of res-seed0: the disk is full"):
        done = run(**SMALL, embedding="res", out=str(tmp_path / "run"), log_to=["tensorboard", Broken()])
    assert done.result["loggers"]["tensorboard"] is None
