"""Rounding at random in plain NumPy, written from the definitions of csrc/common/rounding.h."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from resemb_ext import reference

WHICH = ("param", "first", "second")
_32 = np.uint64(0xFFFFFFFF)


def rounding_bits(seed: int, step: int, rows: np.ndarray, columns: np.ndarray, which: str) -> np.ndarray:
    """The 16 random bits of numbers at (row, column), int64 of the shape of both together.

    Philox(seed; step) gives a key; SplitMix64 from it two keys of 32 bits a row; two multiplications mix one of
    them with the column. Parameter and first moment share a word: its low and its high half.
    """
    counter = [torch.tensor(c) for c in (0, 0, step & 0xFFFFFFFF, step >> 32)]
    signed = (seed & (1 << 64) - 1) - (1 << 64 if seed & 1 << 63 else 0)
    low, high, *_ = (int(word) for word in reference.philox(torch.tensor([signed]), tuple(counter)))
    with np.errstate(over="ignore"):
        x = np.uint64(high << 32 | low) + (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    key = x >> np.uint64(32) if which == "second" else x & _32
    word = (key + columns.astype(np.uint64) * np.uint64(0x9E3779B9)) & _32
    word = (word ^ word >> np.uint64(16)) * np.uint64(0x7FEB352D) & _32
    word = (word ^ word >> np.uint64(15)) * np.uint64(0x846CA68B) & _32
    word ^= word >> np.uint64(16)
    return (word >> np.uint64(16) if which == "first" else word & np.uint64(0xFFFF)).astype(np.int64)


def bits_of_table(seed: int, step: int, shape: tuple[int, int], which: str) -> np.ndarray:
    """``rounding_bits`` of all numbers of a table."""
    return rounding_bits(seed, step, np.arange(shape[0])[:, None], np.arange(shape[1])[None], which)


def round_to_bfloat16(values: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """float32 values to those of bfloat16, as float32."""
    patterns = values.astype(np.float32).view(np.uint32).astype(np.int64)
    rounded = (patterns + bits >> 16 << 16).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(values), np.float32(np.nan), rounded)


def round_to_float16(values: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """float32 values to those of float16, as float32; 13 bits decide among normal numbers, 16 among subnormal ones."""
    with np.errstate(invalid="ignore", over="ignore"):
        magnitude = np.abs(values.astype(np.float64))
        _, exponent = np.frexp(np.where(np.isfinite(values), magnitude, 1.0))
        normal = magnitude >= 2.0**-14
        place = np.where(normal, 2.0 ** (exponent - 11.0), 2.0**-24)
        chance = np.where(normal, (bits & 0x1FFF) / 2.0**13, bits / 2.0**16)
        share = np.where(normal, magnitude / place, np.floor(magnitude / place * 2**16) / 2**16)
        rounded = np.where(magnitude < 65520, np.minimum(np.floor(share + chance) * place, 65504.0), np.inf)
    return np.copysign(np.where(np.isnan(values), np.nan, rounded), values).astype(np.float32)


class Codes(NamedTuple):
    """Rows as int8: codes [H, D] times scale [H]."""

    codes: np.ndarray
    scale: np.ndarray

    def values(self) -> np.ndarray:
        return self.codes.astype(np.float32) * self.scale[:, None]


def round_to_codes(values: np.ndarray, bits: np.ndarray) -> Codes:
    """float32 rows to int8; a row with a number that is not finite has the scale NaN and any codes."""
    values = values.astype(np.float32)
    largest = np.abs(values).max(axis=1, initial=0)
    finite = np.isfinite(largest)
    top = np.maximum(np.where(finite, largest, 1), np.float32(2.0**-100))
    inverse = np.float32(127 * 2**15) / top
    fixed = np.rint((np.where(finite[:, None], values, 0) * inverse[:, None]).astype(np.float64)).astype(np.int64)
    scale = np.where(finite, np.where(largest > 0, top / np.float32(127), 0), np.nan)
    return Codes((fixed + (bits >> 1) >> 15).astype(np.int8), scale.astype(np.float32))
