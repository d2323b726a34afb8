"""ResEmbedding as a drop-in for nn.Embedding: interface, links, init, weight, bag, conversions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from resemb_ext import InterestGraph, ResEmbedding

H, D = 9, 6
PADDING = 0


def make_graph(num_items: int = H, degree: int = 3, seed: int = 0) -> InterestGraph:
    """A random directed graph without self entries; nobody points at item 0, and item 1 at nobody."""
    rng = np.random.default_rng(seed)
    dense = np.zeros((num_items, num_items), np.float32)
    for row in range(2, num_items):
        columns = rng.choice(np.arange(1, num_items), min(degree, num_items - 1), replace=False)
        dense[row, columns] = rng.integers(1, 9, columns.size)
    np.fill_diagonal(dense, 0)
    return from_dense(dense)


def from_dense(dense: np.ndarray) -> InterestGraph:
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))])
    return InterestGraph.from_csr(indptr, columns, dense[rows, columns])


def to_dense(graph: InterestGraph) -> np.ndarray:
    dense = np.zeros((graph.num_items, graph.num_items))
    rows = np.repeat(np.arange(graph.num_items), np.diff(graph.indptr))
    dense[rows, graph.neighbors] = graph.weights
    return dense


def table(emb: ResEmbedding) -> torch.Tensor:
    with torch.no_grad():
        return emb.materialize()


@pytest.fixture
def emb() -> ResEmbedding:
    return ResEmbedding(make_graph(), D, padding_idx=PADDING)


def test_is_an_embedding(emb: ResEmbedding) -> None:
    assert isinstance(emb, nn.Embedding)
    assert (emb.num_embeddings, emb.embedding_dim, emb.padding_idx) == (H, D, PADDING)
    assert (emb.max_norm, emb.scale_grad_by_freq, emb.sparse) == (None, False, False)
    assert [(n, tuple(p.shape)) for n, p in emb.named_parameters()] == [("central", (H, D)), ("residual", (H, D))]
    assert emb.weight.shape == (H, D)
    edges = make_graph().num_edges + H - 1  # every row but padding has its own entry
    assert repr(emb) == f"ResEmbedding(9, 6, link='average', edges={edges}, padding_idx=0)"
    assert repr(ResEmbedding(make_graph(), 2, "gcn", sparse=True)).endswith(", sparse=True)")


def test_negative_padding_idx() -> None:
    graph = from_dense(np.pad(to_dense(make_graph(H - 1)), (0, 1)).astype(np.float32))
    emb = ResEmbedding(graph, D, padding_idx=-1)
    assert emb.padding_idx == H - 1
    assert not table(emb)[-1].any() and table(emb)[1:-1].any(1).all()
    assert not emb.central[-1].any() and not emb.residual[-1].any()


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 0, 3), (0,), (2, 1, 3, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_shapes_as_nn_embedding(emb: ResEmbedding, shape: tuple, dtype: torch.dtype) -> None:
    ids = torch.randint(0, H, shape, dtype=dtype)
    out = emb(ids)
    plain = emb.to_embedding()(ids)
    assert out.shape == plain.shape == (*shape, D)
    torch.testing.assert_close(out, plain)
    out.sum().backward()
    assert emb.central.grad.shape == (H, D)


def test_non_contiguous_ids(emb: ResEmbedding) -> None:
    ids = torch.randint(0, H, (4, 6)).t()[::2]
    assert torch.equal(emb(ids), emb(ids.contiguous()))


def test_padding_has_no_vector_and_no_gradient(emb: ResEmbedding) -> None:
    with torch.no_grad():  # padding's rows of the tables are never read, whatever they hold
        emb.central[PADDING] = emb.residual[PADDING] = float("nan")
    out = emb(torch.tensor([PADDING, 1, PADDING, 2]))
    assert out[[0, 2]].tolist() == [[0.0] * D] * 2
    out.backward(torch.tensor([float("nan"), 1, float("inf"), 1])[:, None].expand(4, D))
    for gradient in (emb.central.grad, emb.residual.grad):
        assert gradient.isfinite().all() and not gradient[PADDING].any()


# --- links, against DESIGN's formulas in dense float64 ---------------------------------------------


def self_weights(z: np.ndarray) -> np.ndarray:
    """The row's largest weight, 1 where it has no neighbours, none for padding."""
    s = np.where(z.any(1), z.max(1), 1.0)
    s[PADDING] = 0
    return s


def average_link(z: np.ndarray) -> np.ndarray:
    z = z + np.diag(self_weights(z))
    sums = z.sum(1, keepdims=True)
    return np.divide(z, sums, out=np.zeros_like(z), where=sums > 0)


def gcn_link(z: np.ndarray) -> np.ndarray:
    z = z + z.T  # directed graphs are symmetrised first
    s = self_weights(z)
    d = s + z.sum(1)
    d[PADDING] = 1
    return (z + np.diag(s)) / np.sqrt(np.outer(d, d))


