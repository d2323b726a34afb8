"""ResEmbedding.weight, read: the whole table, computed at its first use."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resemb_ext import InterestGraph, ResEmbedding

H, D = 9, 6
PADDING = 0


def make_graph() -> InterestGraph:
    items = np.arange(1, H)
    return InterestGraph.from_csr(np.concatenate([[0, 0], items]), np.roll(items, 1), np.full(H - 1, 2.0))


def table(emb: ResEmbedding) -> torch.Tensor:
    with torch.no_grad():
        return emb.materialize()


@pytest.fixture
def emb() -> ResEmbedding:
    return ResEmbedding(make_graph(), D, padding_idx=PADDING)


@pytest.mark.parametrize("compiled", [False, True])
def test_weight_ties_to_an_output_layer(emb: ResEmbedding, compiled: bool) -> None:
    def scores(hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ emb.weight.T + F.linear(hidden, emb.weight)

    hidden = torch.randn(4, D)
    run = torch.compile(scores, fullgraph=True, backend="aot_eager") if compiled else scores
    out = run(hidden)
    assert type(out) is torch.Tensor
    torch.testing.assert_close(out, 2 * hidden @ table(emb).T)
    out.sum().backward()
    found = emb.central.grad.clone()
    emb.zero_grad()
    (2 * hidden @ emb(torch.arange(H)).T).sum().backward()
    torch.testing.assert_close(found, emb.central.grad)


def test_weight_in_other_operations_is_plain(emb: ResEmbedding) -> None:
    for result in (emb.weight * 2, emb.weight.clone(), emb.weight.max(0).values, emb.weight.sum()):
        assert type(result) is torch.Tensor
    assert torch.equal(torch.zeros(H, D).add_(emb.weight.detach()), table(emb))
    np.testing.assert_array_equal(emb.weight.detach().numpy(), table(emb).numpy())


PROPERTIES = {
    "shape": lambda w: w.shape,
    "size": lambda w: (w.size(), w.size(0), w.size(-1)),
    "len": len,
    "dim": lambda w: (w.dim(), w.ndim, w.numel(), w.stride()),
    "dtype": lambda w: (w.dtype, w.is_floating_point(), torch.is_floating_point(w), w.element_size()),
    "device": lambda w: (w.device, w.is_cuda, w.layout, w.is_sparse),
    "requires_grad": lambda w: (w.requires_grad, w.is_leaf),
    "isinstance": lambda w: (isinstance(w, torch.Tensor), isinstance(w, nn.Parameter), torch.is_tensor(w)),
}


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_what_needs_no_table(name: str, frozen: bool, grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    emb = ResEmbedding(make_graph(), D, padding_idx=PADDING, dtype=torch.float64).requires_grad_(not frozen)
    with torch.set_grad_enabled(grad):
        expected = PROPERTIES[name](emb.materialize())

        def refuse() -> Any:
            raise AssertionError("computed")

        monkeypatch.setattr(emb, "materialize", refuse)
        assert PROPERTIES[name](emb.weight) == expected
    assert hasattr(emb, "weight")
    with pytest.raises(AssertionError, match="computed"):
        emb.weight.sum()


class Scores(torch.autograd.Function):
    """Reads its inputs beneath Python's functions of torch."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight)
        return hidden @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        hidden, weight = ctx.saved_tensors
        return grad @ weight, grad.t() @ hidden


@pytest.mark.parametrize("link", ["average", "attention"])
@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_through_the_weight(link: str, sparse: bool) -> None:
    emb = ResEmbedding(make_graph(), D, link, PADDING, sparse=sparse, dtype=torch.float64)
    hidden = torch.randn(4, D, dtype=torch.float64)

    def gradients(scores) -> list[torch.Tensor]:
        return [*torch.autograd.grad(scores(emb).sin().sum(), [*emb.parameters()])]

    expected = gradients(lambda e: hidden @ e.materialize().t())
    for scores in (
        lambda e: hidden @ e.weight.t(),
        lambda e: F.linear(hidden, e.weight),
        lambda e: Scores.apply(hidden, e.weight),
        lambda e: torch.utils.checkpoint.checkpoint(lambda: hidden @ e.weight.t(), use_reentrant=False),
        lambda e: torch.utils.checkpoint.checkpoint(lambda w: hidden @ w.t(), e.weight, use_reentrant=False),
    ):
        torch.testing.assert_close(gradients(scores), expected)


def test_the_gradient_of_the_weight_itself(emb: ResEmbedding) -> None:
    hidden, weight = torch.randn(4, D), emb.weight
    (found,) = torch.autograd.grad((hidden @ weight.t()).sum() + Scores.apply(hidden, weight).sum(), weight)
    torch.testing.assert_close(found, 2 * hidden.sum(0).expand(H, D))


def test_second_derivatives_through_the_weight() -> None:
    emb = ResEmbedding(make_graph(), D, padding_idx=PADDING, dtype=torch.float64)
    results = []
    for whole in (lambda: emb.weight, emb.materialize):
        (first,) = torch.autograd.grad(whole().pow(3).sum(), emb.central, create_graph=True)
        results.append(torch.autograd.grad(first.sum(), [emb.central, emb.residual]))
    torch.testing.assert_close(*results)


def test_gradients_are_those_of_where_it_was_asked_for(emb: ResEmbedding) -> None:
    with torch.no_grad():
        without = emb.weight
    assert not without.sum().requires_grad
    weight = emb.weight
    with torch.no_grad():
        assert not weight.sum().requires_grad
    with torch.inference_mode():
        weight.sum()
    weight.sum().backward()
    assert emb.residual.grad is not None


def test_the_weight_is_that_of_its_first_use(emb: ResEmbedding) -> None:
    weight = emb.weight
    with torch.no_grad():
        emb.residual[3] += 1
    assert torch.equal(weight, table(emb))
    with torch.no_grad():
        emb.residual[3] += 1
    assert not torch.equal(weight, table(emb)) and torch.equal(emb.weight, table(emb))


def test_copies_of_the_weight(emb: ResEmbedding) -> None:
    copied = copy.deepcopy({"a": emb.weight})["a"]
    assert type(copied) is torch.Tensor and torch.equal(copied, table(emb)) and not copied.requires_grad


def test_torch_compares_it(emb: ResEmbedding) -> None:
    whole, first = emb.weight, emb.weight.data[:]
    for one, other in ((whole, table(emb)), (whole.data, first), (first, whole.detach()), (whole, emb.weight)):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(whole.detach(), nn.Parameter(table(emb)).detach())
