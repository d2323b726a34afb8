"""What ready-made samples hold, and what training does with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .findings import NOTE, WARNING, Finding
from .parts import PARTS
from .ready import ReadySplit
from .splits import has_both_classes


def look_over(split: ReadySplit) -> tuple[dict[str, Any], list[Finding]]:
    """Figures of the samples by name, and what is odd about them."""
    log, samples = split.log, split.samples
    lengths = {part: samples[part].end - samples[part].start for part in PARTS}
    rows = {part: len(samples[part]) for part in PARTS}
    without = {part: int((lengths[part] == 0).sum()) for part in PARTS}
    figures = {
        "rows": rows,
        "users": log.num_users,
        "items": len(log.items),
        "categories": None if log.categories is None else len(log.categories),
        "columns": dict(log.columns),
        "guessed": list(log.guessed),
        "histories": log.remarks["history"],
        "history_length": {part: float(np.median(lengths[part])) for part in PARTS},
        "rows_without_history": without,
        "positive_share": {part: float(samples[part].label.mean()) for part in PARTS},
        "targets_in_training": {part: float(samples[part].target_seen.mean()) for part in PARTS},
        "items_of_several_categories": split.mixed_items,
    }
    found = list(log.findings)
    if sum(without.values()):
        share = f"{sum(without.values()):,} of {sum(rows.values()):,} rows"
        found.append(Finding(NOTE, "no history", f"{share} have none", "their history is empty"))
    if split.held_out:
        found.append(
            Finding(
                NOTE,
                "no valid file",
                "the folder has train and test alone",
                f"{split.held_out:.0%} of the training users validate, with all of their rows",
            )
        )
    if split.mixed_items:
        found.append(
            Finding(
                NOTE,
                "several categories",
                f"{split.mixed_items:,} items have more than one",
                "--category stops; without it they do no harm",
            )
        )
    if not has_both_classes(samples["valid"].user, samples["valid"].label):
        found.append(
            Finding(
                WARNING,
                "gAUC",
                "no user has validation rows of both labels",
                "gAUC is undefined: training needs --metric auc",
            )
        )
    return figures, found
