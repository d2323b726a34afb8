"""The cells: which log, split, model and features are trained, and with which options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resemb_ext.train import RunConfig

#: Models of every log and split, and those that are run once: on one log, with category, one seed.
MAIN = ("dnn", "din")
ONCE = ("fm", "wide_deep", "deepfm", "pnn", "dien")
MODELS = (*MAIN, *ONCE)
# Where a run reads and writes, and how many threads it takes, are no part of the protocol; a
# path would also tie the committed file to one machine.
_PLACE = ("data", "out", "overwrite", "threads")


@dataclass(frozen=True)
class Protocol:
    """How one log is run where that differs from the defaults of ``resemb train``.

    Attributes:
        splits: the splits to report, each with its own options.
        options: of all cells.
        by_model: options of one model's cells.
        seeds: of training.
        once: whether the models that are run once are run on it.
    """

    splits: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    by_model: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    once: bool = False


PROTOCOLS: Mapping[str, Protocol] = {
    # Only the order of events is known, so there is no time split.
    "amazon-beauty": Protocol(splits={"leave-last-out": {}}, once=True),
    # A million events: one seed, shorter histories and fewer epochs keep its eight cells within
    # three quarters of an hour on two cores. The time split holds out 16 times as many events as
    # leave-last-out, so 4 negatives each still make more candidates; the expectation of AUC does
    # not depend on their number.
    "ml-1m": Protocol(
        splits={"leave-last-out": {}, "time": {"eval_negatives": 4}},
        options={"max_history": 20, "patience": 2},
        by_model={"dnn": {"epochs": 12}, "din": {"epochs": 5}},
        seeds=(0,),
    ),
}


@dataclass(frozen=True)
class Cell:
    """One run of both embeddings: ``log`` (a key of ``PROTOCOLS``), ``split``, ``model``, ``category``."""

    log: str
    split: str
    model: str
    category: bool

    @property
    def name(self) -> str:
        """For people: "ml-1m, time, din, category"."""
        return f"{self.log}, {self.split}, {self.model}" + (", category" if self.category else "")

    @property
    def key(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return {"log": self.log, "split": self.split, "model": self.model, "category": self.category}

    @property
    def file(self) -> str:
        """Name of the log's file."""
        return f"{self.log}.parquet"


def all_cells() -> list[Cell]:
    """Every cell, in the order of the report."""
    return [
        Cell(log, split, model, category)
        for log, protocol in PROTOCOLS.items()
        for split in protocol.splits
        for model in (MODELS if protocol.once else MAIN)
        for category in ((True,) if model in ONCE else (False, True))
    ]


def longest_first(cells: list[Cell]) -> list[Cell]:
    """By falling cost, so that workers side by side end at about the same time."""
    return sorted(cells, key=lambda c: (c.log == "ml-1m", c.model in ("din", "dien"), c.category), reverse=True)


def config_of(
    cell: Cell,
    data_dir: Path,
    *,
    seeds: tuple[int, ...] | None = None,
    threads: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The options of a cell's run.

    Args:
        cell: the cell.
        data_dir: folder of the log files.
        seeds: instead of the protocol's.
        threads: CPU threads.
        overrides: options that go before the protocol's (for trials).

    Raises:
        ValueError, TypeError: an option is unknown or outside its limits.
    """
    protocol = PROTOCOLS[cell.log]
    return RunConfig.build(
        **{
            **protocol.options,
            **protocol.splits[cell.split],
            **protocol.by_model.get(cell.model, {}),
            **(overrides or {}),
            "data": str(data_dir / cell.file),
            "split": cell.split,
            "model": cell.model,
            "category": cell.category,
            "embedding": "both",
            "seed": seeds or (protocol.seeds[:1] if cell.model in ONCE else protocol.seeds),
            "threads": threads,
        }
    )


def defaults() -> dict[str, Any]:
    """The defaults of ``resemb train`` that a protocol can differ from, in JSON's types."""
    return {k: v for k, v in RunConfig().to_dict().items() if k not in _PLACE}


def changes(options: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from :func:`defaults` in ``RunConfig.to_dict()``."""
    usual = defaults()
    found = {k: options.get(k, value) for k, value in usual.items()}  # newer ones are as usual
    return {k: v for k, v in found.items() if v != usual[k]}
