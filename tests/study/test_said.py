"""What the comparison's page says, on results made by hand."""

from __future__ import annotations

import pytest

from resemb_ext.study.compare import experiment as compare
from resemb_ext.study.compare import said as compare_said
from resemb_ext.study.compare import view as compare_view
from resemb_ext.study.compare.rows import Group, Row
from resemb_ext.study.harness.protocol import PROTOCOLS
from resemb_ext.study.harness.results import Results


def test_protocol_and_registered_comparisons_are_of_one_kind() -> None:
    texts = PROTOCOLS["compare"]["comparisons"]
    assert len(texts) == len(compare_view.REGISTERED) <= 6
    names = {"plain": "res minus plain,", "res-entries": "permuted neighbour entries", "item2vec": "item2vec"}
    for text, (one, other) in zip(texts, compare_view.REGISTERED, strict=True):
        assert one.table == "res" and one.group == other.group and one.group.log in text
        assert names[other.table] in text
        assert ("with category" in text) == one.group.category


def _kept(p: float, low: float) -> dict:
    entry = {"value": 0.01, "low": low, "high": 0.03, "p": p}
    return {"result": {"gauc": entry, "over_seeds": {"gauc": entry, "logloss": entry}}}


def test_a_comparison_that_was_not_run_counts_as_one_and_is_named() -> None:
    keys = [compare.contrast_key(*pair) for pair in compare_view.REGISTERED]
    pieces = {keys[0]: _kept(0.001, 0.005), keys[1]: _kept(0.02, -0.001)}
    plan = {"pieces": keys, "data": {}, "quick": False}
    found = compare_view.registered(Results(plan, pieces, keys[2:]))
    assert [test.p for test in found] == [0.001, 0.02, 1, 1, 1, 1]
    assert [test.holm for test in found] == pytest.approx([0.006, 0.1, 1, 1, 1, 1])
    assert found[2].found is None
    group, other = Group("a-log", "dnn", True), Group("a-log", "din", False)
    rows = [compare_view.Seen(Row(group, table), None, None) for table in ("plain", "res")]
    rows += [compare_view.Seen(Row(other, "plain"), None, {}), compare_view.Seen(Row(other, "gcn-2"), None, None)]
    assert compare_said.not_run(rows) == (
        'Not run yet: a-log, DNN with category: all 2 rows; a-log, DIN: "res, gcn, 2 hops".'
    )
    assert compare_said.not_run(rows[2:3]) is None


def test_sentence_says_where_res_is_above_below_or_neither() -> None:
    pieces, rows = {}, []
    for log, low, high in (("a", 0.01, 0.02), ("b", -0.02, -0.01), ("c", -0.01, 0.01)):
        one = Row(Group(log, "dnn", True), "res")
        entry = {"value": (low + high) / 2, "low": low, "high": high, "p": 0.5}
        key = compare.contrast_key(one, Row(one.group, "plain"))
        pieces[key] = {"result": {"gauc": entry}}
        rows.append(compare_view.Seen(one, None, None))
    text = compare_said.verdict(Results({"pieces": [], "data": {}}, pieces, []), rows)
    assert "better than plain on a, DNN with category (+0.0150 [+0.0100, +0.0200])" in text
    assert "worse than plain on b" in text and "not told apart from plain on c" in text


def test_what_was_scored_twice_is_told() -> None:
    group = Group("a", "dnn", True)
    rows = [Row(group, table) for table in ("res", "plain", "centre", "gcn-1")]
    plain = rows[1]

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
            compare.contrast_key(Row(group, table), plain): minus(values[place], values[2])
            for table, values in found.items()
        }
        for place in (0, 1)
    )
    plan = {"pieces": [f"tune-{row.key}" for row in rows], "data": {"a": {}}}
    twice = compare_view.twice(Results(plan, last, [], first))
    assert [(t.one.table, t.left, t.turned) for t in twice] == [
        ("centre", True, True),
        ("res", False, False),
        ("gcn-1", True, False),
    ]
    text = compare_said.said_twice(twice)
    assert text is not None and "Of 3 differences" in text and "at most 0.0080" in text
    assert "interval in 2 of them (a, DNN with category: centre only minus plain" in text
    assert "the verdict is another in 1 of them" in text
    assert compare_said.said_twice(compare_view.twice(Results(plan, last, []))) is None


