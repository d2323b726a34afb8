"""A trained run, its export and its bundle, each made once."""

import importlib.util
import shutil
from pathlib import Path

import pandas as pd
import pytest

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.serving import SavedModel, export_bundle
from resemb_ext.train import run

LONGEST = 4
SMALL = {"epochs": 1, "batch_size": 256, "dim": 8, "hidden": (8,), "progress": False, "threads": 1, "max_history": 5}
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


@pytest.fixture(scope="session")
def saved(trained):
    """The model of its res arm."""
    return SavedModel.load(trained, "res", 0)


@pytest.fixture(scope="session")
def bundle(trained, tmp_path_factory):
    """A bundle of that arm with a float32 table."""
    return export_bundle(trained, tmp_path_factory.mktemp("bundle") / "served", table="float32", arm="res", seed=0)


@pytest.fixture
def copied(bundle, tmp_path):
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(bundle, tmp_path / "copied"))


def train(folder, *, text, **options):
    log, truth = rx.data.simulate(users=120, items=100, domains=4, events_per_user=(5, 9), seed=2)
    name = (lambda i: f"item-{i}") if text else (lambda i: int(i) * 3 - 50)
    frame = pd.DataFrame(
        {
            "user_id": log.user,
            "item_id": [name(i) for i in log.item],
            "timestamp": log.time,
            "category": [f"c{d}" for d in truth.domain[log.item]],
        }
    )
    folder.mkdir(parents=True)
    frame.to_csv(folder / "log.csv", index=False)
    return run(data=str(folder / "log.csv"), out=str(folder / "run"), **{**SMALL, **options})


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Two runs to score with: of text ids with categories and two seeds, and of integers with decay of whole tables."""
    place = tmp_path_factory.mktemp("serving")
    return {
        "text": train(place / "a", text=True, model="din", category=True, seed=(0, 1)),
        "integers": train(place / "b", text=False, table_optimizer="lazy", decay="global"),
    }
