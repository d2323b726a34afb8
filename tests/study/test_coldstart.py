"""Studies ``coldstart`` and ``quantised``: what is held out, given and tested, and the tables of their pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resemb_ext import InterestGraph, data
from resemb_ext.study.coldstart import page as coldstart_page
from resemb_ext.study.coldstart.cut import Cut
from resemb_ext.study.coldstart.methods import by_oov, grown_tables, plain_tables
from resemb_ext.study.coldstart.protocol import GIVEN, NEGATIVES, OPTIONS
from resemb_ext.study.harness.pieces import simulated_source
from resemb_ext.study.harness.results import Results
from resemb_ext.study.quantised import page as quantised_page
from resemb_ext.train import RunConfig
from resemb_ext.train.building import make_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cut() -> Cut:
    source = simulated_source("log", users=300, items=120, domains=4)
    return Cut(source, RunConfig(**OPTIONS), None, seed=3, test_events=200)


def test_what_is_held_out_given_and_tested(cut: Cut) -> None:
    whole, log = cut.source.log, cut.log
    held_out = {*whole.items.decode(cut.held_out).tolist()}
    assert len(held_out) == round(0.1 * len(whole.items))
    assert np.array_equal(log.items.decode(log.item), whole.items.decode(whole.item))
    assert {*log.items.decode(np.arange(cut.first_cold, log.items.oov)).tolist()} == held_out
    # Warm numbers are those of the smaller table, and its last row is the next item's.
    assert cut.warm.log.items.oov == cut.first_cold
    assert not held_out & {*cut.warm.log.items.decode(cut.warm.log.item).tolist()}
    for item in range(cut.first_cold, log.items.oov):
        events = np.flatnonzero(log.item == item)
        in_time = events[np.argsort(log.time[events], kind="stable")]
        assert np.array_equal(np.sort(cut.order[events]), np.arange(len(events)))
        assert np.array_equal(cut.order[in_time], np.arange(len(events)))
        assert not {*cut.tested.tolist()} & {*in_time[:10].tolist()}
    assert (log.item[cut.tested] >= cut.first_cold).all() and len(cut.tested) == 200


@pytest.mark.full
def test_graphs_and_training_see_no_tested_event(cut: Cut) -> None:
    log = cut.log
    warm = np.flatnonzero(cut.order < 0)
    for given in GIVEN:
        events = log.subset(
            np.sort(np.r_[warm[cut.warm.split.train_index], np.flatnonzero((cut.order >= 0) & (cut.order < given))])
        )
        expected = InterestGraph.from_log(events, window=OPTIONS["window"], top_k=OPTIONS["top_k"])
        assert cut.graph(given).hash == expected.hash
    everything = cut.everything
    assert everything.graph.hash == cut.graph(10).hash
    tested = {(log.user[e], log.item[e], log.time[e]) for e in np.flatnonzero(cut.order >= 10)}
    seen = everything.log
    assert not tested & {*zip(seen.user.tolist(), seen.item.tolist(), seen.time.tolist(), strict=True)}
    positives = everything.train(1).label == 1
    assert positives.sum() == len(cut.warm.split.train_index) + 10 * len(cut.held_out)


@pytest.mark.parametrize("among", [True, False])
def test_samples_are_test_events_and_unknown_items(cut: Cut, among: bool) -> None:
    log, rows = cut.log, cut.samples(among)
    width = 1 + NEGATIVES
    target, label = rows.target.reshape(-1, width), rows.label.reshape(-1, width)
    assert np.array_equal(target[:, 0], log.item[cut.tested])
    assert label[:, 0].all() and not label[:, 1:].any()
    for event, start, end, drawn in zip(cut.tested, rows.start[::width], rows.end[::width], target[:, 1:], strict=True):
        user = log.user[event]
        assert not {*drawn.tolist()} & {*log.item[log.user == user].tolist()}
        assert end == event and (log.user[start:end] == user).all() and end - start <= 50
        assert not among or (drawn >= cut.first_cold).all()
    assert among or (target[:, 1:] < cut.first_cold).any()


@pytest.mark.full
def test_rows_of_each_method(cut: Cut) -> None:
    graphs = {given: cut.graph(given) for given in (1, 5)}
    H = cut.log.num_items
    plain = make_model(cut.config, "plain", 0, num_items=cut.warm.log.num_items)
    table = plain.item_embedding.weight.detach()
    found = {method: model.item_embedding.weight for method, model in plain_tables(plain, graphs, cut)}
    assert [*found] == ["oov", "mean 1", "mean 5"]
    cold = range(cut.first_cold, H - 1)
    for rows in found.values():
        assert rows.shape == (H, table.shape[1]) and torch.equal(rows[: cut.first_cold], table[:-1])
        assert torch.equal(rows[-1], table[-1])
    assert torch.equal(found["oov"][[*cold]], table[-1].expand(len(cold), -1))
    weights = graphs[5].with_link("average", padding_idx=0).to_scipy().todense()[:, : cut.first_cold]
    for row in cold:
        if weights[row].sum():
            mean = torch.from_numpy(weights[row] / weights[row].sum()).float() @ table[: cut.first_cold]
            torch.testing.assert_close(found["mean 5"][row], mean, rtol=1e-4, atol=1e-6)
    res = make_model(cut.config, "res", 0, num_items=0, graph=cut.warm.graph)
    central = res.item_embedding.central.detach().clone()
    grown = {method: model.item_embedding for method, model in grown_tables(res, graphs, cut)}
    assert [*grown] == ["res oov", "grown 1", "grown 5"]
    assert isinstance(grown["res oov"], nn.Embedding) and grown["grown 5"].num_embeddings == H
    assert torch.equal(grown["grown 5"].central[H - 1], central[-1])  # the out-of-vocabulary row has moved
    assert torch.equal(res.item_embedding.central, central)
    assert torch.equal(by_oov(table, cut), found["oov"])


def results(pieces: dict[str, Any]) -> Results:
    return Results(
        {"study": "s", "quick": False, "protocol": {"version": 1}, "data": {}, "pieces": [*pieces]}, pieces, []
    )


def test_shares_of_retrainings_gain() -> None:
    gauc = {"oov": 0.5, "res oov": 0.5, "retrained plain": 0.6, "retrained res": 0.7}
    gauc |= {f"{kind} {k}": 0.5 + k / 50 for kind in ("mean", "grown") for k in GIVEN}
    run = {
        "seed": 1,
        "held_out_items": 9,
        "test_events": 90,
        "gauc": {"held-out": gauc, "all": {**gauc, "retrained res": 0.4}},
        "epochs": {},
        "without_neighbour": {str(k): 0 for k in GIVEN},
    }
    page = coldstart_page.page(results({"log-1": {"config": {"log": "log"}, "result": run, "seeds": [1]}}))
    first, second = (dict(zip(table.header, table.rows[0], strict=True)) for table in page.tables[:2])
    assert first["grown, 1"] == "0.10" and first["grown, 5"] == "0.50" and first["at least 0.5 at 5"] == "yes"
    assert second["grown, 5"] == "1.00"  # the better of both retrained


def test_differences_to_float32() -> None:
    run = {"seed": 1, "gauc": {"float32": 0.6, "float16": 0.6, "int8": 0.5994, "int4": 0.59}}
    run |= {"row_bytes": {"float32": 256, "float16": 128, "int8": 72, "int4": 36}}
    config = {"log": "log", "options": {"model": "din"}}
    page = quantised_page.page(results({"din-log-1": {"config": config, "result": run, "seeds": [1]}}))
    row = dict(zip(page.tables[0].header, page.tables[0].rows[0], strict=True))
    assert row["int8"] == "-0.00060" and row["int8 within ±0.0005"] == "no"
    assert ("int8", "72", "3.56") in page.tables[1].rows


def test_a_log_with_too_few_popular_items_is_refused() -> None:
    log = data.read_log({"user": [0, 0, 1, 1], "item": [1, 2, 1, 3], "time": [1, 2, 3, 4]})
    source = simulated_source("log")
    source.__dict__["loaded"] = (log, None)
    with pytest.raises(ValueError, match="has 0 items of more than 10 events"):
        _ = Cut(source, RunConfig(**OPTIONS), None, 1, 10).held_out