LINKS = {"average": average_link, "gcn": gcn_link, "given": lambda z: z, "attention": average_link}


@pytest.mark.parametrize("link", LINKS)
def test_link_formula(link: str) -> None:
    graph = make_graph()
    emb = ResEmbedding(graph, D, link, PADDING, dtype=torch.float64)
    c, r = emb.central.detach().numpy(), emb.residual.detach().numpy()
    expected = LINKS[link](to_dense(graph)) @ c + r
    expected[PADDING] = 0
    # Link weights are float32.
    np.testing.assert_allclose(table(emb).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert emb.link == emb.graph.link == link


def test_given_takes_weights_untouched() -> None:
    graph = make_graph()
    assert ResEmbedding(graph, D, "given").graph.num_edges == graph.num_edges
    np.testing.assert_array_equal(ResEmbedding(graph, D, "given").graph.weights, graph.weights)


# --- initial values --------------------------------------------------------------------------------


def test_init_statistics() -> None:
    graph = make_graph(600)
    emb = ResEmbedding(graph, 50, residual_scale=0.2)
    assert emb.central.std().item() == pytest.approx(1, rel=0.03)
    assert emb.residual.std().item() == pytest.approx(0.2, rel=0.03)
    assert emb.central.mean().item() == pytest.approx(0, abs=0.03)
    emb = ResEmbedding(graph, 50, residual_scale=0.5, init_std=0.01)
    assert emb.central.std().item() == pytest.approx(0.01, rel=0.03)
    assert emb.residual.std().item() == pytest.approx(0.005, rel=0.03)
    assert not ResEmbedding(graph, 50, residual_scale=0).residual.any()


@pytest.mark.parametrize("link", LINKS)
def test_match_std_gives_the_spread_of_a_plain_embedding(link: str) -> None:
    emb = ResEmbedding(make_graph(600), 60, link, init_std=0.3, match_std=True)
    assert table(emb).std().item() == pytest.approx(0.3, rel=0.04)
    ratio = (emb.residual.std() / emb.central.std()).item()
    assert ratio == pytest.approx(0.1, rel=0.04)


def test_reset_parameters_is_seeded(emb: ResEmbedding) -> None:
    torch.manual_seed(3)
    emb.reset_parameters()
    first = emb.central.detach().clone()
    torch.manual_seed(3)
    emb.reset_parameters()
    assert torch.equal(first, emb.central) and not emb.central[PADDING].any()


# --- bag -------------------------------------------------------------------------------------------


def embedding_bag(emb: ResEmbedding, mode: str, last: bool = False) -> nn.EmbeddingBag:
    return nn.EmbeddingBag.from_pretrained(table(emb), mode=mode, padding_idx=emb.padding_idx, include_last_offset=last)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_bag_as_nn_embedding_bag(emb: ResEmbedding, mode: str, last: bool, dtype: torch.dtype) -> None:
    ids = torch.tensor([1, 2, 0, 0, 0, 5, 5, 8, 3], dtype=dtype)
    offsets = torch.tensor([0, 0, 3, 5, 9, 9][: 6 if last else 5], dtype=dtype)  # empty, all padding
    found = emb.bag(ids, offsets, mode=mode, include_last_offset=last)
    torch.testing.assert_close(found, embedding_bag(emb, mode, last)(ids, offsets))


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bag_of_rows(emb: ResEmbedding, mode: str) -> None:
    ids = torch.randint(0, H, (5, 4))
    torch.testing.assert_close(emb.bag(ids, mode=mode), embedding_bag(emb, mode)(ids))
    assert emb.bag(ids[:0], mode=mode).shape == (0, D)
    assert not emb.bag(ids[:, :0], mode=mode).any()


def test_bag_weights_and_their_gradient(emb: ResEmbedding) -> None:
    ids, offsets = torch.tensor([1, 0, 2, 5, 5]), torch.tensor([0, 3, 3])
    ours = torch.tensor([0.5, float("inf"), -2.0, 3.0, 1.0], requires_grad=True)
    theirs = torch.tensor([0.5, 9.0, -2.0, 3.0, 1.0], requires_grad=True)
    out = emb.bag(ids, offsets, mode="sum", per_sample_weights=ours)
    expected = embedding_bag(emb, "sum")(ids, offsets, theirs)
    torch.testing.assert_close(out, expected)  # the weight at padding counts nothing, even inf
    upstream = torch.randn_like(out)
    out.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert ours.grad[1] == 0


def test_weighted_mean_divides_by_the_sum_of_weights(emb: ResEmbedding) -> None:
    ids, offsets = torch.tensor([1, 0, 2, 5, 0]), torch.tensor([0, 3, 4, 5])
    weights = torch.tensor([1.0, 50.0, 3.0, 2.0, 7.0])
    rows = table(emb)
    found = emb.bag(ids, offsets, mode="mean", per_sample_weights=weights)
    expected = torch.stack([(rows[1] + 3 * rows[2]) / 4, rows[5], rows[0], rows[0]])
    torch.testing.assert_close(found, expected)


# --- the whole table -------------------------------------------------------------------------------


def test_materialize_is_the_lookup_of_every_id(emb: ResEmbedding) -> None:
    whole = table(emb)
    assert torch.equal(whole, emb(torch.arange(H))) and not whole.requires_grad
    upstream = torch.randn(H, D)
    found = torch.autograd.grad(emb.materialize(), [*emb.parameters()], upstream)
    expected = torch.autograd.grad(emb(torch.arange(H)), [*emb.parameters()], upstream)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_materialize_in_blocks(emb: ResEmbedding, monkeypatch: pytest.MonkeyPatch) -> None:
    from resemb_ext.nn import whole_table

    whole = table(emb)
    monkeypatch.setattr(whole_table, "_BLOCK_ROWS", 4)
    assert torch.equal(table(emb), whole)
    for parameter in emb.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(emb.materialize(), whole)


def test_to_embedding(emb: ResEmbedding) -> None:
    plain = emb.to_embedding()
    assert type(plain) is nn.Embedding and not plain.weight.requires_grad
    assert (plain.padding_idx, plain.sparse) == (PADDING, False)
    ids = torch.randint(0, H, (3, 4))
    torch.testing.assert_close(plain(ids), emb(ids))
    assert emb.to_embedding(freeze=False).weight.requires_grad
    with torch.no_grad():
        plain.weight.zero_()
    assert emb(ids).any()  # no memory is shared


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_from_embedding(dtype: torch.dtype) -> None:
    graph, plain = make_graph(), nn.Embedding(H, D, padding_idx=PADDING, sparse=True, dtype=dtype)
    exact = ResEmbedding.from_embedding(plain, graph)
    assert (exact.padding_idx, exact.sparse, exact.central.dtype) == (PADDING, True, dtype)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(table(exact), plain.weight.detach(), rtol=0, atol=tolerance)
    smoothed = ResEmbedding.from_embedding(plain, graph, exact=False, link="gcn", sparse=False)
    assert not smoothed.residual.any() and not smoothed.sparse
    expected = LINKS["gcn"](to_dense(graph)) @ plain.weight.detach().double().numpy()
    torch.testing.assert_close(
        table(smoothed).double(), torch.from_numpy(expected), rtol=0.01, atol=10 * tolerance + 1e-6
    )
    assert plain.weight.grad is None and plain.weight.requires_grad


def test_from_embedding_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="graph: 9 items; expected 8, the embedding's rows"):
        ResEmbedding.from_embedding(nn.Embedding(H - 1, D), make_graph())
    with pytest.raises(ValueError, match="max_norm"):
        ResEmbedding.from_embedding(nn.Embedding(H, D, max_norm=1.0), make_graph())
    with pytest.raises(TypeError, match=r"from_embedding\(nn.Embedding.from_pretrained"):
        ResEmbedding.from_pretrained(torch.randn(H, D))


