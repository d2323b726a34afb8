"""Ranks killed at random moments under torchrun: the run goes on and ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)


def _killed(kills: int) -> None:
    script = Path(__file__).with_name("rank_kills.py")
    done = subprocess.run([sys.executable, str(script), "--kills", str(kills)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["kills"] >= kills and counted["different"] == 0


@pytest.mark.full
def test_two_kills_change_nothing() -> None:
    _killed(2)


@pytest.mark.slow
def test_kills_change_nothing() -> None:
    """RESEMB_KILLS sets their number."""
    _killed(int(os.environ.get("RESEMB_KILLS", "30")))
