"""Fake kernels of the operators of a served table, which run on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from resemb_ext import _loader as _loader  # registers the operators

read_rows = torch.ops.resemb_ext.read_rows.default
pool_rows = torch.ops.resemb_ext.pool_rows.default


def _dim(base: Tensor, bits_each: int) -> int:
    held = base.shape[1]
    return {4: 2 * (held - 4), 8: held - 8, 16: held // 2, 32: held // 4}[bits_each]


@torch.library.register_fake("resemb_ext::read_rows")
def _(ids, base, bits, before, overlay, bits_each, rows, oov, padding):
    return base.new_empty((*ids.shape, _dim(base, bits_each)), dtype=torch.float32)


@torch.library.register_fake("resemb_ext::pool_rows")
def _(ids, offsets, weights, ends, divisor, base, bits, before, overlay, bits_each, rows, oov, padding):
    bags = ids.shape[0] if offsets is None else offsets.shape[0] - ends
    return base.new_empty((bags, _dim(base, bits_each)), dtype=torch.float32)
