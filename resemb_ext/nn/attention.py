"""The learned parameters of ResEmbedding's attention link."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class AttentionLink(nn.Module):
    """a_src, a_dst and b of alpha_ij = softmax of LeakyReLU(a_src . C[i] + a_dst . C[j]) + b log z_ij.

    A module of its own inside ResEmbedding: DistributedDataParallel takes all parameters that an
    nn.Embedding with sparse=True owns itself for tables with sparse gradients, and these have dense ones.
    They start at a_src = a_dst = 0 and b = 1, where alpha are the weights of link="average". They are float32
    or float64, whatever the tables become.

    Args:
        dim: D, the size of a vector.
        heads: heads, a divisor of D; each works on its own D / heads columns.
        dropout: share of the edges dropped in training; see ``functional.attention_embedding``.
        dtype: of the tables. device: of the parameters.

    Attributes:
        a_src, a_dst: nn.Parameter [D].
        b: nn.Parameter [heads].

    Raises:
        ValueError: heads or dropout out of range.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 1,
        dropout: float = 0.0,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads: found {heads}; expected a divisor of embedding_dim, {dim}")
        if not 0 <= dropout < 1:
            raise ValueError(f"edge_dropout: found {dropout}; expected one in [0, 1)")
        self.heads = heads
        self.dropout = dropout
        dtype = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        self.a_src = nn.Parameter(torch.empty(dim, dtype=dtype, device=device))
        self.a_dst = nn.Parameter(torch.empty(dim, dtype=dtype, device=device))
        self.b = nn.Parameter(torch.empty(heads, dtype=dtype, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The start: alpha of link="average"."""
        nn.init.zeros_(self.a_src)
        nn.init.zeros_(self.a_dst)
        nn.init.ones_(self.b)

    def draw_seed(self, device: torch.device) -> Tensor | None:
        """The seed of a call's dropout, from torch's generator; None without dropout and in eval mode."""
        if not (self.training and self.dropout > 0):
            return None
        return torch.randint(2**63 - 1, (1,), device=device)

    def _apply(self, fn: Callable, recurse: bool = True) -> AttentionLink:
        def keep_precision(t: Tensor) -> Tensor:
            moved = fn(t)
            if t.is_meta or not moved.is_floating_point():
                return moved
            return t.to(moved.device, torch.promote_types(moved.dtype, torch.float32))

        return super()._apply(keep_precision, recurse)

    def extra_repr(self) -> str:
        return f"heads={self.heads}" + (f", dropout={self.dropout}" if self.dropout else "")
