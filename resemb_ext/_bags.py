"""Ids and bags of ids, in the forms that nn.Embedding and nn.EmbeddingBag take, as the operators take them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from resemb_ext._registration import accumulator, look_up

_MOST_IDS = 2**29 - 2  # csrc/ops/inputs.cpp


def normalize_padding_idx(padding_idx: int | None, num_items: int) -> int:
    """Padding as the operators take it: -1 for none, else in [0, num_items).

    Raises:
        ValueError: padding_idx outside [-num_items, num_items).
    """
    if padding_idx is None:
        return -1
    if not -num_items <= padding_idx < num_items:
        raise ValueError(f"padding_idx: found {padding_idx}; expected one in [{-num_items}, {num_items}) or None")
    return padding_idx % num_items


def check_ids(ids: Any) -> None:
    """Refuses what holds no ids, or too many of them, before anything is copied.

    Raises:
        TypeError: no tensor, or another dtype than int64 and int32.
        ValueError: more ids than an operator takes; a nested tensor of another layout than torch.jagged.
    """
    found = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
    if found not in (torch.int64, torch.int32):
        raise TypeError(f"ids: found {found}; expected a tensor of int64 or int32")
    if ids.is_nested:
        if ids.layout != torch.jagged:
            raise ValueError(
                "ids: a nested tensor of layout strided; expected torch.jagged, as torch.nested.nested_tensor(..., "
                "layout=torch.jagged) makes it"
            )
        return
    # A compiled or traced program does not know the number; the operator then checks it.
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing()) and ids.numel() > _MOST_IDS:
        raise ValueError(f"ids: {ids.numel()} positions; at most 2^29 - 2 in one call, split them")


def flat_ids(ids: Any) -> Tensor:
    """Ids [P]; raises what ``check_ids`` does."""
    check_ids(ids)
    if not ids.is_nested:
        return ids.reshape(-1)
    if not torch.compiler.is_compiling() and isinstance(ids.shape[1], int):
        raise ValueError("ids: a nested tensor whose dimension 1 is not the ragged one; transpose it back")
    check_ids(ids.values())
    return ids.values().reshape(-1)


def nest(vectors: Tensor, ids: Any) -> Tensor:
    """Vectors [P, D] of the flat ids, nested as ids are."""
    values = vectors.reshape(*ids.values().shape, vectors.shape[1])
    return torch.nested.nested_tensor_from_jagged(values, ids.offsets(), ids.lengths())


class Bags(NamedTuple):
    """Bags as an operator takes them."""

    ids: Tensor  # [P]
    bounds: Tensor  # int64, where each bag starts, and P
    sample_weights: Tensor | None  # [P], in the accumulator's dtype
    mean: bool
    rest: bool  # the last one holds ids that are in no bag


def check_pooling(mode: str, mean_divisor: str) -> None:
    """Refuses ways of pooling that are not defined, by ValueError."""
    if mode not in ("sum", "mean"):
        raise ValueError(f"mode: found {mode!r}; expected 'sum' or 'mean'")
    if mean_divisor not in ("weights", "count"):
        raise ValueError(f"mean_divisor: found {mean_divisor!r}; expected 'weights' (their sum) or 'count'")
    if mean_divisor == "count" and mode == "sum":
        raise ValueError("mean_divisor: found 'count' with mode='sum'; it is of mode='mean'")


def pooled_bags(
    ids: Tensor,
    offsets: Tensor | None,
    mode: str,
    per_sample_weights: Tensor | None,
    include_last_offset: bool,
    mean_divisor: str,
    padding: int,
    table: torch.dtype,
) -> Bags:
    """Bags from the arguments of ``functional.res_embedding_bag``; raises its TypeError and ValueError."""
    check_ids(ids)
    for name, given in (("offsets", offsets), ("per_sample_weights", per_sample_weights)):
        if not (given is None or isinstance(given, Tensor)):
            raise TypeError(f"{name}: found {type(given).__name__}; expected a tensor")
    check_pooling(mode, mean_divisor)
    if ids.is_nested:
        ids, offsets, per_sample_weights = _unnest(ids, offsets, per_sample_weights)
        include_last_offset = True
    if per_sample_weights is not None:
        if not per_sample_weights.is_floating_point():
            raise TypeError(f"per_sample_weights: found {per_sample_weights.dtype}; expected a floating dtype")
        if per_sample_weights.shape != ids.shape:
            raise ValueError(
                f"per_sample_weights: shape {tuple(per_sample_weights.shape)}; expected that of ids, {tuple(ids.shape)}"
            )
    flat, bounds = ids.reshape(-1), _bounds(ids, offsets, include_last_offset)
    samples = None if per_sample_weights is None else per_sample_weights.reshape(-1).to(accumulator(table))
    if include_last_offset:
        flat, bounds, samples = _end_with_a_bag_of_the_rest(flat, bounds, samples)
    if samples is None or mode == "sum":
        return Bags(flat, bounds, samples, mode == "mean", include_last_offset)
    return Bags(flat, bounds, _divide(samples, flat, bounds, padding, mean_divisor), False, include_last_offset)


def _unnest(
    ids: Any, offsets: Tensor | None, per_sample_weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids, offsets up to the end of the last bag, and weights, of nested ids."""
    if offsets is not None:
        raise ValueError("offsets: given with nested ids, whose rows are the bags; leave them out")
    if ids.dim() != 2 or ids.lengths() is not None:
        raise ValueError(
            "ids: a nested tensor of bags must be [B, ids] without gaps between its rows; contiguous() closes gaps"
        )
    if per_sample_weights is not None:
        if not per_sample_weights.is_nested or per_sample_weights.shape != ids.shape:
            raise ValueError("per_sample_weights: expected nested as ids, made over the same offsets")
        per_sample_weights = per_sample_weights.values()
    check_ids(ids.values())
    return ids.values(), ids.offsets(), per_sample_weights


