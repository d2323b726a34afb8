"""Where the versions of a table lie, and which of them is in force.

Beside a table ``items.table`` lies the folder ``items.table.d``:

- ``00000003.delta``: the delta that makes version 3;
- ``00000004.table``: version 4 as a base of its own, with an ``id`` of its own;
- ``HEAD``: the version in force, in JSON. It is replaced last, in one step. Without it the table's file is in force.

A version is a base and the deltas from it, each of which names the version that it follows. A number is never given
twice. The table's own file is one of the bases: the first, until older versions are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import TableError
from .format import MAX_SEQUENCE
from .framing import Fields, named

HEAD = "HEAD"
_MAX_HEAD = 1 << 16


@dataclass(frozen=True)
class Head:
    """Which version is in force.

    Attributes:
        table: ``id`` of its base.
        sequence: its number.
        fingerprint: hex sha256 of the header of the file that makes it.
        last: the highest number that was ever given.
    """

    table: str
    sequence: int
    fingerprint: str
    last: int

    def text(self) -> str:
        """The content of its file."""
        fields = asdict(self)
        return json.dumps({**fields, "sha256": _digest(fields)}, indent=2) + "\n"


def _digest(fields: dict) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def folder_of(path: Path | str) -> Path:
    """The folder of a table's versions; of a symbolic link, beside the file that it leads to."""
    real = os.path.realpath(path) if os.path.islink(path) else named(path)
    return Path(f"{real}.d")


def read_head(path: Path | str) -> Head | None:
    """Which version of a table is in force; None where its file alone is.

    Raises:
        TableError: ``HEAD`` is damaged.
    """
    place = folder_of(path) / HEAD
    try:
        with open(place, "rb") as file:
            text = file.read(_MAX_HEAD)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise TableError(f"{place}: is damaged: it is no JSON object")
    take = Fields(fields, named(place))
    last = take.number("last", 0, MAX_SEQUENCE)
    head = Head(take.hex("table", 32), take.number("sequence", 0, last), take.hex("fingerprint", 64), last)
    if take.hex("sha256", 64) != _digest(asdict(head)):
        raise TableError(f"{place}: is damaged: it does not match its sha256")
    return head


def delta_file(path: Path | str, sequence: int) -> Path:
    """Where the delta of a version lies."""
    return folder_of(path) / f"{sequence:08}.delta"


def base_file(path: Path | str, sequence: int) -> Path:
    """Where a later base lies."""
    return folder_of(path) / f"{sequence:08}.table"


def base_files(path: Path | str, sequence: int) -> Iterator[Path]:
    """Where the base of a version may lie; in this order, since the second may take the first one's place."""
    yield base_file(path, sequence)
    yield Path(path)
