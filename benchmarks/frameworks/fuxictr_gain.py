"""DIN in FuxiCTR on amazon-beauty: plain and with a Res-embedding, trained and evaluated by FuxiCTR itself.

The model is DIN of FuxiCTR's repository. Every arm sees the same samples, in the same order for a seed. The learning
rate of an arm is the one with the best AUC on validation, seed 0, with FuxiCTR's own Adam; the other optimizers take it
over. A run stops early as FuxiCTR does: no better validation AUC for ``PATIENCE`` epochs. Times are CPU seconds of
``train_step`` alone, of one thread.

python -m benchmarks.frameworks.fuxictr_gain --data amazon-beauty.parquet --fuxictr CHECKOUT --out benchmarks/results/fuxictr_din.json

Runs that the output holds already are not made again. ``--steps`` times the arms side by side in place of training.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.torch_utils import seed_everything

import resemb_ext as rx
from benchmarks import machine
from resemb_ext.integrations import fuxictr
from resemb_ext.metrics import gauc

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)
BATCH = 1024
PATIENCE = 2
EPOCHS = 8
DIM = 16
ARMS = {
    "plain, own Adam": None,
    "res, own Adam": "own",
    "res, rx.optim": "sparse",
    "res, rx.optim in backward": "in backward",
}
TUNED = {"plain": "plain, own Adam", "res": "res, own Adam"}
PARAMS = {
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "task": "binary_classification",
    "metrics": ["AUC", "logloss"],
    "monitor": "AUC",
    "early_stop_patience": PATIENCE,
    "embedding_dim": DIM,
    "dnn_hidden_units": [64, 32],
    "dnn_activations": "relu",
    "attention_hidden_units": [32],
    "attention_hidden_activations": "Dice",
    "din_target_field": [("item", "category")],
    "din_sequence_field": [("history", "category_history")],
    "embedding_regularizer": None,
    "net_regularizer": None,
    "verbose": 0,
}


def zoo_din(checkout: Path) -> Any:
    """The class DIN of FuxiCTR's model zoo, which its wheel lacks."""
    path = checkout / "model_zoo" / "DIN" / "src" / "DIN.py"
    spec = importlib.util.spec_from_file_location("zoo_din", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"--fuxictr: no file {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DIN


class Bench:
    """The data set, written once, and the runs on it."""

    def __init__(self, data: Path, model: Any, folder: Path, history: int) -> None:
        split = rx.data.split(rx.data.read_log(data, user="user_id", item="item_id", time="order"))
        self.samples = {
            "train": rx.data.make_train_samples(split, max_history=history, negatives=1),
            "valid": rx.data.make_eval_samples(split, "valid", max_history=history, negatives=4),
            "test": rx.data.make_eval_samples(split, "test", max_history=history, negatives=4),
        }
        self.folder = folder / "amazon-beauty"
        self.feature_map = fuxictr.write_dataset(self.samples, self.folder, feature_encoder=None)
        self.feature_map.default_emb_dim = DIM
        self.graph = fuxictr.item_graph(self.feature_map, self.folder / "train.npz", item="item", user="user")
        self.model = model

    def loader(self, part: str, shuffle: bool) -> Any:
        path = self.folder / f"{part}.npz"
        size = BATCH if part == "train" else 8192
        return NpzDataLoader(self.feature_map, str(path), batch_size=size, shuffle=shuffle, num_workers=0)

    def build(self, arm: str, rate: float, seed: int) -> Any:
        seed_everything(seed)
        name = arm.replace(" ", "_").replace(",", "")
        options = {"model_id": f"{name}_{rate}_{seed}", "model_root": str(self.folder.parent / "models")}
        model = self.model(self.feature_map, learning_rate=rate, **options, **PARAMS)
        Path(model.model_dir).mkdir(parents=True, exist_ok=True)
        kind = ARMS[arm]
        if kind is not None:
            fuxictr.replace_embeddings(model, {"item": self.graph}, optimizer=kind)
        return model

    def run(self, arm: str, rate: float, seed: int) -> dict[str, Any]:
        """One training by FuxiCTR's fit, and its evaluation of the best epoch."""
        model = self.build(arm, rate, seed)
        seconds: list[float] = []
        step = model.train_step

        def timed(batch: Any) -> Any:
            start = time.process_time()
            loss = step(batch)
            seconds.append(time.process_time() - start)
            return loss

        model.train_step = timed
        train = self.loader("train", True)
        valid = self.loader("valid", False)
        seed_everything(seed)
        model.fit(train, validation_data=valid, epochs=EPOCHS)
        model.train_step = step
        batches = len(train)
        return {
            "arm": arm,
            "rate": rate,
            "seed": seed,
            "epochs": len(seconds) / batches,
            "seconds_of_steps_an_epoch": sum(seconds) / len(seconds) * batches,
            "valid": self.metrics(model, "valid"),
            "test": self.metrics(model, "test"),
        }

    def metrics(self, model: Any, part: str) -> dict[str, float]:
        """FuxiCTR's metrics; gAUC by ours, which is the same number (tests/integrations/fuxictr) and 70 s sooner."""
        scores = model.predict(self.loader(part, False))
        samples = self.samples[part]
        theirs = model.evaluate_metrics(samples.label.astype(float), scores, ["AUC", "logloss"])
        return {**{name: float(v) for name, v in theirs.items()}, "gAUC": gauc(samples.label, scores, samples.user)}

    def steps(self, rate: float, rounds: int) -> dict[str, float]:
        """Median CPU milliseconds of a training step, the arms in turn on the same batches."""
        models = {arm: self.build(arm, rate, 0) for arm in ARMS}
        batches = []
        for batch in self.loader("train", True):
            batches.append(batch)
            if len(batches) == rounds:
                break
        times: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for model in models.values():
            model._max_gradient_norm = 10.0
            model.train()
        for number, batch in enumerate(batches):
            for arm, model in models.items():
                start = time.process_time()
                model.train_step(batch)
                if number >= 5:
                    times[arm].append(1e3 * (time.process_time() - start))
        return {arm: statistics.median(each) for arm, each in times.items()}


def best_rate(runs: list[dict[str, Any]], arm: str) -> float:
    """The learning rate with the best validation AUC at seed 0."""
    tuned = [run for run in runs if run["arm"] == arm and run["seed"] == 0]
    return max(tuned, key=lambda run: run["valid"]["AUC"])["rate"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the log: user_id, item_id, order")
    parser.add_argument("--fuxictr", type=Path, required=True, help="checkout of FuxiCTR's repository, for its DIN")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--history", type=int, default=10)
    parser.add_argument("--steps", type=int, default=0, help="time this many steps instead of training")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    found = json.loads(options.out.read_text()) if options.out.is_file() else {"runs": []}
    runs = found["runs"]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.data, zoo_din(options.fuxictr), Path(folder), options.history)
        found |= {
            "machine": machine.machine(),
            "parameters": {**PARAMS, "batch": BATCH, "epochs": EPOCHS, "history": options.history, "rates": RATES},
            "rows": {part: len(samples) for part, samples in bench.samples.items()},
            "candidate_hash": bench.samples["test"].candidate_hash,
            "edges": bench.graph.num_edges,
        }

        def write() -> None:
            options.out.write_text(json.dumps(found, indent=1) + "\n")

        def ensure(arm: str, rate: float, seed: int) -> None:
            if not any((run["arm"], run["rate"], run["seed"]) == (arm, rate, seed) for run in runs):
                runs.append(bench.run(arm, rate, seed))
                print(json.dumps(runs[-1]), flush=True)
                write()

        if options.steps:
            found["step_ms"] = bench.steps(best_rate(runs, TUNED["res"]) if runs else 1e-3, options.steps)
            print(found["step_ms"])
            write()
            return
        for arm in TUNED.values():
            for rate in RATES:
                ensure(arm, rate, 0)
        for seed in SEEDS:
            for arm in ARMS:
                if ARMS[arm] == "in backward" and seed != SEEDS[0]:
                    continue  # bit for bit the steps of rx.optim: one run shows it
                ensure(arm, best_rate(runs, TUNED[arm.partition(",")[0]]), seed)


if __name__ == "__main__":
    main()
