"""Files and folders of results: written whole or not at all, held by one process."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_STAGING = ".resemb-tmp"  # the end of a staging folder's name


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls ``write`` on a file in a ``staging`` folder, then renames it onto ``path``.

    A crash at any moment, of the machine too, leaves the old file or the new one, never a part.

    Args:
        path: in a folder that is there. Where it is a symbolic link, the file that the link leads
            to is replaced, and the link stays.
        write: fills the file that it is given, which is empty and has the name of ``path``.

    Raises:
        OSError: it cannot be written; its ``filename`` is ``path``.
    """
    with naming(path):
        _write_staged(Path(os.path.realpath(path)) if path.is_symlink() else path, write)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names ``path`` in an OSError of writing it: a full disk names no file, other faults a staged one.

    An OSError of another file, say of one that is read on the way, passes as it is.
    """
    try:
        yield
    except OSError as error:
        named = "" if error.filename is None else str(error.filename)
        if error.errno is None or (named and _STAGING not in named and named != os.path.realpath(path)):
            raise
        raise OSError(error.errno, f"{os.strerror(error.errno)}; nothing was written", str(path)) from error


def _write_staged(path: Path, write: Callable[[Path], Any]) -> None:
    with staging(path) as folder:
        temporary = folder / path.name
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = stat.S_IMODE(temporary.stat().st_mode)
        write(temporary)
        temporary.chmod(mode)  # some writers put a private file in its place
        _sync(temporary)
        os.replace(temporary, path)
        try:
            _sync(path.parent)
        except OSError as error:
            if error.errno != errno.EINVAL:  # file systems that cannot sync folders say so
                raise


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A private folder beside ``path`` for what will be moved there; it is gone afterwards.

    It is locked while this process lives. So what a killed process left can be told from what
    another one works on, and is removed here.
    """
    remove_temporaries(path.parent)
    folder, handle = _staging_folder(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _staging_folder(path: Path) -> tuple[Path, int]:
    """The folder, and the handle that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", suffix=_STAGING, dir=path.parent))
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # removed before it was locked
            continue
        _lock(handle)
        if folder.is_dir():  # else: likewise, while it was locked
            return folder, handle
        os.close(handle)


def remove_temporaries(folder: Path) -> None:
    """Removes the ``staging`` folders in ``folder`` whose process is gone, and nothing else.

    Where the file system has no locks (some network ones) they stay.
    """
    for found in folder.glob(f".*.????????{_STAGING}"):
        try:
            handle = os.open(found, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(found, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(handle)


def check_out(out: Path, inputs: Iterable[Path]) -> None:
    """Refuses a file to write that is one to read, by whatever path, symbolic or hard link.

    Args:
        out: file to write.
        inputs: files to read, or folders that are read as a whole.

    Raises:
        ValueError: ``out`` is one of them, or lies in one.
    """
    for given in inputs:
        if given.is_dir():
            if out.resolve().is_relative_to(given.resolve()):
                raise ValueError(f"out: {out} lies in the input {given}, all of which is read; choose another folder")
        elif given.exists() and out.exists() and out.samefile(given):
            raise ValueError(f"out: {out} is the input {given}; choose another file to write")


def check_report(path: Path, keys: set[str]) -> None:
    """Refuses to replace a file that is no earlier report of the same command.

    Args:
        path: of the report, which is JSON.
        keys: that such a report has.

    Raises:
        ValueError: there is another file.
    """
    if not path.exists():
        return
    try:
        held = read_json(path)
    except (ValueError, OSError):
        held = None
    if not isinstance(held, dict) or not keys <= held.keys():
        raise ValueError(
            f"out: {path} would be replaced, and is no report of this command; move it, or choose another out"
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(handle: int, wait: bool = True) -> None:
    """Locks an open folder; does nothing on a file system without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP):
            raise


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
            _lock(handle, wait=False)
        except BlockingIOError:
            raise ValueError(f"out: another process is working in {folder}") from None
        yield
    finally:
        os.close(handle)


def shell_word(path: Path) -> str:
    """``path`` as a word of a shell's command line that no command takes for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, atomically."""
    write_atomic(path, lambda target: target.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON (NaN and infinity become null), atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """``value`` as ``write_json`` writes it."""
    return json.dumps(plain(value), indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON in UTF-8; the message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


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
