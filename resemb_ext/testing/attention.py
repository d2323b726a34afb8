"""Problems of the attention link, and their check against the reference in float64."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resemb_ext import functional, reference

from .checks import TOLERANCE
from .problems import zipf_ids

LEAVES = ("central", "residual", "a_src", "a_dst", "b", "samples")


@dataclass(frozen=True)
class AttentionProblem:
    """A lookup (offsets None) or a bag under the attention link."""

    ids: Tensor
    central: Tensor
    residual: Tensor
    indptr: Tensor
    neighbors: Tensor
    log_weights: Tensor
    a_src: Tensor
    a_dst: Tensor
    b: Tensor
    offsets: Tensor | None = None
    samples: Tensor | None = None
    mode: str = "sum"
    padding_idx: int | None = None
    dropout: float = 0.0

    def call(self, functions, **options) -> Tensor:
        tensors = (
            self.central,
            self.residual,
            self.indptr,
            self.neighbors,
            self.log_weights,
            self.a_src,
            self.a_dst,
            self.b,
        )
        options = {
            "padding_idx": self.padding_idx,
            "dropout": self.dropout,
            "seed": torch.tensor([2**40 + 17], device=self.ids.device) if self.dropout else None,
            **options,
        }
        if self.offsets is None:
            return functions.attention_embedding(self.ids, *tensors, **options)
        return functions.attention_embedding_bag(
            self.ids, self.offsets, *tensors, mode=self.mode, per_sample_weights=self.samples, **options
        )

    def to(self, device: str) -> AttentionProblem:
        """A copy on a device."""
        tensors: dict[str, Any] = {n: v.to(device) for n, v in vars(self).items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **tensors)

    def leaves(self, dtype: torch.dtype | None = None) -> tuple[AttentionProblem, dict[str, Tensor]]:
        """A copy over fresh leaves, in that dtype, and the leaves."""
        found = {
            n: t.detach().to(dtype or t.dtype, copy=True).requires_grad_()
            for n in LEAVES
            if (t := getattr(self, n)) is not None
        }
        return dataclasses.replace(self, **found), found


def make_attention(
    *,
    num_items: int = 40,
    dim: int = 6,
    heads: int = 1,
    positions: int = 60,
    neighbors: int = 6,
    exponent: float = 1.05,
    bags: int | None = None,
    mode: str = "sum",
    samples: bool = False,
    padding_idx: int | None = None,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float32,
    id_dtype: torch.dtype = torch.int64,
    neighbor_dtype: torch.dtype = torch.int32,
    device: str = "cpu",
    seed: int = 0,
) -> AttentionProblem:
    """Rows of 0 to 2 ``neighbors`` other items; some empty, some the item alone."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 2 * neighbors + 1, num_items)
    lengths[rng.random(num_items) < 0.2] = 0
    row = np.repeat(np.arange(num_items), lengths)
    drawn = zipf_ids(rng, num_items, row.size, exponent) if row.size else row
    alone = np.flatnonzero((lengths == 0) & (rng.random(num_items) < 0.5))
    own = np.concatenate([np.unique(row), alone]).astype(np.int64)
    key = np.unique(np.concatenate([row.astype(np.int64) * num_items + drawn, own * num_items + own]))
    row, column = key // num_items, key % num_items
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=num_items))])
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    offsets = weights = None
    if bags is not None:
        cuts = np.sort(rng.integers(0, positions + 1, max(bags - 1, 0)))
        offsets = torch.from_numpy(np.concatenate([[0], cuts])[:bags].astype(np.int64))
        weights = torch.from_numpy(rng.random(positions) + 0.1).to(dtype) if samples else None
    ids = zipf_ids(rng, num_items, positions, exponent)
    if padding_idx is not None:
        ids = np.where(rng.random(positions) < 0.2, padding_idx % num_items, ids)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape) * scale)

    problem = AttentionProblem(
        torch.from_numpy(ids).to(id_dtype),
        normal(num_items, dim).to(dtype),
        normal(num_items, dim, scale=0.1).to(dtype),
        torch.from_numpy(indptr.astype(np.int64)),
        torch.from_numpy(column).to(neighbor_dtype),
        torch.from_numpy(np.log(rng.random(column.size) * 4 + 0.1)).to(acc),
        normal(dim, scale=dim**-0.5).to(acc),
        normal(dim, scale=dim**-0.5).to(acc),
        normal(heads).to(acc),
        offsets,
        weights,
        mode,
        padding_idx,
        dropout,
    )
    return problem.to(device)


def solve_attention(problem: AttentionProblem, functions, upstream: Tensor, dtype=None, **options) -> dict[str, Tensor]:
    own, leaves = problem.leaves(dtype)
    out = own.call(functions, **options)
    gradients = torch.autograd.grad(out, list(leaves.values()), upstream.to(out.dtype))
    for name, g in zip(leaves, gradients, strict=True):
        if g.is_sparse:
            rows = g._indices()[0]
            assert name in ("central", "residual") and bool((rows[1:] > rows[:-1]).all())
    results = {"out": out.detach(), **dict(zip(leaves, gradients, strict=True))}
    return {n: t.to_dense() if t.is_sparse else t for n, t in results.items()}


def check_attention(problem: AttentionProblem, seed: int = 0, **options) -> None:
    """Output and gradients against the reference in float64.

    A gradient's terms may cancel (those of a row's scores sum to 0), so its error is measured by the
    largest upstream gradient, value and count of terms at work.
    """
    upstream = torch.randn(
        problem.call(reference).shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    kind = options.get("out_dtype") or problem.central.dtype
    upstream = upstream.to(kind).double().to(problem.ids.device)
    found = solve_attention(problem, functional, upstream, **options)
    expected = solve_attention(problem, reference, upstream, torch.float64)
    working = max((kind, problem.central.dtype), key=lambda t: TOLERANCE[t])
    dim = problem.central.shape[1]
    # Each unique row's gradient takes part in at most one score of every edge.
    heaviest = (
        solve_attention(problem, reference, upstream.abs(), torch.float64)["residual"].abs().max()
        if len(upstream)
        else 0
    )
    for name, value in found.items():
        own_kind = kind if name == "out" else getattr(problem, name).dtype
        assert value.dtype == own_kind
        size = expected[name].abs().max() if value.numel() else 0
        if name in ("a_src", "a_dst", "b", "central", "samples"):
            size = size + heaviest * math.sqrt(dim) * problem.central.double().abs().max()
        error = (value.double() - expected[name]).abs()
        tiny = torch.finfo(own_kind).smallest_normal
        assert bool((error <= TOLERANCE[working] * size + tiny).all()), (name, error.max(), size)
