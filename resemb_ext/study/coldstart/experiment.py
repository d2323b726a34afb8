"""Study ``coldstart``: what rows of new items are worth that were never trained. A log and a seed is a piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from resemb_ext.study.harness.pieces import Piece, Source
from resemb_ext.train import RunConfig

from .cut import Cut
from .methods import measured
from .protocol import OPTIONS, SEEDS, SETTINGS, TEST_EVENTS

QUICK: Mapping[str, Any] = {"epochs": 2, "patience": 1}
QUICK_EVENTS = 300


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """Every log with the first seed, then with the next ones."""
    seeds = SEEDS[:1] if quick else SEEDS
    return [_piece(source, seed, quick) for seed in seeds for source in sources]


def _piece(source: Source, seed: int, quick: bool) -> Piece:
    setting = SETTINGS[source.setting or next(iter(SETTINGS))]
    options = {**OPTIONS, **(QUICK if quick else {}), "max_history": setting.max_history}
    events = QUICK_EVENTS if quick else TEST_EVENTS
    cut = Cut(source, RunConfig(**options), setting.train_rows, seed, events)
    config = {"log": source.name, "options": options, "train_rows": setting.train_rows, "test_events": events}
    return Piece(f"{source.name}-{seed}", partial(measured, cut), config, [seed], source)
