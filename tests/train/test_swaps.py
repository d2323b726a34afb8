"""``--swap``: ids of training batches swapped for neighbours; ``--fresh-embeddings``: tables drawn anew each epoch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext.testing.strategies import examples
from resemb_ext.train import RunConfig, fit, run
from resemb_ext.train import loop as loop_module
from resemb_ext.train.batches import train_batches
from resemb_ext.train.building import make_model
from resemb_ext.train.fresh import draw_anew, seed_of_epoch
from resemb_ext.train.optimizer import build_optimizer
from resemb_ext.train.swaps import Swaps

pytestmark = pytest.mark.usefixtures("one_thread")


class Stopped(Exception):
    """Stands for a process that dies."""


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    log, _ = rx.data.simulate(users=50, items=40, domains=4, events_per_user=(5, 8), seed=3)
    split = rx.data.split(log)
    return {
        "log": log,
        "graph": rx.InterestGraph.from_log(split.train),
        "train": rx.data.make_train_samples(split),
        "valid": rx.data.make_eval_samples(split, "valid"),
    }


def hand_graph() -> rx.InterestGraph:
    """0 padding, 1 <-> 2 and 3, 4 with itself alone, 5 with padding alone, 6 without a row."""
    indptr = [0, 1, 4, 5, 6, 7, 8, 8]
    neighbors = [1, 1, 2, 3, 1, 1, 4, 0]
    return rx.InterestGraph.from_csr(np.array(indptr), np.array(neighbors), np.array([5, 9, 3, 1, 2, 1, 1, 1.0]))


def test_shares_of_neighbours_are_those_of_their_weights() -> None:
    count = 40_000
    swaps = Swaps(hand_graph(), 0.5, padding_idx=0)
    ids = np.ones(count, np.int64)
    found = swaps.ids(ids, np.arange(count), np.zeros(count, np.int64), seed=1, epoch=2)
    share = Counter(found.tolist())
    assert set(share) == {1, 2, 3}
    for item, expected in ((1, 0.5), (2, 0.375), (3, 0.125)):
        assert abs(share[item] / count - expected) < 5 * np.sqrt(expected * (1 - expected) / count)


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(0, 2**63 - 1), st.integers(1, 9), st.floats(0, 1))
@examples(30)
def test_only_neighbours_come_and_others_stay(items: list[int], seed: int, epoch: int, probability: float) -> None:
    ids, rows = np.array(items, dtype=np.int64), np.arange(len(items))
    place = rows % 3
    allowed = {1: {1, 2, 3}, 2: {2, 1}, 3: {3, 1}}
    swaps = Swaps(hand_graph(), probability, padding_idx=0)
    found = swaps.ids(ids, rows, place, seed=seed, epoch=epoch)
    assert all(new in allowed.get(old, {old}) for old, new in zip(items, found.tolist(), strict=True))
    if probability == 0:
        assert np.array_equal(found, ids)
    always = Swaps(hand_graph(), 1.0, padding_idx=0).ids(ids, rows, place, seed=seed, epoch=epoch)
    assert all((new != old) == (old in allowed) for old, new in zip(items, always.tolist(), strict=True))
    one_by_one = [swaps.ids(ids[n : n + 1], rows[n : n + 1], place[n : n + 1], seed=seed, epoch=epoch)[0] for n in rows]
    assert one_by_one == found.tolist()


def test_a_graph_without_edges_swaps_nothing() -> None:
    swaps = Swaps(rx.InterestGraph.from_csr(np.zeros(4, np.int64), np.zeros(0, np.int64)), 1.0)
    ids = np.array([0, 1, 2])
    assert np.array_equal(swaps.ids(ids, ids, ids, seed=0, epoch=1), ids)


def test_a_row_is_swapped_alike_in_batches_of_any_size(parts: dict[str, Any]) -> None:
    train, swaps = parts["train"], Swaps(parts["graph"], 0.4, 0)

    def rows(size: int, epoch: int = 1, start: int = 0) -> list[tuple[int, list[int]]]:
        found = []
        for batch in train_batches(train, size, seed=5, epoch=epoch, start=start, swaps=swaps):
            assert batch.offsets is not None
            ends = [*batch.offsets.tolist()[1:], len(batch.history)]
            pairs = zip(batch.offsets.tolist(), ends, strict=True)
            histories = [batch.history[a:b].tolist() for a, b in pairs]
            found += list(zip(batch.target.tolist(), histories, strict=True))
        return found

    whole = rows(len(train))
    assert rows(32) == whole and rows(32, start=2) == whole[64:] and rows(32, epoch=2) != whole
    order = train.order(5, 1)
    plain = train.batch(order)
    changed = np.mean([row[0] for row in whole] != plain.target)
    assert 0.2 < changed < 0.6
    assert [len(row[1]) for row in whole] == (train.end - train.start)[order].tolist()


def test_categories_stay(parts: dict[str, Any]) -> None:
    train = parts["train"]
    rows = np.arange(20)
    batch = train.batch(rows)._replace(target_category=np.arange(20))
    swapped = Swaps(parts["graph"], 1.0, 0).batch(batch, rows, seed=0, epoch=1)
    assert swapped.target_category is batch.target_category and not np.array_equal(swapped.target, batch.target)
    assert np.array_equal(swapped.label, batch.label) and np.array_equal(swapped.offsets, batch.offsets)


TABLES = [
    {},
    {"table_optimizer": "lazy"},
    {"table_optimizer": "lazy", "decay": "global", "in_backward": True},
    {"table_optimizer": "lazy", "state": "compact", "table_dtype": "bfloat16"},
]


def config_of(**options: Any) -> RunConfig:
    return RunConfig(
        **{"epochs": 3, "patience": 3, "batch_size": 64, "dim": 4, "hidden": (8,), "dropout": 0.2, **options}
    )


def model_of(parts: dict[str, Any], config: RunConfig, arm: str, seed: int) -> torch.nn.Module:
    return make_model(config, arm, seed, num_items=parts["graph"].num_items, graph=parts["graph"])


@pytest.mark.parametrize("arm", ["plain", "res"])
@pytest.mark.parametrize("tables", TABLES)
def test_drawn_anew(parts: dict[str, Any], arm: str, tables: dict[str, Any]) -> None:
    """Tables are those of the other model, their state is that of a new optimizer; all else goes on."""
    config = config_of(**tables)
    model = model_of(parts, config, arm, 0)
    optimizer = build_optimizer(model, config)
    for batch in train_batches(parts["train"], 64, seed=0, epoch=1):
        loop_module.training_loss(model, batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    random = torch.get_rng_state()
    draw_anew(model, optimizer, config, lambda seed: model_of(parts, config, arm, seed), 9)
    assert torch.equal(torch.get_rng_state(), random)
    other = dict(model_of(parts, config, arm, 9).named_parameters())
    names = {"plain": {"weight"}, "res": {"central", "residual"}}[arm]
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        if name.split(".")[-1] in names and name.startswith("item"):
            assert torch.equal(parameter, other[name]) and not torch.equal(parameter, before[name])
            assert all(not value.any() for value in state.values())
        else:
            assert torch.equal(parameter, before[name]) and state["step"] > 0
    model(batch)  # and decay that was pending on the old rows is not applied to the new ones
    for name in names:
        assert torch.equal(model.get_parameter(f"item_embedding.{name}"), other[f"item_embedding.{name}"])


def test_another_model_is_refused(parts: dict[str, Any]) -> None:
    config = config_of()
    model = model_of(parts, config, "plain", 0)
    optimizer = build_optimizer(model, config)
    for made, found in ((config_of(dim=8), r"\[\d+, 8\]"), (None, "none")):
        other = (
            (lambda seed: torch.nn.Linear(1, 1))
            if made is None
            else lambda seed, c=made: model_of(parts, c, "plain", seed)
        )
        with pytest.raises(ValueError, match=f"redraw: table item_embedding.weight: found {found}; expected shape"):
            draw_anew(model, optimizer, config, other, 1)


def test_seeds_of_epochs_differ() -> None:
    found = {seed_of_epoch(seed, epoch) for seed in (0, 1, 2**63 - 1) for epoch in (2, 3)}
    assert len(found) == 6 and all(0 <= seed < 2**63 for seed in found)


@pytest.mark.full
@pytest.mark.parametrize("arm", ["plain", "res"])
@pytest.mark.parametrize("tables", TABLES)
def test_stopped_and_continued_bit_for_bit(
    parts: dict[str, Any], arm: str, tables: dict[str, Any], tmp_path: Path
) -> None:
    config = config_of(**tables)

    def train(folder: Path | None, stop: int | None = None) -> Any:
        model = model_of(parts, config, arm, 0)
        left = [10**9 if stop is None else stop]

        def count(*_: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Stopped

        model.register_forward_pre_hook(count)
        done = fit(
            model,
            parts["train"],
            parts["valid"],
            config=config.fit_config(),
            seed=4,
            save_every=0.0,
            folder=folder,
            resume=folder is not None,
            swaps=Swaps(parts["graph"], 0.3, 0),
            redraw=lambda seed: model_of(parts, config, arm, seed),
            progress=False,
        )
        history = [(entry["epoch"], entry["loss"], entry["valid"]) for entry in done.history]
        return history, [p.detach().clone() for p in model.parameters()]

    history, weights = train(None)
    for stop in (3, 14):
        folder = tmp_path / str(stop)
        with pytest.raises(Stopped):
            train(folder, stop)
        again, others = train(folder)
        assert again == history and all(map(torch.equal, others, weights))
    with pytest.raises(ValueError, match="was trained with other swaps, embeddings than those here"):
        fit(
            model_of(parts, config, arm, 0),
            parts["train"],
            parts["valid"],
            config=config.fit_config(),
            seed=4,
            folder=folder,
            resume=True,
            progress=False,
        )


@pytest.mark.full
def test_a_run_of_both_embeddings(tmp_path: Path) -> None:
    found, _ = rx.data.simulate(seed=2, users=60, items=50, domains=4, events_per_user=(5, 9))
    frame = pd.DataFrame({"user_id": found.user, "item_id": found.item, "timestamp": found.time})
    frame.to_csv(tmp_path / "shop.csv", index=False)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 64, "dim": 4, "hidden": (4,), "threads": 1}
    options |= {"eval_negatives": 5, "data": str(tmp_path / "shop.csv"), "progress": False}
    plain = run(out=str(tmp_path / "plain"), **options)
    for name, extra in (("swap", {"swap": 0.3, "embedding": "plain"}), ("fresh", {"fresh_embeddings": True})):
        done = run(out=str(tmp_path / name), **options, **extra)
        assert done.result["runs"][0]["valid"] != plain.result["runs"][0]["valid"]
        assert (tmp_path / name / "graph.npz").exists()
        again = run(out=str(tmp_path / name), resume=True, **options, **extra)
        assert again.result["runs"] == done.result["runs"]


def test_refusals(parts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="swap"):
        RunConfig(swap=1.5)
    with pytest.raises(ValueError, match="cross_fit: swaps go over one graph; leave out swap"):
        RunConfig(swap=0.1, cross_fit=2)
    for probability in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="expected a probability from 0 to 1"):
            Swaps(parts["graph"], probability)
    swaps: Any = Swaps(parts["graph"], 0.1)
    model = model_of(parts, config_of(), "plain", 0)
    with pytest.raises(ValueError, match="swaps: go over one graph; leave out folds"):
        fit(model, parts["train"], parts["valid"], swaps=swaps, folds=swaps, progress=False)
