"""The builder against a slow reference in plain Python and scipy, and the same bits however it is run."""

import itertools
import math
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext import InterestGraph
from resemb_ext.graph import _builder
from resemb_ext.graph.options import Options
from resemb_ext.testing.graphs import rows_of
from resemb_ext.testing.strategies import examples


def reference(
    user,
    item,
    time=None,
    *,
    num_items,
    window=3,
    max_gap=None,
    session_gap=None,
    decay=None,
    min_count=1,
    weighting="count",
    damping=0.0,
    category=None,
    category_edges=0,
    category_weight=1.0,
    top_k=10,
    self_weight="max",
    directed=False,
    padding_idx=None,
):
    """{row: {neighbour: weight}} and degrees, pair by pair, from the formulas of ``from_events``."""
    order = sorted(range(len(item)), key=lambda i: (user[i], 0 if time is None else time[i]))
    sequences = {}
    for i in order:
        stamp = 0 if time is None else time[i]
        sequences.setdefault(user[i], []).append((item[i], stamp))

    def share(g):
        if decay is None:
            return Fraction(1)
        exact = 1 / g if decay == "inverse" else decay ** (g - 1)
        return Fraction(math.floor(65536 * exact + 0.5), 65536)

    counts = defaultdict(Fraction)
    for sequence in sequences.values():
        for p, (earlier, began) in enumerate(sequence):
            for q in range(p + 1, min(len(sequence), p + window + 1)):
                later, ended = sequence[q]
                if session_gap is not None and ended - sequence[q - 1][1] > session_gap:
                    break
                if (max_gap is not None and ended - began > max_gap) or earlier == later:
                    continue
                counts[earlier, later] += share(q - p)
                if not directed:
                    counts[later, earlier] += share(q - p)
    events = Counter(item)
    row_mass, column_mass = Counter(), Counter()
    for (i, j), count in counts.items():
        row_mass[i] += count
        column_mass[j] += count
    total = sum(counts.values())
    rows = {i: {} for i in range(num_items)}
    least = next(f for f in map(share, range(min(window, 1000), 0, -1)) if f)
    for (i, j), count in counts.items():
        if count < min_count * least or not count:
            continue
        if weighting == "count":
            weight = float(count)
        elif weighting == "cosine":
            weight = float(count) / math.sqrt(events[i] * events[j])
        elif weighting == "jaccard":
            weight = float(count / (row_mass[i] + column_mass[j] - count))
        else:
            weight = max(0, math.log(float(count * total / (row_mass[i] * column_mass[j]))))
        if damping:
            weight *= float(events[i]) ** -damping * float(events[j]) ** -damping
        rows[i][j] = weight
    if category_edges:
        heads = {}
        for group in set(category):
            members = [i for i in range(num_items) if category[i] == group and i != padding_idx]
            heads[group] = sorted(members, key=lambda i: (-events[i], i))[:category_edges]
        for i, j in itertools.permutations(range(num_items), 2):
            if category[i] != category[j] or category[i] < 0 or padding_idx in (i, j):
                continue
            if j in heads[category[i]] or (not directed and i in heads[category[i]]):
                rows[i][j] = rows[i].get(j, 0.0) + category_weight
    degree = np.zeros(num_items)
    for i, row in rows.items():
        if i == padding_idx:
            assert not row
            continue
        row = {j: float(np.float32(weight)) for j, weight in row.items() if np.float32(weight) > 0}
        best = sorted(row.items(), key=lambda entry: (-entry[1], entry[0]))[:top_k]
        own = max((w for _, w in best), default=1.0) if self_weight == "max" else self_weight
        degree[i] = own + sum(row.values())
        rows[i] = {**dict(best), i: float(np.float32(own))}
    return rows, degree


