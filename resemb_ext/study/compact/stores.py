"""Matrices of float32 numbers kept in fewer bytes, in plain PyTorch: what a moment of Adam may be stored as.

A store is read and written by rows. Reading gives what writing kept, so its error is that of one rounding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Store(ABC):
    """A matrix [H, D] of zeros at first."""

    @abstractmethod
    def read(self, rows: Tensor) -> Tensor:
        """Float32 [N, D] (or [N, 1]) at rows, int64 [N]."""

    @abstractmethod
    def write(self, rows: Tensor, values: Tensor) -> None:
        """Keeps float32 ``values`` of the same shape at distinct rows."""

    @property
    def bytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(t.numel() * t.element_size() for t in vars(self).values() if isinstance(t, Tensor) and t.dim())


class Exact(Store):
    """Float32."""

    def __init__(self, items: int, dim: int, generator: torch.Generator) -> None:
        del generator
        self.values = torch.zeros(items, dim)

    def read(self, rows: Tensor) -> Tensor:
        return self.values[rows]

    def write(self, rows: Tensor, values: Tensor) -> None:
        self.values[rows] = values


class OneByRow(Exact):
    """Float32, one number a row: [H, 1]."""

    def __init__(self, items: int, dim: int, generator: torch.Generator) -> None:
        super().__init__(items, 1, generator)


class Bfloat16(Store):
    """bfloat16, rounded at random to one of the two neighbours, by nearness."""

    def __init__(self, items: int, dim: int, generator: torch.Generator) -> None:
        self.generator = generator
        self.values = torch.zeros(items, dim, dtype=torch.bfloat16)

    def read(self, rows: Tensor) -> Tensor:
        return self.values[rows].float()

    def write(self, rows: Tensor, values: Tensor) -> None:
        self.values[rows] = round_at_random(values, self.generator)


class Int8ByRow(Store):
    """int8 times a float32 scale of the row, max |x| / 127, rounded at random."""

    def __init__(self, items: int, dim: int, generator: torch.Generator) -> None:
        self.generator = generator
        self.codes = torch.zeros(items, dim, dtype=torch.int8)
        self.scale = torch.zeros(items)

    def read(self, rows: Tensor) -> Tensor:
        return self.codes[rows] * self.scale[rows, None]

    def write(self, rows: Tensor, values: Tensor) -> None:
        scale = values.abs().amax(1) / 127
        units = values / torch.where(scale > 0, scale, 1.0)[:, None]
        chance = torch.rand(values.shape, generator=self.generator)
        self.codes[rows] = (units + chance).floor_().clamp_(-127, 127).to(torch.int8)
        self.scale[rows] = scale


class DynamicBlocks(Store):
    """One byte a number: an index into a code of 256 values, times the largest |x| of its block.

    Blocks run over the matrix row by row, so that a block may hold several rows. The code is the dynamic one of
    Dettmers et al. 2022 (arXiv 2110.02861, section 1.3 and appendix on dynamic tree quantization): see
    ``dynamic_code``.

    Args:
        items, dim: H and D; D divides ``block`` or the other way round.
        generator: of the random rounding.
        block: numbers that share a largest value.
        signed: whether values may be below 0.
        at_random: rounds at random, not to the nearest as in the paper.
    """

    def __init__(
        self, items: int, dim: int, generator: torch.Generator, *, signed: bool, block: int, at_random: bool
    ) -> None:
        if block % dim and dim % block:
            raise ValueError(f"block: {block} numbers and rows of {dim}; expected that one divides the other")
        self.generator, self.at_random, self.dim = generator, at_random, dim
        self.code = dynamic_code(signed)
        self._below = _starts(self.code)
        self.rows_of_block = max(1, block // dim)
        self.blocks_of_row = max(1, dim // block)
        padded = -(-items // self.rows_of_block) * self.rows_of_block
        zero = int((self.code == 0).nonzero())
        self.codes = torch.full((padded, dim), zero, dtype=torch.uint8)
        self.largest = torch.zeros(padded // self.rows_of_block, self.blocks_of_row)

    @property
    def bytes(self) -> int:
        return self.codes.numel() + 4 * self.largest.numel()

    def read(self, rows: Tensor) -> Tensor:
        largest = self.largest[rows // self.rows_of_block].repeat_interleave(self.dim // self.blocks_of_row, 1)
        return _take(self.code, self.codes[rows].int()) * largest

    def write(self, rows: Tensor, values: Tensor) -> None:
        blocks, place = (rows // self.rows_of_block).unique(return_inverse=True)
        every = blocks[:, None] * self.rows_of_block + torch.arange(self.rows_of_block)
        whole = self.read(every.reshape(-1)).view(len(blocks), self.rows_of_block, self.dim)
        whole[place, rows % self.rows_of_block] = values
        grouped = whole.view(len(blocks), self.blocks_of_row, -1)
        largest = grouped.abs().amax(2)
        units = grouped / torch.where(largest > 0, largest, 1.0)[:, :, None]
        self.codes[every.reshape(-1)] = self._index(units).to(torch.uint8).view(-1, self.dim)
        self.largest[blocks] = largest

    def _index(self, units: Tensor) -> Tensor:
        """Index of one of the two values of the code around each number of [-1, 1]."""
        low = _take(self._below, (units.view(torch.int32) >> 16) & 0xFFFF)
        low = (low + (units >= _take(self.code, low + 1))).clamp_(max=254)
        below, above = _take(self.code, low), _take(self.code, low + 1)
        part = (units - below) / (above - below)
        chance = torch.rand(units.shape, generator=self.generator) if self.at_random else 0.5
        return low + (chance < part)


def _starts(code: Tensor) -> Tensor:
    """For each upper half of a float32's bits, the index of the largest value of the code that all of them reach.

    No two values of the code share an upper half, so that at most one more is reached.
    """
    upper = torch.arange(1 << 16) << 16
    ends = torch.stack([upper, upper | 0xFFFF]).to(torch.int32).view(torch.float32).nan_to_num(1.0)
    return (torch.bucketize(ends.amin(0), code, right=True) - 1).clamp_(0, 254).int()


def _take(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]`` of a vector, several times as fast."""
    return values.index_select(0, index.reshape(-1)).view(index.shape)


def dynamic_code(signed: bool) -> Tensor:
    """The 256 values of the dynamic code, ascending, float32.

    A byte starts with its sign where it has one. Then come e zeros and a one, which give the exponent, and m bits of
    a fraction k: the value is 10^-e (0.1 + 0.9 (k + 1/2) / 2^m). With a sign m is 6 - e, without one 7 - e, for e
    from 0 to 6. Left over are the codes of 0 and of 1.
    """
    found = [0.0, 1.0]
    for e in range(7):
        m = (6 if signed else 7) - e
        part = [10.0**-e * (0.1 + 0.9 * (k + 0.5) / 2**m) for k in range(2**m)]
        found += part + ([-value for value in part] if signed else [])
    code = torch.tensor(sorted(found))
    assert len(code) == 256 and math.isclose(float(code.abs().max()), 1.0)
    return code


def round_at_random(values: Tensor, generator: torch.Generator) -> Tensor:
    """Finite float32 values as bfloat16, each one of its two neighbours with a chance by its nearness."""
    bits = values.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, values.shape, dtype=torch.int32, generator=generator)
    return ((bits + noise) >> 16).to(torch.int16).view(torch.bfloat16)
