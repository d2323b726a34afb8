"""Shared fixtures: real logs, CUDA, the random state."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

_DATA = Path(os.environ.get("RESEMB_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("-m"):
        skip = pytest.mark.skip(reason="slow: choose it with -m slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
    if not torch.cuda.is_available():
        reason = "no CUDA device"
        if os.environ.get("RESEMB_REQUIRE_CUDA") == "1":
            raise pytest.UsageError(f"RESEMB_REQUIRE_CUDA=1 but there is {reason}")
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Path of a real log by file name; skips the test where it is absent."""

    def find(name: str) -> Path:
        path = _DATA / name
        if not path.exists():
            pytest.skip(f"no {name} in the data folder (set RESEMB_DATA)")
        return path

    return find


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
