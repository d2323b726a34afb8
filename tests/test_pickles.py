"""Pickles of version 0.1: a class that stood in another module then, a field of another name."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from resemb_ext import InterestGraph, data


def as_of_0_1(value: Any, new: str, old: str) -> Any:
    """What the value becomes when it is read from a pickle that has the old name in place of the new one."""
    pickled = pickle.dumps(value, protocol=0)  # text, where names have no lengths before them
    assert new.encode() in pickled
    return pickle.loads(pickled.replace(new.encode(), old.encode()))


def a_graph() -> InterestGraph:
    return InterestGraph.from_events([0, 0, 0, 1, 1], [1, 2, 3, 2, 3], num_items=4, keep_counts=True)


def test_a_graph_with_counts() -> None:
    graph = a_graph()
    found = as_of_0_1(graph, "resemb_ext.graph.counts", "resemb_ext.graph._kept")
    more = ([2, 2], [1, 3])
    for name, array in graph.update(more).arrays().items():
        assert np.array_equal(found.update(more).arrays()[name], array)


def test_samples() -> None:
    log, _ = data.simulate(users=20, items=60, domains=2, seed=0)
    samples = data.make_train_samples(data.split(log), seed=0)
    assert samples.negative_distribution is not None
    found = as_of_0_1(samples, "negative_distribution", "negative_law")
    assert np.array_equal(found.negative_distribution, samples.negative_distribution)
    assert vars(found).keys() == vars(samples).keys()
