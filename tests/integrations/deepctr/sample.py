"""Samples and models of DeepCTR-Torch, small."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import resemb_ext as rx
from tests.integrations.conftest import framework

framework("deepctr_torch", __file__)

from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat, get_feature_names  # noqa: E402
from deepctr_torch.models import DCN, DIEN, DIN, DeepFM, xDeepFM  # noqa: E402

USERS, ITEMS, LENGTH, DIM = 60, 40, 6, 4


def columns(dim: int = DIM) -> list[Any]:
    """Features of a user, an item, and a history that shares the item's table."""
    item = SparseFeat("item", ITEMS + 1, dim, embedding_name="item")
    history = SparseFeat("hist_item", ITEMS + 1, dim, embedding_name="item")
    return [SparseFeat("user", USERS + 1, dim), item, VarLenSparseFeat(history, LENGTH, "mean", length_name="length")]


def _split() -> rx.data.Split:
    log, _ = rx.data.simulate(users=USERS, items=ITEMS, domains=4, events_per_user=(5, 9), seed=3)
    return rx.data.split(log)


def train_log() -> rx.data.Log:
    """The training events; their items are the ids of the samples."""
    return _split().train


def samples(which: str = "train") -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The input of fit, and labels [N]; ids from 1 on, padded behind, the newest events kept."""
    split = _split()
    make = {"max_history": LENGTH, "negatives": 2, "seed": 0}
    made = rx.data.make_train_samples(split, **make) if which == "train" else rx.data.make_eval_samples(split, **make)
    batch = made.batch(slice(0, len(made)))
    lengths = np.diff(np.append(batch.offsets, len(batch.history)))
    history = np.zeros((len(made), LENGTH), dtype=np.int64)
    history[np.arange(LENGTH) < lengths[:, None]] = batch.history
    x = {"user": batch.user + 1, "item": batch.target, "hist_item": history, "length": lengths}
    return x, batch.label


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """DeepCTR-Torch prints whatever ``verbose`` is."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def model(name: str, **options: Any) -> Any:
    """A compiled model, the same each time."""
    # xDeepFM counts tables for fields: it takes no shared ones.
    features = columns()[:2] if name == "xDeepFM" else columns()
    options = {"device": "cpu", "init_std": 0.05, "seed": 7, "dnn_hidden_units": (16, 8), **options}
    with quiet():
        if name == "DIN":
            made = DIN(features, ["item"], **options)
        elif name == "DIEN":
            made = DIEN(features, ["item"], **options)
        else:
            made = {"DeepFM": DeepFM, "xDeepFM": xDeepFM, "DCN": DCN}[name](features, features, **options)
        made.compile(
            torch.optim.Adam(made.parameters(), lr=5e-3), "binary_crossentropy", ["auc", "binary_crossentropy"]
        )
    return made


def predicted(made: Any) -> np.ndarray:
    """Scores of the validation samples."""
    with quiet():
        return made.predict(samples("valid")[0], 256)


def fit(made: Any, epochs: int = 2, initial_epoch: int = 0, **options: Any) -> dict[str, list[float]]:
    """The history of training, which shuffles the same each time."""
    x, y = samples()
    torch.manual_seed(0)
    with quiet():
        done = made.fit(x, y, batch_size=64, epochs=epochs, initial_epoch=initial_epoch, verbose=2, **options)
    return done.history


__all__ = [
    "DIM",
    "ITEMS",
    "LENGTH",
    "USERS",
    "columns",
    "fit",
    "get_feature_names",
    "model",
    "quiet",
    "samples",
    "train_log",
]
