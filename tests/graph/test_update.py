"""Graphs with more events: the same as a rebuild, bit by bit."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext import InterestGraph
from resemb_ext.testing.strategies import examples

ITEMS = 8


def same(a, b):
    for name in ("indptr", "neighbors", "weights", "degree"):
        ours, theirs = getattr(a, name), getattr(b, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert a.hash == b.hash and a.meta == b.meta
    ours, theirs = a.counts.arrays(), b.counts.arrays()
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype, name
        np.testing.assert_array_equal(array, theirs[name])


def of(rows, floating, timed, **options):
    user, item, time = (
        (np.array(column, np.int64) for column in zip(*rows, strict=True)) if rows else [np.empty(0, np.int64)] * 3
    )
    time = time / 2 if floating else time
    return (user, item, time if timed else None), options


@st.composite
def histories(draw):
    """Events in up to 4 parts; no user's times fall from a part to the next."""
    rows = st.tuples(st.integers(-1, 2), st.integers(1, ITEMS - 1), st.integers(0, 6))
    parts = draw(st.lists(st.lists(rows, max_size=12), min_size=2, max_size=4))
    return [[(u, i, t + 6 * k) for u, i, t in part] for k, part in enumerate(parts)]


@st.composite
def all_options(draw, timed):
    chosen = {
        "window": draw(st.sampled_from([1, 2, 3, 50])),
        "top_k": draw(st.sampled_from([0, 1, 2, None])),
        "min_count": draw(st.integers(1, 2)),
        "weighting": draw(st.sampled_from(["count", "cosine", "jaccard", "ppmi"])),
        "decay": draw(st.sampled_from([None, "inverse", 0.3])),
        "damping": draw(st.sampled_from([0.0, 0.5])),
        "directed": draw(st.booleans()),
        "self_weight": draw(st.sampled_from(["max", 0.5])),
    }
    if timed:
        chosen["max_gap"] = draw(st.sampled_from([None, 3, 7.5]))
        chosen["session_gap"] = draw(st.sampled_from([None, 2, 5]))
    if draw(st.booleans()):
        chosen |= {"category": np.arange(ITEMS) % 3 - 1, "category_edges": 1}
    return chosen


@examples(200)
@given(histories(), st.data())
def test_update_equals_rebuild(parts, data):
    timed = data.draw(st.booleans())
    floating = timed and data.draw(st.booleans())
    options = data.draw(all_options(timed))
    options |= {"num_items": ITEMS, "padding_idx": 0, "keep_counts": True, "threads": 2}
    first, _ = of(parts[0], floating, timed)
    graph = InterestGraph.from_events(*first, **options)
    seen = list(parts[0])
    for part in parts[1:]:
        more, _ = of(part, floating, timed)
        graph = graph.update(more if timed else more[:2], threads=2)
        seen += part
        whole, _ = of(seen, floating, timed)
        same(graph, InterestGraph.from_events(*whole, **options))
    plain = InterestGraph.from_events(*whole, **{**options, "keep_counts": False})
    assert plain.hash == graph.hash and plain.counts is None


def zipf(n, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 300, n), 1 + np.minimum(rng.zipf(1.3, n), 800), rng.integers(0, n, n)


def test_larger_logs_files_and_more_items(tmp_path):
    old, new = zipf(20_000, 0), zipf(5_000, 1)
    new = (new[0], new[1] + 100, new[2] + 20_000)
    options = {"weighting": "ppmi", "window": 4, "max_gap": 2_000, "keep_counts": True}
    graph = InterestGraph.from_events(*old, num_items=850, **options)
    graph.save(tmp_path / "g.npz")
    graph = InterestGraph.load(tmp_path / "g.npz")
    with pytest.raises(
        IndexError, match=r"item\[\d+\] is \d+, expected an id in \[0, num_items = 850\); give num_items"
    ):
        graph.update(new)
    graph = graph.update(pd.DataFrame(dict(zip(("user", "item", "time"), new, strict=True))), num_items=950)
    both = [np.concatenate(columns) for columns in zip(old, new, strict=True)]
    rebuilt = InterestGraph.from_events(*both, num_items=950, **options)
    same(graph, rebuilt)
    graph.save(tmp_path / "g.npz")
    same(InterestGraph.load(tmp_path / "g.npz"), rebuilt)
    linked = graph.with_link("gcn")
    assert linked.counts is None
    with pytest.raises(ValueError, match="the graph keeps no counts"):
        linked.update(new)


def test_update_from_logs_and_parquet(tmp_path):
    user, item, time = zipf(3_000, 2)
    frame = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": np.sort(time)})
    log = rx.data.read_log(frame)
    cut = np.quantile(log.time, 0.7)
    old, new = log.subset(log.time < cut), log.subset(log.time >= cut)
    graph = InterestGraph.from_log(old, keep_counts=True)
    assert graph.meta["event_hash"] == old.content_hash
    updated = graph.update(new)
    assert updated.hash == InterestGraph.from_log(log).hash
    assert updated.meta["event_hash"] == updated.meta["event_digest"] != graph.meta["event_digest"]

    frame.to_parquet(tmp_path / "log.parquet")
    options = {"num_items": 900, "keep_counts": True}
    early = InterestGraph.from_parquet(tmp_path / "log.parquet", before=1_000, **options)
    late = frame[frame["timestamp"] >= 1_000]
    whole = InterestGraph.from_parquet(tmp_path / "log.parquet", **options)
    columns = [late[name] for name in ("user_id", "item_id", "timestamp")]
    assert early.update(columns).hash == whole.hash


GOOD = ([0, 0, 1], [1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize(
    ("events", "options", "error", "message"),
    [
        (
            ([1, 0], [1, 2], [3, 1]),
            {},
            ValueError,
            r"time\[1\] is 1, before the last event of user 0 that the graph saw, at 2",
        ),
        (([0], [1], [2.5]), {}, TypeError, "time is float64, expected int64"),
        (([0], [1]), {}, ValueError, "the old events have times, the new ones have none"),
        (([0], [1], np.array(["2024-01-01"], "M8[s]")), {}, TypeError, "time is <M8"),
        (([0], [9], [9]), {}, IndexError, r"item\[0\] is 9"),
        (([0], [0], [9]), {}, ValueError, r"item\[0\] is padding_idx = 0"),
        (([0], [1], [9]), {"num_items": 3}, ValueError, "num_items is 3, expected an integer >= 4"),
        (([0], [1], [9]), {"category": [1] * 4}, ValueError, "category is given but"),
        ({"user": [0], "time": [9]}, {}, ValueError, r"no column 'item'"),
        ("events", {}, TypeError, "new_events is a str, expected a log"),
    ],
)
def test_bad_updates(events, options, error, message):
    graph = InterestGraph.from_events(*GOOD, padding_idx=0, keep_counts=True)
    assert graph.update(([0], [1], [2])).meta["events"] == 4  # equal times follow
    with pytest.raises(error, match=message):
        graph.update(events, **options)
