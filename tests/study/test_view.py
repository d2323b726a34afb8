"""What kept pieces of the comparison say, and its tables, on results made by hand."""

from __future__ import annotations

import pytest

from resemb_ext.study.compare import experiment as compare
from resemb_ext.study.compare import page as compare_page
from resemb_ext.study.compare import view as compare_view
from resemb_ext.study.compare.protocol import PROTOCOL
from resemb_ext.study.compare.training import BUCKETS
from resemb_ext.study.compare.variants import Group, Variant
from resemb_ext.study.harness.results import Results


def test_protocol_and_registered_comparisons_are_of_one_kind() -> None:
    texts = PROTOCOL["comparisons"]
    assert len(texts) == len(compare_view.REGISTERED) <= 6
    names = {"plain": "res minus plain,", "res-entries": "permuted neighbour entries", "item2vec": "item2vec"}
    for text, (one, other) in zip(texts, compare_view.REGISTERED, strict=True):
        assert one.table == "res" and one.group == other.group and one.group.log in text
        assert names[other.table] in text
        assert ("with category" in text) == one.group.category


def _kept(p: float, low: float) -> dict:
    entry = {"value": 0.01, "low": low, "high": 0.03, "p": p, "draws": 10_000}
    return {"result": {"gauc": entry, "over_seeds": {"gauc": entry, "logloss": entry}}}


def test_a_comparison_that_was_not_run_counts_as_one_and_is_named() -> None:
    keys = [compare.contrast_key(*pair) for pair in compare_view.REGISTERED]
    pieces = {keys[0]: _kept(0.001, 0.005), keys[1]: _kept(0.02, -0.001)}
    plan = {"pieces": keys, "data": {}, "quick": False}
    found = compare_view.registered(Results(plan, pieces, keys[2:]))
    assert [test.p for test in found] == [0.001, 0.02, 1, 1, 1, 1]
    assert [test.holm for test in found] == pytest.approx([0.006, 0.1, 1, 1, 1, 1])
    assert found[2].found is None
    assert compare_page._registered_table(found).rows[2][1:5] == ("not run", "not run", "1", "1")


def test_rows_without_scores_are_named_as_not_run() -> None:
    variants = [Variant(Group("a-log", "dnn", True), table) for table in ("plain", "gcn-2")]
    plan = {"pieces": [f"tune-{variant.key}" for variant in variants], "data": {"a-log": {}}}
    seeds = {"result": {"runs": _runs(0.5, 0.6)["runs"]}}
    page = compare_page.page(Results(plan, {f"seeds-{variants[0].key}": seeds}, []))
    assert page.missing == ["a-log, DNN with category: res, gcn, 2 hops"]


def test_what_was_scored_twice_is_told() -> None:
    group = Group("a", "dnn", True)
    variants = [Variant(group, table) for table in ("res", "plain", "centre", "gcn-1")]
    plain = variants[1]

    def minus(value: float, half: float) -> dict:
        entry = {"value": value, "low": value - half, "high": value + half, "p": 0.5}
        return {"result": {"gauc": entry}}

    found = {  # value first and last, half of the interval
        "res": (0.010, 0.012, 0.004),  # much the same
        "centre": (0.010, 0.003, 0.004),  # elsewhere, and no longer told from none
        "gcn-1": (0.010, 0.018, 0.004),  # elsewhere
    }
    first, last = (
        {
            compare.contrast_key(Variant(group, table), plain): minus(values[place], values[2])
            for table, values in found.items()
        }
        for place in (0, 1)
    )
    plan = {"pieces": [f"tune-{variant.key}" for variant in variants], "data": {"a": {}}}
    twice = compare_view.twice(Results(plan, last, [], first))
    assert [(t.one.table, t.left, t.turned) for t in twice] == [
        ("centre", True, True),
        ("res", False, False),
        ("gcn-1", True, False),
    ]
    assert [row[3:] for row in compare_page._twice_table(twice).rows] == [("no", "no"), ("yes", "yes"), ("no", "yes")]
    assert compare_view.twice(Results(plan, last, [])) == []


