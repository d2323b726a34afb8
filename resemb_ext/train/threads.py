"""How many CPU threads to train with, by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from resemb_ext.data import Samples

from .batches import train_batches
from .config import FitConfig
from .losses import training_loss
from .optimizer import build_optimizer

_ROUNDS = 5
_WORTH = 0.9  # more threads must take less than this share of one thread's time


def faster_threads(step: Callable[[], object], most: int) -> int:
    """``most`` threads if ``step`` is clearly faster with them, else 1.

    A small model gains little from a second thread, and on a machine with other work OpenMP's
    waiting threads can make a step ten times slower, so one thread is what must be beaten.
    Leaves torch with as many threads as it had.
    """
    if most <= 1:
        return 1
    before = torch.get_num_threads()
    times: dict[int, list[float]] = {1: [], most: []}
    try:
        for turn in range(_ROUNDS + 1):
            for count, taken in times.items():
                torch.set_num_threads(count)
                started = time.perf_counter()
                step()
                if turn:  # the first turn warms up
                    taken.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return most if median(times[most]) < _WORTH * median(times[1]) else 1


def training_step(model: nn.Module, samples: Samples, config: FitConfig) -> Callable[[], object]:
    """A training step on the first batch of ``samples``; it changes the model."""
    batch = next(train_batches(samples, config.batch_size, seed=0, epoch=0))
    optimizer = build_optimizer(model, config)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        training_loss(model, batch)[0].backward()
        optimizer.step()

    return step
