"""docs/integrations/deepctr.md and the example run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.docs.pages import DOCS, ROOT, run_page
from tests.integrations.conftest import framework

framework("deepctr_torch", __file__)

from tests.integrations.deepctr.sample import columns, predicted, quiet, samples  # noqa: E402

EXAMPLE = ROOT / "examples" / "deepctr_din.py"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    from deepctr_torch.models import DIN

    x, y = samples()
    valid_x, valid_y = samples("valid")
    names = {"DIN": DIN, "columns": columns(), "x": x, "y": y, "valid_x": valid_x, "valid_y": valid_y}
    with quiet():
        left = run_page(DOCS / "integrations" / "deepctr.md", {**names, "np": np, "torch": torch})
        plain = DIN(columns(), ["item"], device="cpu")
    assert left["report"]["embedding_dict.item"].optimizers and left["flat"].num_edges
    plain.load_state_dict(torch.load(tmp_path / "plain.pt"))
    np.testing.assert_array_equal(predicted(plain), predicted(left["model"]))


def test_the_example_trains() -> None:
    small = ["--users", "40", "--items", "400", "--epochs", "1", "--optimizer", "in backward"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(EXAMPLE), *small], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split(" ", 1)[0] for line in done.stdout.splitlines()]
    assert [line for line in lines if line in ("plain", "res")] == ["plain", "res"]


def test_three_lines_of_the_example_are_ours() -> None:
    lines = [line for line in EXAMPLE.read_text().splitlines() if "deepctr." in line or "import deepctr" in line]
    ours = [line for line in lines if "deepctr_torch" not in line and "deepctr_din" not in line]
    assert len(ours) == 3, ours
