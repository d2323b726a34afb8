"""The comparison: effects where there are some, none where there are none, and pages from JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from resemb_ext import data, metrics
from resemb_ext.study import (
    compare,
    compare_further,
    compare_said,
    compare_view,
    compare_work,
    studies,
)
from resemb_ext.study.bench import Setting
from resemb_ext.study.compare_page import tuned_section
from resemb_ext.study.draft import Draft
from resemb_ext.study.frame import Desk, Piece, Results, read_results, run_pieces, simulated_source
from resemb_ext.study.protocol import PROTOCOLS
from resemb_ext.study.rows import Group, Row

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick run on the simulated log and its null variant."""
    out = tmp_path_factory.mktemp("study")
    studies.run_study("compare", out, quick=True, jobs=2, progress=False)
    return out


def test_res_wins_where_domains_steer_and_nothing_wins_where_they_do_not(quick: Path) -> None:
    kept = read_results(quick / "compare").pieces
    found = kept["minus-simulated-dnn-res-plain"]["result"]["gauc"]
    assert found["low"] > 0
    assert kept["minus-simulated-dnn-res-res-entries"]["result"]["gauc"]["low"] > 0
    null = kept["minus-simulated-null-dnn-res-plain"]["result"]["gauc"]
    assert null["low"] <= 0 <= null["high"] and null["p"] > 0.05


def test_what_is_kept_is_what_was_asked(quick: Path) -> None:
    results = read_results(quick / "compare")
    assert not results.missing
    tune = results.pieces["tune-simulated-dnn-res"]["result"]
    assert len(tune["trials"]) == compare.QUICK.trials
    best = max(tune["trials"], key=lambda trial: trial["valid"]["gauc"])
    assert tune["options"] == best["options"] and tune["valid_gauc"] == best["valid"]["gauc"]
    seeds = results.pieces["seeds-simulated-dnn-res"]
    assert seeds["result"]["options"] == tune["options"]
    assert [run["seed"] for run in seeds["result"]["runs"]] == list(compare.QUICK.seeds)
    minus = results.pieces["minus-simulated-dnn-res-plain"]["result"]
    means = [
        np.mean(
            [
                r["test"]["gauc"]
                for r in results.pieces[f"seeds-simulated-dnn-{t}"]["result"]["runs"]
            ]
        )
        for t in ("res", "plain")
    ]
    assert minus["gauc"]["value"] == pytest.approx(means[0] - means[1], abs=1e-12)
    assert minus["over_seeds"]["gauc"]["mean"] == pytest.approx(means[0] - means[1], abs=1e-12)


def test_kept_json_holds_no_users(quick: Path) -> None:
    users = simulated_source("x", users=1000, items=600).log.num_users
    for file in (quick / "compare").glob("*.json"):
        assert _longest(json.loads(file.read_text())) < users / 20


def _longest(value: object) -> int:
    if isinstance(value, dict):
        return max(map(_longest, value.values()), default=0)
    if isinstance(value, list):
        return max([len(value), *map(_longest, value)])
    return 0


def test_tuning_never_makes_test_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    make = data.make_eval_samples

    def watched(split: data.Split, which: str, **options: object) -> data.Samples:
        asked.append(which)
        return make(split, which, **options)

    monkeypatch.setattr(data, "make_eval_samples", watched)
    source = simulated_source("tiny", users=100, items=100, domains=4)
    scale = compare_work.Scale(trials=2, seeds=(1,), epochs=1, draws=10)
    row = Row(Group("tiny", "dnn", False), "res")
    plan = compare.pieces_of_row(row, compare.bench_of(source, Setting()), scale)
    run_pieces("s", plan[:1], tmp_path, protocol={}, quick=True, progress=False)
    assert asked == ["valid"]
    run_pieces("s", plan, tmp_path, protocol={}, quick=True, progress=False)
    assert asked == ["valid", "test"]


