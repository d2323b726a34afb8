"""Large tables on huge pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from resemb_ext._huge_pages import empty_table

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


# In a process of its own: in an old one malloc may serve a table from memory that was touched before.
PROGRAM = """
import re
from pathlib import Path
from resemb_ext._huge_pages import empty_table

table = empty_table((256 << 10, 64)).fill_(1)
address, inside = table.data_ptr() + table.nbytes // 2, False
for line in Path("/proc/self/smaps").read_text().splitlines():
    if span := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
        inside = int(span[1], 16) <= address < int(span[2], 16)
    elif inside and line.startswith("AnonHugePages:"):
        print(line.split()[1])
"""


@pytest.mark.full
@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(), reason="this system grants no transparent huge pages"
)
def test_a_large_table_lies_on_huge_pages() -> None:
    command = [sys.executable, "-c", PROGRAM]
    kib = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(kib) > 0


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
