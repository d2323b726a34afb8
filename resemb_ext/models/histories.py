"""Histories as segments of positions: pooling, pairing with targets, and steps in time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .batch import TorchBatch
from .pooling import segment_ids, segment_sum


class Segments(Protocol):
    """``count`` segments over K positions, in order. Values are [K, ...], one row a position.

    Attributes:
        count: number of segments.
        mask: bool [K], which positions are real; None when all are.
    """

    count: int
    mask: Tensor | None

    def expand(self, values: Tensor) -> Tensor:
        """[count, ...] -> [K, ...]: each segment's row at all of its positions."""

    def sum(self, values: Tensor) -> Tensor:
        """[K, ...] -> [count, ...], over real positions; zero for an empty segment."""

    def softmax(self, score: Tensor) -> Tensor:
        """[K] -> [K]: softmax within each segment, zero at positions that are not real."""

    def steps(self, values: Tensor) -> list[Tensor]:
        """The rows of each moment t, [n_t, ...] each; row j is the same segment at every t.

        n_t may only fall with t: segments that end drop out at the end.
        """

    def from_steps(self, steps: list[Tensor], like: Tensor) -> Tensor:
        """The inverse of ``steps``; no step at all gives ``like``'s type and [0, width]."""

    def last(self, values: Tensor) -> Tensor:
        """[K, D] -> [count, D], the row of each segment's last position; zero for an empty one."""

    def followed(self) -> Tensor:
        """bool [K - 1]: positions p with p and p + 1 real and in one segment."""