def _runs(*gauc: float, stopped: str = "patience") -> dict:
    more = {"stopped": stopped, "parameters": 9, "train_seconds": 1.0, "epochs": 4, "best_epoch": 1, "by_frequency": []}
    scores = [{"gauc": value, "auc": value, "logloss": value} for value in gauc]
    buckets = [{"least": least, "events": 0, "auc": None} for least in BUCKETS]
    return {"runs": [{**more, "test": s, "valid": s, "by_frequency": buckets} for s in scores]}


def test_what_the_residual_adds_and_the_best_other_table_stand_beside_res() -> None:
    group = Group("a", "dnn", False)
    values = {"plain": (0.5, 0.6), "centre": (0.60, 0.61), "res": (0.62, 0.63), "item2vec": (0.64, 0.64)}
    variants = [compare_view.Seen(Variant(group, table), None, _runs(*gauc)) for table, gauc in values.items()]
    pieces = {compare.contrast_key(Variant(group, "res"), Variant(group, "plain")): _kept(0.5, 0.005)}
    (line,) = compare_page._res_table(Results({}, pieces, []), variants).rows
    assert line[:4] == ("a, DNN", "0.5500", "0.6250", "+0.0100 [+0.0050, +0.0300]")
    assert line[5].startswith("+0.0200 [") and line[6] == "plain, started by item2vec (0.6400)"
    assert not compare_page._res_table(Results({}, {}, []), variants).rows  # no difference is kept
    (line,) = compare_page._res_table(Results({}, pieces, []), [variants[0], variants[2]]).rows
    assert line[5] == "not run"


def test_runs_that_the_limit_of_epochs_ended_are_counted() -> None:
    variant = Variant(Group("a", "dnn", False), "plain")
    seen = [compare_view.Seen(variant, None, _runs(0.5, 0.6, stopped=stopped)) for stopped in ("epochs", "patience")]
    assert [line[-1] for line in compare_page._metrics_table(Results({}, {}, []), seen).rows] == ["2", "0"]


def test_searches_that_were_carried_on_stand_beside_the_first() -> None:
    variants = [Variant(Group("a", "dnn", True), table) for table in ("plain", "res")]
    trial = {"options": {"l2_of": "whole table"}, "seconds": 1.0}
    first = {"trials": [trial] * 12, "closed": False, "valid_gauc": 0.7}
    on = {"trials": [trial] * 17, "closed": True, "valid_gauc": 0.71, "touched": {"trials": [trial] * 3}}
    pieces = {f"tune-{variant.key}": {"result": first} for variant in variants}
    pieces |= {f"tune-{variant.key}-further": {"result": on} for variant in variants}
    pieces |= {
        "minus-a-dnn-category-res-plain": _kept(0.5, 0.0),
        "minus-a-dnn-category-res-further-plain": _kept(0.5, 0.02),
    }
    results = Results({"pieces": list(pieces), "data": {"a": {}}}, pieces, [])
    seen = compare_view.seen_variants(results)
    assert [one.variant for one in seen] == variants
    lines = compare_page._further_table(results, seen).rows
    assert lines[0][1:6] == lines[1][1:6] == ("12, 17", "yes", "3", "0.7000", "0.7100")
    assert lines[0][6:] == ("", "")
    assert lines[1][6:] == ("+0.0100 [+0.0000, +0.0300]", "+0.0100 [+0.0200, +0.0300]")


def test_p_of_draws_all_on_one_side_is_a_bound() -> None:
    pair = Variant(Group("a", "dnn", True), "res"), Variant(Group("a", "dnn", True), "plain")
    for p, said in ((2 / 10_001, "at most 0.0012"), (0.003, "0.0012")):
        found = {"gauc": {"p": p, "draws": 10_000}}
        test = compare_view.Registered(*pair, found, p, 0.0012)
        assert test.shown(test.holm) == said
    assert compare_view.Registered(*pair, None, 1.0, 1.0).shown(1.0) == "1"
