"""What study ``untuned`` compares and with which options, kept with its results; and how logs are set up for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PROTOCOL: dict[str, Any] = {
    "version": 1,
    "primary": "test gAUC, Res-embedding (link average) minus plain, both at one set of options",
    "comparisons": [
        "DNN and DIN, with and without category, on every log and split",
        "FM, Wide&Deep, DeepFM, PNN and DIEN: with category and one seed, on the logs whose setting names them",
    ],
    "inference": "95 % t interval over seeds, where there are several; 95 % normal interval over test users, the "
    "trained models given (ratio estimator, seeds averaged per user); above or below where every interval that is "
    "there excludes 0 on that side, else undecided",
    "tuning": "none: the options were chosen before and are the same for both embeddings",
    "test": "scored once a run, by the epoch that validation gAUC picks",
    "negatives": "drawn by an item's training events to the power 0.75 among the items that the user does not know; "
    "for training once a seed, the same for both embeddings; for validation and test once, the same for all runs",
    "graph": "from training events alone; it holds the edge from a training target to the last item of its own "
    "history too (no cross-fitting)",
}

#: Options of every run, whatever the defaults of training become.
OPTIONS: dict[str, Any] = {
    "epochs": 20,
    "patience": 3,
    "metric": "gauc",
    "batch_size": 1024,
    "eval_batch_size": 16384,
    "lr": 3e-3,
    "l2": 0.0,
    "embedding_lr": 5e-3,
    "embedding_l2": 3e-5,
    "central_lr": None,
    "central_l2": None,
    "residual_lr": None,
    "residual_l2": 3e-4,
    "table_optimizer": "dense",
    "decay": None,
    "in_backward": False,
    "max_history": 50,
    "train_negatives": 1,
    "eval_negatives": 20,
    "negative_power": 0.75,
    "eval_seed": 0,
    "cross_fit": 0,
    "window": 3,
    "top_k": 10,
    "min_count": 1,
    "max_gap": None,
    "session_gap": None,
    "weighting": "count",
    "damping": 0.0,
    "link": "average",
    "hops": 1,
    "heads": 1,
    "edge_dropout": 0.0,
    "model_options": (),
    "embedding": "both",
    "dim": 32,
    "hidden": (64, 32),
    "attention_hidden": (36,),
    "activation": "prelu",
    "dropout": 0.0,
    "init_std": 0.05,
    "residual_scale": 0.1,
}

#: Models of every log and split, with several seeds.
MAIN = ("dnn", "din")
#: Models that are run once: with category, one seed.
ONCE = ("fm", "wide_deep", "deepfm", "pnn", "dien")


@dataclass(frozen=True)
class Setting:
    """How one log is run.

    Attributes:
        splits: the splits to report, each with the options that differ there.
        options: of all its cells, where they differ from ``OPTIONS``.
        by_model: of one model's cells.
        seeds: of training.
        once: models that are run once; () for none.
    """

    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"leave-last-out": {}})
    options: Mapping[str, Any] = field(default_factory=dict)
    by_model: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    once: tuple[str, ...] = ONCE


#: Settings by name; the first is that of a log for which none is named.
SETTINGS = {
    "leave-last-out": Setting(),
    # A log of a million events, hundreds an item. Shorter histories and fewer epochs keep a cell within minutes. The
    # time split holds out 16 times as many events as leave-last-out, so 4 negatives each still make more candidates;
    # the expectation of AUC does not depend on their number.
    "dense": Setting(
        splits={"leave-last-out": {}, "time": {"eval_negatives": 4}},
        options={"max_history": 20, "patience": 2},
        by_model={"dnn": {"epochs": 12}, "din": {"epochs": 5}},
        seeds=(0,),
        once=(),
    ),
}
QUICK = Setting(options={"epochs": 2}, seeds=(0,), once=())
