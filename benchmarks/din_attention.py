"""DIN's attention with its first layer split into parts, against the concatenation [q, k, q-k, q*k].

python -m benchmarks.din_attention [--rounds N] [--out FILE]

Both have the same parameters and, checked first, the same scores and gradients. They are timed
interleaved in one process, forward alone and forward + backward, on jagged histories (lengths
uniform in 0..L) and on padded ones. Memory: the peak resident set over one forward + backward beyond
what was there before, and the bytes that autograd keeps for backward, each storage once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.report import din_attention_table
from benchmarks.timing import interleave, summary
from resemb_ext.models.batch import TorchBatch
from resemb_ext.models.din import LocalActivation
from resemb_ext.models.histories import Histories
from resemb_ext.runtime.files import write_json
from resemb_ext.runtime.peak_memory import PeakMemory

BATCH, LONGEST, ITEMS = 1024, 50, 1000
CELLS = [
    {"form": form, "features": features, "hidden": hidden}
    for form in ("jagged", "padded")
    for features, hidden in ((32, (36,)), (64, (36,)), (64, (80, 40)))
]


def concatenated(unit: LocalActivation, query: Tensor, keys: Tensor, of: Histories) -> Tensor:
    """The scores as the authors' code has them: an MLP on [q, k, q - k, q * k]."""
    q, k = of.samples.expand(query), of.pair(keys)
    return unit.rest(unit.activation(unit.first(torch.cat([q, k, q - k, q * k], dim=1))))


def split(unit: LocalActivation, query: Tensor, keys: Tensor, of: Histories) -> Tensor:
    """The scores as the model computes them."""
    return unit(query, keys, of)


VARIANTS = {"split": split, "concatenated": concatenated}


def histories(form: str) -> Histories:
    """The cell's histories, the same on every call."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, LONGEST + 1, (BATCH,), generator=draw)
    target = torch.ones(BATCH, dtype=torch.int64)
    ids = torch.randint(1, ITEMS, (BATCH, LONGEST), generator=draw)
    real = torch.arange(LONGEST) < lengths.unsqueeze(1)
    if form == "padded":
        return Histories.of(TorchBatch(target, ids * real), 0)
    return Histories.of(TorchBatch(target, ids[real], lengths.cumsum(0) - lengths), 0)


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes of the storages that autograd keeps while ``run``'s result lives."""
    storages: dict[int, Any] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        storages[storage.data_ptr()] = storage
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        result = run()
    total = sum(storage.nbytes() for storage in storages.values())
    del result
    return total


def cell(form: str, features: int, hidden: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Times and memory of one cell."""
    torch.manual_seed(0)
    unit, of = LocalActivation(features, hidden, "prelu"), histories(form)
    positions = of.samples.expand(torch.zeros(BATCH, 1)).shape[0]
    query = torch.randn(BATCH, features, requires_grad=True)
    keys = torch.randn(positions, features, requires_grad=True)
    upstream = torch.randn(positions)
    leaves = [query, keys, *unit.parameters()]

    def forward(name: str) -> Tensor:
        return VARIANTS[name](unit, query, keys, of)

    def both(name: str) -> list[Tensor]:
        return list(torch.autograd.grad(forward(name), leaves, upstream))

    def inference(name: str) -> Tensor:
        with torch.no_grad():
            return forward(name)

    torch.testing.assert_close(forward("split"), forward("concatenated"), rtol=1e-4, atol=1e-5)
    for mine, literal in zip(both("split"), both("concatenated"), strict=True):
        # By norm: where rounding moves an input of PReLU over zero, single entries differ.
        apart = float((mine - literal).norm() / literal.norm())
        if not apart < 1e-3:
            raise AssertionError(f"gradients differ by {apart:.1e} of their norm")
    memory: dict[str, Any] = {}
    for name in VARIANTS:
        peaks = []
        for _ in range(3):
            with PeakMemory() as peak:
                both(name)
            peaks.append(peak.peak_mb - peak.before_mb)
        kept = saved_bytes(lambda name=name: forward(name)) / 2**20  # type: ignore[misc]
        memory[name] = {"peak_mb": round(sorted(peaks)[1], 1), "saved_mb": round(kept, 1)}
    result: dict[str, Any] = {"form": form, "features": features, "hidden": list(hidden), "pairs": positions}
    for part, run in (("forward", inference), ("forward+backward", both)):
        calls = {name: (lambda _, name=name, run=run: run(name)) for name in VARIANTS}
        seconds = interleave(calls, rounds=rounds, warmup=3, label=f"{form} {part}")
        result[part] = summary(seconds, "split")
    result["memory"] = memory
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.din_attention",
        description="DIN's attention with its first layer split into parts, against the concatenation [q, k, q-k, q*k].",
    )
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file (default: none)")
    args = parser.parse_args()
    cells = [cell(**one, rounds=args.rounds) for one in CELLS]  # type: ignore[arg-type]
    result = {"machine": machine(), "batch": BATCH, "longest": LONGEST, "rounds": args.rounds, "cells": cells}
    print(din_attention_table(result))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
