"""Runs of several ranks are those of one process; what ranks share, gather and refuse."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import nn

import resemb_ext as rx
from resemb_ext.distributed import Deal
from resemb_ext.distributed.rows import Dealt
from resemb_ext.distributed.wire import Wire
from resemb_ext.models import MODELS, TorchBatch
from resemb_ext.train import RunConfig, TrainingInterrupted, load_checkpoint, loop, losses, run, save_checkpoint
from resemb_ext.train.losses import training_loss
from resemb_ext.train.ranks import Ranks
from tests.processes import on_ranks
from tests.train.kills import write_log

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

OPTIONS = {
    "epochs": 2,
    "batch_size": 31,  # the last of 528 rows is alone in its batch: other ranks have none
    "dim": 4,
    "hidden": (4,),
    "threads": 1,
    "eval_negatives": 5,
    "embedding_l2": 1e-2,
    "progress": False,
}
VARIANTS = [
    {"model": "din"},
    {"table_optimizer": "lazy", "in_backward": True, "link": "gcn", "state": "rowwise"},
    {"table_optimizer": "lazy", "decay": "global", "link": "attention", "model": "deepfm", "swap": 0.2},
]


def _run(options: dict[str, Any], stop: int | None = None, resume: bool = False) -> dict[str, Any] | str:
    """A run on every rank; ``stop``: the last rank gets a signal in that step."""
    if stop is not None and dist.get_rank() == dist.get_world_size() - 1:
        steps = iter(range(10**6))

        def signalled(*arguments: Any) -> Any:
            if next(steps) == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return losses.training_loss(*arguments)

        loop.training_loss = signalled
    try:
        return run(RunConfig(**{k: v for k, v in options.items() if k != "progress"}), resume=resume, progress=False,
                   distributed=dist.is_initialized()).result  # fmt: skip
    except TrainingInterrupted as error:
        return str(error)


def _compare(folder: Path, expected: Path) -> None:
    """Two run folders tell of the same run, but for the last digits."""
    names = [sorted(str(p.relative_to(place)) for p in place.rglob("*")) for place in (folder, expected)]
    assert names[0] == names[1]
    found, wanted = (pd.read_parquet(place / "test_scores.parquet") for place in (folder, expected))
    for column in wanted:
        if wanted[column].dtype == np.float32:
            np.testing.assert_allclose(found[column], wanted[column], rtol=0, atol=2e-4, err_msg=column)
        else:
            assert found[column].tolist() == wanted[column].tolist()
    told, result = (json.loads((place / "result.json").read_text()) for place in (folder, expected))
    for entry, other in zip(told["runs"], result["runs"], strict=True):
        for key in ("steps", "epochs", "best_epoch", "parameters"):
            assert entry[key] == other[key], key
        for which in ("valid", "test"):
            for name in ("auc", "gauc", "logloss", "rows", "gauc_users"):
                # Of few rows: two scores that change places move AUC by more than they differ.
                close = 2e-4 if name == "logloss" else 2e-3
                assert entry[which][name] == pytest.approx(other[which][name], abs=close), (which, name)
        assert entry["history"][0]["loss"] == pytest.approx(other["history"][0]["loss"], abs=1e-5)
        assert entry["aggregation_radius"] == pytest.approx(other["aggregation_radius"], abs=1e-3)
    for path in expected.rglob("*.safetensors"):
        saved, whole = load_checkpoint(folder / path.relative_to(expected)), load_checkpoint(path)
        assert saved.keys() == whole.keys()
        tables = ("model", "tensors")
        for kind in (kind for kind in tables if kind in whole):
            assert list(saved[kind]) == list(whole[kind])
            for name, value in whole[kind].items():
                torch.testing.assert_close(saved[kind][name], value, rtol=0, atol=2e-4, msg=f"{path.name} {name}")


@pytest.mark.full
@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_a_run_of_ranks_is_that_of_one_process(variant: int, tmp_path: Path) -> None:
    write_log(tmp_path / "log.csv")
    options = {**OPTIONS, **VARIANTS[variant], "data": str(tmp_path / "log.csv")}
    one = {**options, "out": str(tmp_path / "one")}
    expected = _run(one)
    several = {**options, "out": str(tmp_path / "several")}
    for world in (2, 3):
        (tmp_path / f"{world}").mkdir()
    # Stopped on two ranks, gone on with on three, and again, and ended by one process.
    told = on_ranks(2, tmp_path / "2", _run, several, 3)
    assert all("plain seed 0: stopped in epoch 1 after step 4" in text for text in told)
    told = on_ranks(3, tmp_path / "3", _run, several, 37, True)
    assert all("res seed 0: stopped in epoch 1" in text for text in told)
    found = _run(several, resume=True)
    assert isinstance(expected, dict) and isinstance(found, dict)
    _compare(tmp_path / "several", tmp_path / "one")
    of_both = [rx.serving.SavedModel.load(tmp_path / name, arm="res") for name in ("several", "one")]
    batch = np.arange(1, 9), np.arange(1, 17), np.full(8, 2)
    np.testing.assert_allclose(*(model.score(*batch) for model in of_both), rtol=0, atol=2e-4)


@pytest.mark.full
def test_ranks_that_differ(tmp_path: Path) -> None:
    write_log(tmp_path / "log.csv")
    lines = on_ranks(2, tmp_path, _differing, str(tmp_path / "log.csv"), str(tmp_path / "out"))
    for told in lines:
        assert told == lines[0]
    assert "rank 1: options: dim is 5; rank 0 has 4; expected the same on every rank" in lines[0][0]
    assert "rank 1: options: seed is [1]; rank 0 has [0]" in lines[0][1]
    assert "rank 1: inputs: data is" in lines[0][2]
    assert "no log at" in lines[0][3] and "rank 1" in lines[0][3]
    assert "out:" in lines[0][4] and "holds an earlier run" in lines[0][4]


def _differing(log: str, out: str) -> list[str]:
    rank = dist.get_rank()
    other = f"{log}.{rank}.csv"
    pd.read_csv(log).iloc[: 200 + rank].to_csv(other, index=False)
    told = []
    run(
        RunConfig(**_plain({"data": log, "out": out, "embedding": "plain", "epochs": 1})),
        distributed=True,
        progress=False,
    )
    for options in (
        {"data": log, "dim": 4 + rank},
        {"data": log, "seed": (rank,)},
        {"data": other, "out": f"{out}2"},
        {"data": log if rank == 0 else log + "x", "out": f"{out}3"},
        {"data": log, "out": out},
    ):
        try:
            run(RunConfig(**_plain(options)), distributed=True, progress=False)
            told.append("nothing")
        except ValueError as error:
            told.append(str(error))
        except OSError as error:
            told.append(f"rank 1: {error}".replace("rank 1: rank 1", "rank 1"))
    return told


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in OPTIONS.items() if k != "progress"}, **options}


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield Wire(None, torch.device("cpu"), None)
    dist.destroy_process_group()


def test_gathered_files_are_those_of_the_library(wire: Wire, tmp_path: Path) -> None:
    state = {
        "tables": {
            "central": torch.randn(7, 3),
            "half": torch.randn(7, 3, dtype=torch.bfloat16),
            "codes": torch.arange(21, dtype=torch.int8).reshape(7, 3),
            "rows": torch.arange(7, dtype=torch.float64),
            "none": torch.zeros(0, 3),
        },
        "step": torch.tensor(3.0),
        "flags": torch.tensor([True, False]),
        "name": "größe",
    }
    save_checkpoint(tmp_path / "one", state)
    deal = Deal(7, 1, 0)
    dealt = {k: Dealt(v, deal) if len(v) == 7 else v for k, v in state["tables"].items()}
    save_checkpoint(tmp_path / "ranks", {**state, "tables": dealt}, wire)
    assert (tmp_path / "ranks").read_bytes() == (tmp_path / "one").read_bytes()


class Killed(Exception):
    """Stands for a process that dies."""


def test_last_checkpoints_of_ranks(wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = rx.data.simulate(users=40, items=30, domains=3, events_per_user=(5, 7), seed=1)
    split = rx.data.split(log)
    graph = rx.InterestGraph.from_log(split.train)
    samples = rx.data.make_train_samples(split), rx.data.make_eval_samples(split, "valid")
    options = {"epochs": 2, "batch_size": 64, "save_every": 0.0, "metric": "auc", "progress": False}

    def made() -> Any:
        torch.manual_seed(5)
        return rx.models.DNN(rx.ResEmbedding(graph, 4, padding_idx=0), hidden=(4,), dropout=0.5)

    expected = rx.train.fit(made(), *samples, folder=tmp_path / "whole", **options)
    calls = iter(range(10**6))

    def dies(*arguments: Any) -> Any:
        if next(calls) == 5:
            raise Killed
        return training_loss(*arguments)

    ranks = tmp_path / "ranks"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "training_loss", dies)
        rx.train.fit(rx.distributed.shard(made()), *samples, folder=ranks, **options)
    assert [path.name for path in (ranks / "last.dcp").iterdir()] == ["6"]  # the first was before the first step
    assert not (ranks / "last.safetensors").exists()
    shutil.copytree(ranks, tmp_path / "missing")
    (tmp_path / "missing/last.dcp/6/__0_0.distcp").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks the file __0_0\.distcp of its checkpoint"):
        rx.train.fit(rx.distributed.shard(made()), *samples, folder=tmp_path / "missing", resume=True, **options)
    (ranks / "last.dcp/7").mkdir()  # begun, and killed
    found = rx.train.fit(made(), *samples, folder=ranks, resume=True, **options)
    assert not (ranks / "last.dcp").exists() and (ranks / "last.safetensors").exists()
    assert [e["loss"] for e in found.history] == pytest.approx([e["loss"] for e in expected.history], abs=1e-6)
    assert found.steps == expected.steps > 6


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [0, 1, 4, 7])
def test_shares_of_a_batch(rows: int, count: int) -> None:
    ranks = Ranks()
    ranks.count = count
    cuts = [ranks.cut(rows, rank) for rank in range(count)]
    assert [row for cut in cuts for row in range(rows)[cut]] == list(range(rows))
    sizes = [cut.stop - cut.start for cut in cuts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("model", sorted(MODELS))
def test_shares_without_rows_train(model: str) -> None:
    own = {"auxiliary_weight": 0.0} if model == "dien" else {}
    made = MODELS[model](nn.Embedding(5, 4, padding_idx=0), **own)
    none = torch.zeros(0, dtype=torch.int64)
    ranks = Ranks()
    ranks.count, ranks.wire = 2, object()  # type: ignore[assignment]
    loss, value = training_loss(made, TorchBatch(none, none, none, label=torch.zeros(0)), 3, ranks)
    loss.backward()
    assert value == 0 and all(not p.grad.any() for p in made.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross_fit": 2}, "cross_fit: looks up one table over several graphs, which ranks"),
        ({"smooth": "auto"}, "smooth: smooths a whole table"),
        ({"fresh_embeddings": True}, "fresh_embeddings: draws whole tables anew"),
        ({"activation": "dice"}, "activation: dice takes means over the whole batch"),
        ({"model": "dien"}, "model: dien's auxiliary loss is a mean.*auxiliary_weight=0"),
    ],
)
def test_refused_on_ranks(options: dict[str, Any], message: str, wire: Wire) -> None:
    with pytest.raises(ValueError, match=message):
        run(RunConfig(**_plain(options)), distributed=True, progress=False)


def test_layers_over_batches_are_refused() -> None:
    model = rx.models.DNN(nn.Embedding(5, 4, padding_idx=0), activation="dice")
    with pytest.raises(ValueError, match=r"mlp\.layers\.1: Dice takes means over the whole batch"):
        losses.check_shareable(model)
    losses.check_shareable(rx.models.DNN(nn.Embedding(5, 4, padding_idx=0)))


def test_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="distributed: found no RANK and WORLD_SIZE"):
        run(RunConfig(), distributed=True, progress=False)


@pytest.mark.slow
def test_din_on_a_real_log(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    """At rates at which the last digits do not steer the training: with the default ones they move gAUC by .002."""
    options = {
        "data": str(shared_data("amazon-beauty.parquet")),
        "model": "din",
        "embedding": "res",
        "epochs": 8,
        "threads": 1,
    }
    options |= {"lr": 1e-3, "embedding_lr": 1e-3}
    one = _run({**options, "out": str(tmp_path / "one")})
    two = on_ranks(2, tmp_path, _run, {**options, "out": str(tmp_path / "two")})[0]
    assert isinstance(one, dict) and isinstance(two, dict)
    for which in ("valid", "test"):
        found, expected = (result["runs"][0][which]["gauc"] for result in (two, one))
        assert found == pytest.approx(expected, abs=2e-3)