def _bounds(ids: Tensor, offsets: Tensor | None, include_last_offset: bool) -> Tensor:
    """Starts of the bags, followed by the end of the last one, int64 [B + 1]."""
    if offsets is None:
        if ids.dim() != 2:
            raise ValueError(f"ids: {ids.dim()} dimensions without offsets; expected [B, N]")
        if include_last_offset:
            raise ValueError("include_last_offset: needs offsets")
        bags, width = ids.shape
        return torch.arange(bags + 1, device=ids.device) * width
    if ids.dim() != 1:
        raise ValueError(f"ids: {ids.dim()} dimensions with offsets; expected 1")
    if offsets.dim() != 1 or offsets.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"offsets: found {offsets.dtype} {tuple(offsets.shape)}; expected int64 or int32 [B]")
    bounds = offsets.to(torch.int64)
    if include_last_offset:
        if bounds.shape[0] == 0:
            raise ValueError("offsets: empty; with include_last_offset it ends with the end of the last bag")
        return bounds
    return torch.cat([bounds, bounds.new_full((1,), ids.shape[0])])


def _end_with_a_bag_of_the_rest(
    ids: Tensor, bounds: Tensor, samples: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids behind the last bag in one more, so that nobody has to read on the host where it ends.

    They become the first id, with weight 1: neither what they were nor a zero gradient of their rows matters then.
    """
    rest = torch.arange(ids.shape[0], device=ids.device) >= bounds[-1]
    ids = torch.where(rest, ids[:1], ids)
    if samples is not None:
        samples = samples.masked_fill(rest, 1)
    return ids, torch.cat([bounds, bounds.new_full((1,), ids.shape[0])]), samples


def _divide(samples: Tensor, ids: Tensor, bounds: Tensor, padding: int, divisor: str) -> Tensor:
    """Weights divided by their sum in the bag, or by the bag's number of ids, padding left out."""
    positions = torch.arange(ids.shape[0], device=ids.device)
    # Offsets that do not start at 0 are refused by the operator.
    bag = (torch.searchsorted(bounds, positions, right=True) - 1).clamp(min=0)
    is_padding = ids == padding
    counted = samples.masked_fill(is_padding, 0)
    terms = counted if divisor == "weights" else torch.ones_like(samples).masked_fill(is_padding, 0)
    # On CUDA index_add adds in the order of chance.
    sums = bag_sums(terms, bounds) if samples.is_cuda else terms.new_zeros(bounds.shape[0]).index_add(0, bag, terms)
    # Padding's quotient is never read, but 0/0 there would reach the gradient as NaN.
    return counted / sums[bag].masked_fill(is_padding, 1)


def bag_sums(samples: Tensor, bounds: Tensor) -> Tensor:
    """Sums by bag, and a 0 for positions behind the last: bags of one item whose embedding is 1."""
    ids, table = bounds.new_zeros(samples.shape), samples.new_zeros(1, 1)
    sums, _ = look_up(
        ids,
        table,
        table + 1,
        bounds.new_zeros(2),
        bounds.new_zeros(0, dtype=torch.int32),
        samples.new_zeros(0),
        bounds,
        samples,
        -1,
        False,
        None,
        False,
    )
    return torch.cat([sums.reshape(-1), samples.new_zeros(1)])
