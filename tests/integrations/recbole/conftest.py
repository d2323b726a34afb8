"""RecBole writes its TensorBoard logs into the current folder, and needs pickles in its checkpoints."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def quiet_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # RecBole loads its checkpoints without weights_only=False, which they need from torch 2.6 on.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.set_num_threads(1)
