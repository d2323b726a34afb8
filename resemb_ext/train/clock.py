"""Where the time of an epoch goes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

PARTS = ("data", "forward", "backward", "optimizer", "evaluation")


class Laps:
    """A stopwatch whose every lap belongs to one of ``PARTS``; a reading costs 0.1 us.

    Args:
        seconds: to go on from, by part; default none spent.

    Attributes:
        seconds: by part.
    """

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds = dict(seconds) if seconds else dict.fromkeys(PARTS, 0.0)
        self._last = time.perf_counter()

    def skip(self) -> None:
        """The time since the last lap goes to no part."""
        self._last = time.perf_counter()

    def lap(self, part: str) -> float:
        """The time since the last lap goes to ``part``; returns it."""
        now = time.perf_counter()
        spent = now - self._last
        self.seconds[part] += spent
        self._last = now
        return spent

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())


def mean_seconds(epochs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds an epoch, by part."""
    entries = list(epochs)
    return {part: sum(entry[part] for entry in entries) / len(entries) for part in PARTS}
