"""A TorchRec 1.8 EmbeddingBagCollection, plain and with a Res-embedding: three lines more.

See docs/integrations/torchrec.md for the install.
python examples/torchrec_ebc.py

TorchRec ships no samples; these are those of a simulated log, as KeyedJaggedTensors.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

import resemb_ext as rx
from resemb_ext.integrations import torchrec as rx_torchrec

DIM = 16


def jagged(batch: rx.data.Batch) -> KeyedJaggedTensor:
    """The features user, item and history of a batch."""
    lengths = np.diff(np.append(batch.offsets, len(batch.history)))
    ones = np.ones_like(lengths)
    values = np.concatenate([batch.user, batch.target, batch.history])
    return KeyedJaggedTensor.from_lengths_sync(
        ["user", "item", "history"], torch.tensor(values), torch.tensor(np.concatenate([ones, ones, lengths]))
    )


class Model(nn.Module):
    """Pooled vectors, and a network over them."""

    def __init__(self, tables: list[EmbeddingBagConfig]) -> None:
        super().__init__()
        self.ebc = EmbeddingBagCollection(tables=tables)
        self.over = nn.Sequential(nn.Linear(4 * DIM, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, features: KeyedJaggedTensor) -> torch.Tensor:
        out = self.ebc(features)
        crossed = out["item"] * out["history"]
        return self.over(torch.cat([out.values(), crossed], 1)).squeeze(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    log, _ = rx.data.simulate(users=options.users, items=options.items, domains=15, seed=0)
    split = rx.data.split(log)
    train = rx.data.make_train_samples(split, max_history=20)
    test = rx.data.make_eval_samples(split, "test", max_history=20, negatives=4)
    size = {"embedding_dim": DIM}
    for arm in ("plain", "res"):
        torch.manual_seed(0)
        tables = [
            EmbeddingBagConfig(name="t_user", num_embeddings=log.num_users, feature_names=["user"], **size),
            EmbeddingBagConfig(name="t_item", num_embeddings=log.num_items, feature_names=["item", "history"], **size),
        ]
        model = Model(tables)
        if arm == "res":
            whole = train.batch(slice(None))
            keys = {"history": "history", "item": "item", "user": "user"}
            graph = rx_torchrec.item_graph(jagged(whole), log.num_items, labels=whole.label, **keys)
            print(rx_torchrec.replace_embeddings(model, {"t_item": graph}))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for epoch in range(options.epochs):
            for batch in train.batches(128, shuffle=True, epoch=epoch):
                loss = nn.functional.binary_cross_entropy_with_logits(model(jagged(batch)), torch.tensor(batch.label))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            rows = test.batch(slice(None))
            score = model(jagged(rows)).numpy()
        print(arm, {"auc": round(float(rx.metrics.auc(rows.label, score)), 4)})


if __name__ == "__main__":
    main()
