"""Study gain: its search, its finalists, smoothing by validation, and its page."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext import data
from resemb_ext.nn import Smoothing
from resemb_ext.study.compare.experiment import dataset_of
from resemb_ext.study.compare.protocol import Setting
from resemb_ext.study.compare.variants import Group
from resemb_ext.study.gain import experiment, page, training
from resemb_ext.study.gain.arms import ARMS, Cell, Logs, arms_of, candidates
from resemb_ext.study.gain.protocol import PROTOCOL, REGISTERED, SETTINGS
from resemb_ext.study.harness.pieces import Source, run_pieces
from resemb_ext.study.harness.results import Results, load_results
from resemb_ext.study.harness.search import among_best
from resemb_ext.testing.strategies import examples
from resemb_ext.train import measure, predict
from resemb_ext.train.smoothing import with_smoothed_items

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = training.Scale(trials=3, more_trials=4, seeds=(1,), epochs=2, draws=20)


@pytest.fixture(scope="module")
def source() -> Source:
    log, truth = data.simulate(users=100, items=100, domains=4)
    frame = pd.DataFrame(
        {"user_id": log.user, "item_id": log.item, "order": log.time, "category": truth.domain[log.item]}
    )
    found = data.read_log(frame, label=False)
    return Source("cats", lambda: (found, None))


@pytest.fixture(scope="module")
def logs(source: Source) -> Logs:
    return Logs(dataset_of(source, Setting(eval_negatives=5)))


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), max_size=8),
    st.integers(2, 4),
)
@examples(60)
def test_a_training_goes_on_among_the_best_at_its_epoch(own: list[int], others: list[list[int]], keep: int) -> None:
    epoch = len(own)
    there = [max(other[:epoch]) for other in others if len(other) >= epoch]
    ranked = sorted([*there, max(own)], reverse=True)
    expected = epoch not in (2, 4) or len(there) < 2 or max(own) >= ranked[math.ceil(len(ranked) / keep) - 1]
    assert among_best(own, others, rungs=(2, 4), keep=keep) == expected


def test_arms() -> None:
    full, dense = arms_of(category=True, dense=False), arms_of(category=True, dense=True)
    assert sorted(full) == sorted(ARMS) and set(dense) < set(full)
    assert "mixed-smooth" not in arms_of(category=False, dense=False)
    assert candidates("base", full) == ["plain"]
    assert set(candidates("cheap", full)) | set(candidates("best", full)) | {"permuted-smooth"} == set(full)
    assert ARMS["plain-smooth"].smooth_graphs(False) == ("narrow", "wide")


def test_graphs_hold_training_events_alone(logs: Logs) -> None:
    for name in ("narrow", "wide", "mixed"):
        assert logs.graph(name, 0).meta["event_hash"] == logs.dataset.split.train.content_hash
    assert logs.wide.num_edges > logs.dataset.graph.num_edges
    permuted = logs.graph("permuted", 3)
    assert permuted is logs.graph("permuted", 3) and permuted.hash != logs.graph("permuted", 4).hash


@pytest.mark.full
@pytest.mark.parametrize("name", ["plain", "plain-smooth", "laplacian-smooth", "mixed-smooth"])
def test_smoothing_is_what_validation_finds_best(logs: Logs, name: str) -> None:
    arm, dataset = ARMS[name], logs.dataset
    config = training.arm_options(Cell(Group("cats-last", "dnn", True), name), dataset.config, SMALL)
    found = {factor.name: factor.value(0) for factor in arm.factors}
    model, done = training._trained(arm, logs, replace(config, epochs=1), found, 1)
    strengths = (3.0, 30.0)
    served = training.smoothed(model, arm, logs, 1, done.valid, strengths)
    inner = getattr(model, "model", model)
    values = {(None, 0.0): measure(dataset.valid, predict(inner, dataset.valid))["gauc"]}
    for graph in arm.smooth:
        for strength in strengths:
            smoothing = Smoothing(logs.graph(graph, 1), dataset.split.item_counts, strength)
            scores = predict(with_smoothed_items(inner, smoothing), dataset.valid)
            values[graph, strength] = measure(dataset.valid, scores)["gauc"]
    assert values[served.graph, served.strength] == served.valid["gauc"] == max(values.values())


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["swap-smooth", "fresh-smooth", "item2vec-smooth", "plain-2d-smooth", "permuted-smooth"]
)
def test_every_other_arm_trains(logs: Logs, name: str, tmp_path: Path) -> None:
    if name == "item2vec-smooth":
        pytest.importorskip("gensim", reason="item2vec trains with it")
    plan = experiment.arm_pieces(Group("cats-last", "dnn", True), ["plain", name], logs, SMALL)
    tunes = [experiment._tune_piece(Cell(Group("cats-last", "dnn", True), n), logs, SMALL) for n in ("plain", name)]
    run_pieces("gain", [*tunes, *plan], tmp_path, protocol=PROTOCOL, quick=True, progress=False)
    results = load_results(tmp_path, "gain")
    assert not results.missing
    assert len(results.pieces[f"tune-cats-last-dnn-category-{name}"]["result"]["trials"]) == SMALL.trials
    assert "gauc" in results.pieces[f"minus-cats-last-dnn-category-{name}-plain"]["result"]


@pytest.mark.full
def test_finalists_go_on_with_the_search_of_the_best_arm(
    logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    asked: list[str] = []
    fit, make = training.fit, data.make_eval_samples
    monkeypatch.setattr(training, "fit", lambda *a, **o: (trained.append(1), fit(*a, **o))[1])
    monkeypatch.setattr(data, "make_eval_samples", lambda s, which, **o: (asked.append(which), make(s, which, **o))[1])
    fresh = Logs(dataset_of(logs.dataset.source, Setting(eval_negatives=5)))
    names = ["plain", "plain-smooth", "res-smooth"]
    plan = experiment.finalist_pieces(Group("cats-last", "din", True), names, fresh, SMALL)
    options: dict[str, Any] = {"protocol": PROTOCOL, "quick": True, "progress": False}
    run_pieces("gain", plan, tmp_path, only="finalist-*", **options)
    assert asked == ["valid"]
    assert len(trained) == 3 * SMALL.trials + 3 * (SMALL.more_trials - SMALL.trials)
    run_pieces("gain", plan, tmp_path, **options)
    assert asked == ["valid", "test"]
    kept = load_results(tmp_path, "gain").pieces
    for role, arms in (("base", ["plain"]), ("cheap", names[:2]), ("best", names[2:])):
        found = kept[f"finalist-cats-last-din-category-{role}"]["result"]
        tuned = {n: kept[f"tune-cats-last-din-category-{n}"]["result"] for n in arms}
        assert found["compared"] == {n: t["valid_gauc"] for n, t in tuned.items()}
        assert tuned[found["arm"]]["valid_gauc"] == max(found["compared"].values())
        assert found["trials"][: SMALL.trials] == tuned[found["arm"]]["trials"]
        assert len(found["trials"]) == SMALL.more_trials
        seeds = kept[f"seeds-cats-last-din-category-{role}"]["result"]
        assert seeds["arm"] == found["arm"] and seeds["options"] == found["options"]


def test_pieces_name_all_that_they_need_before_them(source: Source) -> None:
    for setting, parts in SETTINGS.items():
        plan = experiment.pieces([replace(source, setting=setting)], quick=False)
        known: set[str] = set()
        for piece in plan:
            assert known.issuperset(piece.needs)
            known.add(piece.key)
        assert all(f"finalist-cats-{part.name}-dnn-category-best" in known for part in parts)


def test_page_corrects_the_comparisons_of_the_protocol() -> None:
    pieces, keys = {}, []
    for place, (log, model, one, other) in enumerate(REGISTERED):
        group = Group(log, model, True)
        keys.append(f"finalist-{group.key}-base")
        if place == 0:
            gauc = {"value": 0.02, "low": 0.01, "high": 0.03, "p": 0.001, "draws": 10}
            over = {"gauc": {"mean": 0.02, "low": 0.0, "high": 0.04}}
            pieces[experiment.contrast_key(Cell(group, one), other)] = {"result": {"gauc": gauc, "over_seeds": over}}
    logs = {log.rsplit("-", 1)[0]: {} for log, *_ in REGISTERED}
    plan = {"data": logs, "pieces": keys}
    found = page.page(Results(plan, pieces, keys, {}))
    rows = found.tables[0].rows
    assert len(rows) == 6 and rows[0][1:] == (
        "+0.0200 [+0.0100, +0.0300]",
        "+0.0200 [+0.0000, +0.0400]",
        "0.001",
        "0.006",
    )
    assert rows[1][1] == "not run" and len(found.missing or []) == 6
    assert found.figures[0].panels[0].title == "best form minus cheap"


def test_rare_items_are_those_of_few_training_events() -> None:
    buckets = [
        {"least": 0, "events": 1, "auc": 0.5},
        {"least": 1, "events": 3, "auc": 0.9},
        {"least": 5, "events": 9, "auc": 0.7},
        {"least": 10, "events": 0, "auc": None},
    ]
    assert page._auc(buckets, True) == pytest.approx(0.8) and page._auc(buckets, False) == pytest.approx(0.7)
    assert np.isnan(page._auc(buckets[3:], False))
