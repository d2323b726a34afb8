"""Folders of results: held by one process, and an earlier result goes only when a new one may start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from resemb_ext.runtime.digests import SUMS, record_digests
from resemb_ext.runtime.files import locked, remove_temporaries, staging


@dataclass(frozen=True)
class Kind:
    """What a command keeps in its folder.

    Attributes:
        name: of what is there, "run" or "search".
        files: at the top of the folder; first the one without which there is nothing to continue.
        tree: folder of the trainings' own folders.
        recorded: patterns of the files that have a digest.
        other: file by which a folder of another command is known, and what it holds.
    """

    name: str
    files: tuple[str, ...]
    tree: str
    recorded: tuple[str, ...]
    other: tuple[str, str]

    def check(self, folder: Path, overwrite: bool) -> None:
        """Refuses a folder that a new result may not go into.

        Raises:
            ValueError: there is an earlier result and ``overwrite`` is off, that of another command,
                or a link where its own folder will be.
        """
        mark, what = self.other
        if (folder / mark).exists():
            raise ValueError(f"out: {folder} holds {what} ({mark}); choose another folder")
        held = self._held(folder)
        if held and not overwrite:
            raise ValueError(
                f"out: {folder} holds an earlier {self.name} ({held[0].name}); choose another folder, give "
                "--overwrite, or continue it with --resume"
            )
        tree = folder / self.tree
        if tree.is_symlink() or (tree.exists() and not tree.is_dir()):
            raise ValueError(f"out: {tree} is no folder of its own, but a link or a file; remove it, or choose another")

    def clean(self, folder: Path) -> None:
        """Removes half-written files that a killed process left."""
        remove_temporaries(folder)
        for place in (folder / self.tree).glob("*/"):
            remove_temporaries(place)

    def take_up(self, folder: Path) -> None:
        """Gives digests to the files of an older version's folder, which has none."""
        if (folder / SUMS).exists():
            return
        record_digests(folder, [place for pattern in self.recorded for place in folder.glob(pattern)])

    def remove(self, folder: Path) -> None:
        """Removes an earlier result, all of it or, where it cannot be removed, nothing.

        Raises:
            OSError: it cannot be removed.
        """
        moved: list[tuple[Path, Path]] = []
        with staging(folder / self.name) as away:
            try:
                for place in [*self._held(folder), folder / SUMS]:
                    if place.exists() or place.is_symlink():
                        os.rename(place, away / place.name)
                        moved.append((place, away / place.name))
            except OSError:
                for place, there in moved:
                    os.rename(there, place)
                raise

    def _held(self, folder: Path) -> list[Path]:
        places = (folder / name for name in (*self.files, self.tree))
        return [place for place in places if place.exists() or place.is_symlink()]


@contextmanager
def opened(folder: Path, kind: Kind, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Holds a folder for this process, made where it is missing, and cleared for a new result.

    Args:
        folder: of the result.
        kind: of the result.
        resume: what is there is continued; else it is a new result.
        overwrite: an earlier result may be replaced.

    Raises:
        ValueError: another process works in the folder, or as ``Kind.check``; nothing was changed.
    """
    with ExitStack() as stack:
        try:
            if not resume:
                folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
            if not resume:
                kind.check(folder, overwrite)
                kind.remove(folder)
            kind.clean(folder)
            if resume:
                kind.take_up(folder)
        except OSError as error:
            raise ValueError(f"out: cannot write to {folder}: {error.strerror or error}") from error
        yield