def test_a_search_that_was_stopped_goes_on_after_its_last_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = simulated_source("tiny", users=100, items=100, domains=4)
    scale = compare_work.Scale(trials=4, seeds=(1,), epochs=1, draws=10)
    row = Row(Group("tiny", "dnn", False), "plain")
    plan = compare.pieces_of_row(row, compare.bench_of(source, Setting()), scale)[:1]
    options = {"protocol": {}, "quick": True, "progress": False}
    trained, train = [], compare_work.fit

    def counted(*args: object, **options: object) -> object:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(1)
        return train(*args, **options)

    monkeypatch.setattr(compare_work, "fit", counted)
    with pytest.raises(KeyboardInterrupt):
        run_pieces("s", plan, tmp_path, **options)
    draft = tmp_path / f"trials-{row.key}.draft.json"
    assert len(json.loads(draft.read_text())["steps"]) == 3
    monkeypatch.setattr(compare_work, "fit", lambda *a, **o: (trained.append(2), train(*a, **o))[1])
    run_pieces("s", plan, tmp_path, **options)
    assert trained == [1, 1, 1, 2] and not draft.exists()
    run_pieces("s", plan, tmp_path / "whole", **options)
    first, whole = (
        [{k: v for k, v in trial.items() if k != "seconds"} for trial in
         read_results(folder).pieces[f"tune-{row.key}"]["result"]["trials"]]
        for folder in (tmp_path, tmp_path / "whole")
    )  # fmt: skip
    assert first == whole


def test_a_draft_of_something_else_is_not_taken(tmp_path: Path) -> None:
    def step(draft: Draft, name: str, value: float) -> float:
        return draft.recall({"name": name}, lambda: (value, {}))[0]

    first = Draft(tmp_path / "d", "x")
    assert [step(first, "a", 1.0), step(first, "b", -np.inf)] == [1.0, -np.inf]
    again = Draft(tmp_path / "d", "x")
    assert [step(again, "a", 7.0), step(again, "b", 7.0), step(again, "c", 3.0)] == [1, -np.inf, 3]
    assert step(Draft(tmp_path / "d", "y"), "a", 7.0) == 7.0  # made for something else
    first = Draft(tmp_path / "d", "y")
    assert step(first, "z", 8.0) == 8.0 and step(first, "a", 9.0) == 9.0  # another step


def test_rows_with_category_and_din_run(tmp_path: Path) -> None:
    source = _with_category()
    scale = compare_work.Scale(trials=2, seeds=(1, 2), epochs=1, draws=20)
    bench = compare.bench_of(source, Setting(eval_negatives=5))
    rows = [Row(Group("cats", "din", True), table) for table in ("plain", "res")]
    plan = [piece for row in rows for piece in compare.pieces_of_row(row, bench, scale)]
    plan.append(compare.contrast_piece(rows[1], rows[0], bench, scale))
    run_pieces("compare", plan, tmp_path / "compare", protocol=PROTOCOLS["compare"], quick=True,
               progress=False)  # fmt: skip
    page = studies.write_report(tmp_path, names=["compare"])[0].read_text()
    assert "cats, DIN with category: test" in page
    section = "\n".join(tuned_section(read_results(tmp_path / "compare")))
    assert "| cats | DIN | yes | res, average |" in section


def _with_category():
    from resemb_ext.study.frame import Source

    log, truth = data.simulate(users=100, items=100, domains=4)
    import pandas as pd

    frame = pd.DataFrame({"user_id": log.user, "item_id": log.item, "order": log.time,
                          "category": truth.domain[log.item]})  # fmt: skip
    return Source("cats", lambda: (data.read_log(frame, label=False), None))


def test_auc_by_frequency_counts_each_event_with_its_negatives() -> None:
    source = simulated_source("tiny", users=200, items=150, domains=4)
    bench = compare.bench_of(source, Setting(eval_negatives=4))
    test, counts = bench.test, bench.split.item_counts
    scores = np.random.default_rng(0).normal(size=len(test)).astype(np.float32)
    found = compare_work.by_frequency(test, scores, counts)
    assert sum(bucket["events"] for bucket in found) == len(test) // 5
    for number, bucket in enumerate(found):
        high = [*compare_work.BUCKETS, np.inf][number + 1]
        first = counts[test.target[::5]]  # the positive comes first
        rows = np.repeat((first >= bucket["least"]) & (first < high), 5)
        assert bucket["events"] == rows.sum() // 5
        if rows.any():
            assert bucket["auc"] == pytest.approx(metrics.auc(test.label[rows], scores[rows]))
        else:
            assert np.isnan(bucket["auc"])


