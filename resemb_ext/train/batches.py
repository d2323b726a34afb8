"""Batches of tensors from ``rx.data.Samples``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from resemb_ext.data import Samples
from resemb_ext.models import TorchBatch

from .ranks import ALONE, Ranks
from .swaps import Swaps


def train_batches(
    samples: Samples,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    swaps: Swaps | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[TorchBatch]:
    """Shuffled batches of one epoch, a function of (seed, epoch), from batch ``start`` on, with ids swapped.

    Of each batch a rank gets its share, which may be empty.
    """
    order = samples.order(seed, epoch)
    for low in range(start * batch_size, len(samples), batch_size):
        rows = order[low : low + batch_size]
        rows = rows[ranks.cut(len(rows))]
        batch = samples.batch(rows)
        yield TorchBatch.of(batch if swaps is None else swaps.batch(batch, rows, seed=seed, epoch=epoch))


def shared_batches(samples: Samples, batch_size: int, ranks: Ranks = ALONE) -> Iterator[TorchBatch]:
    """Batches in order, in which consecutive rows with the same history hold it once; of each a rank's share."""
    for first in range(0, len(samples), batch_size):
        cut = ranks.cut(min(batch_size, len(samples) - first))
        low, high = first + cut.start, first + cut.stop
        start, end = samples.start[low:high], samples.end[low:high]
        new = np.ones(high - low, dtype=bool)
        new[1:] = (start[1:] != start[:-1]) | (end[1:] != end[:-1])
        histories = samples.batch(low + np.flatnonzero(new))
        target = samples.target[low:high]
        category = samples.item_category
        yield TorchBatch(
            target=torch.from_numpy(target),
            history=torch.from_numpy(histories.history),
            offsets=torch.from_numpy(histories.offsets),
            target_category=None if category is None else torch.from_numpy(category[target]),
            history_category=(
                None if histories.history_category is None else torch.from_numpy(histories.history_category)
            ),
            history_row=torch.from_numpy(np.cumsum(new) - 1),
            user=torch.from_numpy(samples.user[low:high]),
        )
