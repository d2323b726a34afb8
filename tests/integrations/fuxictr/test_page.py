"""docs/integrations/fuxictr.md and the example run, with the lines that they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import DOCS, blocks, run_page
from tests.integrations.conftest import framework

framework("fuxictr", __file__)
from . import models, sample  # noqa: E402

PAGE = DOCS / "integrations" / "fuxictr.md"


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = models.sequential(tmp_path / "made")
    params = sample.params(tmp_path, train_data=str(tmp_path / "made" / "train.npz"))
    Path(params["model_root"], "made").mkdir(parents=True)
    names = {
        "DIN": models.DIN,
        "feature_map": data.feature_map,
        "params": params,
        "train": data.load("train", shuffle=True),
        "valid": data.load("valid"),
        "test": data.load("test"),
    }
    left = run_page(PAGE, names)
    (shown,) = [block.text for block in blocks(PAGE) if block.language == "text"]
    assert shown.strip() == str(left["report"])
    assert (tmp_path / "data" / "simulated" / "train.parquet").exists()


def test_three_lines_change():
    first = blocks(PAGE)[0].text.splitlines()
    assert len([line for line in first if "fuxictr" in line]) == 3


def test_the_example_runs(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(models.ROOT)}
    script = [sys.executable, str(models.ROOT / "examples" / "fuxictr_din.py"), "--epochs", "1", "--data"]
    models.sequential(tmp_path / "made")
    run = subprocess.run(
        [*script, str(tmp_path / "made"), "--user", "user"], capture_output=True, text=True, env=env, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert [line.split()[0] for line in run.stdout.splitlines() if "AUC" in line] == ["plain", "res"]


def test_the_notebook_runs_and_its_outputs_are_cleared():
    cells = json.loads((models.ROOT / "examples" / "notebooks" / "fuxictr.ipynb").read_text())["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec("".join(cell["source"]), names)
    assert names["res"]["AUC"] > names["plain"]["AUC"]
    assert type(names["served"].embedding_layer.embedding_layers["item"]).__name__ == "Embedding"
