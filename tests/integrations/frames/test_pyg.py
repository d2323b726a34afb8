"""Graphs that PyTorch Geometric makes and takes."""

import numpy as np
import torch

from resemb_ext import InterestGraph
from tests.integrations.conftest import framework

framework("torch_geometric", __file__)


def graph():
    rng = np.random.default_rng(0)
    return InterestGraph.from_events(rng.integers(0, 50, 2000), rng.integers(0, 40, 2000), num_items=41, directed=True)


def test_round_trip_through_data_and_back():
    from torch_geometric.data import Data
    from torch_geometric.utils import coalesce, is_undirected

    edge_index, weights = graph().to_edge_index()
    data = Data(edge_index=edge_index, edge_attr=weights, num_nodes=41)
    assert data.validate() and data.is_coalesced() is False  # sorted by target
    assert not is_undirected(edge_index, weights)
    again = InterestGraph.from_edge_index(*coalesce(edge_index, weights), num_items=data.num_nodes)
    assert again.hash == InterestGraph.from_scipy(graph().to_scipy()).hash
    same_order = coalesce(edge_index, weights, sort_by_row=False)
    assert torch.equal(same_order[0], edge_index) and torch.equal(same_order[1], weights)


def test_a_layer_collects_from_the_same_neighbours():
    from torch_geometric.nn import SimpleConv

    linked = graph().with_link("average")
    features = torch.randn(41, 3)
    collected = SimpleConv(aggr="sum")(features, *linked.to_edge_index())
    dense = torch.from_numpy(linked.to_scipy().toarray())
    torch.testing.assert_close(collected, dense @ features)


def test_gcn_weights_are_those_of_gcn_norm():
    """Where every row has its own entry and no row was pruned."""
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    rng = np.random.default_rng(1)
    raw = InterestGraph.from_events(rng.integers(0, 9, 300), rng.integers(0, 20, 300), num_items=20, top_k=None)
    index, weights = gcn_norm(*raw.to_edge_index(), num_nodes=20, add_self_loops=False)
    expected = InterestGraph.from_edge_index(index, weights, 20)
    linked = raw.with_link("gcn")
    np.testing.assert_allclose(linked.to_scipy().toarray(), expected.to_scipy().toarray(), rtol=1e-5)
