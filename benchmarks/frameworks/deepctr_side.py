"""DeepCTR-Torch's side: its DIN and its ``fit``."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import torch
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DIN
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.frameworks.settings import ATTENTION, DIM, HIDDEN, LR


class DeepSide:
    def __init__(self, folder: Path, batch_size: int) -> None:
        with np.load(folder / "train.npz") as given:
            rows, length = int(given["num_items"]), given["history"].shape[1]
            self.x = {"item": given["item"], "hist_item": given["history"], "length": given["length"]}
            self.y = given["label"]
        self.batch_size = batch_size
        item = SparseFeat("item", rows, DIM, embedding_name="item")
        history = SparseFeat("hist_item", rows, DIM, embedding_name="item")
        self.model = DIN(
            [item, VarLenSparseFeat(history, length, "mean", length_name="length")],
            ["item"],
            dnn_hidden_units=(HIDDEN,),
            att_hidden_size=(ATTENTION,),
            att_activation="relu",
            l2_reg_embedding=0.0,  # 1e-6 by default, of the whole table at every step
        )
        self.model.compile(torch.optim.Adam(self.model.parameters(), lr=LR), "binary_crossentropy")

    def fit(self, rows: int | None) -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            x = {name: values[:rows] for name, values in self.x.items()}
            history = self.model.fit(x, self.y[:rows], batch_size=self.batch_size, epochs=1, verbose=0)
        return history.history["loss"][-1]  # the loss of a sample

    def warm(self, steps: int) -> None:
        self.fit(steps * self.batch_size)

    def read(self) -> int:
        # What fit makes of its arguments.
        columns = [v[:, None] if v.ndim == 1 else v for v in (self.x[name] for name in self.model.feature_index)]
        data = TensorDataset(torch.from_numpy(np.concatenate(columns, axis=-1)), torch.from_numpy(self.y))
        return sum(1 for _ in DataLoader(data, shuffle=True, batch_size=self.batch_size))

    def train(self) -> float:
        return self.fit(None)


def make(side: str, folder: Path, batch_size: int) -> DeepSide:
    return DeepSide(folder, batch_size)
