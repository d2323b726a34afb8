"""Domains of items where no truth is known: communities of the interest graph, random ones."""

from __future__ import annotations

import warnings

import networkx as nx
import numpy as np
from scipy.cluster.vq import kmeans2

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
    """``graph_communities`` of a log's events; int64 [H]."""
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


def first_meetings(log: Log) -> Log:
    """The interactions of a log without those with an item that the user has met before."""
    events = log.interactions
    _, first = np.unique(events.user * np.int64(log.num_items) + events.item, return_index=True)
    return events.subset(np.sort(first))


def clusters(vectors: np.ndarray, number: int, *, seed: int = 0) -> np.ndarray:
    """Clusters of item vectors by direction: k-means (scipy, k-means++ start) at length 1.

    Args:
        vectors: floats [H, D]; a zero vector belongs nowhere.
        number: k; clusters that run empty are left out.
        seed: of the start.

    Returns:
        int64 [H], from 0 without gaps; -1 where the vector is zero.

    Raises:
        ValueError: ``number`` below 1 or above the number of vectors.
    """
    length = np.linalg.norm(vectors, axis=1)
    rows = np.flatnonzero(length > 0)
    if not 1 <= number <= len(rows):
        raise ValueError(f"number must lie in 1 to {len(rows)} (items with a vector), found {number}")
    points = vectors[rows].astype(np.float64) / length[rows, None]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        _, code = kmeans2(points, number, iter=25, minit="++", seed=np.random.default_rng([27, seed]))
    domain = np.full(len(vectors), -1, dtype=np.int64)
    domain[rows] = np.unique(code, return_inverse=True)[1]
    return domain


def sequences(log: Log, domain: np.ndarray, *, with_time: bool = False) -> Sequences:
    """Domains of a log's interactions, numbered anew without gaps.

    Args:
        log: the events.
        domain: int64 [H], of any numbers, negative where an item has none. What it numbers is what
            counts as a domain, so that two logs with one ``domain`` have the same ones.
        with_time: keep the times.
    """
    events = log.interactions
    known = domain >= 0
    code = np.full(len(domain), -1, dtype=np.int64)
    names, code[known] = np.unique(domain[known], return_inverse=True)
    return Sequences(events.user, code[events.item], len(names), events.time if with_time else None)