def test_protocol_and_registered_comparisons_are_of_one_kind() -> None:
    texts = PROTOCOLS["compare"]["comparisons"]
    assert len(texts) == len(compare_view.REGISTERED) <= 6
    names = {
        "plain": "res minus plain,",
        "res-entries": "permuted neighbour entries",
        "item2vec": "item2vec",
    }
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
    rows += [
        compare_view.Seen(Row(other, "plain"), None, {}),
        compare_view.Seen(Row(other, "gcn-2"), None, None),
    ]
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
        ("centre", True, True), ("res", False, False), ("gcn-1", True, False),
    ]  # fmt: skip
    text = compare_said.said_twice(twice)
    assert text is not None and "Of 3 differences" in text and "at most 0.0080" in text
    assert "interval in 2 of them (a, DNN with category: centre only minus plain" in text
    assert "the verdict is another in 1 of them" in text
    assert compare_said.said_twice(compare_view.twice(Results(plan, last, []))) is None


def test_a_search_is_carried_on_from_its_trials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = simulated_source("tiny", users=100, items=100, domains=4)
    scale = compare_work.Scale(
        trials=3, seeds=(1, 2), epochs=2, tune_patience=1, draws=20, further=6, touched=4
    )
    group, bench = Group("tiny", "dnn", False), compare.bench_of(source, Setting(eval_negatives=5))
    rows = [Row(group, table, further) for further in (False, True) for table in ("plain", "res")]
    plan = [piece for row in rows for piece in compare.pieces_of_row(row, bench, scale)]
    pairs = compare.contrasts(rows)
    assert [compare.contrast_key(*pair) for pair in pairs] == [
        "minus-tiny-dnn-res-plain", "minus-tiny-dnn-res-further-plain"]  # fmt: skip
    plan += [compare.contrast_piece(*pair, bench, scale) for pair in pairs]
    trained, train = [], compare_work.fit
    monkeypatch.setattr(compare_work, "fit", lambda *a, **o: (trained.append(1), train(*a, **o))[1])
    options = {"protocol": {"version": 1}, "quick": True, "progress": False}
    run_pieces("compare", plan, tmp_path / "compare", **options)
    results = read_results(tmp_path / "compare")
    searches = 0
    for table in ("plain", "res"):
        first, on = (
            results.pieces[f"tune-tiny-dnn-{table}{more}"]["result"] for more in ("", "-further")
        )
        keys = ("steps", "options", "valid", "epochs")
        assert [[t[k] for k in keys] for t in on["trials"][:3]] == [
            [t[k] for k in keys] for t in first["trials"]]  # fmt: skip
        assert 3 <= len(on["trials"]) <= 6 and (len(on["trials"]) == 6 or on["closed"])
        touched = on["touched"]["trials"]
        assert [t["options"]["l2_of"] for t in touched] == ["touched rows"] * 4
        assert touched[0]["options"]["embedding_l2"] == compare_further.TOUCHED_L2
        both = [*on["trials"], *touched]
        assert on["valid_gauc"] == max(t["valid"]["gauc"] for t in both)
        assert on["options"] in [t["options"] for t in both]
        seeds = results.pieces[f"seeds-tiny-dnn-{table}-further"]["result"]
        assert seeds["options"] == on["options"]
        searches += len(on["trials"]) + 4
    assert len(trained) == searches + 4 * 2  # no trial is made twice
    seen = compare_view.seen_rows(results, further=True)
    assert [one.row for one in seen] == rows[2:]
    assert [one.row for one in compare_view.seen_rows(results)] == rows[:2]
    text = compare_said.said_further(results)
    minus = results.pieces["minus-tiny-dnn-res-further-plain"]["result"]["gauc"]
    assert (
        text is not None
        and f"on tiny, DNN: {compare_view.signed(minus)}, where it had been" in text
    )
    assert "4 of touched rows alone" in text
    missing = compare_said.not_run([compare_view.Seen(rows[2], None, None)])
    assert missing == "Not run yet: tiny, DNN: the only row."
    other = {
        "trials": [{**results.pieces["tune-tiny-dnn-res"]["result"]["trials"][0], "options": {}}]
    }
    desk = Desk(tmp_path, {"tune-tiny-dnn-res": other}, "x")
    with pytest.raises(RuntimeError, match="not the first of this search"):
        compare_further.tune_further(rows[3], bench, scale, desk)


