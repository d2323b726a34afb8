"""T*: the time that memory alone asks of a step, from rates measured in the same run.

    T* = row reads / row-read rate + Adam bytes / row read-modify-write rate + sequential bytes / copy rate

Rates are measured on the cell's own tables (same allocation) and ascending rows (same order). Every row
counts once, as if all repeats came from cache.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import interleave

FORMULA = "T* = row reads / read rate + Adam bytes / read-modify-write rate + sequential bytes / copy rate"


@cache
def _library() -> ctypes.CDLL:
    """ceiling.cpp, compiled for this machine.

    Raises:
        RuntimeError: no compiler, or it fails.
    """
    folder = Path(tempfile.mkdtemp())
    command = [
        *(os.environ.get("CXX", "c++"), "-O3", "-march=native", "-fopenmp", "-shared"),
        *("-fPIC", str(Path(__file__).with_name("ceiling.cpp")), "-o", str(folder / "ceiling.so")),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(
            f"the ceiling needs a C++ compiler with OpenMP: {getattr(error, 'stderr', error)}"
        ) from error
    library = ctypes.CDLL(str(folder / "ceiling.so"))
    library.read_rows.restype = ctypes.c_float
    library.omp_set_num_threads(torch.get_num_threads())
    return library


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def read_rows(table: Tensor, rows: Tensor) -> None:
    """Reads the rows (int64 [N]) of a float32 table [H, D], at the memory's own pace."""
    n, dim = rows.numel(), table.shape[1]
    _library().read_rows(_at(table), _at(rows), ctypes.c_int64(n), ctypes.c_int64(dim))


def measure_rates(table: Tensor, moments: tuple[Tensor, Tensor], rows: Tensor, rounds: int) -> dict[str, float]:
    """GB/s of reading rows, changing rows of three tables, and copying (read plus write).

    Args:
        table: float32 [H, D]. moments: two of that shape, which it changes.
        rows: int64 [N], ascending: the order of a step.
        rounds: timed rounds; medians.
    """
    library = _library()
    n, dim = rows.numel(), table.shape[1]
    flat = torch.empty(2, 1 << 24)
    flat.fill_(1.0)
    runs: dict[str, Callable[[int], Any]] = {
        "read": lambda _: read_rows(table, rows),
        "change": lambda _: library.change_rows(
            _at(moments[0]), _at(moments[1]), _at(table), _at(rows), ctypes.c_int64(n), ctypes.c_int64(dim)
        ),
        "copy": lambda _: library.copy_floats(_at(flat[0]), _at(flat[1]), ctypes.c_int64(flat.shape[1])),
    }
    kept = table.detach().clone()
    seconds = interleave(runs, rounds=rounds, warmup=2, label="memory rates")
    table.detach().copy_(kept)
    row_bytes = n * dim * 4
    return {
        "read_gbs": row_bytes / float(np.median(seconds["read"])) / 1e9,
        "change_gbs": 6 * row_bytes / float(np.median(seconds["change"])) / 1e9,
        "copy_gbs": 8 * flat.shape[1] / float(np.median(seconds["copy"])) / 1e9,
    }


def ceiling(
    rates: dict[str, float], *, unique: int, touched: int, positions: int, edges: int, dim: int
) -> dict[str, float]:
    """T* in milliseconds of the forward pass and of the whole Adam step, float32."""
    rows = 4 * dim * (unique + touched)
    out = 4 * dim * positions
    graph = 8 * edges
    read = rows / rates["read_gbs"]
    forward = read + (out + graph) / rates["copy_gbs"]
    backward = (out + graph) / rates["copy_gbs"] + 6 * rows / rates["change_gbs"]
    return {"forward": 1e-6 * forward, "step": 1e-6 * (forward + backward)}