class Jagged:
    """Segments of any length, all positions real.

    Args:
        bounds: int64 [count + 1], the first position of each segment, and K.
        total: K, where it is known.
    """

    mask: Tensor | None = None

    def __init__(self, bounds: Tensor, total: int | None = None) -> None:
        self.bounds, self.count = bounds, bounds.shape[0] - 1
        self._total = total

    @classmethod
    def of_lengths(cls, lengths: Tensor) -> Jagged:
        """Segments of these lengths, int64 [count]."""
        return cls(torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

    @cached_property
    def row(self) -> Tensor:
        """int64 [K], the segment of each position."""
        return segment_ids(self.starts, int(self.bounds[-1]) if self._total is None else self._total)

    @cached_property
    def lengths(self) -> Tensor:
        """int64 [count]."""
        return torch.diff(self.bounds)

    @property
    def starts(self) -> Tensor:
        """int64 [count], the first position of each segment."""
        return self.bounds[:-1]

    @cached_property
    def _time_order(self) -> tuple[Tensor, list[int]]:
        """Each position's place in an order by (moment, segments long to short), and all n_t."""
        lengths = self.lengths
        order = torch.argsort(lengths, descending=True, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(self.count, device=order.device)
        moment = torch.arange(self.row.numel(), device=self.row.device)
        moment = moment - self.starts.index_select(0, self.row)
        sizes = torch.bincount(moment)
        before = sizes.cumsum(0) - sizes
        place = before.index_select(0, moment) + rank.index_select(0, self.row)
        return place, sizes.tolist()

    def expand(self, values: Tensor) -> Tensor:
        return values.index_select(0, self.row)

    def sum(self, values: Tensor) -> Tensor:
        return segment_sum(values, self.row, self.count)

    def softmax(self, score: Tensor) -> Tensor:
        top = score.new_full((self.count,), float("-inf"))
        top = top.scatter_reduce(0, self.row, score.detach(), "amax")
        power = torch.exp(score - self.expand(top))
        return power / self.expand(self.sum(power))

    def steps(self, values: Tensor) -> list[Tensor]:
        place, sizes = self._time_order
        at = torch.empty_like(place)
        at[place] = torch.arange(place.numel(), device=place.device)
        return list(values.index_select(0, at).split(sizes)) if sizes else []

    def from_steps(self, steps: list[Tensor], like: Tensor) -> Tensor:
        if not steps:
            return like[:0]
        return torch.cat(steps).index_select(0, self._time_order[0])

    def last(self, values: Tensor) -> Tensor:
        some = (self.lengths > 0).nonzero().squeeze(1)
        end = (self.starts + self.lengths - 1).index_select(0, some)
        out = values.new_zeros((self.count, *values.shape[1:]))
        return out.index_copy(0, some, values.index_select(0, end))

    def followed(self) -> Tensor:
        return self.row[1:] == self.row[:-1]


class Padded:
    """Segments of L positions each, of which a mask says which are real.

    Args:
        mask: bool [count, L].
    """

    def __init__(self, mask: Tensor) -> None:
        self.count, self.length = mask.shape
        self.mask: Tensor | None = mask.reshape(-1)
        self._real = self.mask

    def _grid(self, values: Tensor) -> Tensor:
        return values.reshape(self.count, self.length, *values.shape[1:])

    def _masked(self, values: Tensor) -> Tensor:
        shape = (-1, *(1 for _ in values.shape[1:]))
        return values * self._real.reshape(shape).to(values.dtype)

    def expand(self, values: Tensor) -> Tensor:
        wide = values.unsqueeze(1).expand(self.count, self.length, *values.shape[1:])
        return wide.reshape(self.count * self.length, *values.shape[1:])

    def sum(self, values: Tensor) -> Tensor:
        return self._grid(self._masked(values)).sum(1)

    def softmax(self, score: Tensor) -> Tensor:
        if not self.length:
            return score
        lowest = torch.finfo(score.dtype).min
        top = self._grid(score.detach().masked_fill(~self._real, lowest)).amax(1)
        # What is not real may lie above the top of what is, and must not overflow.
        power = self._masked(torch.exp((score - self.expand(top)).clamp(max=0)))
        return power / self.expand(self.sum(power).clamp(min=torch.finfo(score.dtype).tiny))

    def steps(self, values: Tensor) -> list[Tensor]:
        return list(self._grid(values).unbind(1))

    def from_steps(self, steps: list[Tensor], like: Tensor) -> Tensor:
        if not steps:
            return like[:0]
        return torch.stack(steps, 1).reshape(self.count * self.length, *steps[0].shape[1:])

    def last(self, values: Tensor) -> Tensor:
        if not self.length:
            return values.new_zeros((self.count, *values.shape[1:]))
        # Recurrences carry their state over positions that are not real.
        return self._grid(values)[:, -1]

    def followed(self) -> Tensor:
        grid = self._grid(self._real)
        both = grid.clone()
        both[:, :-1] &= grid[:, 1:]
        both[:, -1:] = False
        return both.reshape(-1)[:-1]


@dataclass(frozen=True)
class Histories:
    """The histories of a batch, and the pairs of each sample with its history's positions.

    Attributes:
        segments: the N histories over the K positions kept.
        samples: the B samples over the Q pairs.
        first: int64 [B], where each sample's history starts among the K; None where sample b has history b.
    """

    segments: Segments
    samples: Segments
    _kept: Tensor | None = None
    first: Tensor | None = None
    _padded_pairs: Tensor | None = None

    @classmethod
    def of(cls, batch: TorchBatch, padding_idx: int | None) -> Histories:
        """Histories without their padding.

        Args:
            batch: N histories, B samples.
            padding_idx: id that is no event; None keeps every position.

        Raises:
            ValueError: padded histories, but no ``padding_idx``.
        """
        if batch.offsets is None:
            return cls._padded(batch, padding_idx)
        history = batch.history
        bounds, total = torch.cat([batch.offsets, batch.offsets.new_full((1,), history.numel())]), history.numel()
        kept = None
        if padding_idx is not None:
            real = history != padding_idx
            # all() is one small reduction; leaving out is seldom needed.
            if not bool(real.all()):
                kept = real.nonzero().squeeze(1)
                before = torch.cat([bounds.new_zeros(1), real.cumsum(0)])
                bounds, total = before.index_select(0, bounds), kept.numel()
        segments = Jagged(bounds, total)
        if batch.history_row is None:
            return cls(segments, segments, kept)
        samples = Jagged.of_lengths(segments.lengths.index_select(0, batch.history_row))
        return cls(segments, samples, kept, segments.starts.index_select(0, batch.history_row))

    @classmethod
    def _padded(cls, batch: TorchBatch, padding_idx: int | None) -> Histories:
        if padding_idx is None:
            raise ValueError(
                "padded histories need an item_embedding with a padding_idx, found None: give one, "
                "or jagged histories with offsets"
            )
        mask = batch.history != padding_idx
        segments = Padded(mask)
        if batch.history_row is None:
            return cls(segments, segments)
        first = batch.history_row * batch.history.shape[1]
        pairs = (first.unsqueeze(1) + torch.arange(batch.history.shape[1], device=mask.device)).reshape(-1)
        return cls(segments, Padded(mask.index_select(0, batch.history_row)), None, first, pairs)

    @property
    def shared(self) -> bool:
        """Whether samples may share a history."""
        return self.first is not None

    @cached_property
    def _jagged_pairs(self) -> Tensor:
        """int64 [Q], the position of each pair."""
        assert isinstance(self.samples, Jagged) and self.first is not None
        row = self.samples.row
        shift = self.first - self.samples.starts
        return torch.arange(row.numel(), device=row.device) + shift.index_select(0, row)

    def keep(self, values: Tensor) -> Tensor:
        """[P, ...] over all positions of ``history`` -> [K, ...] over those kept."""
        return values if self._kept is None else values.index_select(0, self._kept)

    def pair(self, values: Tensor) -> Tensor:
        """[K, ...] -> [Q, ...]."""
        if self.first is None:
            return values
        pairs = self._jagged_pairs if self._padded_pairs is None else self._padded_pairs
        return values.index_select(0, pairs)
