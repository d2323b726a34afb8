"""Rounding at random: the kernels' bits against NumPy, and what they are as random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from resemb_ext import optim

from .rounding import WHICH, bits_of_table, round_to_bfloat16, round_to_codes, round_to_float16, rounding_bits

ROUND = {torch.bfloat16: round_to_bfloat16, torch.float16: round_to_float16}


@pytest.mark.parametrize("which", WHICH)
def test_bits_are_uniform_and_independent(which: str) -> None:
    """Chi-squared of the upper and lower bytes; correlation with the next column, row and step."""
    bits = bits_of_table(3, 7, (512, 128), which)
    assert bits.min() >= 0 and bits.max() < 1 << 16
    for byte in (bits & 255, bits >> 8):
        counts = np.bincount(byte.ravel(), minlength=256)
        squares = ((counts - bits.size / 256) ** 2).sum() / (bits.size / 256)
        assert abs(squares - 255) < 5 * np.sqrt(2 * 255)
    others = [np.roll(bits, 1, 1), np.roll(bits, 1, 0), bits_of_table(3, 8, bits.shape, which)]
    others += [bits_of_table(3, 7, bits.shape, other) for other in WHICH if other != which]
    for other in others:
        assert abs(np.corrcoef(bits.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(bits.size)


@pytest.mark.parametrize("dim", [1, 5, 8, 37, 300])
@pytest.mark.parametrize("dtype", ROUND)
def test_tables_are_rounded_by_those_bits(isa: str, dtype: torch.dtype, dim: int) -> None:
    """p - g with lr 1, exact in float32: normal and subnormal numbers, ties, both signs."""
    rng = np.random.default_rng(dim)
    table = torch.from_numpy(rng.standard_normal((9, dim))).to(dtype)
    table[3] = table[3] * torch.finfo(dtype).smallest_normal
    gradient = table * 2.0**-9
    parameter = torch.nn.Parameter(table.clone())
    optimizer = optim.SGD([parameter], lr=1.0, stochastic_rounding=True, seed=11)
    rows = torch.tensor([0, 3, 4, 8])
    parameter.grad = torch.sparse_coo_tensor(rows[None], gradient[rows], table.shape, check_invariants=True)
    optimizer.step()
    exact = (table.float() - gradient.float()).numpy()
    bits = rounding_bits(11, 1, rows.numpy()[:, None], np.arange(dim)[None], "param")
    expected = torch.from_numpy(ROUND[dtype](exact[rows.numpy()], bits))
    assert torch.equal(parameter.detach()[rows].float(), expected)


def test_the_reference_rounds_to_neighbours() -> None:
    """The definitions themselves: one of the two neighbours, the mean over bits the number itself."""
    values = np.linspace(-3, 3, 41, dtype=np.float32)[:, None] * np.float32([1, 1e-3, 1e-7])
    bits = np.arange(0, 1 << 16, 16)
    for dtype, function in ROUND.items():
        rounded = np.stack([function(values, np.full(values.shape, b)) for b in bits])
        near: Tensor = torch.from_numpy(values).to(dtype).float()
        place = np.abs(near.numpy()) * torch.finfo(dtype).eps + 2.0**-24
        assert (np.abs(rounded - values) <= place).all()
        assert (np.abs(rounded.mean(0, dtype=np.float64) - values) <= place / 64).all()
    codes = [round_to_codes(values, np.full(values.shape, b)) for b in bits]
    stacked = np.stack([c.values() for c in codes])
    scale = codes[0].scale[:, None]
    assert (np.abs(stacked - values) <= scale * 1.001).all()
    assert (np.abs(stacked.mean(0, dtype=np.float64) - values) <= scale / 64).all()
    assert all(np.abs(c.codes).max() == 127 for c in codes)
    assert not codes[0].values()[values.max(1) == 0].any()
