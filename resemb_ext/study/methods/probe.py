"""Losses of several parts all along a training, and the outcome at the best validation loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from resemb_ext import data
from resemb_ext.train import FitConfig, fit, predict

from .heldout import HELD_OUT, hold_out, row_losses, take
from .squeeze import after_each_step

PARTS = ("train", "heldout", "valid", "test")
PER_EPOCH = 2  # looks at the losses, nearly: of an odd number of batches a half is rounded down
PROBED = 20_000  # rows of each part whose loss is taken, whole events


@dataclass
class Probe:
    """Mean losses of ``parts`` and the item vectors at every ``every``-th step.

    Attributes:
        curves: losses by part, one a probe.
        vectors: item vectors [H, D], one a probe.
    """

    model: nn.Module
    parts: Mapping[str, data.Samples]
    every: int
    read: Callable[[], np.ndarray]
    curves: dict[str, list[float]] = field(init=False)
    vectors: list[np.ndarray] = field(default_factory=list)
    steps: int = 0

    def __post_init__(self) -> None:
        self.curves = {name: [] for name in self.parts}

    def __call__(self) -> None:
        """To be called after every step."""
        self.steps += 1
        if self.steps % self.every:
            return
        for name, samples in self.parts.items():
            losses = row_losses(samples, predict(self.model, samples))
            self.curves[name].append(float(losses.mean()))
        self.vectors.append(self.read())

    @property
    def best(self) -> int:
        """The probe with the lowest validation loss."""
        return int(np.argmin(self.curves["valid"]))

    def outcome(self) -> dict[str, Any]:
        """``at``, ``losses`` and ``gap`` (held-out minus training) at the best probe; ``curve``."""
        losses = {part: curve[self.best] for part, curve in self.curves.items()}
        gap = losses["heldout"] - losses["train"]
        return {"at": self.best, "losses": losses, "gap": gap, "curve": self.curves}


def parts_of(split: data.Split, seed: int) -> tuple[data.Samples, dict[str, data.Samples]]:
    """Rows to train on, and the parts whose losses are taken, all with one negative a positive."""
    samples = data.make_train_samples(split, negatives=1, seed=seed)
    rows, heldout = hold_out(samples, share=HELD_OUT, seed=seed)
    parts = {"train": rows, "heldout": heldout} | {
        part: data.make_eval_samples(split, part, negatives=1) for part in ("valid", "test")
    }
    return rows, {name: _some(part, seed) for name, part in parts.items()}


def _some(samples: data.Samples, seed: int) -> data.Samples:
    events = len(samples) // 2
    chosen = np.random.default_rng([26, seed]).permutation(events)[: PROBED // 2]
    return take(samples, (2 * np.sort(chosen)[:, None] + [0, 1]).reshape(-1))


def train_probed(
    model: nn.Module,
    parameter: nn.Parameter,
    rows: data.Samples,
    parts: Mapping[str, data.Samples],
    config: FitConfig,
    seed: int,
    *,
    read: Callable[[], np.ndarray],
    before: Callable[[], None] | None = None,
) -> Probe:
    """Trains for all of ``config.epochs`` and looks twice an epoch.

    Args:
        model: the model.
        parameter: one of its parameters: a step of its optimizer is a step.
        rows: to train on.
        parts: to take losses of.
        config: its patience should be its epochs.
        seed: of the order of rows.
        read: gives the item vectors.
        before: called after every step, before the probe looks.
    """
    probe = Probe(model, parts, max(1, rows.num_batches(config.batch_size) // PER_EPOCH), read)

    def after() -> None:
        if before is not None:
            before()
        probe()

    with after_each_step(parameter, after):
        fit(model, rows, parts["valid"], config=config, seed=seed, progress=False)
    return probe
