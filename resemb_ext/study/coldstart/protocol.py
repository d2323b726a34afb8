"""What study ``coldstart`` compares, written before the results and kept with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIVEN = (1, 2, 5, 10)  # events of each held-out item that the grown graph sees
PRIMARY = 5
SHARE = 0.1
HALF = 0.5
PROTOCOL: dict[str, Any] = {
    "version": 1,
    "held out": "all events of 10 % of the items, drawn once a seed among the items of more than 10 events. The first "
    "k events of each in time, k = 1, 2, 5, 10, are what a grown graph sees; those after the tenth are tested, at most "
    "5,000 of them, the same for every k and method",
    "primary": "gAUC of test events against 20 other held-out items that the user does not know; the share of "
    "retraining's gain that grown rows reach at 5 events, (grown - oov) / (retrained - oov), of means over seeds: at "
    "least 0.5 on amazon-beauty, amazon-toys and ml-1m each",
    "secondary": "the same with 20 negatives among all items, held-out or not",
    "oov": "a plain table trained without the held-out items, whose out-of-vocabulary row stands for each of them",
    "mean of neighbours": "the same table, with the mean of the neighbours' rows by the weights of the graph of k events",
    "grown": "Res-embedding (link average) trained without the held-out items, then emb.grow over the graph of the "
    "training events and k events of each held-out item",
    "retrained": "trained from the start on the training events and the first 10 events of each held-out item; the "
    "better of plain and Res-embedding",
    "graphs": "built anew of both kinds of events: InterestGraph.update gives the same arrays where events come in the "
    "order of time",
    "model": "DNN without category, options not tuned, the same for all",
    "seeds": "1 to 3; each draws other held-out items, test events and starts",
    "leaks": "histories of test events hold all earlier events of the user; training rows and graphs may hold later "
    "events of warm items, and none that is tested",
}

#: Options of every run, whatever the defaults of training become.
OPTIONS: dict[str, Any] = {
    "model": "dnn",
    "category": False,
    "epochs": 20,
    "patience": 3,
    "metric": "gauc",
    "batch_size": 1024,
    "eval_batch_size": 16384,
    "lr": 3e-3,
    "l2": 0.0,
    "embedding_lr": 5e-3,
    "embedding_l2": 3e-5,
    "residual_l2": 3e-4,
    "table_optimizer": "dense",
    "split": "leave-last-out",
    "train_negatives": 1,
    "eval_negatives": 20,
    "negative_power": 0.75,
    "eval_seed": 0,
    "window": 3,
    "top_k": 10,
    "link": "average",
    "dim": 32,
    "hidden": (64, 32),
    "activation": "prelu",
    "dropout": 0.0,
    "init_std": 0.05,
    "residual_scale": 0.1,
    "threads": 1,
}
SEEDS = (1, 2, 3)
NEGATIVES = 20
TEST_EVENTS = 5_000


@dataclass(frozen=True)
class Setting:
    """How one log is run.

    Attributes:
        max_history: events kept of a history.
        train_rows: size of the fixed sample of training rows; None for all.
    """

    max_history: int = 50
    train_rows: int | None = None


#: Settings by name; the first is that of a log for which none is named.
SETTINGS = {"leave-last-out": Setting(), "sample": Setting(20, 200_000)}
