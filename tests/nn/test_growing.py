"""Larger graphs and other graphs under an embedding: known rows to the bit, new rows and what changed against NumPy."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import resemb_ext as rx
from resemb_ext.nn import combined, folded_tables
from resemb_ext.testing.strategies import examples

D = 5
LINKS = ("average", "gcn", "given", "attention")


def random_graph(rng: np.random.Generator, items: int, edges: int) -> rx.InterestGraph:
    """Item 0 is padding."""
    return like(rx.InterestGraph.from_csr([0, 0], []), rng, items, edges)


def like(graph: rx.InterestGraph, rng: np.random.Generator, items: int, edges: int) -> rx.InterestGraph:
    """The graph with more items and some more edges."""
    matrix = np.zeros((items, items), np.float32)
    matrix[: graph.num_items, : graph.num_items] = graph.to_scipy().todense()
    ends = rng.integers(1, items, (2, edges))
    matrix[ends[0], ends[1]] = rng.integers(1, 9, edges) / 4
    kept = matrix.astype(bool)
    return rx.InterestGraph.from_csr(np.r_[0, np.cumsum(kept.sum(1))], np.nonzero(kept)[1], matrix[kept], directed=True)


def dense(graph: rx.InterestGraph) -> np.ndarray:
    return graph.to_scipy().todense().astype(np.float64)


def expected_start(weights: np.ndarray, central: np.ndarray, fresh: list[int]) -> np.ndarray:
    """Round by round, a row at a time, in float64."""
    central, known = central.copy(), np.ones(len(weights), bool)
    known[fresh] = False
    central[fresh] = 0
    while True:
        found = {}
        for row in np.flatnonzero(~known):
            mass = weights[row] * known
            if mass.sum() > 0:
                found[row] = mass @ central / mass.sum()
        for row, vector in found.items():
            central[row] = vector
        if not found:
            return central
        known[[*found]] = True


@pytest.mark.parametrize("link", LINKS)
@examples(40)
@given(data=st.data())
def test_known_rows_stay_and_new_ones_start_at_their_neighbours_mean(link: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    old, new = data.draw(st.integers(3, 12)), data.draw(st.integers(0, 8))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    oov = data.draw(st.sampled_from([None, old - 1, 1]))
    options: dict[str, Any] = {"hops": 2} if link == "gcn" and data.draw(st.booleans()) else {}
    if data.draw(st.booleans()):
        options["weights_dtype"] = torch.float16
    kind = data.draw(st.sampled_from([rx.ResEmbedding, rx.ResEmbeddingBag]))
    small = random_graph(rng, old, data.draw(st.integers(0, 20)))
    large = like(small, rng, old + new, data.draw(st.integers(0, 12)))
    torch.manual_seed(0)
    emb = kind(small, D, link=link, padding_idx=0, dtype=dtype, **options)
    before = {name: p.detach().clone() for name, p in emb.named_parameters()}
    parameters = dict(emb.named_parameters())

    rows = emb.grow(large, oov=oov)

    assert {n: id(p) for n, p in emb.named_parameters()} == {n: id(p) for n, p in parameters.items()}
    linked = large.with_link(link, padding_idx=0, **options)
    assert emb.num_embeddings == old + new and emb.graph.hash == linked.hash
    places = np.arange(old)
    if oov is not None and new:
        places[oov] = old + new - 1
    fresh = sorted({*range(old + new)} - {*places})
    for name in ("central", "residual"):
        assert torch.equal(emb.get_parameter(name)[places], before[name])
    assert not emb.residual[fresh].any()
    central = emb.central.detach().double().numpy()
    expected = expected_start(dense(linked), central, fresh)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 1e-2}[dtype]
    np.testing.assert_allclose(central, expected, rtol=tolerance, atol=tolerance)
    for name in before.keys() - {"central", "residual"}:
        assert torch.equal(emb.get_parameter(name), before[name])
    # Rows that are not returned have the same neighbours, by the new numbers and in the same order, and weights.
    unchanged = []
    first = small.with_link(link, padding_idx=0, **options)
    for row, place in enumerate(places):
        here, there = (slice(*g.indptr[r : r + 2]) for g, r in ((linked, place), (first, row)))
        same = np.array_equal(linked.neighbors[here], places[first.neighbors[there]])
        if same and np.array_equal(linked.weights[here], first.weights[there]):
            unchanged.append(place)
    assert rows.dtype == torch.int64 and rows.tolist() == sorted({*range(old + new)} - {*unchanged})


@pytest.mark.parametrize("link", LINKS)
def test_unchanged_rows_keep_their_vectors_to_the_bit(link: str) -> None:
    rng = np.random.default_rng(1)
    small = random_graph(rng, 40, 30)
    large = like(small, rng, 50, 12)
    emb = rx.ResEmbedding(small, D, link, padding_idx=0)
    before = emb.materialize().detach()
    rows = emb.grow(large, oov=39)
    after = emb.materialize().detach()
    same = np.setdiff1d(np.arange(50), rows)
    assert 5 < len(same) < 45
    sources = np.r_[np.arange(39), np.full(10, -1), 39]
    assert torch.equal(after[same], before[sources[same]])
    if link in ("average", "gcn"):  # else a weight may change without effect on the vector
        assert (after[rows[rows < 39]] != before[rows[rows < 39]]).any(1).all()


def test_an_item_that_nothing_joins_to_known_ones_starts_at_zero() -> None:
    emb = rx.ResEmbedding(rx.InterestGraph.from_csr([0, 0, 1, 2], [2, 1]), D, padding_idx=0)
    emb.grow(rx.InterestGraph.from_csr([0, 0, 1, 2, 3, 4, 5], [2, 1, 4, 3, 1]))
    assert not emb(torch.tensor([3, 4])).any()
    assert torch.equal(emb.central[5], emb.central[1])


def test_the_id_maps_of_logs_say_which_row_moves() -> None:
    rng = np.random.default_rng(0)
    events = {"user": rng.integers(0, 9, 80), "item": rng.integers(100, 120, 80), "time": np.arange(80)}
    log = rx.data.read_log(events)
    graph = rx.InterestGraph.from_log(log, keep_counts=True)
    more = {"user": [0, 0, 3], "item": [7, 101, 500], "time": [100, 101, 102]}
    later = rx.data.read_log(more, users=log.users, items=log.items)
    larger = graph.update(later)
    assert larger.num_items == graph.num_items + 2
    for kind in (rx.ResEmbedding, rx.ResEmbeddingBag):
        emb = kind(graph, D, padding_idx=0)
        central = emb.central.detach().clone()
        rows = emb.grow(larger)
        assert torch.equal(emb.central[later.items.oov], central[log.items.oov])
        assert not torch.equal(emb.central[log.items.oov], central[log.items.oov])
        assert later.items.oov not in rows and {log.items.oov, log.items.oov + 1} <= {*rows.tolist()}
    # Arrays say nothing of a map: no row moves unless it is named.
    arrays = graph.update(([0], [graph.num_items], [200]), num_items=graph.num_items + 1)
    emb = rx.ResEmbedding(graph, D, padding_idx=0)
    central = emb.central.detach().clone()
    emb.grow(arrays)
    assert torch.equal(emb.central[: len(central)], central)


def test_training_goes_on_and_so_do_copies_states_and_pickles() -> None:
    rng = np.random.default_rng(2)
    small = random_graph(rng, 20, 50)
    emb = rx.ResEmbedding(small, D, padding_idx=0)
    waiting = emb(torch.tensor([1, 2]))  # its graph lives on, and knows the old shape
    emb.grow(like(small, rng, 26, 20))
    with pytest.raises(RuntimeError, match="a lookup made before it cannot be differentiated after it"):
        waiting.sum().backward()
    emb.zero_grad()
    emb(torch.tensor([1, 25])).sum().backward()
    assert emb.central.grad is not None and emb.central.grad.shape == (26, D)
    ids = torch.tensor([3, 24, 25])
    for twin in (copy.deepcopy(emb), pickle.loads(pickle.dumps(emb))):
        assert torch.equal(twin(ids), emb(ids)) and twin.num_embeddings == 26
    other = rx.ResEmbedding(like(small, np.random.default_rng(2), 26, 0), D, padding_idx=0)
    with pytest.raises(ValueError, match="saved over the graph"):
        other.load_state_dict(emb.state_dict())
    other.swap_graph(emb.graph)
    other.load_state_dict(emb.state_dict())
    assert torch.equal(other(ids), emb(ids))


def test_a_class_of_both_grows() -> None:
    class Scaled(nn.Embedding):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 3

    rng = np.random.default_rng(3)
    small = random_graph(rng, 10, 20)
    emb = rx.ResEmbedding.from_embedding(Scaled(10, D, padding_idx=0), small)
    assert type(emb) is combined(Scaled)
    before = emb.residual.detach().clone()
    emb.grow(like(small, rng, 13, 9), oov=9)
    assert torch.equal(emb.residual[[*range(9), 12]], before)
    ids = torch.tensor([9, 11, 12])
    torch.testing.assert_close(emb(ids), emb.materialize()[ids] * 3)
    assert emb.to_plain().weight.shape == (13, D)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("inference", [False, True])
def test_folded_tables_compute_the_changed_rows_alone(
    link: str, inference: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    small = random_graph(rng, 30, 70)
    emb = rx.ResEmbedding(small, D, link, padding_idx=0).eval()
    computed: list[int] = []
    rows_of = type(emb)._rows

    def counted(self: Any, rows: Any, *args: Any, **options: Any) -> Any:
        computed.append(len(rows))
        return rows_of(self, rows, *args, **options)

    monkeypatch.setattr(type(emb), "_rows", counted)
    with torch.inference_mode(inference), torch.no_grad(), folded_tables(emb):
        emb(torch.tensor([1]))
        assert computed == [30]
        for graph, change in ((like(small, rng, 30, 3), emb.swap_graph), (like(small, rng, 36, 4), emb.grow)):
            changed = change(graph)
            assert 0 < len(changed) < graph.num_items
            assert computed.pop() == len(changed)
            table = emb.materialize()
            assert len(computed) == 1  # of the table that is kept
            assert torch.equal(table, emb._compute())
            computed.pop()


@examples(30)
@given(data=st.data())
def test_swapped_graphs_change_the_rows_that_are_returned(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    link = data.draw(st.sampled_from(LINKS))
    small = random_graph(rng, 15, 40)
    other = like(small, rng, 15, data.draw(st.integers(0, 5)))
    emb = rx.ResEmbedding(small, D, link, padding_idx=0)
    before = emb.materialize()
    rows = emb.swap_graph(other)
    fresh = rx.ResEmbedding(other, D, link, padding_idx=0)
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            parameter.copy_(emb.get_parameter(name))
    assert torch.equal(emb.materialize(), fresh.materialize())
    kept = np.setdiff1d(np.arange(15), rows)
    assert torch.equal(emb.materialize()[kept], before[kept])
    plain = nn.Embedding.from_pretrained(before.detach().clone())
    plain.weight.data[rows] = emb(rows).detach()
    assert torch.equal(plain.weight, emb.materialize())


@pytest.mark.parametrize(
    ("graph", "options", "error", "says"),
    [
        ([0, 0], {}, TypeError, "graph: found list; expected InterestGraph"),
        (5, {}, ValueError, "graph: 5 items; expected at least this module's, 10"),
        (12, {"oov": 0}, ValueError, r"oov: found 0; expected a row in \[0, 10\), but padding_idx, 0"),
        (12, {"oov": 10}, ValueError, r"oov: found 10; expected a row in \[0, 10\)"),
        (12, {"oov": "last"}, TypeError, "oov: found 'last'; expected a row, or None"),
    ],
)
def test_what_grow_refuses(graph: Any, options: dict[str, Any], error: type[Exception], says: str) -> None:
    rng = np.random.default_rng(5)
    emb = rx.ResEmbedding(random_graph(rng, 10, 20), D, padding_idx=0)
    state = {name: value.clone() for name, value in emb.state_dict().items()}
    with pytest.raises(error, match=says):
        emb.grow(random_graph(rng, graph, 20) if isinstance(graph, int) else graph, **options)
    assert all(torch.equal(value, emb.state_dict()[name]) for name, value in state.items())


def test_what_swap_graph_refuses() -> None:
    rng = np.random.default_rng(5)
    emb = rx.ResEmbedding(random_graph(rng, 10, 20), D, padding_idx=0)
    with pytest.raises(ValueError, match="graph: 12 items; expected this module's, 10; grow takes a larger graph"):
        emb.swap_graph(random_graph(rng, 12, 20))
    with pytest.raises(ValueError, match="already holds 'gcn' weights"):
        emb.swap_graph(random_graph(rng, 10, 20).with_link("gcn", padding_idx=0))
    with pytest.raises(TypeError, match="graph: found NoneType"):
        emb.swap_graph(None)  # type: ignore[arg-type]


def test_states_that_grow_refuses() -> None:
    rng = np.random.default_rng(6)
    large = random_graph(rng, 12, 30)

    def make() -> rx.ResEmbedding:
        return rx.ResEmbedding(random_graph(rng, 10, 20), D, padding_idx=0)

    emb = make()
    emb(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="central: has a gradient; call optimizer"):
        emb.grow(large)
    emb = make()
    emb.share_memory()
    with pytest.raises(RuntimeError, match="central: lies in memory that processes share"):
        emb.grow(large)
    emb = make()
    torch.nn.utils.parametrizations.weight_norm(emb, "central")
    with pytest.raises(RuntimeError, match="is parametrized"):
        emb.grow(large)


def test_a_module_that_shares_its_tables_takes_the_graph() -> None:
    rng = np.random.default_rng(7)
    small = random_graph(rng, 10, 20)
    one, other = (rx.ResEmbedding(small, D, padding_idx=0) for _ in range(2))
    other.central, other.residual = one.central, one.residual
    large = like(small, rng, 13, 9)
    assert torch.equal(one.grow(large, oov=9), other.grow(large, oov=9))
    assert other.central is one.central and other.num_embeddings == 13
    ids = torch.arange(13)
    assert torch.equal(other(ids), one(ids))


@pytest.mark.full
def test_inside_ddp_it_is_refused(tmp_path: Any) -> None:
    rng = np.random.default_rng(8)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        emb = rx.ResEmbedding(random_graph(rng, 10, 20), D, padding_idx=0)
        wrapped = DistributedDataParallel(nn.Sequential(emb))
        with pytest.raises(RuntimeError, match="inside DistributedDataParallel"):
            emb.grow(random_graph(rng, 12, 20))
        del wrapped
        gc.collect()
        emb.grow(random_graph(rng, 12, 20))
    finally:
        torch.distributed.destroy_process_group()