def check(graph, rows, degree):
    """Equal up to the last bit of a float32, where a formula in other steps may round otherwise."""
    found = rows_of(graph)
    for i, row in rows.items():
        ours, theirs = sorted(found[i].items()), sorted(row.items())
        if [j for j, _ in ours] != [j for j, _ in theirs]:
            # A tie that rounding broke: the same weights, though on other neighbours.
            ours, theirs = (sorted((0, w) for _, w in pairs) for pairs in (ours, theirs))
        np.testing.assert_allclose([w for _, w in ours], [w for _, w in theirs], rtol=2.4e-7, atol=1e-37)
    np.testing.assert_allclose(graph.degree, degree, rtol=1e-6)


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
def options(draw, num_items=None, has_time=False):
    chosen = {
        "window": draw(st.sampled_from([1, 2, 3, 7, 1000])),
        "top_k": draw(st.sampled_from([0, 1, 2, 3, 100])),
        "min_count": draw(st.integers(1, 3)),
        "weighting": draw(st.sampled_from(["count", "cosine"])),
        "self_weight": draw(st.sampled_from(["max", 0, 0.5, 2.0])),
        "directed": draw(st.booleans()),
        "padding_idx": draw(st.sampled_from([None, 0])),
    }
    if num_items is None:
        return chosen
    chosen["weighting"] = draw(st.sampled_from(["count", "cosine", "jaccard", "ppmi"]))
    chosen["decay"] = draw(st.sampled_from([None, "inverse", 0.5, 0.003]))
    chosen["damping"] = draw(st.sampled_from([0.0, 0.25, 1.0]))
    if has_time:
        chosen["max_gap"] = draw(st.sampled_from([None, 0, 1, 2.5, 1e12]))
        chosen["session_gap"] = draw(st.sampled_from([None, 0, 1, 4]))
    if draw(st.booleans()):
        groups = st.lists(st.integers(-1, 2), min_size=num_items, max_size=num_items)
        chosen["category"] = draw(groups)
        chosen["category_edges"] = draw(st.integers(0, 3))
        chosen["category_weight"] = draw(st.sampled_from([0.0, 0.25, 3.0]))
    return chosen


@examples(200)
@given(logs(), options(), st.sampled_from([1, 3]))
def test_equals_reference(log, chosen, threads):
    user, item, time, num_items = log
    graph = InterestGraph.from_events(user, item, time, num_items=num_items, threads=threads, **chosen)
    rows, degree = reference(user, item, time, num_items=num_items, **chosen)
    assert rows_of(graph) == rows
    np.testing.assert_allclose(graph.degree, degree, rtol=1e-12)
    assert graph.indptr.dtype == np.int64 and graph.neighbors.dtype == np.int32
    assert graph.weights.dtype == np.float32 and graph.degree.dtype == np.float64


@examples(400)
@given(st.data())
def test_every_option_equals_reference(data):
    user, item, time, num_items = data.draw(logs())
    chosen = data.draw(options(num_items, time is not None))
    graph = InterestGraph.from_events(user, item, time, num_items=num_items, threads=2, **chosen)
    check(graph, *reference(user, item, time, num_items=num_items, **chosen))


