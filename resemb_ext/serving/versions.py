"""The versions of a published table: listed, verified, put back in force, removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resemb_ext.runtime.files import locked, remove_temporaries, write_text

from .lite.deltas import DeltaHeader, read_delta, read_delta_header
from .lite.errors import TableError
from .lite.format import TableHeader, read_header
from .lite.snapshot import open_base, read_snapshot, read_version
from .lite.versions import HEAD, Head, base_file, delta_file, folder_of, read_head

_ENDS = (".delta", ".table")


@dataclass(frozen=True)
class Version:
    """One version of a table.

    Attributes:
        sequence: its number.
        parent: of the version that it follows; None for the first.
        base: of the version whose rows it has where no delta changed them: its own number, where it is a base.
        rows: H.
        changed: rows that its file holds.
        bytes: of its file.
        written: when its file was written, in seconds since 1970.
        file: that makes it.
        in_force: readers see this one.
        fingerprint: hex sha256 of the header of its file.
        table: ``id`` of its base.
    """

    sequence: int
    parent: int | None
    base: int
    rows: int
    changed: int
    bytes: int
    written: float
    file: Path
    in_force: bool
    fingerprint: str
    table: str


def versions(table: Path | str) -> list[Version]:
    """The versions of a table that are there, the oldest first. Reads headers alone.

    Args:
        table: of the file.

    Raises:
        FileNotFoundError: no such file.
        TableError: a file of them is no such file or damaged; the version in force is not there.
    """
    path = Path(table)
    found = _listed(path)
    _in_force(path, found)
    return found


def _in_force(path: Path, found: list[Version]) -> Version:
    for version in found:
        if version.in_force:
            return version
    read_snapshot(path)  # says what is missing
    raise TableError(f"{path}: its versions changed while they were listed; list them again")


def _listed(path: Path, *, damaged: bool = False) -> list[Version]:
    """What ``versions`` gives; with ``damaged``, files that are so are left out."""
    head = read_head(path)
    found: dict[int, Version] = {}
    for sequence, file in _numbered(path, damaged):
        if file != path and (head is None or sequence > head.last):
            continue  # of a publisher that was killed before it put it in force
        try:
            header = read_delta_header(file) if file.suffix == ".delta" else read_header(file)
            if header.sequence != sequence:
                raise TableError(f"{file}: is version {header.sequence}; expected {sequence}, by its name")
        except TableError:
            if not damaged:
                raise
            continue
        except FileNotFoundError:  # a publisher removed it meanwhile
            continue
        version = _version(file, header, head, found)
        if version is not None:
            found[sequence] = version
    return [found[sequence] for sequence in sorted(found)]


def _numbered(path: Path, damaged: bool = False) -> list[tuple[int, Path]]:
    """Numbers and files of all versions, also those that were never in force, by number."""
    files = list(_later_files(path))
    try:
        files.append((read_header(path).sequence, path))
    except TableError:
        if not damaged:
            raise
    return sorted(files)


def _later_files(path: Path) -> Iterator[tuple[int, Path]]:
    """Those of the table's folder."""
    folder = folder_of(path)
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.suffix in _ENDS and len(file.stem) == 8 and file.stem.isdecimal():
            yield int(file.stem), file


def _version(
    file: Path, header: TableHeader | DeltaHeader, head: Head | None, found: dict[int, Version]
) -> Version | None:
    """None where a delta follows a version that is gone."""
    if isinstance(header, DeltaHeader):
        parent = found.get(header.parent)
        if parent is None or (parent.fingerprint, parent.table) != (header.parent_fingerprint, header.table):
            return None
        base, changed, table = parent.base, header.count, header.table
    else:
        base, changed, table = header.sequence, header.rows, header.id
    state = file.stat()
    in_force = head is None or (header.sequence, header.fingerprint) == (head.sequence, head.fingerprint)
    return Version(
        header.sequence,
        header.parent,
        base,
        header.rows,
        changed,
        state.st_size,
        state.st_mtime,
        file,
        in_force,
        header.fingerprint,
        table,
    )


