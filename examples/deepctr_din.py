"""DIN in DeepCTR-Torch 0.3, plain and with a Res-embedding: three lines more.

pip install "resemb_ext[deepctr]"
python examples/deepctr_din.py

The samples are those of a simulated log, in the form that DeepCTR-Torch's own examples build by hand: ids from 1 on, and
histories padded behind with 0. Both models see the same batches.
"""

from __future__ import annotations

import argparse
import contextlib
import io

import numpy as np
import torch
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DIN

import resemb_ext as rx
from resemb_ext.integrations import deepctr

LENGTH, DIM = 20, 16


def model_input(samples: rx.data.Samples) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """x and y of DeepCTR-Torch."""
    batch = samples.batch(slice(0, len(samples)))
    lengths = np.diff(np.append(batch.offsets, len(batch.history)))
    history = np.zeros((len(samples), LENGTH), dtype=np.int64)
    history[np.arange(LENGTH) < lengths[:, None]] = batch.history
    return {"user": batch.user, "item": batch.target, "hist_item": history, "length": lengths}, batch.label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", default="own", choices=["own", "sparse", "in backward"])
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)

    log, _ = rx.data.simulate(users=options.users, items=options.items, domains=15, seed=0)
    split = rx.data.split(log)
    train_x, train_y = model_input(rx.data.make_train_samples(split, max_history=LENGTH))
    test_x, test_y = model_input(rx.data.make_eval_samples(split, "test", max_history=LENGTH, negatives=4))
    history = SparseFeat("hist_item", log.num_items, DIM, embedding_name="item")
    columns = [
        SparseFeat("user", log.num_users, DIM),
        SparseFeat("item", log.num_items, DIM),
        VarLenSparseFeat(history, LENGTH, length_name="length"),
    ]
    for arm in ("plain", "res"):
        model = DIN(columns, ["item"], dnn_hidden_units=(64, 32), init_std=0.01, device="cpu")
        model.compile("adam", "binary_crossentropy", metrics=["auc", "binary_crossentropy"])
        if arm == "res":
            graph = deepctr.item_graph(columns, train_x, train_y, user="user")
            print(deepctr.replace_embeddings(model, graph, optimizer=options.optimizer))
        torch.manual_seed(1)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the device and the sizes
            model.fit(train_x, train_y, batch_size=128, epochs=options.epochs, verbose=0)
        print(arm, {name: round(float(value), 4) for name, value in model.evaluate(test_x, test_y).items()})


if __name__ == "__main__":
    main()
