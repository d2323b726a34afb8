"""Tables, gradients that are dense or of some rows, and steps on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

H, D = 12, 5


def rows(touched: list[int], seed: int, shape: tuple[int, ...] = (H, D), dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(len(touched), *shape[1:], generator=torch.Generator().manual_seed(seed)).to(dtype)
    return torch.sparse_coo_tensor([touched], values, shape, check_invariants=True)


def steps(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, gradients: list[Tensor]) -> Tensor:
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def start(shape: tuple[int, ...] = (H, D), dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))


def mixed(kinds: str, shape: tuple[int, ...] = (H, D), dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """A gradient for each letter: d is dense, s of some rows; the last row is touched by dense ones alone."""
    some = [rows([1, 4, 4, 7], seed, shape, dtype) for seed in range(len(kinds))]
    dense = [torch.randn(shape, generator=torch.Generator().manual_seed(50 + i)).to(dtype) for i in range(len(kinds))]
    return [dense[i] if kind == "d" else some[i] for i, kind in enumerate(kinds)]


def as_rows(gradient: Tensor) -> Tensor:
    if gradient.is_sparse:
        return gradient
    return torch.sparse_coo_tensor(torch.arange(len(gradient))[None], gradient, gradient.shape, check_invariants=True)
