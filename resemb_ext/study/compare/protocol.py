"""What study ``compare`` compares, written before the results and kept with them; and how logs are set up for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PROTOCOL: dict[str, Any] = {
    "version": 1,
    "primary": "test gAUC, Res-embedding (link average) minus plain, both with category, DNN, on each "
    "leave-last-out log",
    "comparisons": [
        "DNN with category: res minus plain, amazon-beauty (primary)",
        "DNN with category: res minus plain, amazon-toys (primary)",
        "DNN without category: res minus res on permuted neighbour entries, amazon-beauty",
        "DNN without category: res minus res on permuted neighbour entries, amazon-toys",
        "DNN without category: res minus plain started by item2vec, amazon-beauty",
        "DNN without category: res minus plain started by item2vec, amazon-toys",
    ],
    "inference": "bootstrap over users, then over seeds (10,000 draws, pairs of one seed kept "
    "together), 95 % percentile interval, two-sided p; Holm over all six; a comparison that was not "
    "run counts as p = 1; every other difference is exploratory and not corrected",
    "tuning": "every row by the same local search of 12 trials from one common start, validation "
    "gAUC of seed 0; moves: embedding learning rate and L2 by a factor of 3, scale of the start "
    "by 2, L2 of the whole table (dense Adam) or of touched rows (lazy Adam); the residual's L2 is 10 "
    "times L2 throughout; the graph-Laplacian row has its strength as a fifth factor within "
    "the same 12 trials",
    "test": "scored once a seed, by the epoch that validation picks, at the best trial's options; "
    "seeds 1 to 5; no test score enters tuning",
    "seen before": "test scores of untuned plain and Res-embedding on amazon-beauty (docs/results.md, "
    "seeds 0 to 2) and on ml-1m were known when this was written; none of amazon-toys, none of a "
    "tuned model, none of a control",
}


@dataclass(frozen=True)
class Setting:
    """How a log is split and sampled, and which variants are run on it.

    Attributes:
        split: "leave-last-out" or "time".
        max_history: events kept of a history.
        eval_negatives: per validation and test event.
        train_rows: size of the fixed sample of training rows; None for all.
        tables: item tables of ``resemb_ext.study.compare.variants.TABLES`` that are compared, with a DNN without
            category; None for all tables, models and features.
    """

    split: str = "leave-last-out"
    max_history: int = 50
    eval_negatives: int = 20
    train_rows: int | None = None
    tables: tuple[str, ...] | None = None


#: Settings by name; the first is that of a log for which none is named.
SETTINGS = {
    "leave-last-out": Setting(),
    # For a log of a million events, on which the full comparison would take days.
    "time-sample": Setting("time", 20, 4, 200_000, ("plain", "centre", "res")),
}
