"""Large tables on huge pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from resemb_ext._memory import empty_table

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_kib(address: int) -> int:
    """KiB of huge pages in the mapping that holds `address`."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            first, past = (int(text, 16) for text in span.groups())
            inside = first <= address < past
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1])
    raise AssertionError("no mapping holds the table")


@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(),
    reason="this system grants no transparent huge pages",
)
def test_a_large_table_lies_on_huge_pages() -> None:
    # Of 64 MiB: malloc may take less from memory that was touched before.
    table = empty_table((256 << 10, 64), dtype=torch.float32).fill_(1)
    assert huge_kib(table.data_ptr() + table.nbytes // 2) > 0


@pytest.mark.parametrize("size", [(0, 4), (3, 1), (1000, 700)])
def test_sizes_and_options_are_those_of_torch_empty(size: tuple[int, int]) -> None:
    table = empty_table(size, dtype=torch.bfloat16)
    assert table.shape == size
    assert table.dtype == torch.bfloat16
    assert table.is_contiguous()


def test_tables_without_memory_pass() -> None:
    assert empty_table((1 << 30, 64), device="meta").is_meta
    with FakeTensorMode():
        assert empty_table((1 << 30, 64)).shape == (1 << 30, 64)
