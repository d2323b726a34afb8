"""What study ``gain`` compares, written before the results and kept with them; and how logs are set up for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resemb_ext.study.compare.protocol import Setting

TRIALS, MORE_TRIALS = 12, 24
RUNGS = (2, 4, 8)
KEEP = 3
WIDE: dict[str, Any] = {"window": 5, "top_k": 50}
COARSE = (3.0, 30.0, 300.0)  # strengths of smoothing within the search
CATEGORY_SHARE = 0.25
CATEGORY_TOP_K = 20
#: The comparisons, in order: log with split, model, and which finalist minus which.
REGISTERED: tuple[tuple[str, str, str, str], ...] = (
    ("amazon-beauty-last", "dnn", "best", "cheap"),
    ("amazon-toys-last", "dnn", "best", "cheap"),
    ("amazon-beauty-last", "din", "best", "cheap"),
    ("amazon-toys-last", "din", "best", "cheap"),
    ("ml-1m-time", "dnn", "best", "base"),
    ("taobao-userbehavior-815u-time", "dnn", "best", "base"),
)
PROTOCOL: dict[str, Any] = {
    "version": 2,
    "primary": "test gAUC with category, DNN, the finalist of the Res-embedding forms minus the finalist of the cheap "
    "alternatives, amazon-beauty and amazon-toys: at least 0.012 each, intervals above 0 after Holm",
    "comparisons": [f"{log}, {model.upper()}: {one} minus {other}" for log, model, one, other in REGISTERED],
    "bars": "best minus plain: DNN at least 0.025, DIN 0.015 on the Amazon logs, nowhere below -0.001 on ml-1m and "
    "taobao, on ml-1m at least +0.005; best minus cheap: DNN at least 0.012, DIN 0.007; items with fewer than 5 training "
    "events, best minus plain: at least 0.03; permuted graph and null log: 0",
    "finalists": "of each log, split and model by validation gAUC of seed 0 after the common search: base (plain as "
    "trained), cheap (the best of plain, and of plain smoothed, started by item2vec, with a graph-Laplacian penalty, "
    "twice as wide, with swapped ids, with fresh tables each epoch, all smoothed) and best (the best of res, res smoothed, "
    "over a wide graph, over a wide graph mixed with categories, both smoothed); the search of all three goes on to 24 "
    "trials (ml-1m: 12), and the page says whether it is closed",
    "where": "Amazon logs, leave-last-out, DNN: all arms; the same with DIN, and DNN on ml-1m with all training rows (split by "
    "time, and leave-last-out) and on taobao (split by time): plain, plain smoothed, item2vec smoothed, res, res smoothed, "
    "res over the wide graph smoothed; time: histories of 20 and 4 negatives, leave-last-out: 50 and 20",
    "tuning": "every arm by the same local search of 12 trials (ml-1m: 8) from one common start, validation gAUC of seed 0; moves as "
    "in study compare, and each arm's own option (penalty, probability of a swap); successive halving: a trial stops after "
    "2, 4 or 8 epochs where it is not among the best third of the trials so far at that epoch, and counts with its best "
    "epoch, not smoothed",
    "smoothing": "after training, by validation: strength 0, 3, 30 or 300 within the search; then for each seed 0, 1, 3, 10, "
    "30, 100, 300 or 1000, ascending until two in a row are worse; cheap arms over the narrow, the wide or the mixed graph, whichever is best, Res-embeddings "
    "over their own",
    "graphs": "of training events alone: narrow has window 3 and top_k 10, wide 5 and 50; mixed is wide with share 0.75 "
    "and categories with 0.25, top_k 50",
    "inference": "bootstrap over users, then over seeds (10,000 draws, pairs of one seed kept together), 95 % percentile "
    "interval, two-sided p; Holm over all six; a comparison that was not run counts as p = 1; a 95 % t interval over "
    "seeds beside it; every other difference is exploratory and not corrected",
    "test": "scored once a seed, seeds 1 to 5, by the epoch, strength and graph that validation picks, at the best trial's "
    "options; no test score enters tuning or the choice of finalists",
    "controls": "res over permuted neighbour entries, smoothed over the same; a simulated log whose items have no interests",
    "seen before": "test scores of a quick trial with one or two seeds and options of study compare were known when this "
    "was written: DNN with category on amazon-beauty and amazon-toys, of plain, plain smoothed, item2vec, res, res "
    "smoothed, other widths, hops, damping, residual L2; DNN on 200,000 rows of ml-1m, of plain, res and both smoothed; DIN "
    "on amazon-beauty, seed 1; and all of study compare. None of ml-1m with all rows smoothed, none of taobao, none of "
    "swaps, fresh tables, or a graph mixed with categories",
}


@dataclass(frozen=True)
class Part:
    """One split of a log and what is run on it.

    Attributes:
        name: after the log's.
        setting: split and samples.
        models: "dnn", "din".
        dense: only the arms that a dense log gets, and test scores of finalists alone.
        trials: of an arm, and of a finalist in all.
    """

    name: str
    setting: Setting
    models: tuple[str, ...]
    dense: bool = False
    trials: tuple[int, int] = (TRIALS, MORE_TRIALS)


_LAST = Setting()
_TIME = Setting("time", 20, 4)
_FEW = (8, 12)  # an epoch of a million events takes several times that of the others
#: Parts by setting; the first setting is that of a log for which none is named.
SETTINGS: dict[str, tuple[Part, ...]] = {
    "leave-last-out": (Part("last", _LAST, ("dnn", "din")),),
    "time": (Part("time", _TIME, ("dnn",), dense=True),),
    "both": (Part("time", _TIME, ("dnn",), True, _FEW), Part("last", _LAST, ("dnn",), True, _FEW)),
}
