"""What is odd about a log: findings, of which reading warns and ``validate`` makes a report."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

NOTE, WARNING, ERROR = "note", "warning", "error"


class DataWarning(UserWarning):
    """A log can be read, but may not mean what was intended."""


@dataclass(frozen=True)
class Finding:
    """One thing about a log: ``level`` "note", "warning" or "error"; ``name``; ``found``; ``done``.

    ``done`` says what happens to such events. An error stops ``resemb train`` with its defaults.
    """

    level: str
    name: str
    found: str
    done: str

    def __str__(self) -> str:
        return f"{self.name}: {self.found} -> {self.done}"


def left_out(error: Exception) -> Finding:
    """A guessed category that cannot be read, which does no harm where nobody asked for it."""
    return Finding(WARNING, "category", str(error), "guessed, so it is left out; --category-column names another")


def warn(source: str, findings: Iterable[Finding], stacklevel: int = 3) -> None:
    """A ``DataWarning`` for each finding of level "warning", with the log's name before it."""
    for finding in findings:
        if finding.level == WARNING:
            warnings.warn(f"{source}: {finding}", DataWarning, stacklevel=stacklevel)
