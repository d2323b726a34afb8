"""RecBole's side: its DIN, loaders and trainer, over atomic files with a row a sample.

Its DIN has one option for the hidden sizes of both parts. The attention's activation is a sigmoid, the MLP's is Dice with
batch normalisation, and a table of users is learned.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from benchmarks.frameworks.settings import ATTENTION, DIM, HIDDEN, LR

assert ATTENTION == HIDDEN, "RecBole's DIN has one option for both"


class RecSide:
    def __init__(self, folder: Path, batch_size: int) -> None:
        logging.disable(logging.CRITICAL)
        with np.load(folder / "train.npz") as given:
            longest = given["history"].shape[1]
        self._scratch = tempfile.TemporaryDirectory()
        options = {
            "data_path": str(folder),
            "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id", "label", "item_id_list"], "item": ["item_id"]},
            "alias_of_item_id": ["item_id_list"],
            "MAX_ITEM_LIST_LENGTH": longest,
            "LABEL_FIELD": "label",
            "train_neg_sample_args": None,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": None, "mode": "labeled"},
            "metrics": ["AUC"],
            "valid_metric": "AUC",
            "embedding_size": DIM,
            "mlp_hidden_size": [HIDDEN],
            "learning_rate": LR,
            "train_batch_size": batch_size,
            "use_gpu": False,
            "show_progress": False,
            "state": "ERROR",
            "checkpoint_dir": self._scratch.name,
        }
        arguments, sys.argv = sys.argv, sys.argv[:1]  # RecBole reads options from the command line
        try:
            config = Config(model="DIN", dataset="recbole", config_dict=options)
        finally:
            sys.argv = arguments
        init_seed(config["seed"], config["reproducibility"])
        data = create_dataset(config)
        self.loader, _, _ = data_preparation(config, data)
        self.model = get_model("DIN")(config, self.loader.dataset)
        self.trainer = get_trainer(config["MODEL_TYPE"], "DIN")(config, self.model)

    def warm(self, steps: int) -> None:
        self.trainer._train_epoch(list(islice(self.loader, steps)), 0)

    def read(self) -> int:
        return sum(1 for _ in self.loader)

    def train(self) -> float:
        return self.trainer._train_epoch(self.loader, 0) / len(self.loader)


def make(side: str, folder: Path, batch_size: int) -> RecSide:
    return RecSide(folder, batch_size)
