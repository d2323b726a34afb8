"""The program of docs/distributed.md, as torchrun starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, blocks


@pytest.mark.full
def test_program(tmp_path: Path) -> None:
    (program,) = (block.text for block in blocks(DOCS / "distributed.md") if block.text.startswith("# train.py\n"))
    (tmp_path / "train.py").write_text(program)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    said = re.findall(r"rank (\d): loss (\d\.\d+), ([\d,]+) bytes sent for tables", done.stdout)
    assert sorted(rank for rank, _, _ in said) == ["0", "1"]
    assert all(0 < float(loss) < 1 and int(sent.replace(",", "")) > 10_000 for _, loss, sent in said)
