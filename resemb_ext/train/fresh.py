"""Embedding tables drawn anew at the start of an epoch, their optimizer's state with them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from resemb_ext.optim import RowSparseOptimizer

from .config import FitConfig
from .optimizer import parameter_groups

_STREAM = 8  # beside those of samples, folds and swaps
TABLES = ("embedding", "central", "residual")


def seed_of_epoch(seed: int, epoch: int) -> int:
    """The seed that tables of an epoch are drawn with, another one in each."""
    return int(np.random.SeedSequence([_STREAM, seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def draw_anew(
    model: nn.Module, optimizer: torch.optim.Optimizer, config: FitConfig, redraw: Callable[[int], nn.Module], seed: int
) -> None:
    """Gives a model the embedding tables of another one, and empties the optimizer's state of them.

    Multi-epoch training with fresh embeddings (MEDA: Liu et al. 2023, arXiv 2305.19531; Fan et al. 2024, arXiv
    2407.01607): the layers above the tables go on, and cannot rely on what a table has learned by heart. torch's
    random state stays as it was.

    Args:
        model: in training.
        optimizer: over its parameters; Adam, whose state begins at zeros.
        config: as of ``parameter_groups``, which says what is a table.
        redraw: makes a new model of the same shape from a seed.
        seed: for ``redraw``.

    Raises:
        ValueError: the new model lacks a table, or has one of another shape.
    """
    if isinstance(optimizer, RowSparseOptimizer):
        optimizer.catch_up()
    tables = {id(p) for group in parameter_groups(model, config) if group["name"] in TABLES for p in group["params"]}
    with torch.random.fork_rng(devices=[]):
        others = dict(redraw(seed).named_parameters())
    copy: Callable[[Tensor, Tensor], Tensor] = Tensor.copy_
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if id(parameter) not in tables:
                continue
            other = others.get(name)
            if other is None or other.shape != parameter.shape:
                found = "none" if other is None else list(other.shape)
                raise ValueError(f"redraw: table {name}: found {found}; expected shape {list(parameter.shape)}")
            copy(parameter, other)
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor):
                    value.zero_()
