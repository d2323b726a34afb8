"""The machine and versions a figure belongs to."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resemb_ext import _loader
from resemb_ext.runtime.environment import cpu_name


def _commit() -> str:
    folder = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty"], capture_output=True, text=True
        )
    except OSError:  # no git here
        return "unknown"
    return result.stdout.strip() or "unknown"


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_bytes() -> int:
    """Memory that programs can take without swapping; all of it where the kernel does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return memory_bytes()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), memory_bytes())


def too_much(bytes_: int) -> int | None:
    """The bytes where they are over 40 % of the machine's memory: a baseline that needs them is skipped."""
    return bytes_ if bytes_ > 0.4 * memory_bytes() else None


def machine() -> dict[str, Any]:
    """Processor, memory, versions, threads and instruction-set path, as JSON-able values."""
    huge_pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "huge_pages": huge_pages.read_text().strip() if huge_pages.exists() else "unknown",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "isa": _loader.isa(),
        "commit": _commit(),
    }
