"""DIN in RecBole 1.2.1 with a plain item table and with a Res-embedding: RecBole's trainer, metrics and samples.

    python -m benchmarks.frameworks.recbole_gain gain amazon-beauty.parquet
    python -m benchmarks.frameworks.recbole_gain time amazon-beauty.parquet

Run it in an environment with RecBole (tests/integrations/environments/recbole.txt). The log has the columns user_id,
item_id, order and category. Results go to benchmarks/results/recbole_din.json, a part a command.

gain: of each arm the learning rate with the best validation GAUC under the first seed, out of the same three; then
the test metrics of every seed. Training stops after the first epoch without a better GAUC. All users train; RecBole's
evaluation takes milliseconds a user, so that the metrics are those of 3,000 users drawn once. Both arms of a seed start with
equal vectors and see the same samples in the same order.

time: seconds of CPU of an epoch, the arms in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

import resemb_ext as rx
from benchmarks.machine import machine
from resemb_ext.integrations.recbole import replace_embeddings
from resemb_ext.runtime.files import write_text

RESULT = Path(__file__).resolve().parents[1] / "results" / "recbole_din.json"
SEEDS = (1, 2, 3)
RATES = (1e-3, 3e-3, 1e-2)
USERS = 3000  # evaluated
ROUNDS = 3
OPTIONS: dict[str, Any] = {
    "embedding_size": 16,
    "mlp_hidden_size": [64, 32],
    "MAX_ITEM_LIST_LENGTH": 10,
    "train_batch_size": 2048,
    "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni20"},
    "metrics": ["GAUC", "NDCG"],
    "valid_metric": "GAUC",
    "topk": [10],
    "stopping_step": 0,
    "epochs": 12,
    "metric_decimal_place": 6,
}
ARMS = {
    "plain, torch Adam": (False, False),
    "res, torch Adam": (True, False),
    "res, sparse gradients, rx.optim.Adam": (True, True),
}


def write_atomic(log: Path, folder: Path) -> None:
    """RecBole's files of the log; the order of a user's events stands for their time."""
    table = pd.read_parquet(log)
    (folder / "log").mkdir()
    events = table[["user_id", "item_id", "order"]]
    events.columns = pd.Index(["user_id:token", "item_id:token", "timestamp:float"])
    events.to_csv(folder / "log" / "log.inter", sep="\t", index=False)
    items = table[["item_id", "category"]].drop_duplicates("item_id")
    items.columns = pd.Index(["item_id:token", "category:token"])
    items.to_csv(folder / "log" / "log.item", sep="\t", index=False)


class Task:
    """One arm under one seed and rate, ready to train."""

    def __init__(self, folder: Path, seed: int, rate: float, res: bool, sparse: bool = False, **more: Any) -> None:
        options = {"data_path": str(folder), "checkpoint_dir": str(folder / "saved"), "use_gpu": False}
        options |= {"seed": seed, "learning_rate": rate, "show_progress": False, "state": "ERROR"}
        load = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category"]}
        arguments, sys.argv = sys.argv, sys.argv[:1]  # RecBole reads options from the command line
        self.config = Config(model="DIN", dataset="log", config_dict=OPTIONS | options | {"load_col": load} | more)
        sys.argv = arguments
        init_seed(seed, True)
        dataset = create_dataset(self.config)
        self._evaluate_fewer(dataset)
        self.train, self.valid, self.test = data_preparation(self.config, dataset)
        for part in (self.train, self.valid, self.test):
            vars(part.dataset).pop("build")  # DIN pickles the data set into its checkpoints
        init_seed(seed, True)
        self.model = get_model("DIN")(self.config, self.train.dataset)
        if res:
            self.edges = replace_embeddings(self.model, self.train, sparse=sparse).tables[0].edges
        self.trainer = get_trainer(self.config["MODEL_TYPE"], "DIN")(self.config, self.model)
        if sparse:
            self.trainer.optimizer = rx.optim.like(self.trainer.optimizer)
        init_seed(seed, True)

    @staticmethod
    def _evaluate_fewer(dataset: Any) -> None:
        build = dataset.build
        users = np.random.default_rng(0).permutation(np.arange(1, dataset.user_num))[:USERS]

        def built() -> list[Any]:
            train, *others = build()
            return [train, *(part.copy(part.inter_feat[np.isin(part.inter_feat["user_id"], users)]) for part in others)]

        dataset.build = built


def gain(folder: Path) -> dict[str, Any]:
    """Rates, chosen and tried, and the test metrics of each seed."""
    found: dict[str, Any] = {"options": OPTIONS, "evaluated_users": USERS, "seeds": list(SEEDS), "arms": {}}
    for arm, res in (("plain", False), ("res", True)):
        tried = {rate: _fit(folder, SEEDS[0], rate, res) for rate in RATES}
        best = max(tried, key=lambda rate: tried[rate]["valid"]["gauc"])
        runs = [tried[best], *(_fit(folder, seed, best, res) for seed in SEEDS[1:])]
        valid = {f"{rate:g}": run["valid"]["gauc"] for rate, run in tried.items()}
        found["arms"][arm] = {"rate": best, "valid_gauc_of_rates": valid, "runs": runs}
    arms = found["arms"]
    found["gain"] = {
        name: [
            res["test"][name] - plain["test"][name]
            for res, plain in zip(*(arms[a]["runs"] for a in ("res", "plain")), strict=True)
        ]
        for name in ("gauc", "ndcg@10")
    }
    return found


def _fit(folder: Path, seed: int, rate: float, res: bool) -> dict[str, Any]:
    task = Task(folder, seed, rate, res)
    scores: list[float] = []
    _, valid = task.trainer.fit(
        task.train, task.valid, verbose=False, callback_fn=lambda epoch, score: scores.append(score)
    )
    found = (valid, task.trainer.evaluate(task.test))
    valid, test = ({name: float(value) for name, value in metrics.items()} for metrics in found)
    print("res" if res else "plain", f"seed {seed}, rate {rate:g}:", scores, test, flush=True)
    return {"valid": valid, "test": test, "epochs": int(np.argmax(scores)) + 1, "edges": getattr(task, "edges", 0)}


def timed(folder: Path) -> dict[str, Any]:
    """Seconds of an epoch of each arm."""
    tasks = {arm: Task(folder, 1, 1e-3, *how, epochs=1) for arm, how in ARMS.items()}
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for turn in range(ROUNDS + 1):
        for arm, task in tasks.items():
            begin = time.process_time()
            task.trainer.fit(task.train, None, verbose=False, saved=False)
            if turn:  # the first warms up
                seconds[arm].append(time.process_time() - begin)
            print(arm, f"{time.process_time() - begin:.2f} s", flush=True)
    plain = next(iter(ARMS))
    ratios = {arm: statistics.median(a / b for a, b in zip(seconds[arm], seconds[plain], strict=True)) for arm in ARMS}
    samples = 2 * len(tasks[plain].train.dataset)
    medians = {arm: statistics.median(found) for arm, found in seconds.items()}
    return {"rounds": ROUNDS, "samples": samples, "cpu_seconds": medians, "ratio_to_plain": ratios}


@contextmanager
def _files(log: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        write_atomic(log, Path(folder))
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["gain", "time"])
    parser.add_argument("log", type=Path)
    arguments = parser.parse_args()
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # RecBole's checkpoints hold its configuration
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with _files(arguments.log) as folder:
        part = gain(folder) if arguments.what == "gain" else timed(folder)
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result |= {arguments.what: part, f"machine of {arguments.what}": machine()}
    write_text(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
