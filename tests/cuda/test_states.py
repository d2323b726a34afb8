"""Adam in every form of state on a device against the CPU's kernels.

Both draw the same random bits. A fused multiply-add gives other last bits, and so now and then another of two
neighbouring numbers. Under emulation, where none is fused, the bits are the same (tests/cuda/test_emulated.py).
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import resemb_ext as rx

STATES = ("float32", "bfloat16", "rowwise", "bfloat16_rowwise", "int8_rowwise")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DIMS = (1, 7, 16, 129, 300)  # a lane of one column, odd ones, vectors, more columns than the lanes hold at once
OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": (rx.optim.Adam, {"maximize": True}),
    "adamw by row": (rx.optim.AdamW, {"bias_correction": "row", "weight_decay": 0.1}),
    "decay pending": (rx.optim.AdamW, {"decay": "global", "weight_decay": 0.5}),
}
H, STEPS = 40, 3


def cases() -> list[tuple[str, torch.dtype, int, str]]:
    """Arguments of ``stepped``, but for the device."""
    return list(product(STATES, DTYPES, DIMS, OPTIONS))


def stepped(state: str, dtype: torch.dtype, dim: int, options: str, device: str) -> dict[str, Tensor]:
    """Table and state after steps on some of the rows.

    Gradients have few bits, so that the sums of their squares are exact.
    """
    generator = torch.Generator().manual_seed(dim)
    build, own = OPTIONS[options]
    start = torch.randn(H, dim, generator=generator).to(device, dtype)
    module = torch.nn.Embedding(H, dim, sparse=True, _weight=start)
    table = module.weight
    optimizer = build([table], lr=0.05, state=state, stochastic_rounding=True, seed=3, **own)
    if own.get("decay") == "global":
        optimizer.attach(module)
    for _ in range(STEPS):
        rows = torch.randperm(H, generator=generator)[:25].sort().values
        values = torch.randint(-8, 9, (25, dim), generator=generator) / 8
        table.grad = torch.sparse_coo_tensor(rows[None], values.to(dtype), (H, dim)).to(device)
        optimizer.step()
    kept = {name: value.cpu() for name, value in optimizer.state[table].items() if isinstance(value, Tensor)}
    return {"parameter": table.detach().cpu(), **kept}


@pytest.mark.cuda
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("state", STATES)
def test_state_is_the_cpus(state: str, dtype: torch.dtype, dim: int, options: str) -> None:
    found, expected = (stepped(state, dtype, dim, options, device) for device in ("cuda", "cpu"))
    for name, value in expected.items():
        a, b = found[name].double(), value.double()
        distance = (a - b).abs()
        # At most a few numbers are other neighbours, which the next steps go on from.
        assert (distance > 1e-5 + 1e-4 * b.abs()).double().mean() <= 0.02, name
        assert (distance <= (2.0 if value.dtype == torch.int8 else 0.02 + 0.02 * b.abs())).all(), name
