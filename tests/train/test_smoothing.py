"""``resemb train --smooth``: chosen by validation, saved, resumed, predicted and exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.serving import SavedModel, load_export
from resemb_ext.train import RunConfig, predict, run
from resemb_ext.train.config import SMOOTHING_STRENGTHS

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 64,
    "dim": 4,
    "hidden": (4,),
    "threads": 1,
    "eval_negatives": 5,
    "max_history": 4,
    "progress": False,
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found, _ = rx.data.simulate(seed=2, users=60, items=50, domains=4, events_per_user=(5, 9))
    path = tmp_path_factory.mktemp("log") / "shop.csv"
    frame = pd.DataFrame({"user_id": found.user, "item_id": found.item, "timestamp": found.time})
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def done(log: Path) -> Any:
    """A run of both arms whose strength validation chooses."""
    return run(data=str(log), out=str(log.parent / "run"), smooth="auto", **OPTIONS)


def test_validation_chooses(done: Any, log: Path) -> None:
    before = run(data=str(log), out=str(log.parent / "before"), **OPTIONS)
    for entry, unsmoothed in zip(done.result["runs"], before.result["runs"], strict=True):
        tried = entry["smoothing"]["valid"]
        assert list(tried) == [f"{strength:g}" for strength in SMOOTHING_STRENGTHS]
        assert tried["0"] == pytest.approx(unsmoothed["valid"]["gauc"])
        chosen = entry["smoothing"]["strength"]
        assert entry["valid"]["gauc"] == tried[f"{chosen:g}"] == max(tried.values())
        assert chosen == min(float(k) for k, value in tried.items() if value == max(tried.values()))
        assert unsmoothed["smoothing"] is None
        assert len(set(tried.values())) > 1  # it matters
    assert not (log.parent / "before" / "id_maps.json").read_text().count('item_counts": [')


def test_a_fixed_strength_is_the_formula(log: Path) -> None:
    """The plain arm's table is that of the checkpoint, smoothed by hand."""
    folder = log.parent / "fixed"
    run(data=str(log), out=str(folder), smooth="3", embedding="plain", **OPTIONS)
    served = SavedModel.load(folder).model.get_submodule("item_embedding")
    run(data=str(log), out=str(log.parent / "fixed-not"), embedding="plain", **OPTIONS)
    trained = SavedModel.load(log.parent / "fixed-not").model.get_submodule("item_embedding").weight
    split = rx.data.split(rx.data.read_log(log))
    graph = rx.InterestGraph.from_log(split.train, window=3, top_k=10).with_link("average")
    dense = np.zeros((graph.num_items, graph.num_items))
    rows = np.repeat(np.arange(graph.num_items), np.diff(graph.indptr))
    dense[rows, graph.neighbors] = graph.weights
    gate = (3 / (3 + split.item_counts))[:, None]
    table = trained.detach().double().numpy()
    expected = (1 - gate) * table + gate * (dense @ table)
    expected[0] = 0
    np.testing.assert_allclose(served.weight.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.full
def test_resumed_predicted_and_exported(done: Any, log: Path, tmp_path: Path) -> None:
    folder = done.folder
    scores = pq.read_table(folder / "test_scores.parquet").to_pydict()
    again = run(data=str(log), out=str(folder), smooth="auto", resume=True, **OPTIONS)
    assert again.result["runs"] == done.result["runs"]
    for arm in ("plain", "res"):
        saved = SavedModel.load(folder, arm, 0)
        assert type(saved.model.get_submodule("item_embedding")) is torch.nn.Embedding or (
            next(r for r in done.result["runs"] if r["embedding"] == arm)["smoothing"]["strength"] == 0
        )
        assert main(["export", str(folder), "--arm", arm, "--out", str(tmp_path / arm)]) == 0
        exported = load_export(tmp_path / arm)
        target = np.arange(1, 6)
        history = np.tile(np.array([[2, 3, 0, 0]]), (5, 1))
        expected = saved.score(target, np.tile([2, 3], 5), np.full(5, 2))
        np.testing.assert_allclose(exported.score(target, history), expected, rtol=1e-4, atol=1e-5)
    # The scores that the run kept are those of the smoothed model.
    split = rx.data.split(rx.data.read_log(log))
    test = rx.data.make_eval_samples(split, "test", max_history=4, negatives=5)
    found = predict(SavedModel.load(folder, "res", 0).model, test)
    np.testing.assert_allclose(found, scores["res_seed0"], rtol=1e-5, atol=1e-6)


def test_refusals(log: Path, tmp_path: Path) -> None:
    for word in ("none", "-1", "0", "nan", "inf"):
        with pytest.raises(ValueError, match="smooth must be off, auto or a number of events above 0"):
            RunConfig(smooth=word)
    assert main(["train", "--data", str(log), "--smooth", "much", "--out", str(tmp_path / "no")]) != 0
    assert not (tmp_path / "no").exists()


def test_an_unfinished_run_has_no_strength(done: Any, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(done.folder, copy)
    (copy / "arms" / "plain-seed0" / "run.json").unlink()
    with pytest.raises(ValueError, match="not finished, so that its strength of smoothing is not chosen"):
        SavedModel.load(copy, "plain", 0)
    ids = json.loads((copy / "id_maps.json").read_text())
    assert len(ids["item_counts"]) == done.result["data"]["items"] + 2
