"""The CPU kernels, free of torch, on every instruction set under sanitizers and against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# All but the pool of blocks, which has a stand-in.
KERNELS = [p for p in (ROOT / "csrc/cpu").glob("*.cpp") if p.name != "buffer.cpp"]
DRIVER = "tests/native/kernels.cpp"


@pytest.mark.full
def test_clean_under_address_and_undefined(sanitized: Callable) -> None:
    run = sanitized("address,undefined", DRIVER, "tests/native/exact_blocks.cpp", *KERNELS)
    run("problems", "48")  # the largest output is among them


@pytest.mark.full
def test_clean_under_thread(sanitized: Callable) -> None:
    """With the pool of blocks, which threads share too."""
    run = sanitized("thread", DRIVER, "csrc/cpu/buffer.cpp", *KERNELS)
    run("problems", "12")
    run("threads", "8")
