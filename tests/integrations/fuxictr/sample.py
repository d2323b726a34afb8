"""A small data set in FuxiCTR's form, and FuxiCTR's parameters for its models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import resemb_ext as rx
from resemb_ext.integrations import fuxictr

MAX_LEN = 6


def split() -> rx.data.Split:
    log, _ = rx.data.simulate(users=60, items=80, domains=5, events_per_user=(5, 9), seed=3)
    return rx.data.split(log)


def parts() -> dict[str, rx.data.Samples]:
    of = split()
    return {
        "train": rx.data.make_train_samples(of, max_history=MAX_LEN, negatives=2, seed=0),
        "valid": rx.data.make_eval_samples(of, "valid", max_history=MAX_LEN, negatives=4, seed=0),
        "test": rx.data.make_eval_samples(of, "test", max_history=MAX_LEN, negatives=4, seed=0),
    }


def write(folder: Path, **options: Any) -> Any:
    """The feature map; train, valid and test lie in the folder. Users have a table too."""
    made = fuxictr.write_dataset(parts(), folder, **options)
    made.features["user"] = {
        "type": "categorical",
        "source": "",
        "padding_idx": 0,
        "vocab_size": split().log.num_users + 1,
    }
    made.save(str(folder / "feature_map.json"))
    return made


def params(folder: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of a model, as a FuxiCTR configuration gives them."""
    return {
        "model_root": str(folder / "checkpoints"),
        "metrics": ["logloss", "AUC"],
        "optimizer": "adam",
        "loss": "binary_crossentropy",
        "task": "binary_classification",
        "learning_rate": 5e-3,
        "embedding_dim": 8,
        "monitor": "AUC",
        "verbose": 0,
        **changes,
    }
