"""Pooling of jagged lookups through whatever embedding module the model was given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batch import TorchBatch


def segment_ids(offsets: Tensor, total: int) -> Tensor:
    """The bag of each position: int64 [total], for bags that start at ``offsets``."""
    bags = torch.arange(offsets.numel(), device=offsets.device)
    end = offsets.new_full((1,), total)
    return torch.repeat_interleave(bags, torch.diff(offsets, append=end), output_size=total)


def segment_sum(values: Tensor, segments: Tensor, count: int) -> Tensor:
    """Sums rows of ``values`` [P, D] into [count, D] by segment; deterministic on the CPU."""
    out = values.new_zeros((count, *values.shape[1:]))
    return out.index_add(0, segments, values)


def widened(vectors: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Vectors of a bfloat16 or float16 table in ``dtype``; others, and with None all, as they are."""
    return vectors.to(dtype) if _widens(vectors, dtype) else vectors


def _widens(vectors: Tensor, dtype: torch.dtype | None) -> bool:
    return dtype not in (None, vectors.dtype) and vectors.dtype in (torch.bfloat16, torch.float16)


def embedding_bag(
    module: nn.Module, ids: Tensor, offsets: Tensor, mode: str = "mean", dtype: torch.dtype | None = None
) -> Tensor:
    """Looks up ``ids`` and pools them by bag, for any embedding module.

    A module with its own ``bag`` (``ResEmbedding``) pools inside its operator; ``nn.Embedding``
    goes through ``F.embedding_bag``; any other module, subclasses of ``nn.Embedding`` among them, is called on the
    ids and its output is summed. Padding counts neither in the sum nor in the mean; an empty bag is a zero row.

    Args:
        module: takes int64 ids to vectors of ``module.embedding_dim``.
        ids: int64 [P].
        offsets: int64 [N], the start of each bag.
        mode: "sum" or "mean".
        dtype: in which vectors of a bfloat16 or float16 table are pooled; None for their own.

    Returns:
        [N, D].

    Raises:
        ValueError: ``mode`` is neither.
    """
    if mode not in ("sum", "mean"):
        raise ValueError(f'mode must be "sum" or "mean", found {mode!r}')
    bag = getattr(module, "bag", None)
    if callable(bag):
        return widened(bag(ids, offsets, mode=mode), dtype)
    # Hooks, of optimizers say, expect to see the module called.
    hooked = bool(module._forward_pre_hooks or module._forward_hooks)
    own_forward = type(module).forward is not nn.Embedding.forward
    if isinstance(module, nn.Embedding) and not (own_forward or hooked or _widens(module.weight, dtype)):
        return F.embedding_bag(
            ids,
            module.weight,
            offsets,
            max_norm=module.max_norm,
            norm_type=module.norm_type,
            scale_grad_by_freq=module.scale_grad_by_freq,
            mode=mode,
            sparse=module.sparse,
            padding_idx=module.padding_idx,
        )
    segments = segment_ids(offsets, ids.numel())
    kept = torch.ones_like(ids, dtype=torch.bool)
    padding = getattr(module, "padding_idx", None)
    if padding is not None:
        kept = ids != padding
    vectors = widened(module(ids), dtype)
    pooled = segment_sum(vectors * kept.unsqueeze(1), segments, offsets.numel())
    if mode == "mean":
        count = segment_sum(kept.to(pooled.dtype), segments, offsets.numel())
        pooled = pooled / count.clamp_(min=1).unsqueeze(1)
    return pooled


def pool_histories(
    module: nn.Module,
    batch: TorchBatch,
    history: Tensor,
    target: Tensor,
    mode: str = "mean",
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Pooled histories and targets of one table, in one lookup.

    Args:
        module: as in ``embedding_bag``.
        batch: says where histories lie.
        history: ids as ``batch.history``, of items or categories.
        target: ids [B].
        mode: "sum" or "mean".
        dtype: as in ``embedding_bag``.

    Returns:
        pooled history and target vector of each sample, [B, D] each.

    Raises:
        ValueError: padded histories, but the module has no ``padding_idx``.
    """
    samples = target.shape[0]  # len() would fix the size of what is traced
    if batch.offsets is None:
        pooled, single = _pool_padded(module, history, target, mode, dtype)
    else:
        # A target is a bag of one beside the histories' bags.
        at = torch.arange(samples, device=target.device) + history.numel()
        pooled, single = embedding_bag(
            module, torch.cat([history, target]), torch.cat([batch.offsets, at]), mode, dtype
        ).split([batch.histories, samples])
    if batch.history_row is not None:
        pooled = pooled.index_select(0, batch.history_row)
    return pooled, single


def _pool_padded(
    module: nn.Module, history: Tensor, target: Tensor, mode: str, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    padding = getattr(module, "padding_idx", None)
    if padding is None:
        raise ValueError(
            "padded histories need embedding modules with a padding_idx, found "
            f"{type(module).__name__} without: give one, or jagged histories with offsets"
        )
    count, length = history.shape
    vectors = widened(module(torch.cat([history.reshape(-1), target])), dtype)
    flat, single = vectors.split([count * length, target.shape[0]])
    real = (history != padding).to(vectors.dtype).unsqueeze(-1)
    pooled = (flat.reshape(count, length, vectors.shape[1]) * real).sum(1)
    return pooled / real.sum(1).clamp(min=1) if mode == "mean" else pooled, single
