"""Bags in nn.EmbeddingBag's forms, weighted means, nested ids, and how many ids a call takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from resemb_ext import InterestGraph, ResEmbedding, functional, optim, reference
from resemb_ext.testing import make_problem
from resemb_ext.testing.attention import make_attention

H, D = 9, 6


def make(link: str = "average", **options: Any) -> ResEmbedding:
    items = np.arange(1, H)
    graph = InterestGraph.from_csr(np.concatenate([[0, 0], items]), np.roll(items, 1), np.full(H - 1, 2.0))
    return ResEmbedding(graph, D, link, 0, dtype=torch.float64, **options)


def gradients(emb: ResEmbedding, out: Tensor) -> list[Tensor]:
    upstream = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [g.to_dense() if g.is_sparse else g for g in torch.autograd.grad(out, [*emb.parameters()], upstream)]


# --- ids behind the last offset --------------------------------------------------------------------

IDS, BEHIND = torch.tensor([3, 3, 1, 0]), torch.tensor([5, 7, 0, 8])


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("link", ["average", "attention"])
def test_ids_behind_the_last_offset_are_ignored(mode: str, weighted: bool, link: str) -> None:
    emb = make(link)
    offsets = torch.tensor([0, 1, 1, 4])
    weights = torch.tensor([0.5, -2, 3, 1, 0, 0, 0, float("inf")], dtype=torch.float64)
    cut, whole = (
        {"mode": mode, "include_last_offset": True, **({"per_sample_weights": w} if weighted else {})}
        for w in (weights[:4], weights)
    )
    expected = emb.bag(IDS, offsets, **cut)
    found = emb.bag(torch.cat([IDS, BEHIND]), offsets, **whole)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(emb, found), gradients(emb, expected))


def test_ids_behind_the_last_offset_as_nn_embedding_bag() -> None:
    """As its sums of float32 without padding; its other paths count them in the last bag."""
    emb, ids, offsets = make().float(), torch.cat([IDS[:3], BEHIND]), torch.tensor([0, 1, 3])
    table = emb.materialize().detach()
    plain = nn.EmbeddingBag.from_pretrained(table, mode="sum", include_last_offset=True)
    torch.testing.assert_close(emb.bag(ids, offsets, "sum", include_last_offset=True), plain(ids, offsets))


def test_ids_behind_the_last_offset_touch_no_rows() -> None:
    emb = make(sparse=True)
    emb.bag(torch.cat([IDS, BEHIND]), torch.tensor([0, 4]), include_last_offset=True).sum().backward()
    assert emb.residual.grad._indices().tolist() == [[1, 3]]


def test_gradient_of_weights_behind_the_last_offset() -> None:
    weights = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    emb = make()
    out = emb.bag(torch.cat([IDS, BEHIND]), torch.tensor([0, 4]), "sum", weights, include_last_offset=True)
    (gradient,) = torch.autograd.grad(out.sum(), weights)
    torch.testing.assert_close(gradient[:4], emb.materialize().detach()[IDS].sum(1))
    assert not gradient[4:].any()


@pytest.mark.full
def test_ids_behind_the_last_offset_under_compile() -> None:
    emb = make()
    run = torch.compile(
        lambda i, o: emb.bag(i, o, include_last_offset=True), backend="aot_eager", fullgraph=True, dynamic=True
    )
    for offsets in (torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1, 8])):
        ids = torch.cat([IDS, BEHIND])
        torch.testing.assert_close(run(ids, offsets), emb.bag(ids, offsets, include_last_offset=True))


# --- weighted means --------------------------------------------------------------------------------


@pytest.mark.parametrize("divisor", ["weights", "count"])
def test_mean_divisor(divisor: str) -> None:
    problem = make_problem(
        num_items=6,
        dim=3,
        positions=12,
        neighbors=2,
        padding_idx=1,
        padding_share=0.3,
        bags=4,
        mode="mean",
        sample_weights=True,
        dtype=torch.float64,
        weights_dtype=torch.float64,
    )
    names = ("central", "residual", "weights", "per_sample_weights")

    def run(functions: Any, *leaves: Tensor) -> Tensor:
        return problem.with_tensors(**dict(zip(names, leaves, strict=True))).call(functions, mean_divisor=divisor)

    leaves = [getattr(problem, name).clone().requires_grad_() for name in names]
    torch.testing.assert_close(run(functional, *leaves), run(reference, *leaves))
    assert gradcheck(lambda *x: run(functional, *x), leaves)
    assert gradgradcheck(lambda *x: run(functional, *x), leaves)


@pytest.mark.parametrize("divisor", ["weights", "count"])
def test_mean_divisor_of_attention(divisor: str) -> None:
    problem = make_attention(bags=5, mode="mean", samples=True, padding_idx=2, dtype=torch.float64)
    results = []
    for functions in (functional, reference):
        own, leaves = problem.leaves()
        out = own.call(functions, mean_divisor=divisor)
        results.append((out, *torch.autograd.grad(out.sin().sum(), list(leaves.values()))))
    torch.testing.assert_close(*results)


def test_count_leaves_padding_and_empty_bags_out() -> None:
    emb = make()
    table = emb.to_embedding().weight
    weights = torch.tensor([2.0, 5.0, 4.0, 7.0], dtype=torch.float64)
    ids, offsets = torch.tensor([1, 0, 2, 0]), torch.tensor([0, 3, 3])
    found = emb.bag(ids, offsets, per_sample_weights=weights, mean_divisor="count")
    torch.testing.assert_close(found[0], (2 * table[1] + 4 * table[2]) / 2)
    assert not found[1:].any()
    plain = emb.bag(ids, offsets, mean_divisor="count")  # without weights: the usual mean
    torch.testing.assert_close(plain, emb.bag(ids, offsets))


@pytest.mark.full
def test_mean_divisor_under_compile() -> None:
    emb, weights = make(), torch.rand(4, dtype=torch.float64)

    def run(w: Tensor) -> Tensor:
        return emb.bag(IDS, torch.tensor([0, 2]), per_sample_weights=w, mean_divisor="count")

    torch.testing.assert_close(torch.compile(run, backend="aot_eager", fullgraph=True)(weights), run(weights))


# --- nested ids ------------------------------------------------------------------------------------

LISTS = ([1, 2], [3, 0, 4], [], [5])
FLAT = torch.tensor([1, 2, 3, 0, 4, 5])


def nested(lists: tuple = LISTS) -> Tensor:
    return torch.nested.nested_tensor([torch.tensor(x, dtype=torch.int64) for x in lists], layout=torch.jagged)


@pytest.mark.parametrize("link", ["average", "attention"])
def test_nested_ids_as_nn_embedding(link: str) -> None:
    emb, ids = make(link), nested()
    plain = emb.to_embedding()(ids)
    found = emb(ids)
    assert found.is_nested and found.shape == plain.shape
    assert not (found - plain).values().abs().max() > 1e-12  # over the same offsets, so that they go together
    torch.testing.assert_close(gradients(emb, found.values()), gradients(emb, emb(FLAT)))
    features = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged).long()
    assert emb(features).shape[2:] == (3, D)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_nested_ids_as_bags(mode: str, weighted: bool) -> None:
    emb, ids = make(), nested()
    offsets = torch.tensor([0, 2, 5, 5])
    weights = torch.rand(6, dtype=torch.float64) if weighted else None
    of_rows = None if weights is None else torch.nested.nested_tensor_from_jagged(weights, ids.offsets())
    found = emb.bag(ids, mode=mode, per_sample_weights=of_rows)
    torch.testing.assert_close(found, emb.bag(FLAT, offsets, mode, weights))


def test_rows_with_gaps() -> None:
    emb, starts = make(), torch.tensor([0, 1])
    ids = torch.nested.narrow(torch.arange(1, 9).reshape(2, 4), 1, starts, torch.tensor([2, 3]), layout=torch.jagged)
    assert [x.tolist() for x in emb(ids).unbind()] == [emb(x).tolist() for x in ids.unbind()]
    torch.testing.assert_close(emb.bag(ids.contiguous()), torch.stack([emb(x).mean(0) for x in ids.unbind()]))


def test_pending_decay_reaches_nested_ids() -> None:
    emb = make(sparse=True)
    optimizer = optim.AdamW(emb.parameters(), lr=0.5, decay="global", weight_decay=0.5)
    optimizer.attach(emb)
    for _ in range(2):
        optimizer.zero_grad()
        emb(torch.tensor([1])).sum().backward()
        optimizer.step()
    found = emb(nested()).values().detach()
    optimizer.catch_up()
    torch.testing.assert_close(found, emb(FLAT).detach())


# --- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("link", ["average", "attention"])
@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 3], "offsets: run from 1 to 4; expected 0 to 4"),
        ([2, 0], "offsets: run from 2 to 4; expected 0 to 4"),
        ([0, 5], "offsets: fall from 5 to 4 at 2"),
    ],
)
def test_offsets(weighted: bool, link: str, offsets: list[int], message: str) -> None:
    weights = torch.ones(4, dtype=torch.float64) if weighted else None
    for divisor in ("weights", "count"):
        with pytest.raises(ValueError, match=message):
            make(link).bag(IDS, torch.tensor(offsets), per_sample_weights=weights, mean_divisor=divisor)


def test_more_ids_than_a_call_takes() -> None:
    """Refused before they are copied: these take 8 bytes."""
    ids, message = torch.zeros(1, dtype=torch.int64), r"ids: \d+ positions; at most 2\^29 - 2 in one call, split them"
    for emb in (make(), make("attention")):
        for call in (
            lambda e: e(ids.expand(2**16, 2**16)),
            lambda e: e.bag(ids.expand(2**16, 2**16)),
            lambda e: e.bag(ids.expand(2**29), torch.tensor([0])),
        ):
            with pytest.raises(ValueError, match=message):
                call(emb)


CALLS = {
    "strided": (lambda e: e(torch.nested.nested_tensor([torch.tensor([1])])), "ids: a nested tensor of layout strided"),
    "transposed": (
        lambda e: e(torch.nested.nested_tensor([torch.ones(2, 3).long()], layout=torch.jagged).transpose(1, 2)),
        "ids: a nested tensor whose dimension 1 is not the ragged one",
    ),
    "offsets": (lambda e: e.bag(nested(), torch.tensor([0])), "offsets: given with nested ids"),
    "weights": (
        lambda e: e.bag(nested(), per_sample_weights=torch.rand(6)),
        "per_sample_weights: expected nested as ids",
    ),
    "divisor": (lambda e: e.bag(IDS[None], mean_divisor="sum"), "mean_divisor: found 'sum'; expected 'weights'"),
    "sum": (
        lambda e: e.bag(IDS[None], mode="sum", mean_divisor="count"),
        "mean_divisor: found 'count' with mode='sum'",
    ),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", CALLS)
def test_refusals(name: str) -> None:
    call, message = CALLS[name]
    with pytest.raises(ValueError, match=message):
        call(make())
