"""Tables drawn part by part, as one process draws them whole."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from resemb_ext._huge_pages import empty_table
from resemb_ext.nn import ResEmbeddingBase, graph_tensors

from .deal import Deal

_BLOCK_ROWS = 1 << 16
# Of numbers that torch draws together on the CPU; a draw that ends elsewhere goes on otherwise.
_TOGETHER = 16


def state_of_draws() -> str:
    """A digest of torch's generator, which says what it draws next."""
    return hashlib.sha256(torch.get_rng_state().numpy().data).hexdigest()[:12]


def drawn(module: Any, name: str, deal: Deal, device: torch.device, std: float | None = None) -> Tensor:
    """This rank's rows of a table on the meta device, drawn as ``reset_parameters`` draws all.

    Args:
        module: ResEmbedding, ResEmbeddingBag, nn.Embedding or nn.EmbeddingBag.
        name: of its table.
        std: of its numbers; None for that of ``reset_parameters``.
    """
    table = getattr(module, name)
    own = empty_table((deal.count, table.shape[1]), dtype=table.dtype, device=device)
    std = _std(module, name) if std is None else std
    ranks, rank = deal.ranks, deal.rank
    for start in range(0, deal.items, _BLOCK_ROWS):
        past = min(start + _BLOCK_ROWS, deal.items)
        if deal.items - past < _TOGETHER:  # too short a rest to be drawn alone
            past = deal.items
        block = torch.empty((past - start, table.shape[1]), dtype=table.dtype).normal_(std=std)
        first = start + (rank - start) % ranks
        own[first // ranks : deal.place(torch.tensor(past - rank + ranks - 1))] = block[first - start :: ranks]
        if past == deal.items:
            break
    place = deal.own_place(module.padding_idx)
    if place is not None:
        own[place] = 0
    return own


def _std(module: Any, name: str) -> float:
    if not isinstance(module, ResEmbeddingBase):
        return 1.0
    std = module.init_std
    if module.match_std:
        scale = graph_tensors.start_scale(module.graph, module.attention is not None, module.residual_scale)
        std = std / scale if scale > 0 else std
    return std * module.residual_scale if name == "residual" else std
