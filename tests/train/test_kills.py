"""Kills at random moments: every run resumes and ends as if nothing had happened. Slow.

RESEMB_KILLS sets their number.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_kills_change_nothing():
    kills = int(os.environ.get("RESEMB_KILLS", "20"))
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, str(script), "--kills", str(kills)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["kills"] >= kills and counted["different"] == 0
    assert counted["during"]["training"] + counted["during"]["saving"] > 0
