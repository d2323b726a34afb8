"""A folder in which a build keeps what it has done, so that another process can go on after a kill.

``manifest.json`` says what is done; it is replaced as a whole after what it tells of is written. Files beside it
hold events, the sorted sequence and finished rows; what the manifest does not name yet is written again.
"""

import json
import os
import re
import zlib
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from resemb_ext.runtime.files import locked, read_json, remove_temporaries, write_json

FORMAT = "resemb-graph-work"
VERSION = 1
_MANIFEST = "manifest.json"
_OWN = re.compile(r"manifest\.json|events|sequence(\.reach)?|(occurrences|rows)-\d+")
_STAGED = re.compile(r"\.manifest\.json\..*\.resemb-tmp")  # the next manifest, as a kill may leave it
_DROPPED = "its work is dropped: build again"
# What says that the input or the arguments are wrong: the work done for them is of no use.
_USELESS = (ValueError, TypeError, IndexError)


class Work:
    """The folder, held for this process. As a context: errors of the input empty it, other ends keep it.

    Args:
        folder: made where it is not there.
        build: JSON-able, what the graph depends on.
        restart: drops the work of another build.

    Attributes:
        state: what was saved last, {} of a new build.

    Raises:
        ValueError: the folder holds other files, the work of another build, or damaged work, or another process
            works in it.
        NotADirectoryError, FileNotFoundError: the folder is a file, or in no folder.
    """

    def __init__(self, folder: str | os.PathLike[str], build: dict[str, Any], restart: bool) -> None:
        self.folder = Path(folder)
        self._build = json.loads(json.dumps(build))
        self._made = not self.folder.exists()
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"work_dir: {self.folder} is a file, expected a folder")
        if self._made and not self.folder.parent.is_dir():
            raise FileNotFoundError(f"work_dir: folder {self.folder.parent} does not exist")
        self.folder.mkdir(exist_ok=True)
        self._held = ExitStack()
        try:
            self._held.enter_context(locked(self.folder))
        except ValueError:
            raise ValueError(f"work_dir: another process is working in {self.folder}") from None
        try:
            self.state = self._found(restart)
        except BaseException:
            self._held.close()
            raise

    def _found(self, restart: bool) -> dict[str, Any]:
        names = sorted(name for name in os.listdir(self.folder) if not _STAGED.fullmatch(name))
        foreign = [name for name in names if not _OWN.fullmatch(name)]
        if foreign or (names and _MANIFEST not in names):
            held = ", ".join((foreign or names)[:4])
            raise ValueError(f"work_dir: {self.folder} holds {held}, expected an empty folder or the work of a build")
        path = self.folder / _MANIFEST
        found = self._manifest(path, restart) if names else None
        if isinstance(found, dict):
            self._made = bool(found.get("made"))
        if restart:
            self._remove_files()
        if restart or not names:
            self._write({})
            return {}
        if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
            raise ValueError(f"work_dir: {path} is not of a build that this release can go on with")
        if found.get("build") != self._build:
            raise ValueError(
                f"work_dir: {self.folder} holds the work of another build: {_difference(found.get('build'), self._build)};"
                " give another folder, or restart=True (--restart) to drop that work"
            )
        return found["state"]

    @staticmethod
    def _manifest(path: Path, restart: bool) -> Any:
        try:
            return read_json(path)
        except ValueError:
            if restart:  # of whatever build
                return None
            raise

    def _write(self, state: dict[str, Any]) -> None:
        content = {"format": FORMAT, "version": VERSION, "made": self._made, "build": self._build, "state": state}
        write_json(self.folder / _MANIFEST, content)

    def save(self, **state: Any) -> None:
        """Adds JSON-able values to ``state`` and writes it."""
        self.state = {**self.state, **state}
        self._write(self.state)

    def write(self, name: str, arrays: Iterable[np.ndarray]) -> list[int]:
        """Writes a file of these arrays, one behind the other; their CRCs, for ``read``."""
        sums = []
        with open(self.folder / name, "wb") as file:
            for array in arrays:
                content = np.ascontiguousarray(array).data.cast("B")
                file.write(content)
                sums.append(zlib.crc32(content))
        return sums

    def read(self, name: str, into: Iterable[np.ndarray], sums: list[int]) -> None:
        """Fills arrays from a file.

        Raises:
            ValueError: it holds something else than was written.
        """
        path = self.folder / name
        try:
            with open(path, "rb") as file:
                for array, expected in zip(into, sums, strict=True):
                    content = array.data.cast("B")
                    if file.readinto(content) != len(content) or zlib.crc32(content) != expected:
                        raise ValueError(f"{path} is not what the build wrote; {_DROPPED}")
        except FileNotFoundError:
            raise ValueError(f"{path} is not there any more; {_DROPPED}") from None

    def remove(self, *names: str) -> None:
        """Removes files that are not needed any more."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def finish(self) -> None:
        """Removes everything."""
        self._write({})  # a kill from here on leaves a build that has not begun
        remove_temporaries(self.folder)
        self._remove_files()
        if self._made:
            with suppress(OSError):  # someone else put a file there
                self.folder.rmdir()

    def _remove_files(self) -> None:
        # The manifest last: without it, the folder would be taken for someone else's.
        names = [name for name in os.listdir(self.folder) if _OWN.fullmatch(name)]
        self.remove(*sorted(names, key=lambda name: name == _MANIFEST))

    def __enter__(self) -> "Work":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, _USELESS) or (error is not None and not self.state):
                self.finish()
        finally:
            self._held.close()


def _difference(there: Any, here: Any, path: str = "") -> str:
    """The first thing in which two builds differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*here, *(key for key in there if key not in here)]:
            if there.get(key) != here.get(key):
                return _difference(there.get(key), here.get(key), f"{path}.{key}".lstrip("."))
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        at = next((at for at, (a, b) in enumerate(zip(there, here, strict=True)) if a != b), 0)
        return _difference(there[at], here[at], f"{path}[{at}]")
    return f"{path or 'it'} is {there!r:.120} there, {here!r:.120} here"
