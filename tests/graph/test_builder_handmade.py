"""Graphs computed by hand: what the builder's options promise."""

import datetime
import math

import numpy as np
import pandas as pd
import pytest

from resemb_ext import InterestGraph
from resemb_ext.graph import digest_events
from resemb_ext.testing.graphs import rows_of, same_arrays


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
        "num_items": 3,
        "window": 3,
        "max_gap": None,
        "session_gap": None,
        "decay": None,
        "min_count": 1,
        "weighting": "count",
        "damping": 0.0,
        "category_edges": 0,
        "category_weight": 1.0,
        "top_k": None,
        "self_weight": "max",
        "directed": False,
        "padding_idx": 0,
    }
    assert graph.meta["events"] == 2 and graph.meta["time_cut"] == 30
    other = InterestGraph.from_events([0, 0], [1, 2], [10, 31], top_k=None, padding_idx=0)
    assert other.meta["event_hash"] != graph.meta["event_hash"] and other.hash == graph.hash
    assert graph.meta["event_hash"] == digest_events([0, 0], [1, 2], [10, 30])
    assert digest_events([0, 0], [2, 1], [10, 30]) != graph.meta["event_digest"]


def test_empty_log_and_unseen_items():
    graph = InterestGraph.from_events([], [], num_items=3, padding_idx=0)
    assert rows_of(graph) == {0: {}, 1: {1: 1.0}, 2: {2: 1.0}}
    assert graph.meta["events"] == 0 and graph.meta["time_cut"] is None


def test_time_limits_of_dates_and_extreme_times():
    days = np.array(["2024-01-01", "2024-01-02", "2024-01-09"], "M8[D]")
    for gap in (datetime.timedelta(days=2), np.timedelta64(48, "h"), 2):
        for name in ("max_gap", "session_gap"):
            graph = InterestGraph.from_events([0] * 3, [1, 2, 3], days, **{name: gap})
            assert list(rows_of(graph)[2]) == [1, 2] and list(rows_of(graph)[3]) == [3]
            assert graph.meta["options"][name] == 2.0 and graph.meta["time_unit"] == "<M8[D]"
    far = [-(2**63), 2**63 - 1]
    for limit, edges in ((2**62, 3), (None, 5)):
        graph = InterestGraph.from_events([0, 0], [1, 2], far, max_gap=limit)
        assert graph.num_edges == edges


def test_hand_computed_weightings():
    # One user: 1 2 1 3, window 1: c_12 = 2, c_13 = 1; m = 3, 2, 1; T = 6.
    def weights(**chosen):
        graph = InterestGraph.from_events([0] * 4, [1, 2, 1, 3], window=1, **chosen)
        return rows_of(graph)[1]

    assert weights(weighting="jaccard") == {1: np.float32(2 / 3), 2: np.float32(2 / 3), 3: np.float32(1 / 3)}
    assert weights(weighting="ppmi")[2] == np.float32(math.log(2 * 6 / (3 * 2)))
    assert weights(damping=1) == {1: 1.0, 2: 1.0, 3: 0.5}  # n = 2, 1, 1
    graph = InterestGraph.from_events([0] * 3, [1, 2, 3], decay="inverse")
    assert rows_of(graph)[1] == {1: 1.0, 2: 1.0, 3: 0.5}
    kin = InterestGraph.from_events(
        [0, 0], [1, 2], num_items=5, category=[-1, 7, 7, 7, -1], category_edges=1, category_weight=0.5
    )
    # 1 and 2 have one event each: item 1 is the head of category 7.
    assert rows_of(kin)[3] == {1: 0.5, 3: 0.5} and rows_of(kin)[4] == {4: 1.0}
    assert rows_of(kin)[1] == {1: 1.5, 2: 1.5, 3: 0.5}


def test_arrays_are_read_only():
    graph = InterestGraph.from_events([0, 0], [1, 2])
    with pytest.raises(ValueError, match="read-only"):
        graph.weights[0] = 5
