"""The builder against a slow reference in plain Python, and what its options promise."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resemb_ext import InterestGraph
from resemb_ext.graph import _builder


def reference(
    user, item, time=None, *, num_items, window=3, top_k=10, min_count=1, weighting="count",
    self_weight="max", directed=False, padding_idx=None,
):  # fmt: skip
    """{row: {neighbour: weight}} and degrees, pair by pair."""
    order = sorted(range(len(item)), key=lambda i: (user[i], 0 if time is None else time[i]))
    sequences = {}
    for i in order:
        sequences.setdefault(user[i], []).append(item[i])
    pairs = Counter()
    for sequence in sequences.values():
        for p, earlier in enumerate(sequence):
            for later in sequence[p + 1 : p + 1 + window]:
                if earlier != later:
                    pairs[earlier, later] += 1
                    if not directed:
                        pairs[later, earlier] += 1
    occurrences = Counter(item)
    rows = {i: {} for i in range(num_items)}
    for (i, j), count in pairs.items():
        if count >= min_count:
            norm = math.sqrt(occurrences[i] * occurrences[j]) if weighting == "cosine" else 1
            rows[i][j] = float(np.float32(count / norm))
    degree = np.zeros(num_items)
    for i, row in rows.items():
        if i == padding_idx:
            assert not row
            continue
        best = sorted(row.items(), key=lambda entry: (-entry[1], entry[0]))[:top_k]
        own = max((w for _, w in best), default=1.0) if self_weight == "max" else self_weight
        degree[i] = own + sum(row.values())
        rows[i] = {**dict(best), i: float(np.float32(own))}
    return rows, degree


def rows_of(graph):
    out = {}
    for i in range(graph.num_items):
        at = slice(graph.indptr[i], graph.indptr[i + 1])
        out[i] = dict(zip(graph.neighbors[at].tolist(), graph.weights[at].tolist(), strict=True))
        assert list(out[i]) == sorted(out[i]) and len(out[i]) == at.stop - at.start
    return out


def same_arrays(a, b):
    return all(
        getattr(a, name).dtype == getattr(b, name).dtype
        and np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("indptr", "neighbors", "weights", "degree")
    )


@st.composite
def logs(draw, max_events=60):
    size = draw(st.integers(0, max_events))
    num_items = draw(st.integers(2, 9))
    user = draw(st.lists(st.sampled_from([-3, 0, 1, 2**40]), min_size=size, max_size=size))
    item = draw(st.lists(st.integers(1, num_items - 1), min_size=size, max_size=size))
    stamps = draw(st.sampled_from(["none", "int", "float"]))
    values = st.integers(-4, 4) if stamps == "int" else st.sampled_from([-1.5, -0.0, 0.0, 2.5, 1e9])
    time = None
    if stamps != "none":
        time = draw(st.lists(values, min_size=size, max_size=size))
    return user, item, time, num_items


@st.composite
def options(draw):
    return {
        "window": draw(st.sampled_from([1, 2, 3, 7, 1000])),
        "top_k": draw(st.sampled_from([0, 1, 2, 3, 100])),
        "min_count": draw(st.integers(1, 3)),
        "weighting": draw(st.sampled_from(["count", "cosine"])),
        "self_weight": draw(st.sampled_from(["max", 0, 0.5, 2.0])),
        "directed": draw(st.booleans()),
        "padding_idx": draw(st.sampled_from([None, 0])),
    }


@settings(deadline=None, max_examples=300)
@given(logs(), options(), st.sampled_from([1, 3]))
def test_equals_reference(log, chosen, threads):
    user, item, time, num_items = log
    graph = InterestGraph.from_events(
        user, item, time, num_items=num_items, threads=threads, **chosen
    )
    rows, degree = reference(user, item, time, num_items=num_items, **chosen)
    assert rows_of(graph) == rows
    np.testing.assert_allclose(graph.degree, degree, rtol=1e-12)
    assert graph.indptr.dtype == np.int64 and graph.neighbors.dtype == np.int32
    assert graph.weights.dtype == np.float32 and graph.degree.dtype == np.float64


@settings(deadline=None, max_examples=50)
@given(logs(), options())
def test_64_bit_words_give_the_same(log, chosen):
    user, item, time, num_items = log
    graph = InterestGraph.from_events(user, item, time, num_items=num_items, **chosen)
    wide = _builder.build(
        np.asarray(user, np.int64),
        np.asarray(item, np.int64),
        None if time is None else np.asarray(time, np.float64),
        num_items=num_items,
        window=chosen["window"],
        top_k=chosen["top_k"],
        min_count=chosen["min_count"],
        cosine=chosen["weighting"] == "cosine",
        self_weight=None if chosen["self_weight"] == "max" else chosen["self_weight"],
        directed=chosen["directed"],
        padding=-1 if chosen["padding_idx"] is None else 0,
        threads=2,
        progress=None,
        force_wide=True,
    )
    assert wide[1].dtype == np.int64
    for ours, theirs in zip(
        (graph.indptr, graph.neighbors, graph.weights, graph.degree), wide, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def zipf_log(events=200_000, items=5_000, users=2_000, seed=0):
    rng = np.random.default_rng(seed)
    item = np.minimum(rng.zipf(1.3, events), items - 1)
    # One heavy user holds a tenth of the events.
    user = np.where(rng.random(events) < 0.1, -7, rng.integers(0, users, events))
    return user, item, rng.integers(0, events // 4, events)


@pytest.mark.parametrize("weighting", ["count", "cosine"])
@pytest.mark.parametrize("directed", [False, True])
def test_same_bits_for_any_thread_count(weighting, directed):
    user, item, time = zipf_log()
    graphs = [
        InterestGraph.from_events(
            user, item, time, num_items=5_000, window=4, weighting=weighting, directed=directed,
            threads=threads,
        )
        for threads in (1, 2, 3, 8)
    ]  # fmt: skip
    assert len({graph.hash for graph in graphs}) == 1
    assert all(graph.meta == graphs[0].meta for graph in graphs)


@pytest.mark.parametrize("weighting", ["count", "cosine"])
def test_sorted_and_shuffled_input_give_the_same_bits(weighting):
    user, item, _ = zipf_log()
    time = np.arange(len(user))  # no ties: the order is total
    order = np.lexsort((time, user))
    shuffle = np.random.default_rng(1).permutation(len(user))
    graphs = [
        InterestGraph.from_events(user[o], item[o], time[o], num_items=5_000, weighting=weighting)
        for o in (np.arange(len(user)), order, shuffle)
    ]
    assert len({graph.hash for graph in graphs}) == 1


def test_many_events_equal_scipy():
    user, item, time = zipf_log(events=60_000)
    graph = InterestGraph.from_events(
        user, item, time, num_items=5_000, window=2, top_k=None, self_weight=0
    )
    order = np.lexsort((time, user))
    user, item = user[order], item[order]
    counts = np.zeros((5_000, 5_000), np.int64)
    for gap in (1, 2):
        near = user[gap:] == user[:-gap]
        np.add.at(counts, (item[gap:][near], item[:-gap][near]), 1)
    counts += counts.T
    np.fill_diagonal(counts, 0)
    np.testing.assert_array_equal(graph.to_scipy().toarray(), counts)
    np.testing.assert_array_equal(graph.degree, counts.sum(1))


def test_hand_computed():
    #            user 5: 1 2 1 3      user 9: 2 3
    graph = InterestGraph.from_events([5, 9, 5, 5, 9, 5], [1, 2, 2, 1, 3, 3], window=2)
    assert graph.num_items == 4
    # window 2: 12 (gap 1), 11 (no edge), 21 (gap 1), 23 (gap 2), 13 (gap 1), and 23 of user 9
    assert rows_of(graph) == {
        0: {0: 1.0},
        1: {1: 2.0, 2: 2.0, 3: 1.0},
        2: {1: 2.0, 2: 2.0, 3: 2.0},
        3: {1: 1.0, 2: 2.0, 3: 2.0},
    }
    np.testing.assert_array_equal(graph.degree, [1.0, 5.0, 6.0, 5.0])


def test_ties_break_by_id_and_self_is_extra():
    # Item 5 meets 1, 2, 3, 4 once each.
    user = [0, 0, 1, 1, 2, 2, 3, 3]
    item = [5, 4, 2, 5, 5, 3, 1, 5]
    for weighting in ("count", "cosine"):
        graph = InterestGraph.from_events(user, item, top_k=2, weighting=weighting)
        assert list(rows_of(graph)[5]) == [1, 2, 5]


def test_directed_rows_point_forward():
    graph = InterestGraph.from_events([0, 0, 0], [1, 2, 3], window=1, directed=True)
    assert rows_of(graph) == {0: {0: 1.0}, 1: {1: 1.0, 2: 1.0}, 2: {2: 1.0, 3: 1.0}, 3: {3: 1.0}}


def test_equal_times_keep_input_order():
    graph = InterestGraph.from_events([0] * 4, [3, 1, 2, 4], [1, 1, 1, 0], window=1, directed=True)
    assert rows_of(graph)[4] == {3: 1.0, 4: 1.0}
    assert rows_of(graph)[3] == {1: 1.0, 3: 1.0}


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint16", "uint64"])
def test_integer_dtypes_and_views(dtype):
    user, item = np.arange(40) % 3, 1 + np.arange(40) % 7
    plain = InterestGraph.from_events(user, item)
    wide = np.repeat(item.astype(dtype), 2)[::2]
    assert not wide.flags.c_contiguous
    assert same_arrays(InterestGraph.from_events(user.astype(dtype), wide), plain)
    series = pd.Series(item, index=np.arange(40)[::-1])
    assert same_arrays(InterestGraph.from_events(list(user), series), plain)


def test_dates():
    days = pd.to_datetime(["2024-03-01", "2024-01-01", "2024-02-01"])
    graph = InterestGraph.from_events([0, 0, 0], [1, 2, 3], days, window=1, directed=True)
    assert rows_of(graph)[2] == {2: 1.0, 3: 1.0} and rows_of(graph)[3] == {1: 1.0, 3: 1.0}
    with pytest.raises(ValueError, match=r"time\[1\] is NaT"):
        InterestGraph.from_events([0, 0], [1, 2], np.array(["2024-01-01", "NaT"], "M8[s]"))


def test_meta_says_what_was_built():
    graph = InterestGraph.from_events([0, 0], [1, 2], [10, 30], top_k=None, padding_idx=0)
    assert graph.meta["options"] == {
        "num_items": 3, "window": 3, "top_k": None, "min_count": 1, "weighting": "count",
        "self_weight": "max", "directed": False, "padding_idx": 0,
    }  # fmt: skip
    assert graph.meta["events"] == 2 and graph.meta["time_cut"] == 30
    other = InterestGraph.from_events([0, 0], [1, 2], [10, 31], top_k=None, padding_idx=0)
    assert other.meta["event_hash"] != graph.meta["event_hash"] and other.hash == graph.hash


def test_empty_log_and_unseen_items():
    graph = InterestGraph.from_events([], [], num_items=3, padding_idx=0)
    assert rows_of(graph) == {0: {}, 1: {1: 1.0}, 2: {2: 1.0}}
    assert graph.meta["events"] == 0 and graph.meta["time_cut"] is None


def test_arrays_are_read_only():
    graph = InterestGraph.from_events([0, 0], [1, 2])
    with pytest.raises(ValueError, match="read-only"):
        graph.weights[0] = 5


class TestRealLog:
    def test_ml_100k(self, shared_data):
        frame = pd.read_parquet(shared_data("ml-100k.parquet")).sample(frac=1, random_state=0)
        columns = [frame[name].to_numpy() for name in ("user_id", "item_id", "timestamp")]
        height = int(columns[1].max()) + 2
        graph = InterestGraph.from_events(*columns, num_items=height, padding_idx=0, threads=2)
        rows, degree = reference(
            *(column.tolist() for column in columns), num_items=height, padding_idx=0
        )
        assert rows_of(graph) == rows
        np.testing.assert_array_equal(graph.degree, degree)
        assert graph.meta["events"] == 100_000

    def test_ml_1m_order(self, shared_data):
        frame = pd.read_parquet(
            shared_data("ml-1m.parquet"), columns=["user_id", "item_id", "order"]
        )
        user, item, time = (frame[name].to_numpy() for name in ("user_id", "item_id", "order"))
        a = InterestGraph.from_events(user, item, time, threads=1, weighting="cosine")
        b = InterestGraph.from_events(user, item, time, threads=2, weighting="cosine")
        assert a.hash == b.hash
        per_row = np.diff(a.indptr)
        assert per_row.max() == 11 and a.num_items == item.max() + 1
