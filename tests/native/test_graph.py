"""The builder's core, free of Python, under address, undefined-behaviour and thread sanitizers."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_clean_under(sanitized: Callable, sanitizer: str) -> None:
    sanitized(sanitizer, "tests/native/graph.cpp")("24")