# --- bad arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"graph": torch.eye(3)}, TypeError, "graph: found Tensor; expected InterestGraph"),
        ({"graph": 9}, TypeError, "graph: found int; expected InterestGraph"),
        ({"link": "mean"}, ValueError, "link is 'mean', expected one of"),
        ({"max_norm": 1.0}, ValueError, "max_norm: not supported"),
        ({"scale_grad_by_freq": True}, ValueError, "scale_grad_by_freq: not supported"),
        ({"embedding_dim": 0}, ValueError, "embedding_dim: found 0; expected at least 1"),
        ({"padding_idx": H}, ValueError, r"padding_idx: found 9; expected one in \[-9, 9\)"),
        ({"padding_idx": 3}, ValueError, "points at padding_idx = 3"),
        ({"residual_scale": -1.0}, ValueError, "residual_scale: found -1"),
        ({"init_std": float("nan")}, ValueError, "init_std: found nan"),
    ],
    ids=str,
)
def test_constructor_errors(options: dict, error: type[Exception], message: str) -> None:
    arguments = {"graph": make_graph(), "embedding_dim": D, **options}
    with pytest.raises(error, match=message):
        ResEmbedding(**arguments)


@pytest.mark.parametrize("link", ["average", "attention"])
def test_from_embedding_draws_no_random_numbers(link: str) -> None:
    graph = InterestGraph.from_csr([0, 1, 2], [1, 0], [1.0, 1.0])
    plain = torch.nn.Embedding(2, 3)
    before = torch.get_rng_state()
    emb = ResEmbedding.from_embedding(plain, graph, link=link)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(emb.materialize(), plain.weight)
    emb.reset_parameters()  # and it goes on drawing where it should
    assert not torch.equal(torch.get_rng_state(), before)
    assert ResEmbedding(graph, 3).central.abs().sum() > 0
