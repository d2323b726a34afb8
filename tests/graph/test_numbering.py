"""Logs that meet a graph: whether they number items and users as the graph's events were numbered."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext import InterestGraph
from resemb_ext.cli import main
from resemb_ext.data import IdMap, read_log
from resemb_ext.testing.strategies import examples

DAY_1 = {
    "user_id": ["ann", "ann", "bob", "bob", "cat", "cat"],
    "item_id": [10, 20, 10, 20, 30, 40],
    "timestamp": [1, 2, 1, 2, 1, 2],
}
DAY_2 = {"user_id": ["bob", "bob"], "item_id": [30, 40], "timestamp": [11, 12]}


def joined(*parts):
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def counted(source, **options):
    return InterestGraph.from_log(read_log(source), keep_counts=True, window=1, **options)


def raw_edges(graph, log):
    """Weight by pair of raw ids, and the degree by raw id."""
    names = {number + 1: raw for number, raw in enumerate(log.items.values.tolist())}
    row = np.repeat(np.arange(graph.num_items), np.diff(graph.indptr))
    pairs = zip(row.tolist(), graph.neighbors.tolist(), graph.weights.tolist(), strict=True)
    edges = {(names[i], names[j]): w for i, j, w in pairs if i in names}
    return edges, {raw: graph.degree[number] for number, raw in names.items()}


def test_a_log_numbered_anew_is_refused_and_read_by_the_maps_it_equals_a_rebuild():
    first = read_log(DAY_1)
    graph = counted(DAY_1)
    with pytest.raises(ValueError, match=r"numbers its items otherwise .*: read_log\(\.\.\., users=log.users, items="):
        graph.update(read_log(DAY_2))
    with pytest.raises(ValueError, match="numbers its users otherwise"):
        graph.update(read_log(DAY_2, items=first.items))
    second = read_log(DAY_2, users=first.users, items=first.items)
    updated = graph.update(second)
    assert updated.hash == counted(joined(DAY_1, DAY_2)).hash
    assert updated.meta["ids"] == graph.meta["ids"]  # no new ids


def test_new_items_and_users_come_behind_the_old_ones():
    first, graph = read_log(DAY_1), counted(DAY_1)
    day = {"user_id": ["abe", "abe", "cat"], "item_id": [15, 40, 5], "timestamp": [11, 12, 13]}
    second = read_log(day, users=first.users, items=first.items)
    assert second.items.values.tolist() == [10, 20, 30, 40, 5, 15] and second.num_items == 8
    assert [str(finding) for finding in second.findings] == [
        "new users: 1 of 4 users are not in users -> numbered behind the known ones",
        "new items: 2 of 6 items are not in items -> numbered behind the known ones",
    ]
    updated = graph.update(second)
    assert updated.num_items == 8 and graph.num_items == 6
    whole = read_log(joined(DAY_1, day), users=first.users, items=first.items)
    assert whole.items == second.items
    assert updated.hash == InterestGraph.from_log(whole, window=1).hash
    assert updated.same_items(second.items) and not updated.same_items(first.items)
    assert graph.same_items(first.items) and graph.same_items(second.items)
    # The row that was the out-of-vocabulary one is that of item 5 now.
    assert raw_edges(updated, second)[0][40, 5] == 1
    third = read_log({"user_id": ["dan"] * 2, "item_id": [5, 7], "timestamp": [1, 2]}, users=second.users)
    with pytest.raises(ValueError, match="numbers its items otherwise"):
        updated.update(third)


@examples(60)
@given(data=st.data())
def test_updates_by_raw_ids_equal_a_rebuild(data):
    """By the maps read along, and by raw ids against a log that was numbered at once."""
    kind = data.draw(st.sampled_from([int, str]))
    days, clock = [], 0
    for _ in range(data.draw(st.integers(2, 4))):
        size = data.draw(st.integers(1, 12))
        low = data.draw(st.integers(-3, 6))
        pairs = data.draw(
            st.lists(st.tuples(st.integers(0, 4), st.integers(low, low + 6)), min_size=size, max_size=size)
        )
        days.append(
            {
                "user_id": [kind(user) for user, _ in pairs],
                "item_id": [kind(item) for _, item in pairs],
                "timestamp": list(range(clock, clock + size)),
            }
        )
        clock += size
    options = {
        "window": data.draw(st.integers(1, 3)),
        "weighting": data.draw(st.sampled_from(["count", "cosine", "ppmi"])),
        "top_k": None,
    }
    log = read_log(days[0])
    graph = InterestGraph.from_log(log, keep_counts=True, **options)
    for day in days[1:]:
        log = read_log(day, users=log.users, items=log.items)
        graph = graph.update(log)
    whole = read_log(joined(*days), users=log.users, items=log.items)
    assert whole.items == log.items and whole.users == log.users
    assert graph.hash == InterestGraph.from_log(whole, **options).hash
    at_once = read_log(joined(*days))
    edges, degree = raw_edges(graph, log)
    expected, expected_degree = raw_edges(InterestGraph.from_log(at_once, **options), at_once)
    assert edges == pytest.approx(expected) and degree == pytest.approx(expected_degree)


def test_maps_of_another_day_come_from_a_file(tmp_path):
    """Digits are text where the map has text, and integers where it has integers."""
    pd.DataFrame({"user_id": ["u1", "7"], "item_id": ["007", "9"], "timestamp": [1, 2]}).to_csv(
        tmp_path / "1.csv", index=False
    )
    first = read_log(tmp_path / "1.csv")
    kept = json.dumps([first.users.to_dict(), first.items.to_dict()])
    users, items = map(IdMap.from_dict, json.loads(kept))
    pd.DataFrame({"user_id": [7, 8], "item_id": [9, 7], "timestamp": [3, 4]}).to_csv(tmp_path / "2.csv", index=False)
    second = read_log(tmp_path / "2.csv", users=users, items=items)
    assert second.users.values.tolist() == ["7", "u1", "8"] and second.items.values.tolist() == ["007", "9", "7"]
    with pytest.raises(TypeError, match="column 'item_id' holds text ids, but the map was made from int64 ids"):
        read_log(tmp_path / "1.csv", items=IdMap.fit([9]))


def test_unseen_ids_are_left_out_or_refused():
    first = read_log(DAY_1)
    day = {"user_id": ["bob", "dan", "cat"], "item_id": [30, 40, 77], "timestamp": [11, 12, 13], "label": [1, 0, 0]}
    maps = {"users": first.users, "items": first.items}
    part = read_log(day, **maps, unseen="drop")
    assert (len(part), part.items, part.users) == (1, first.items, first.users)
    assert [str(finding) for finding in part.findings] == [
        "unseen ids: 2 of 3 events have a user or an item that users and items lack -> left out"
    ]
    assert part.items.decode(part.item) == [30] and part.label.tolist() == [1]
    assert len(read_log(day, items=first.items, unseen="drop")) == 2
    with pytest.raises(ValueError, match=r"column 'user_id', row 1: user id 'dan' is not in users; unseen=\"append\""):
        read_log(day, **maps, unseen="refuse")
    with pytest.raises(ValueError, match="no event of 'new' has a user and an item that users and items hold"):
        read_log({name: values[1:] for name, values in day.items()}, **maps, unseen="drop", name="new")
    assert read_log(DAY_2, **maps, unseen="refuse").content_hash == read_log(DAY_2, **maps).content_hash


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"items": [1, 2]}, TypeError, "items is a list, expected an IdMap such as log.items"),
        ({"items": IdMap.fit([1], first=0)}, ValueError, "items: its numbers begin at 0, expected 1"),
        ({"users": IdMap.fit(["a"])}, ValueError, "users: its numbers begin at 1, expected 0"),
        ({"unseen": "drop"}, ValueError, "unseen is 'drop' but neither users nor items are given"),
        ({"unseen": "skip"}, ValueError, "unseen is 'skip', expected one of 'append', 'drop', 'refuse'"),
    ],
)
def test_bad_maps(options, error, message):
    with pytest.raises(error, match=message):
        read_log(DAY_1, **options)


def test_graphs_that_do_not_know_take_arrays(tmp_path):
    log = read_log(DAY_1)
    of_arrays = InterestGraph.from_events(
        log.user, log.item, log.time, num_items=log.num_items, padding_idx=0, keep_counts=True, window=1
    )
    graph = counted(DAY_1)
    old = InterestGraph(**graph.arrays(), meta={k: v for k, v in graph.meta.items() if k != "ids"}, counts=graph.counts)
    old.save(tmp_path / "old.npz")
    second = read_log(DAY_2, users=log.users, items=log.items)
    for unknowing in (of_arrays, InterestGraph.load(tmp_path / "old.npz")):
        assert unknowing.same_items(log.items) is None
        with pytest.raises(ValueError, match=r"does not know by which items .* give the arrays \(log.user, log.item"):
            unknowing.update(second)
        updated = unknowing.update((second.user, second.item, second.time))
        assert updated.hash == counted(joined(DAY_1, DAY_2)).hash and "ids" not in updated.meta
    graph.save(tmp_path / "new.npz")
    assert InterestGraph.load(tmp_path / "new.npz").update(second).hash == updated.hash


def test_arrays_beyond_the_maps_make_a_graph_forget_them():
    log = read_log(DAY_1)
    graph = counted(DAY_1)
    day = read_log({"user_id": ["bob"], "item_id": [20], "timestamp": [12]}, users=log.users, items=log.items)
    assert graph.update(([1], [3], [11])).update(day).meta["events"] == 8
    for arrays, field in ((([3], [1], [11]), "users"), (([1], [5], [11]), "items")):
        with pytest.raises(ValueError, match=f"does not know by which {field}"):
            graph.update(arrays).update(day)


def test_streamed_graphs_know_the_maps_that_they_were_given(tmp_path):
    frame = pd.DataFrame({"user_id": [5, 5, 9, 9], "item_id": ["a", "b", "b", "c"], "timestamp": range(4)})
    frame.to_parquet(tmp_path / "log.parquet")
    log = read_log(tmp_path / "log.parquet")
    options = {"padding_idx": 0, "keep_counts": True}
    graph = InterestGraph.from_parquet(tmp_path / "log.parquet", users=log.users, items=log.items, **options)
    assert graph.meta["ids"] == InterestGraph.from_log(log, keep_counts=True).meta["ids"]
    out = tmp_path / "g.npz"
    assert (
        main(
            ["graph", "build", "--data", str(tmp_path / "log.parquet"), "--out", str(out), "--stream", "--keep-counts"]
        )
        == 0
    )
    streamed = InterestGraph.load(out)
    assert streamed.same_items(log.items)
    with pytest.raises(ValueError, match="does not know by which users"):  # whose raw numbers it joins
        streamed.update(log)


def test_training_and_rows_refuse_the_graph_of_other_items(tmp_path, capsys):
    from resemb_ext.train import RunConfig
    from resemb_ext.train.prepare import prepare

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"user_id": np.repeat(np.arange(20), 5), "item_id": rng.integers(0, 30, 100), "timestamp": range(100)}
    )
    frame.loc[:29, "item_id"] = range(30)
    other = frame.assign(item_id=frame["item_id"] + (frame["item_id"] > 10))
    places = {name: str(tmp_path / name) for name in ("log.parquet", "other.parquet", "g.npz")}
    frame.to_parquet(places["log.parquet"])
    other.to_parquet(places["other.parquet"])
    InterestGraph.from_log(read_log(other)).save(places["g.npz"])
    options = {"data": places["log.parquet"], "embedding": "res", "eval_negatives": 2, "graph": places["g.npz"]}
    for allow in (False, True):
        with pytest.raises(ValueError, match=r"numbers its items otherwise than the log 'log'.*resemb graph build"):
            prepare(RunConfig(**options, allow_future_edges=allow))
    assert prepare(RunConfig(**options | {"data": places["other.parquet"]}, allow_future_edges=True)).graph is not None
    assert main(["graph", "neighbors", places["g.npz"], "12", "--data", places["log.parquet"]]) == 2
    assert "numbers its items otherwise than the graph's log" in capsys.readouterr().err
    assert main(["graph", "neighbors", places["g.npz"], "12", "--data", places["other.parquet"]]) == 0


def test_a_split_is_no_log():
    split = rx.data.split(read_log(joined(DAY_1, DAY_2)))
    with pytest.raises(TypeError, match=r"log is a Split, expected a log: give its training events, split\.train"):
        InterestGraph.from_log(split)
    with pytest.raises(TypeError, match=r"new_events is a Split, expected a log"):
        counted(DAY_1).update(split)
    with pytest.raises(TypeError, match=r"log is a str, expected a log: rx.data.read_log gives one"):
        InterestGraph.from_log("log.csv")
    for function in (rx.data.split, rx.data.validate):
        with pytest.raises(TypeError, match=r"log is a Split, expected a Log: give split\.log or split\.train"):
            function(split)
        with pytest.raises(TypeError, match=r"log is a str, expected a Log: read_log gives one"):
            function("log.csv")
    for function in (rx.data.make_train_samples, rx.data.make_eval_samples):
        with pytest.raises(TypeError, match=r"split is a Log, expected what rx\.data\.split\(log\) gives"):
            function(split.log)