@examples(50)
@given(logs(), options())
def test_masses_counted_in_64_bits_give_the_same(log, chosen):
    """In units so fine that no 32 bits hold the largest mass; a power of two, so that weights stay exact."""
    user, item, time, num_items = log
    graph = InterestGraph.from_events(user, item, time, num_items=num_items, **chosen)
    padding = chosen.pop("padding_idx")
    native = Options.of(chosen, None, False).native(
        num_items=num_items, events=len(item), padding=padding, category=None
    )
    finer = 2**30
    mass = np.ones(native["window"], np.int64) if native["mass"] is None else native["mass"]
    fine = _builder.build(
        np.asarray(user, np.int64),
        np.asarray(item, np.int64),
        None if time is None else np.asarray(time, np.float64),
        {
            **native,
            "mass": mass * finer,
            "unit": native["unit"] * finer,
            "min_mass": min(native["min_mass"] * finer, 2**62),
        },
        threads=2,
        progress=None,
    )
    for ours, theirs in zip((graph.indptr, graph.neighbors, graph.weights, graph.degree), fine, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_too_many_items_for_the_builder_are_refused():
    one = np.zeros(1, np.int64)
    native = Options.of({}, None, False).native(num_items=2**31, events=1, padding=None, category=None)
    with pytest.raises(ValueError, match=r"num_items is 2147483648; a graph of events has at most 2\*\*31 - 1"):
        _builder.build(one, one, None, native, threads=1, progress=None)


def zipf_log(events=200_000, items=5_000, users=2_000, seed=0):
    rng = np.random.default_rng(seed)
    item = np.minimum(rng.zipf(1.3, events), items - 1)
    # One heavy user holds a tenth of the events.
    user = np.where(rng.random(events) < 0.1, -7, rng.integers(0, users, events))
    return user, item, rng.integers(0, events // 4, events)


SMALL, LARGE = st.integers(1, 5), st.integers(60, 66)
COUNTS = st.lists(SMALL | LARGE | st.integers(2**24 - 2, 2**24 + 4) | st.just(2**54), max_size=30)


@examples(300)
@given(COUNTS, st.integers(0, 32), st.sampled_from([1, 2, 61, 2**24]), st.randoms())
def test_the_heaviest_counts_of_every_size(counts, top_k, min_count, random):
    """Exactly: largest float32 first, ties by id, the degree a sum without rounding in between."""
    others = sorted(random.sample(range(1, 40), len(counts)))
    indptr = np.array([0] + 40 * [len(counts)], np.int64)
    given = Options.of({"top_k": top_k, "min_count": min_count, "self_weight": 0}, None, False)
    native = given.native(num_items=40, events=10**9, padding=None, category=None)
    found = _builder.weigh(
        indptr,
        np.array(others, np.int32),
        np.array(counts, np.int64),
        np.ones(40, np.int64),
        native,
        threads=1,
        progress=None,
    )
    weighed = [(np.float32(c), j) for c, j in zip(counts, others, strict=True) if c >= min_count]
    best = sorted(sorted(weighed, key=lambda pair: (-pair[0], pair[1]))[:top_k], key=lambda p: p[1])
    size = found[0][1]
    assert found[1][:size].tolist() == [0] + [j for _, j in best]
    assert found[2][1:size].tolist() == [w for w, _ in best]
    assert found[3][0] == float(sum(int(w) for w, _ in weighed))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("weighting", ["count", "cosine", "jaccard", "ppmi"])
@pytest.mark.parametrize("directed", [False, True])
def test_same_bits_for_any_thread_count(weighting, directed):
    user, item, time = zipf_log()
    more = {"decay": "inverse", "max_gap": 900, "session_gap": 500} if directed else {}
    graphs = [
        InterestGraph.from_events(
            user,
            item,
            time,
            num_items=5_000,
            window=4,
            weighting=weighting,
            directed=directed,
            threads=threads,
            damping=0.3,
            category=np.arange(5_000) % 40,
            category_edges=3,
            **more,
        )
        for threads in (1, 2, 3, 8)
    ]
    assert len({graph.hash for graph in graphs}) == 1
    assert all(graph.meta == graphs[0].meta for graph in graphs)


@pytest.mark.parametrize("weighting", ["count", "cosine", "ppmi"])
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


@pytest.mark.full
def test_many_events_equal_scipy():
    user, item, time = zipf_log(events=60_000)
    graph = InterestGraph.from_events(user, item, time, num_items=5_000, window=2, top_k=None, self_weight=0)
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


def test_names_of_users_do_not_matter():
    user, item, time = zipf_log(60_000)
    graphs = [
        InterestGraph.from_events(name, item, time, num_items=5_000, weighting="cosine")
        for name in (user, -3 * user, user ^ 12345)
    ]
    assert len({graph.hash for graph in graphs}) == 1


class TestRealLog:
    @pytest.mark.full
    def test_ml_100k(self, shared_data):
        frame = pd.read_parquet(shared_data("ml-100k.parquet")).sample(frac=1, random_state=0)
        columns = [frame[name].to_numpy() for name in ("user_id", "item_id", "timestamp")]
        height = int(columns[1].max()) + 2
        graph = InterestGraph.from_events(*columns, num_items=height, padding_idx=0, threads=2)
        rows, degree = reference(*(column.tolist() for column in columns), num_items=height, padding_idx=0)
        assert rows_of(graph) == rows
        np.testing.assert_array_equal(graph.degree, degree)
        assert graph.meta["events"] == 100_000

    def test_ml_1m_order(self, shared_data):
        frame = pd.read_parquet(shared_data("ml-1m.parquet"), columns=["user_id", "item_id", "order"])
        user, item, time = (frame[name].to_numpy() for name in ("user_id", "item_id", "order"))
        a = InterestGraph.from_events(user, item, time, threads=1, weighting="cosine")
        b = InterestGraph.from_events(user, item, time, threads=2, weighting="cosine")
        assert a.hash == b.hash
        per_row = np.diff(a.indptr)
        assert per_row.max() == 11 and a.num_items == item.max() + 1
