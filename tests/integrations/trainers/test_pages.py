"""The pages of the trainers run, with the number of lines that they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import resemb_ext as rx
from tests.docs.pages import DOCS, ROOT, blocks, run_page
from tests.integrations.conftest import framework
from tests.integrations.trainers import sample

accelerate = framework("accelerate", __file__)
framework("lightning", __file__)
framework("transformers", __file__)

from tests.integrations.trainers import test_lightning, test_transformers  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **names: Any) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    return run_page(DOCS / "integrations" / page, {"graph": sample.graph(), **names})


def test_page_of_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaders = test_lightning.loaders()
    module = test_lightning.Module("plain")
    left = run("lightning.md", tmp_path, monkeypatch, module=module, train_loader=loaders[0], valid_loader=loaders[1])
    assert left["graphs"].keys() == {"model.item"} and type(module.model.item) is torch.nn.Embedding
    first = blocks(DOCS / "integrations" / "lightning.md")[0].text
    assert sum(any(word in line for word in ("rx.", "ResEmbeddings()")) for line in first.splitlines()) == 3


def test_page_of_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate.state.AcceleratorState._reset_state(True)
    loader = torch.utils.data.DataLoader(sample.samples(), 16)
    patch, held = rx.optim.patch_clipping, []
    monkeypatch.setattr("resemb_ext.integrations.accelerate.patch_clipping", lambda: held.append(patch()))
    try:
        left = run("accelerate.md", tmp_path, monkeypatch, model=sample.CTR(), loader=loader)
    finally:
        for each in held:
            each.__exit__(None, None, None)
    assert left["graphs"].keys() == {"item"} and type(left["optimizer"].optimizer) is rx.optim.AdamW


def test_page_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = test_transformers.data()
    model = test_transformers.Model("plain")
    left = run("transformers.md", tmp_path, monkeypatch, model=model, train=data, valid=data)
    assert left["graphs"].keys() == {"ctr.item"} and type(left["trainer"].optimizer.optimizer) is rx.optim.AdamW


def test_the_example_runs(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "examples" / "lightning_din.py"), "--epochs", "1", "--users", "60"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    out = subprocess.run(script, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    assert out.returncode == 0, out.stderr
    assert [line.split()[0] for line in out.stdout.splitlines() if "log loss" in line] == ["plain", "res"]
