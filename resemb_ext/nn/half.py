"""A plain table of 16-bit numbers whose lookups, and whose gradients' sums, are float32."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resemb_ext._registration import ops, sparse_rows


class HalfEmbedding(nn.Embedding):
    """``nn.Embedding`` with a bfloat16 or float16 table: float32 vectors, and gradients summed in float32.

    A row's gradients from all positions of the batch are summed in float32 and rounded once, as
    ``ResEmbedding(out_dtype=torch.float32)`` does. ``nn.Embedding`` rounds after each of them. Arguments as of
    ``nn.Embedding``, without ``max_norm`` and ``scale_grad_by_freq``.
    """

    out_dtype = torch.float32

    def forward(self, input: Tensor) -> Tensor:
        """Looks up ids (int64 or int32, any shape): float32 ``[*input.shape, D]``."""
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        if learns and not torch.compiler.is_compiling():
            return _Lookup.apply(input, self.weight, self.padding_idx, self.sparse)
        return F.embedding(input, self.weight, self.padding_idx, sparse=self.sparse).float()


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding_idx: int | None, sparse: bool) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.settings = (weight.shape, weight.dtype, padding_idx, sparse)
        return F.embedding(ids, weight).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        shape, dtype, padding_idx, sparse = ctx.settings
        rows, values = ids.reshape(-1).long(), grad.reshape(-1, shape[1])
        if padding_idx is not None:
            real = rows != padding_idx
            if not bool(real.all()):
                rows, values = rows[real], values[real]
        rows, sums = ops.coalesce_rows(rows, values.contiguous(), shape[0])
        sums = sums.to(dtype)
        if sparse:
            return None, sparse_rows(rows, sums, shape), None, None
        return None, sums.new_zeros(shape).index_copy_(0, rows, sums), None, None