def chain_of(found: list[Version], sequence: int) -> list[Version]:
    """The versions from a base up to one, whose files make it.

    Raises:
        TableError: there is no such version.
    """
    known = {version.sequence: version for version in found}
    if sequence not in known:
        there = ", ".join(map(str, known)) or "none"
        raise TableError(f"version: found {sequence}, expected one of those that are there: {there}")
    chain = [known[sequence]]
    while chain[-1].base != chain[-1].sequence:
        parent = chain[-1].parent
        assert parent is not None  # a delta has one
        chain.append(known[parent])
    return chain[::-1]


@contextmanager
def publishing(table: Path) -> Iterator[None]:
    """Holds a table for one publisher.

    Raises:
        TableError: another process publishes to it.
    """
    folder = folder_of(table)
    folder.mkdir(exist_ok=True)
    with _held(folder, table):
        remove_temporaries(folder)
        yield


@contextmanager
def _held(folder: Path, table: Path) -> Iterator[None]:
    holding = locked(folder)
    try:
        holding.__enter__()
    except ValueError:
        raise TableError(f"to: another process publishes to {table}; nothing was changed") from None
    try:
        yield
    finally:
        holding.__exit__(None, None, None)


def put_in_force(table: Path, base: str, sequence: int, fingerprint: str) -> None:
    """Replaces ``HEAD``: the one step after which readers see another version."""
    head = read_head(table)
    last = read_header(table).sequence if head is None else head.last
    text = Head(base, sequence, fingerprint, max(last, sequence)).text()
    write_text(folder_of(table) / HEAD, text)


def roll_back(table: Path | str, sequence: int) -> Version:
    """Puts another version in force, an older one or one that was rolled back. Its deltas are verified before.

    The version in force, and others that this one does not follow, may be damaged. The next version that is published follows it, and has a number of its own.

    Args:
        table: of the file.
        sequence: number of the version.

    Raises:
        FileNotFoundError: no such file.
        TableError: no such version, a damaged one, or another process publishes.
    """
    path = Path(table)
    if not folder_of(path).is_dir():
        read_header(path)
    with publishing(path):
        wanted = chain_of(_listed(path, damaged=True), sequence)[-1]
        read_version(path, Head(wanted.table, wanted.sequence, wanted.fingerprint, wanted.sequence))
        put_in_force(path, wanted.table, wanted.sequence, wanted.fingerprint)
    return wanted


def verify(table: Path | str) -> list[Version]:
    """Compares all files of a table's versions with their digests; reads them all.

    Returns:
        the versions.

    Raises:
        FileNotFoundError: no such file.
        TableError: a file is damaged.
    """
    found = versions(table)
    for version in found:
        if version.base == version.sequence:
            open_base(version.file).verify()
        else:
            read_delta(version.file)
    for version in found:
        head = Head(version.table, version.sequence, version.fingerprint, version.sequence)
        _ = read_version(table, head).items
    return found


def keep_newest(table: Path | str, count: int) -> list[Version]:
    """Removes versions that neither the one in force nor the newest ones need, and damaged ones.

    Args:
        table: of the file.
        count: how many of the newest stay, at least 1.

    Returns:
        the versions that are there afterwards.

    Raises:
        FileNotFoundError: no such file.
        TableError: the version in force is damaged or missing; another process publishes.
        ValueError: ``count`` below 1.
    """
    path = Path(table)
    check_kept(count)
    read_header(path)
    with publishing(path):
        remove_old(path, count)
    return versions(path)


def check_kept(count: int) -> None:
    """Refuses a number of versions to keep that is none."""
    if type(count) is not int or count < 1:
        raise ValueError(f"keep: found {count!r}, expected a whole number from 1")


def remove_old(path: Path, count: int) -> None:
    """``keep_newest`` for who holds the table."""
    found = _listed(path, damaged=True)  # damaged files are needed by no version, and go
    now = _in_force(path, found)
    wanted = {v.sequence for v in [*found[-count:], now]}
    needed = {v.file: v for sequence in wanted for v in chain_of(found, sequence)}
    if path not in needed:
        # The table's own file is a base that nobody needs: that of the version in force takes its place.
        os.replace(base_file(path, now.base), os.path.realpath(path))
        needed[path] = now
    # The newest first: what is left by a kill are whole versions.
    for sequence, file in reversed(_numbered(path, damaged=True)):
        if file not in needed and file != path and file in (delta_file(path, sequence), base_file(path, sequence)):
            file.unlink(missing_ok=True)