def test_the_residual_open_searches_and_cut_runs_are_told() -> None:
    def runs(*gauc: float, stopped: str = "patience") -> dict:
        test = [{"gauc": value, "auc": value, "logloss": value} for value in gauc]
        return {"runs": [{"test": entry, "stopped": stopped} for entry in test]}

    def tune(closed: bool, gain: float, l2_of: str = "whole table") -> dict:
        trials = [{"options": {"l2_of": of}, "valid": {"gauc": 0.7}} for of in ("whole table", "touched rows")]
        return {"closed": closed, "valid_gauc": 0.7 + gain, "trials": trials, "options": {"l2_of": l2_of}}

    group = Group("a", "dnn", False)
    rows = [
        compare_view.Seen(Row(group, "plain"), tune(False, 0.02), runs(0.5, 0.6, stopped="epochs")),
        compare_view.Seen(Row(group, "centre"), tune(True, 0.0), runs(0.60, 0.61)),
        compare_view.Seen(Row(group, "res"), tune(True, 0.001, "touched rows"), runs(0.62, 0.63)),
        compare_view.Seen(Row(group, "item2vec"), tune(False, 0.3), None),
    ]
    assert "a, DNN +0.0200" in compare_said.said_by_residual(rows)
    assert compare_said.said_by_residual(rows[:2]) is None
    searches = compare_said.open_searches(rows)
    assert searches.startswith("Of 4 searches 2 closed")
    assert "improve the rest, among them plain on a, DNN. And plain, started by item2vec on a, DNN. From" in searches
    assert "rose by 0.0200 for plain and by 0.0010 for res: the start lies nearer" in searches
    assert "whole tables: 1 a search; the best trial was one in 1 of 4 searches." in searches
    assert "tried. Trials of L2" in compare_said.open_searches(rows[1:3])
    rows[0].tune["trials"][0].pop("valid")  # diverged
    assert "From the common start" not in compare_said.open_searches(rows)
    assert "a, DNN, plain (2 of 2 seeds)." in compare_said.at_the_cap(rows)
    assert compare_said.at_the_cap(rows[1:]) is None


def test_tables_not_above_plain_and_what_seeds_alone_say_are_told() -> None:
    group = Group("a", "dnn", True)
    rows = [Row(group, table) for table in ("plain", "gcn-1", "gcn-2", "item2vec")]

    def minus(low: float, seeds: float) -> dict:
        over = {"mean": 0.01, "low": seeds, "high": 0.02}
        return {"gauc": {"value": 0.01, "low": low, "high": 0.02}, "over_seeds": {"gauc": over}}

    values = {"gcn-1": (0.001, -0.001), "gcn-2": (-0.001, -0.002), "item2vec": (-0.001, -0.002)}
    pieces = {
        compare.contrast_key(Row(group, table), rows[0]): {"result": minus(*pair)} for table, pair in values.items()
    }
    seen = [compare_view.Seen(row, None, None) for row in rows]
    results = Results({}, pieces, [])
    assert compare_said.not_above_plain(results, seen) == (
        "Tables over the graph not told apart from plain: a, DNN with category: res, gcn, 2 hops "
        "(+0.0100 [-0.0010, +0.0200])."
    )
    text = compare_said.by_seeds(results, seen)
    assert text is not None and text.endswith(
        "lie otherwise: a, DNN with category: res, gcn, 1 hop, +0.0100 [+0.0010, +0.0200] but "
        "+0.0100 [-0.0010, +0.0200] over seeds."
    )
    assert compare_said.by_seeds(results, seen[2:]) is None


def test_p_of_draws_all_on_one_side_is_a_bound() -> None:
    pair = Row(Group("a", "dnn", True), "res"), Row(Group("a", "dnn", True), "plain")
    for p, said in ((2 / 10_001, "at most 0.0012"), (0.003, "0.0012")):
        found = {"gauc": {"p": p, "draws": 10_000}}
        test = compare_view.Registered(*pair, found, p, 0.0012)
        assert test.shown(test.holm) == said
    assert compare_view.Registered(*pair, None, 1.0, 1.0).shown(1.0) == "1"


def test_hours_are_told_by_what_asks_for_a_row() -> None:
    hours = {("dnn", "res"): 1.0, ("dnn", "centre"): 1.0, ("dnn", "gcn-1"): 4.0, ("din", "res"): 2.0}
    rows = [Row(Group("a", model, False), table) for model, table in hours]
    done = {
        f"{kind}-{row.key}": {"seconds": 1800 * hours[row.group.model, row.table], "result": {}}
        for row in rows
        for kind in ("tune", "seeds")
    }
    done["tune-a-dnn-gcn-1"] |= {  # gone on with in a second session
        "seconds": 100,
        "result": {"trials": [{"seconds": 3600}] * 2},
    }
    done["tune-a-dnn-attention"] = {"seconds": 1e6, "result": {}}  # no seeds yet
    rows.append(Row(Group("a", "dnn", False), "attention"))
    seen = [compare_view.Seen(row, None, None) for row in rows]
    kept = Results({}, done, [], {"seeds-a-dnn-res": {"seconds": 1800, "result": {}}})
    text = compare_said.said_hours(kept, seen)
    assert text is not None and "Of 8.5 hours, 2.0 went into rows of the question" in text
    assert "6.0 into rows that only the tuned table" in text and "0.5 into scores" in text
    assert "60 minutes with DNN and 120 minutes with DIN; 1 of 4 took over three" in text
    assert compare_said.said_hours(Results({}, {}, []), seen) is None
