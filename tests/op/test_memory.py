"""Large tables on huge pages; memory that ends."""

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


ENDS = """
import resource
import sys
import torch
from resemb_ext import functional

# The table's gradient takes 256 MB, an expanded upstream gradient made contiguous 128 MB.
items, positions = (1_000_000, 10) if sys.argv[1] == "table" else (1000, 500_000)
central = torch.zeros(items, 64, requires_grad=True)
graph = torch.zeros(items + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), torch.zeros(0)
out = functional.res_embedding(torch.arange(positions) % items, central, torch.zeros(items, 64), *graph)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (80 << 20), -1))
try:
    out.sum().backward() if sys.argv[1] == "gradient" else out.backward(torch.ones_like(out))
except MemoryError as error:
    print(error)
"""


@pytest.mark.full
@pytest.mark.parametrize("what", ["table", "gradient"])
def test_memory_that_ends_inside_backward(what: str) -> None:
    result = subprocess.run([sys.executable, "-c", ENDS, what], capture_output=True, text=True)
    assert result.stdout == "resemb_ext: torch could not allocate a tensor, most likely for want of memory\n", (
        result.stderr
    )
