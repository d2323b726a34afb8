"""Loads the compiled operators and tells what was built and what runs.

Importing this module registers the operators ``torch.ops.resemb_ext.*``.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).resolve().parent
_REBUILD = 'pip install --force-reinstall --no-deps resemb_ext, or "pip install ." in its source tree'


def _read_build() -> dict[str, Any]:
    path = _FOLDER / "_build.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text)[:2])


def _load() -> Any:
    build = _read_build()
    needed = build.get("torch_needed", ">=2.11")
    if _version(torch.__version__) < _version(needed):
        raise ImportError(
            f"resemb_ext needs torch{needed} (built with {build.get('torch_built_with', 'none yet')}) "
            f"but torch {torch.__version__} is running. Remedy: pip install 'torch{needed}'."
        )
    if not any(_FOLDER.glob("_C*.so")) and not any(_FOLDER.glob("_C*.pyd")):
        raise ImportError(
            f"resemb_ext, for torch{needed}, has no compiled operators in {_FOLDER}: this is a source tree "
            f"that was not built (torch {torch.__version__} is running). Remedy: 'pip install -e .' in it, or "
            "leave that folder so that the installed package is imported."
        )
    try:
        return importlib.import_module("resemb_ext._C")
    except (ImportError, OSError) as error:
        raise ImportError(
            f"resemb_ext was built with torch {build.get('torch_built_with', '(unknown)')} for "
            f"torch{needed}, but its operators do not load with torch {torch.__version__}: {error}. "
            f"Remedy: {_REBUILD}."
        ) from error


def _update_names() -> tuple[tuple[str, ...], ...]:
    names = getattr(_C, "update_names", None)
    if names is None:
        raise ImportError(
            f"resemb_ext: the operators in {_C.__file__} were built from an older source than this package. "
            f"Remedy: {_REBUILD}."
        )
    return tuple(tuple(line.split()) for line in names())


_C = _load()

# Names that C++ and Python share (csrc/common/update.h): the update rules, the forms of moments and, in the
# operators' order, the reals and integers of an update.
UPDATE_RULES, UPDATE_MOMENTS, UPDATE_REALS, UPDATE_INTEGERS = _update_names()


def isa() -> str:
    """Name of the CPU kernels' instruction-set path in use: "baseline" or "avx2".

    Raises:
        ValueError: the environment variable RESEMB_ISA names a path that does not run here.
    """
    return _C.isa()


def available_isas() -> list[str]:
    """Instruction-set paths that run on this processor."""
    return _C.available_isas().split(",")


def select_isa(name: str) -> None:
    """Chooses the CPU kernels' path for this process.

    Args:
        name: "auto" (the best one) or one of ``available_isas()``.

    Raises:
        ValueError: this build or processor lacks that path.
    """
    _C.select_isa(name)


def release_memory() -> int:
    """Frees the memory that the CPU operators keep between calls (at most 1 GiB).

    Large outputs, gradients and scratch come from a pool, as page faults on fresh memory would cost
    more than the kernels.

    Returns:
        The bytes freed.
    """
    return _C.release_memory()


STAGES = ("dedupe", "forward", "reduce", "edges", "transpose", "columns", "update")


def take_profile(on: bool) -> dict[str, float]:
    """Milliseconds that the operators spent by stage since the last call; then on or off.

    On CUDA it is the stream's time from a stage's start to its end, with the gaps between kernels where the
    host does not run ahead; this call waits for the ends.

    Stages: dedupe of ids; forward; reduce (gradient summed per unique row); edges (backward of the
    attention link's scores; on CUDA with their transpose); transpose (of the touched edges); columns
    (gradient summed per neighbour); update (of optimizers, on the CPU; of the in-backward step with the
    columns' sums).

    Args:
        on: count from now on.
    """
    spent = _C.take_profile(on)
    return {stage: 1e-6 * nanoseconds for stage, nanoseconds in zip(STAGES, spent, strict=True)}


def build_info() -> dict[str, Any]:
    """What was built and what runs: versions, instruction sets, CUDA build and devices.

    Returns:
        A JSON-able dict with keys torch_built_with, torch_needed, torch, python, isa,
        available_isas, threads, cuda (bool: kernels compiled), cuda_archs, cuda_archs_why,
        cuda_why_not, cuda_runtime (dict: runtime, driver, devices, error), torch_cuda (torch's CUDA
        version or None) and sanitize.
    """
    return {
        **_read_build(),
        "torch": torch.__version__,
        "isa": isa(),
        "available_isas": available_isas(),
        "threads": torch.get_num_threads(),
        "cuda_runtime": json.loads(_C.cuda_info()),
        "torch_cuda": torch.version.cuda,
    }
