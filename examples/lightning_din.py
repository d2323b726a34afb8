"""DIN in Lightning, plain and with a Res-embedding: three lines more.

pip install "resemb_ext[lightning]"
python examples/lightning_din.py

Trains on a simulated log. Both models see the same batches. The last lines are the log losses of the validation part.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import resemb_ext as rx
from resemb_ext.integrations.lightning import ResEmbeddings

LENGTH = 20


class DIN(LightningModule):
    """A model as one has it already: nothing in it names this package."""

    def __init__(self, items: int, dim: int = 16) -> None:
        super().__init__()
        self.item = nn.Embedding(items, dim, padding_idx=0)
        nn.init.normal_(self.item.weight, std=0.05)
        self.attention = nn.Sequential(nn.Linear(4 * dim, 36), nn.PReLU(), nn.Linear(36, 1))
        self.top = nn.Sequential(nn.Linear(2 * dim, 64), nn.PReLU(), nn.Linear(64, 1))

    def forward(self, history: Tensor, target: Tensor) -> Tensor:
        keys, query = self.item(history), self.item(target)
        queries = query.unsqueeze(1).expand_as(keys)
        weights = self.attention(torch.cat([queries, keys, queries - keys, queries * keys], -1))
        pooled = (weights * keys * (history > 0).unsqueeze(-1)).sum(1)
        return self.top(torch.cat([pooled, query], 1)).squeeze(1)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self(*batch[:2]), batch[2])

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.log("log loss", self.training_step(batch, _))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def rows(samples: rx.data.Samples) -> TensorDataset:
    """Histories padded in front, their items counted from 1; 0 is padding."""
    history = np.zeros((len(samples.target), LENGTH), np.int64)
    for row, (start, end) in enumerate(zip(samples.start, samples.end, strict=True)):
        items = samples.history_items[max(start, end - LENGTH) : end] + 1
        history[row, LENGTH - len(items) :] = items
    columns = (history, samples.target + 1, samples.label.astype(np.float32))
    return TensorDataset(*map(torch.from_numpy, columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    log, _ = rx.data.simulate(users=args.users, items=1000, domains=10, seed=0)
    split = rx.data.split(log, how="leave-last-out")
    train, valid = (rows(make(split)) for make in (rx.data.make_train_samples, rx.data.make_eval_samples))
    events = {"user": split.train.user, "item": split.train.item + 1}
    for kind in ("plain", "res"):
        torch.manual_seed(0)
        model, callbacks = DIN(log.num_items + 1), []
        if kind == "res":
            rx.replace_embeddings(model, {"item": events}, start="smoothed", sparse=True)
            make = model.configure_optimizers
            model.configure_optimizers = lambda make=make: rx.optim.like(make())  # type: ignore[method-assign, misc]
            callbacks = [ResEmbeddings()]
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                max_epochs=args.epochs,
                gradient_clip_val=5.0,
                callbacks=callbacks,
                default_root_dir=folder,
                accelerator="cpu",
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            loader = DataLoader(train, 256, shuffle=True, generator=torch.Generator().manual_seed(0))
            trainer.fit(model, loader, DataLoader(valid, 4096))
            print(f"{kind:6} log loss {float(trainer.callback_metrics['log loss']):.4f}", flush=True)


if __name__ == "__main__":
    main()
