"""Options that ask for more memory than there is: one line and exit status 2, whatever allocates. Each in a process."""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from resemb_ext.cli import main, parser

pytestmark = pytest.mark.full
SMALL = {"epochs": 1, "dim": 4, "hidden": [4], "threads": 1, "eval_negatives": 3, "batch_size": 64}


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    parser()  # loads all that it loads, so that memory does not end there
    path, rng = tmp_path_factory.mktemp("log") / "log.csv", np.random.default_rng(0)
    items = np.concatenate([rng.permutation(20)[:6] for _ in range(30)])
    pd.DataFrame({"user_id": np.repeat(range(30), 6), "item_id": items, "timestamp": range(180)}).to_csv(path)
    return path


def limited(arguments: list[str], shown: Path, more: int) -> int:
    """Runs a command with ``more`` bytes of address space more than this process has; its exit status."""
    child = os.fork()
    if not child:
        status = 99
        try:
            sys.stderr = shown.open("w")  # pytest has put its own there
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + more
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            status = main(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 2**31 - 1},
        {"dim": 2**31 - 1, "embedding": "res", "link": "attention"},
        {"hidden": [2**31 - 1]},
        {"model": "din", "attention_hidden": [2**31 - 1]},
        {"train_negatives": 2**31 - 1},
        {"eval_negatives": 2**31 - 1},
        {"hidden": [40_000, 40_000]},
    ],
)
def test_options_that_ask_for_too_much(tmp_path, log, options):
    config = tmp_path / "c.json"
    config.write_text(json.dumps({**SMALL, "data": str(log), **options}))
    arguments = ["train", "--config", str(config), "--out", str(tmp_path / "run"), "--quiet"]
    status = limited(arguments, tmp_path / "shown", 2**30)
    shown = (tmp_path / "shown").read_text()
    assert status == 2, shown
    assert shown.startswith("resemb train: error: out of memory (") and len(shown.splitlines()) == 1
    assert not (tmp_path / "run").exists()  # nothing that would block the same command
