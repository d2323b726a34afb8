"""Study ``untuned``: what a plain embedding and Res-embedding reach at one set of options.

A cell (log, split, model, with or without category) is a piece. It trains both embeddings with every seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from resemb_ext import _loader, data
from resemb_ext.runtime.environment import environment
from resemb_ext.study.harness.inference import user_interval
from resemb_ext.study.harness.pieces import Piece, Source
from resemb_ext.train import RunConfig, TrainingDiverged
from resemb_ext.train.arm import train_arm
from resemb_ext.train.inputs import hashes
from resemb_ext.train.prepare import Prepared, evaluation_samples, graph_of, train_samples

from .protocol import MAIN, OPTIONS, QUICK, SETTINGS, Setting

ARMS = ("plain", "res")
_METRICS = ("auc", "gauc", "logloss", "rows", "gauc_users", "gauc_skipped_users")
_RADIUS = ("ratio", "permuted_ratio", "domains", "items", "min_items", "domain_source")
_RUN = (
    "embedding",
    "seed",
    "epochs",
    "best_epoch",
    "stopped",
    "steps",
    "aggregation_radius",
    "samples_per_s",
    "peak_memory_mb",
    "parameters",
    "wall_s",
)
_GRAPH = ("num_edges", "isolated", "kept_mass")
_HASHES = ("split", "graph", "graph_events", "valid_candidates", "test_candidates")


@dataclass(frozen=True)
class Cell:
    """What one piece trains on: ``log`` (its name), ``split``, ``model``, and whether ``category`` is given."""

    log: str
    split: str
    model: str
    category: bool

    @property
    def key(self) -> str:
        """Of the piece: "ml-1m-time-din-category"."""
        return f"{self.log}-{self.split}-{self.model}" + ("-category" if self.category else "")


@dataclass(frozen=True, eq=False)
class Shared:
    """What the cells of one log and split share, made once a process.

    Attributes:
        source: the log.
        config: options of split, samples and graph.
    """

    source: Source
    config: RunConfig

    @cached_property
    def prepared(self) -> Prepared:
        """Split, evaluation samples and graph."""
        log, truth = self.source.loaded
        split = data.split(log, self.config.split)
        valid, test = (evaluation_samples(self.config, split, which) for which in ("valid", "test"))
        graph = graph_of(self.config, split.train)
        domain, source = (log.category_domain, "category") if truth is None else (truth.domain, "simulated truth")
        return Prepared(log, split, valid, test, graph, truth, domain, source)


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """A piece a cell: every log, split, model, without and with category where the log has categories."""
    plan = []
    for source in sources:
        setting = QUICK if quick else SETTINGS[source.setting or next(iter(SETTINGS))]
        with_category = source.log.num_categories > 0
        for split in setting.splits:
            shared = Shared(source, config_of(Cell(source.name, split, MAIN[0], False), setting))
            for model in (*MAIN, *setting.once):
                once = model in setting.once
                for category in (with_category,) if once else sorted({False, with_category}):
                    cell = Cell(source.name, split, model, category)
                    seeds = setting.seeds[:1] if once else setting.seeds
                    plan.append(piece_of(cell, setting, shared, seeds))
    return plan


def piece_of(cell: Cell, setting: Setting, shared: Shared, seeds: Sequence[int]) -> Piece:
    """The piece of a cell."""
    config = {"options": OPTIONS, "cell": own_options(cell, setting)}
    work = partial(train_cell, config_of(cell, setting), shared, seeds)
    return Piece(cell.key, work, config, seeds, shared.source)


def own_options(cell: Cell, setting: Setting) -> dict[str, Any]:
    """The options of a cell beside ``OPTIONS``, or instead of them."""
    return {
        **setting.options,
        **setting.splits[cell.split],
        **setting.by_model.get(cell.model, {}),
        "split": cell.split,
        "model": cell.model,
        "category": cell.category,
    }


def config_of(cell: Cell, setting: Setting) -> RunConfig:
    """All options of a cell's runs.

    Raises:
        ValueError, TypeError: an option is unknown or outside its limits.
    """
    return RunConfig.saved(OPTIONS, **own_options(cell, setting))


def train_cell(config: RunConfig, shared: Shared, seeds: Sequence[int]) -> dict[str, Any]:
    """Trains both embeddings with every seed.

    Returns:
        ``data`` (sizes of samples and split), ``graph``, ``runs`` (an entry an embedding and seed),
        ``gauc_over_users`` (``user_interval`` of res minus plain), ``hashes``, ``environment``;
        or ``diverged``, what was said when a loss was no longer finite.
    """
    prepared = shared.prepared
    runs: list[dict[str, Any]] = []
    scores: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
    try:
        for seed in seeds:
            train = train_samples(config, prepared.split, seed)
            for arm in ARMS:
                entry, logits = train_arm(config, prepared, train, arm, seed)
                runs.append(compact(entry))
                scores[arm].append(logits)
    except TrainingDiverged as error:
        return {"diverged": str(error)}
    assert prepared.graph is not None
    split, stats, of_data = prepared.split.summary(), prepared.graph.stats(), hashes(prepared)
    del split["hash"]  # among the hashes already
    test = prepared.test
    return {
        "data": {"samples": {"valid": len(prepared.valid), "test": len(test), "train": len(train)}, "split": split},
        "graph": {name: stats[name] for name in _GRAPH},
        "runs": runs,
        "gauc_over_users": user_interval(test.label, scores["plain"], scores["res"], test.user),
        "hashes": {name: of_data[name] for name in _HASHES},
        "environment": {**environment(), "isa": _loader.isa()},
    }


def compact(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of an arm's entry of ``result.json``."""
    radius = entry["aggregation_radius_details"]
    parts = {"valid": entry["valid"], "test": entry["test"], "test_seen": entry["test"]["seen"]}
    return {
        **{name: entry[name] for name in _RUN},
        **{part: {name: values[name] for name in _METRICS} for part, values in parts.items()},
        "valid_gauc_by_epoch": [round(epoch["valid"]["gauc"], 5) for epoch in entry["history"]],
        "aggregation_radius_details": None if radius is None else {name: radius[name] for name in _RADIUS},
    }
