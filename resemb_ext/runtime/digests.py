"""Digests of files: kept by the caller, or in ``SHA256SUMS`` beside them, as ``sha256sum -c`` reads it."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .files import json_text, read_json, write_atomic, write_text

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


class UncheckedWarning(UserWarning):
    """Files are read that have no digests."""


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_digests(folder: Path, digests: Mapping[str, str], remedy: str) -> None:
    """Compares files with the digests that were kept of them.

    Args:
        folder: where the files are.
        digests: hex sha256 by name.
        remedy: end of the message.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: one of them has other bytes.
    """
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no file {folder / name}; {remedy}")
        if sha256_of(folder / name) != digest:
            raise ValueError(f"{folder / name} is not the file that was written: its sha256 differs; {remedy}")


def record_digests(folder: Path, paths: Iterable[Path]) -> None:
    """Writes the digests of files as they are; those of other files in ``folder`` stay.

    Args:
        folder: where ``SHA256SUMS`` is.
        paths: files in it or in folders inside it.

    Raises:
        ValueError: ``SHA256SUMS`` is damaged.
        OSError: a file cannot be read, or ``SHA256SUMS`` not be written.
    """
    _put(folder, {_name(folder, path): [sha256_of(path)] for path in paths})


def write_digests(folder: Path, digests: Mapping[str, str]) -> None:
    """Writes digests that are known; those of other files in ``folder`` stay.

    Args:
        folder: where ``SHA256SUMS`` is.
        digests: hex sha256 by name.

    Raises:
        ValueError, OSError: as ``record_digests``.
    """
    _put(folder, {name: [digest] for name, digest in digests.items()})


def read_digests(folder: Path) -> dict[str, str]:
    """Hex sha256 by name.

    Raises:
        FileNotFoundError: there is no ``SHA256SUMS``.
        ValueError: it is damaged.
    """
    known = _read(folder)
    if known is None:
        raise FileNotFoundError(f"no file {folder / SUMS}")
    return {name: digests[-1] for name, digests in known.items()}


def write_recorded(folder: Path, path: Path, write: Callable[[Path], Any]) -> None:
    """``write_atomic``, with the file's digest in ``folder``'s ``SHA256SUMS``.

    While the new file takes the old one's place, both digests stand there: whenever the process is
    killed, the file is one of the two.

    Raises:
        ValueError: ``SHA256SUMS`` is damaged.
        OSError: as ``write_atomic``.
    """
    name = _name(folder, path)
    new: list[str] = []

    def write_and_record(temporary: Path) -> None:
        write(temporary)
        new.append(sha256_of(temporary))
        _put(folder, {name: [*(_read(folder) or {}).get(name, []), *new]})

    write_atomic(path, write_and_record)
    _put(folder, {name: new})


def write_recorded_json(folder: Path, path: Path, value: Any) -> None:
    """``write_json``, with the file's digest as ``write_recorded``."""
    write_recorded(folder, path, lambda target: target.write_text(json_text(value), encoding="utf-8"))


def check_digest(folder: Path, path: Path) -> None:
    """Compares a file with its digest; a folder without digests is of an older version, which is warned of.

    Args:
        folder: where ``SHA256SUMS`` is.
        path: a file in it or in folders inside it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not match its digest, has none, or ``SHA256SUMS`` is damaged.
    """
    reason = ""
    for _ in range(3):  # another process may be writing both
        found, known = sha256_of(path), _read(folder)
        if known is None:
            warnings.warn(
                f"{folder} has no {SUMS}, as folders of older versions; its files are read unchecked",
                UncheckedWarning,
                stacklevel=2,
            )
            return
        of_file = known.get(_name(folder, path), [])
        if found in of_file:
            return
        reason = "does not match its digest" if of_file else "has no digest"
    raise ValueError(
        f"{path} {reason} in {SUMS}: it is damaged, changed or of another folder; put it back from a copy, or "
        f"take all files as they are by removing {folder / SUMS}"
    )


def read_checked_json(folder: Path, path: Path) -> Any:
    """``read_json`` of a file that matches its digest.

    Raises:
        FileNotFoundError, ValueError: as ``check_digest`` and ``read_json``.
    """
    check_digest(folder, path)
    return read_json(path)


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _read(folder: Path) -> dict[str, list[str]] | None:
    """Digests by name; several while a file is being replaced. None where there is no such file."""
    path = folder / SUMS
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        text = "damaged"
    known: dict[str, list[str]] = {}
    for line in text.split("\n")[:-1] if text.endswith("\n") else [""]:
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(
                f"{path} is damaged; put it back from a copy, or remove it to take the files of its folder as they are"
            )
        known.setdefault(found[2], []).append(found[1])
    return known


def _put(folder: Path, changed: dict[str, list[str]]) -> None:
    known = {**(_read(folder) or {}), **changed}
    lines = sorted(f"{digest}  {name}\n" for name, digests in known.items() for digest in dict.fromkeys(digests))
    write_text(folder / SUMS, "".join(lines))
