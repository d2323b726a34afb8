"""ResEmbedding(link="attention"): the module, its state, training, compile, export, steps in backward."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import resemb_ext as rx
from resemb_ext import InterestGraph, ResEmbedding, reference

H, D = 30, 8


def make_graph(seed: int = 0) -> InterestGraph:
    """Three others for every item; nobody points at item 0."""
    rng = np.random.default_rng(seed)
    neighbors = np.concatenate([rng.choice(np.arange(1, H), 3, replace=False) for _ in range(1, H)])
    rows = np.repeat(np.arange(1, H), 3)
    own = neighbors == rows
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[~own], minlength=H))])
    return InterestGraph.from_csr(indptr, neighbors[~own], rng.random((~own).sum()) * 4 + 0.5)


def make(learned: bool = True, **options) -> ResEmbedding:
    options = {"padding_idx": 0, "link": "attention", **options}
    emb = ResEmbedding(make_graph(), D, **options)
    if learned:
        with torch.no_grad():
            for p in emb.attention.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).to(p) * 0.5)
    return emb


def table(emb: ResEmbedding) -> torch.Tensor:
    with torch.no_grad():
        return emb.materialize()


@pytest.mark.parametrize("heads", [1, 4])
def test_formula(heads: int) -> None:
    emb = make(heads=heads, dtype=torch.float64)
    graph, link = emb.graph, emb.attention
    assert graph.link == "attention" and (graph.weights > 0).all()
    expected = reference.attention_embedding(
        torch.arange(H),
        emb.central,
        emb.residual,
        *map(torch.from_numpy, (graph.indptr.copy(), graph.neighbors.copy(), np.log(graph.weights.astype(np.float64)))),
        link.a_src,
        link.a_dst,
        link.b,
        padding_idx=0,
    )
    torch.testing.assert_close(table(emb), expected.detach(), rtol=1e-6, atol=1e-6)
    ids, offsets = torch.randint(0, H, (20,)), torch.tensor([0, 7, 7])
    plain = nn.EmbeddingBag.from_pretrained(expected.detach(), mode="mean", padding_idx=0)
    torch.testing.assert_close(emb(ids), expected[ids], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(emb.bag(ids, offsets), plain(ids, offsets), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(emb.to_embedding()(ids), emb(ids))
    assert torch.equal(emb.weight, table(emb)) and not table(emb)[0].any()


@pytest.mark.parametrize("heads", [1, 2])
def test_starts_as_the_average_link(heads: int) -> None:
    emb = make(learned=False, heads=heads, match_std=True)
    average = ResEmbedding(make_graph(), D, padding_idx=0, match_std=True)
    with torch.no_grad():
        average.central.copy_(emb.central)
        average.residual.copy_(emb.residual)
    torch.testing.assert_close(table(emb), table(average))
    with torch.no_grad():
        emb.attention.a_src.fill_(3)
    emb.reset_parameters()
    assert not emb.attention.a_src.any()


def test_parameters_and_groups() -> None:
    emb = make(heads=2)
    names = [n for n, _ in emb.named_parameters()]
    assert names == ["central", "residual", "attention.a_src", "attention.a_dst", "attention.b"]
    # DDP takes what an nn.Embedding with sparse=True owns itself for sparse gradients.
    assert [n for n, _ in emb.named_parameters(recurse=False)] == ["central", "residual"]
    groups = emb.parameter_groups(attention={"lr": 0.5}, lr=0.1)
    assert [(g["name"], len(g["params"]), g["lr"]) for g in groups] == [
        ("central", 1, 0.1),
        ("residual", 1, 0.1),
        ("attention", 3, 0.5),
    ]
    with pytest.raises(ValueError, match="attention: options of a group that link='average'"):
        ResEmbedding(make_graph(), D).parameter_groups(attention={})
    assert "heads=2" in repr(emb)


def test_state() -> None:
    emb, other = make(heads=2), make(learned=False, heads=2)
    state = emb.state_dict()
    assert list(state) == ["central", "residual", "_extra_state", "attention.a_src", "attention.a_dst", "attention.b"]
    other.load_state_dict(state)
    assert torch.equal(table(emb), table(other))
    for copied in (copy.deepcopy(emb), pickle.loads(pickle.dumps(emb))):
        assert torch.equal(table(emb), table(copied))
    with pytest.raises(RuntimeError, match=r"size mismatch for attention\.b"):
        make(heads=4).load_state_dict(state)
    with pytest.raises(ValueError, match="was saved over the graph"):
        ResEmbedding(make_graph(), D, padding_idx=0).load_state_dict(state)
    saved = make(save_graph=True).state_dict()
    graph = ResEmbedding.graph_from_state(saved)
    again = ResEmbedding(graph, D, "attention", 0)
    again.load_state_dict(saved)
    assert np.array_equal(again.graph.weights, make().graph.weights)


def test_dtypes_and_devices() -> None:
    emb = make()
    before = table(emb)
    half = emb.half()
    assert half.central.dtype == torch.float16
    assert {p.dtype for p in half.attention.parameters()} == {torch.float32}
    torch.testing.assert_close(table(half).float(), before, rtol=0.02, atol=0.02)
    half(torch.arange(H)).sum().backward()
    assert half.central.grad.dtype == torch.float16
    assert half.attention.a_src.grad.dtype == torch.float32
    assert {p.dtype for p in make().double().parameters()} == {torch.float64}
    assert make(dtype=torch.bfloat16).attention.b.dtype == torch.float32
    meta = make(learned=False, device="meta")
    meta.to_empty(device="cpu").load_state_dict((source := make()).state_dict())
    assert torch.equal(table(meta), table(source))


def test_materialize_gives_gradients_to_all() -> None:
    emb = make(heads=2)
    upstream = torch.randn(H, D)
    found = torch.autograd.grad(emb.materialize(), [*emb.parameters()], upstream)
    expected = torch.autograd.grad(emb(torch.arange(H)), [*emb.parameters()], upstream)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_edge_dropout_in_training_alone() -> None:
    emb = make(edge_dropout=0.5)
    ids = torch.arange(H)
    torch.manual_seed(0)
    first = emb(ids)
    assert not torch.equal(first, emb(ids))
    torch.manual_seed(0)
    assert torch.equal(first, emb(ids))
    whole = make()
    whole.load_state_dict(emb.state_dict())
    assert torch.equal(table(emb), table(whole))
    emb.eval()
    assert torch.equal(emb(ids), whole(ids))
    assert torch.equal(emb.bag(ids[None]), whole.bag(ids[None]))


@pytest.mark.parametrize("sparse", [False, True])
def test_training_learns_which_neighbours_matter(sparse: bool) -> None:
    """Items follow the one neighbour of a marked kind; only a learned link can tell it."""
    rng = np.random.default_rng(0)
    kind = torch.zeros(H, dtype=torch.bool)
    kind[1:11] = True
    marked, others = rng.integers(1, 11, H), rng.integers(11, H, H)
    neighbors = np.stack([marked, others], 1).reshape(-1)
    graph = InterestGraph.from_csr(np.arange(H + 1) * 2, neighbors, np.ones(2 * H))
    losses = {}
    for link in ("average", "attention"):
        torch.manual_seed(0)
        emb = ResEmbedding(graph, D, link, residual_scale=0, sparse=sparse)
        with torch.no_grad():
            emb.central[:, 0] = kind.float() * 2
        target = emb.central.detach()[torch.from_numpy(marked)]
        emb.central.requires_grad_(False)
        emb.residual.requires_grad_(False)
        parameters = [p for p in emb.parameters() if p.requires_grad]
        if not parameters:
            losses[link] = (emb(torch.arange(H)) - target).pow(2).mean().item()
            continue
        optimizer = torch.optim.Adam(parameters, lr=0.1)
        for _ in range(150):
            optimizer.zero_grad()
            loss = (emb(torch.arange(H)) - target).pow(2).mean()
            loss.backward()
            optimizer.step()
        losses[link] = loss.item()
    assert losses["attention"] < 0.1 * losses["average"], losses


# --- compile, export -------------------------------------------------------------------------------


def net(emb: ResEmbedding, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return (emb(ids) * 2).sum(0) + emb.bag(ids, offsets, mode="mean").sum(0)


def pool(emb: ResEmbedding, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return emb.bag(ids, offsets, mode="mean").sum(0)


def test_compiled_inference() -> None:
    emb = make(heads=2, edge_dropout=0.3).eval()
    ids, offsets = torch.randint(0, H, (30,)), torch.tensor([0, 4, 4, 20])
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(emb, ids, offsets), net(emb, ids, offsets))


@pytest.mark.full
@pytest.mark.parametrize(
    ("backend", "function", "sparse"), [("aot_eager", net, False), ("aot_eager", pool, True), ("inductor", pool, True)]
)
def test_compiled_training(backend: str, function, sparse: bool) -> None:
    eager, other = make(sparse=sparse), make(sparse=sparse)
    other.load_state_dict(eager.state_dict())
    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=True)
    steps = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (eager, other)]
    for positions in (30, 17):
        ids, offsets = torch.randint(0, H, (positions,)), torch.tensor([0, 4, 4, 11])
        for emb, run, step in ((eager, function, steps[0]), (other, compiled, steps[1])):
            step.zero_grad()
            run(emb, ids, offsets).pow(2).sum().backward()
            assert emb.central.grad.is_sparse == sparse
            step.step()
    for a, b in zip(eager.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_compiled_dropout_draws_anew() -> None:
    emb = make(edge_dropout=0.5)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    ids, offsets = torch.arange(H), torch.tensor([0, 10])
    first = compiled(emb, ids, offsets)
    assert not torch.equal(first, compiled(emb, ids, offsets))
    first.sum().backward()
    assert emb.attention.a_dst.grad.any()


def test_export_of_inference() -> None:
    emb = make(edge_dropout=0.3).eval()
    positions = torch.export.Dim("positions", min=2)
    program = torch.export.export(emb, (torch.arange(5),), dynamic_shapes=({0: positions},), strict=False)
    ids = torch.randint(0, H, (23,))
    torch.testing.assert_close(program.module()(ids), emb(ids))
    folded = torch.export.export(emb.to_embedding(), (torch.arange(5),))
    assert "resemb_ext" not in str(folded.graph)


# --- steps in backward -----------------------------------------------------------------------------


@pytest.mark.parametrize("lookups", [1, 2])
def test_steps_in_backward_are_those_behind_it(lookups: int) -> None:
    pair = [make(sparse=True, heads=2) for _ in range(2)]
    pair[1].load_state_dict(pair[0].state_dict())
    optimizers = [rx.optim.Adam(emb.parameter_groups(), lr=0.05) for emb in pair]
    optimizers[1].step_in_backward(pair[1])
    for turn in range(3):
        ids = torch.randint(0, H, (20,), generator=torch.Generator().manual_seed(turn))
        for emb, optimizer in zip(pair, optimizers, strict=True):
            optimizer.zero_grad()
            out = emb(ids)
            if lookups == 2:
                out = out + emb.bag(ids[:, None], mode="sum")
            out.pow(2).sum().backward()
            if emb is pair[1]:
                assert emb.central.grad is None and emb.attention.a_src.grad is not None
            optimizer.step()
    for a, b in zip(pair[0].parameters(), pair[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_steps_in_backward_refuse_a_second_backward() -> None:
    emb = make(sparse=True)
    rx.optim.SGD(emb.parameters(), lr=0.1).step_in_backward(emb)
    out = emb.bag(torch.arange(H)[None])
    out.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second backward of one graph"):
        out.sum().backward()


# --- bad arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "heads: found 3; expected a divisor of embedding_dim, 8"),
        ({"heads": 0}, "heads: found 0"),
        ({"edge_dropout": 1.0}, r"edge_dropout: found 1.0; expected one in \[0, 1\)"),
        ({"link": "average", "heads": 2}, "heads, edge_dropout: found 2 and 0.0 with link='average'"),
        ({"link": "gcn", "edge_dropout": 0.1}, "with link='gcn'; they are of link=\"attention\""),
    ],
)
def test_constructor_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(learned=False, **options)


def test_weights_of_zero_are_refused() -> None:
    graph = InterestGraph.from_csr([0, 2, 3], [0, 1, 0], [1.0, 0.0, 2.0])
    with pytest.raises(ValueError, match=r"weights: row 0 holds 0\.0 for item 1; .* above 0"):
        ResEmbedding(graph, D, "attention")
