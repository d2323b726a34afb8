"""Files and folders of results: written whole or not at all, held by one process."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls ``write`` on a temporary file beside ``path``, then renames it onto ``path``.

    A crash at any moment, of the machine too, leaves the old file or the new one, never a part.
    What a killed process leaves besides, ``remove_temporaries`` removes.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        _sync(temporary)
        # mkstemp makes private files; results take the permissions any new file would have.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
        try:
            _sync(path.parent)
        except OSError as error:
            if error.errno != errno.EINVAL:  # file systems that cannot sync folders say so
                raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_temporaries(folder: Path, names: Iterable[str]) -> None:
    """Removes what ``write_atomic`` of a killed process left of files of these names.

    Call it while no other process writes there.

    Args:
        folder: not those inside it.
        names: of the files that were to be written.
    """
    for name in names:
        for file in folder.glob(f".{name}.*.tmp"):
            file.unlink(missing_ok=True)
        if name.endswith(".safetensors"):  # that library writes beside the file once more
            for file in folder.glob(".tmp*"):
                file.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds ``folder`` for this process; the system lets go of it however the process ends.

    On a file system without locks (some network ones) nothing is held.

    Raises:
        ValueError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"out: another process is working in {folder}") from None
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP):
                raise
        yield
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, atomically."""
    write_atomic(path, lambda target: target.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON (NaN and infinity become null), atomically."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: NumPy scalars and arrays unwrapped, NaN as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
