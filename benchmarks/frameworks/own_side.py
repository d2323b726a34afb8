"""resemb_ext's side: the model, batches, loss and optimizer of ``resemb train --model din``."""

from __future__ import annotations

import pickle
from itertools import islice
from pathlib import Path

from benchmarks.frameworks.settings import ATTENTION, DIM, HIDDEN, LR
from resemb_ext.graph import InterestGraph
from resemb_ext.train.batches import train_batches
from resemb_ext.train.building import make_model
from resemb_ext.train.config import RunConfig
from resemb_ext.train.loop import training_loss
from resemb_ext.train.optimizer import build_optimizer


class OwnSide:
    def __init__(self, side: str, folder: Path, batch_size: int) -> None:
        with open(folder / "samples.pkl", "rb") as file:
            self.samples = pickle.load(file)
        lazy = side != "dense"
        config = RunConfig.build(
            model="din",
            dim=DIM,
            hidden=(HIDDEN,),
            attention_hidden=(ATTENTION,),
            activation="relu",
            batch_size=batch_size,
            lr=LR,
            embedding_lr=LR,
            embedding_l2=0.0,
            residual_l2=0.0,
            table_optimizer="lazy" if lazy else "dense",
            in_backward=lazy,
        )
        graph = InterestGraph.load(folder / "graph.npz") if side == "res" else None
        arm = "res" if side == "res" else "plain"
        self.config, self.items = config, self.samples.num_items
        self.model = make_model(config, arm, 0, num_items=self.items, graph=graph)
        self.optimizer = build_optimizer(self.model, config.fit_config())
        self.model.train()

    def batches(self, epoch: int):  # type: ignore[no-untyped-def]
        return train_batches(self.samples, self.config.batch_size, seed=0, epoch=epoch)

    def warm(self, steps: int) -> None:
        for batch in islice(self.batches(1), steps):
            self.step(batch)

    def read(self) -> int:
        return sum(1 for _ in self.batches(2))

    def train(self) -> float:
        losses = [self.step(batch) for batch in self.batches(3)]
        return sum(losses) / len(losses)

    def step(self, batch) -> float:  # type: ignore[no-untyped-def]
        loss, value = training_loss(self.model, batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return value


def make(side: str, folder: Path, batch_size: int) -> OwnSide:
    return OwnSide(side, folder, batch_size)