def test_the_residual_open_searches_and_cut_runs_are_told() -> None:
    def runs(*gauc: float, stopped: str = "patience") -> dict:
        test = [{"gauc": value, "auc": value, "logloss": value} for value in gauc]
        return {"runs": [{"test": entry, "stopped": stopped} for entry in test]}

    def tune(closed: bool, gain: float, l2_of: str = "whole table") -> dict:
        trials = [{"options": {"l2_of": of}, "valid": {"gauc": 0.7}}
                  for of in ("whole table", "touched rows")]  # fmt: skip
        return {
            "closed": closed,
            "valid_gauc": 0.7 + gain,
            "trials": trials,
            "options": {"l2_of": l2_of},
        }

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
    assert (
        "improve the rest, among them plain on a, DNN. And plain, started by item2vec on a, DNN. From"
        in searches
    )
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
        compare.contrast_key(Row(group, table), rows[0]): {"result": minus(*pair)}
        for table, pair in values.items()
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
    hours = {
        ("dnn", "res"): 1.0,
        ("dnn", "centre"): 1.0,
        ("dnn", "gcn-1"): 4.0,
        ("din", "res"): 2.0,
    }
    rows = [Row(Group("a", model, False), table) for model, table in hours]
    done = {
        f"{kind}-{row.key}": {"seconds": 1800 * hours[row.group.model, row.table], "result": {}}
        for row in rows
        for kind in ("tune", "seeds")
    }
    done["tune-a-dnn-gcn-1"] |= {  # gone on with in a second session
        "seconds": 100, "result": {"trials": [{"seconds": 3600}] * 2}}  # fmt: skip
    done["tune-a-dnn-attention"] = {"seconds": 1e6, "result": {}}  # no seeds yet
    rows.append(Row(Group("a", "dnn", False), "attention"))
    seen = [compare_view.Seen(row, None, None) for row in rows]
    kept = Results({}, done, [], {"seeds-a-dnn-res": {"seconds": 1800, "result": {}}})
    text = compare_said.said_hours(kept, seen)
    assert text is not None and "Of 8.5 hours, 2.0 went into rows of the question" in text
    assert "6.0 into rows that only the tuned table" in text and "0.5 into scores" in text
    assert "60 minutes with DNN and 120 minutes with DIN; 1 of 4 took over three" in text
    assert compare_said.said_hours(Results({}, {}, []), seen) is None


def test_pages_have_the_same_bytes_every_time(quick: Path, tmp_path: Path) -> None:
    pages = [studies.write_report(quick, into=tmp_path / n, names=["compare"])[0] for n in "ab"]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    text = pages[0].read_text()
    assert "better than plain on simulated, DNN" in text and "A quick run" in text


def test_pieces_name_all_that_they_depend_on() -> None:
    source = simulated_source("tiny", users=100, items=100, domains=4)
    plan = compare.pieces([source], quick=False)
    keys = [piece.key for piece in plan]
    assert len(set(keys)) == len(keys)
    known: set[str] = set()
    for piece in plan:  # what is needed comes before, so that one process never waits
        assert known.issuperset(piece.needs)
        known.add(piece.key)
        assert isinstance(piece, Piece)
    by_key = {piece.key: piece for piece in plan}
    one, two = (by_key[f"tune-tiny-dnn-gcn-{hops}"].config["options"] for hops in (1, 2))
    assert {k for k in one if one[k] != two[k]} == {"hops"}
