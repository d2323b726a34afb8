"""The builder's core, free of Python, under address, undefined-behaviour and thread sanitizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

# All but the Python module.
SOURCES = [p for p in (Path(__file__).resolve().parents[2] / "csrc/graph").glob("*.cpp") if p.name != "module.cpp"]


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_clean_under(sanitized: Callable, sanitizer: str) -> None:
    sanitized(sanitizer, "tests/native/graph.cpp", *SOURCES)("24")
