"""Training by the package's own kernels with tables and state in one form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from resemb_ext.study.compare.dataset import Dataset
from resemb_ext.train import fit
from resemb_ext.train.building import make_model

METRICS = ("auc", "gauc", "logloss")


def train_form(dataset: Dataset, form: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains Res-embedding once.

    Args:
        dataset: the log.
        form: options of the tables and of their optimizer.
        seed: of samples, model and training.
    """
    config = replace(dataset.config, **form)
    model = make_model(
        config,
        "res",
        seed,
        num_items=dataset.log.num_items,
        num_categories=dataset.log.num_categories,
        graph=dataset.graph,
    )
    done = fit(
        model, dataset.train(seed), dataset.valid, dataset.test, config=config.fit_config(), seed=seed, progress=False
    )
    assert done.test is not None
    return {
        "seed": seed,
        "valid": {name: done.valid[name] for name in METRICS},
        "test": {name: done.test[name] for name in METRICS},
        "epochs": done.epochs,
        "best_epoch": done.best_epoch,
        "stopped": done.stopped,
        "samples_per_s": done.samples_per_s,
    }
