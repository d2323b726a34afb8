"""What study ``compact`` compares, written before the results and kept with them."""

from __future__ import annotations

from typing import Any

MARGIN = 0.0015
PROTOCOL: dict[str, Any] = {
    "version": 1,
    "primary": "test gAUC of Res-embedding (link average) in a DNN with category, trained with bfloat16 tables and "
    "compact state minus trained with float32 tables and state; amazon-beauty, amazon-toys, ml-1m",
    "margin": MARGIN,
    "inference": "equivalent where the 90 % t interval of the mean difference, paired by seed, lies inside the margin: "
    "two one-sided tests at 5 % each; the logs are not corrected for each other, since all must pass",
    "seeds": "5, 1 to 5, and 10 more, 6 to 15: between seeds gAUC has a standard deviation of .0014 to .0024 "
    "(study compare), so that an interval of 5 pairs is about as wide as the margin; both are shown",
    "trade": "before it: every form of the moments in plain PyTorch on bfloat16 and float32 tables, seeds 1 and 2, "
    "amazon-beauty. It picks the form called compact among those of at most 8 bytes for an item and dimension, both "
    "tables with state, at D = 16, 32 and 64",
    "options": "the same for all, chosen before, not tuned: lazy Adam with L2 of the touched rows",
    "test": "scored once a run, by the epoch that validation gAUC picks",
}

#: Options of every run, whatever the defaults of training become.
OPTIONS: dict[str, Any] = {
    "model": "dnn",
    "category": True,
    "embedding": "res",
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
    "table_optimizer": "lazy",
    "decay": "touched",
    "train_negatives": 1,
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
#: The form called compact, and the next larger one, measured where compact is not equivalent.
COMPACT = "int8_rowwise"
NEXT = "bfloat16_rowwise"
TRADE_SEEDS = (1, 2)
SEEDS = tuple(range(1, 16))
FIRST_SEEDS = 5
