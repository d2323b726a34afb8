"""item2vec: histories that are longer than what gensim looks at."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.data import read_log
from resemb_ext.study.methods.item2vec import item_vectors, pieces
from resemb_ext.testing.strategies import examples


def pairs(events, window):
    return Counter((a, b) for k, a in enumerate(events) for b in events[k + 1 : k + 1 + window])


@examples(200)
@given(st.integers(0, 60), st.integers(1, 5), st.integers(1, 12))
def test_pieces_lose_no_pair_and_double_those_within_the_overlap_alone(events, window, more):
    longest = window + more
    history = list(range(events))
    parts = list(pieces(history, longest, window))
    assert all(len(part) <= longest for part in parts) and parts[0] == history[:longest]
    expected = pairs(history, window)
    for before, after in itertools.pairwise(parts):
        assert before[-window:] == after[:window] and len(after) > window
        expected += pairs(after[:window], window)  # all of these are within the window
    assert sum((pairs(part, window) for part in parts), Counter()) == expected


@pytest.mark.full
def test_events_after_the_ten_thousandth_are_learnt_from():
    pytest.importorskip("gensim")
    # Items so rare that gensim's sampling drops none of their events.
    early, late = np.repeat(np.arange(1, 2001), 5), np.repeat(np.arange(2001, 2101), 10)
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(early), rng.permutation(late)])
    log = read_log({"user": np.zeros(11_000, int), "item": items, "time": np.arange(11_000)})
    vectors = item_vectors(log, 4, seed=0)
    # gensim starts within 1 / D of 0 in every dimension, and leaves what it does not meet there.
    start = np.sqrt(4) / 4
    assert (np.linalg.norm(vectors[late], axis=1) > 2 * start).all()
