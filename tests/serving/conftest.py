"""A trained run and its export, for the tests of exports."""

import importlib.util

import pandas as pd
import pytest

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.train import run

LONGEST = 4
HAS_ONNX = all(importlib.util.find_spec(n) for n in ("onnx", "onnxscript", "onnxruntime"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a run of both arms on a log with categories and text ids."""
    log, truth = rx.data.simulate(seed=2, users=80, items=60, domains=4, events_per_user=(5, 9))
    folder = tmp_path_factory.mktemp("export")
    pd.DataFrame(
        {
            "user_id": log.user,
            "item_id": [f"item-{i}" for i in log.item],
            "timestamp": log.time,
            "category": [f"c{d}" for d in truth.domain[log.item]],
        }
    ).to_csv(folder / "shop.csv", index=False)
    return run(
        data=str(folder / "shop.csv"),
        model="din",
        category=True,
        out=str(folder / "run"),
        epochs=1,
        batch_size=128,
        dim=4,
        hidden=(8,),
        threads=1,
        progress=False,
        eval_negatives=5,
        max_history=LONGEST,
    ).folder


@pytest.fixture(scope="session")
def exported(trained):
    """An export of its res arm, with ONNX where that is installed."""
    arguments = ["export", str(trained), "--arm", "res", "--seed", "0"]
    assert main([*arguments, "--onnx"] if HAS_ONNX else arguments) == 0
    return trained / "export"
