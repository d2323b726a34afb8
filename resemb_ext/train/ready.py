"""Runs on ready-made CTR samples: a folder of train, test and perhaps valid files as ``data``."""

from __future__ import annotations

import dataclasses

from resemb_ext import data

from .config import RunConfig

_FOR_LOGS = (
    *("time_column", "session_column", "delimiter", "drop_null"),
    *("split", "train_negatives", "eval_negatives", "negative_power"),
)
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(RunConfig)}


def read_split(config: RunConfig) -> data.ReadySplit | None:
    """The samples of the folder that the options name, None where they name no folder.

    Without a validation file ``eval_seed`` draws the users who validate.

    Raises:
        FileNotFoundError, ValueError: as ``resemb_ext.data.read_ready_made``; also for options
            that such samples leave no room for, and for categories that are none of the items'.
    """
    if config.simulated or not data.is_ready_made(config.data):
        if config.history_separator is not None:
            raise ValueError("history_separator is for folders of ready-made samples; a log has no histories")
        return None
    if config.label_column == "-":
        raise ValueError("label_column: ready-made samples need their labels")
    for name in _FOR_LOGS:
        # Runs of version 0.1 kept leave-last-out, their default.
        if getattr(config, name) not in (_DEFAULTS[name], "leave-last-out"):
            raise ValueError(
                f"{name} is for logs; the samples in {config.data} come split, with their histories and negatives"
            )
    split = data.read_ready_made(
        config.data,
        user=config.user_column,
        item=config.item_column,
        category=config.column("category"),
        label=config.label_column,
        history_separator=config.history_separator,
        max_history=config.max_history,
        seed=config.eval_seed,
    )
    if config.category and split.log.categories is None:
        why = [finding.found for finding in split.log.findings if finding.name == "category"]
        raise ValueError("; ".join(["category: the samples have no category that can be read", *why]))
    if config.category and split.mixed_items:
        raise ValueError(
            f"category: {split.mixed_items} items of {split.log.name!r} occur with several "
            "categories, the model takes one an item; drop --category or choose another item column"
        )
    return split
