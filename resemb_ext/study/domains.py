"""Domains of items where no truth is known: communities of the interest graph, random ones."""

from __future__ import annotations

import networkx as nx
import numpy as np

from resemb_ext.data import Log
from resemb_ext.graph import InterestGraph

from .behaviour import Sequences


def graph_communities(graph: InterestGraph, *, seed: int = 0) -> np.ndarray:
    """Communities of a graph by Louvain's modularity (Blondel et al. 2008, networkx's).

    Args:
        graph: raw weights; an edge weighs the sum of its two directions, own entries nothing.
        seed: of the order in which items are looked at.

    Returns:
        int64 [H], communities by size, the largest 0; -1 for items without a neighbour.
    """
    matrix = graph.to_scipy().tocoo()
    rows, columns = matrix.coords
    keep = rows != columns
    low, high = np.minimum(rows, columns)[keep], np.maximum(rows, columns)[keep]
    network = nx.Graph()
    for a, b, weight in zip(low.tolist(), high.tolist(), matrix.data[keep].tolist(), strict=True):
        before = network.get_edge_data(a, b, {"weight": 0.0})["weight"]
        network.add_edge(a, b, weight=before + weight)
    domain = np.full(graph.num_items, -1, dtype=np.int64)
    found = nx.community.louvain_communities(network, seed=seed) if len(network) else []
    for number, members in enumerate(sorted(found, key=lambda c: (-len(c), min(c)))):
        domain[list(members)] = number
    return domain


def communities_of(log: Log, *, window: int = 3, top_k: int = 10, seed: int = 0) -> np.ndarray:
    """:func:`graph_communities` of a log's events; int64 [H]."""
    graph = InterestGraph.from_log(log, window=window, top_k=top_k)
    return graph_communities(graph, seed=seed)


def permuted(domain: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Random domains of the same sizes: the labels of the items that have one, shuffled."""
    result = domain.copy()
    rows = np.flatnonzero(domain >= 0)
    result[rows] = np.random.default_rng([23, seed]).permutation(domain[rows])
    return result


def halves(log: Log, *, seed: int = 0) -> tuple[Log, Log]:
    """The users of a log in two random halves, ids unchanged."""
    coin = np.random.default_rng([24, seed]).permutation(log.num_users) % 2
    side = coin[log.user]
    return log.subset(side == 0), log.subset(side == 1)


def sequences(log: Log, domain: np.ndarray, *, with_time: bool = False) -> Sequences:
    """Domains of a log's interactions; ``domain`` int64 [H], negative where an item has none."""
    events = log.interactions
    size = int(domain.max(initial=-1)) + 1
    return Sequences(
        events.user,
        np.maximum(domain[events.item], -1),
        size,
        events.time if with_time else None,
    )
