"""Clipping of dense and sparse gradients together."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resemb_ext import optim

H, D = 60, 16


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_is_that_of_dense_gradients(norm_type: float, max_norm: float) -> None:
    ids = torch.tensor([3, 3, 3, 8, 1])  # repeats: the rows must be summed before the norm
    linear = nn.Linear(D, 1)
    modules = [nn.Embedding(H, D, sparse=sparse) for sparse in (True, False)]
    modules[1].load_state_dict(modules[0].state_dict())
    norms, gradients = [], []
    for module, clip in zip(modules, (optim.clip_grad_norm_, nn.utils.clip_grad_norm_), strict=True):
        linear.zero_grad()
        linear(module(ids)).square().sum().backward()
        parameters = [*module.parameters(), *linear.parameters()]
        norms.append(clip(parameters, max_norm, norm_type))
        gradients.append([p.grad.to_dense().clone() for p in parameters])
    torch.testing.assert_close(norms[0], norms[1])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_buffers_that_autograd_shares_are_scaled_once() -> None:
    a, b = nn.Embedding(H, D, sparse=True), nn.Embedding(H, D, sparse=True)
    ids = torch.arange(10)
    upstream = torch.randn(10, D)
    kept = upstream.clone()
    (a(ids) + b(ids)).backward(upstream)
    total = optim.clip_grad_norm_([a.weight, b.weight], 1.0)
    assert torch.equal(upstream, kept)
    for module in (a, b):
        torch.testing.assert_close(module.weight.grad.to_dense()[:10], upstream / total)


def test_not_finite() -> None:
    module = nn.Embedding(H, D, sparse=True)
    (module(torch.tensor([1])) * torch.nan).sum().backward()
    with pytest.raises(RuntimeError, match="non-finite"):
        optim.clip_grad_norm_(module.parameters(), 1.0, error_if_nonfinite=True)


def test_nothing_to_clip() -> None:
    assert optim.clip_grad_norm_([nn.Parameter(torch.ones(2))], 1.0) == 0


def test_by_value_is_that_of_dense_gradients() -> None:
    """Dense ones are clipped in place; repeated rows are summed first; widths of other dimensions too."""
    ids = torch.tensor([3, 3, 3, 8, 1])
    modules = [nn.Sequential(nn.Embedding(H, D, sparse=sparse), nn.Linear(D, 1)) for sparse in (True, False)]
    modules[1].load_state_dict(modules[0].state_dict())
    gradients = []
    for module, clip in zip(modules, (optim.clip_grad_value_, nn.utils.clip_grad_value_), strict=True):
        module(ids).square().sum().backward()
        dense = module[1].weight.grad
        assert clip(module.parameters(), 0.05) is None
        assert module[1].weight.grad is dense
        gradients.append([p.grad.to_dense() for p in module.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    assert max(g.abs().max() for g in gradients[0]) == torch.tensor(0.05)


def test_by_value_leaves_shared_buffers_alone() -> None:
    a, b = nn.Embedding(H, D, sparse=True), nn.Embedding(H, D, sparse=True)
    ids, upstream = torch.arange(10), torch.randn(10, D)
    kept = upstream.clone()
    (a(ids) + b(ids)).backward(upstream)
    optim.clip_grad_value_(a.weight, 0.1)
    assert torch.equal(upstream, kept)
    assert torch.equal(b.weight.grad.to_dense()[:10], kept)
    assert torch.equal(a.weight.grad.to_dense()[:10], kept.clamp(-0.1, 0.1))


@pytest.mark.parametrize("shape", [(H,), (H, 2, 3)], ids=str)
def test_tables_of_other_dimensions(shape: tuple[int, ...]) -> None:
    table = nn.Parameter(torch.zeros(shape))
    table.grad = torch.sparse_coo_tensor([[1, 1]], torch.ones(2, *shape[1:]), shape, check_invariants=True)
    optim.clip_grad_value_([table], 1.5)
    expected = torch.zeros(shape)
    expected[1] = 1.5
    assert torch.equal(table.grad.to_dense(), expected)
    norm = optim.clip_grad_norm_([table], 1.0, foreach=False)
    torch.testing.assert_close(norm, expected.norm())
    torch.testing.assert_close(table.grad.to_dense(), expected / norm)
