"""Studies as small pieces of work, each kept in a file of its own, and how they are run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from tqdm import tqdm

from resemb_ext import data
from resemb_ext.train.files import locked, plain, remove_temporaries, write_json
from resemb_ext.train.progress import Progress

FORMAT = 1
PLAN = "plan.json"


@dataclass(frozen=True)
class Source:
    """A log by name: a file, or a simulation.

    Attributes:
        name: short, for keys of pieces.
        read: gives the log and its truth (None for a real one).
    """

    name: str
    read: Callable[[], tuple[data.Log, data.SimulationTruth | None]]

    @cached_property
    def loaded(self) -> tuple[data.Log, data.SimulationTruth | None]:
        """The log and its truth, read once."""
        return self.read()

    @property
    def log(self) -> data.Log:
        """The log."""
        return self.loaded[0]

    @property
    def truth(self) -> data.SimulationTruth | None:
        """The truth of a simulated log."""
        return self.loaded[1]


def file_source(path: Path | str) -> Source:
    """A log file, its columns guessed; all its events count as interactions.

    Raises:
        FileNotFoundError: there is none.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"data: no file {file}")
    return Source(file.stem, lambda: (data.read_log(file, label=False), None))


def simulated_source(name: str, **options: Any) -> Source:
    """A log of :func:`rx.data.simulate`."""
    return Source(name, lambda: data.simulate(**options))


@dataclass(frozen=True)
class Piece:
    """A piece of work of under 40 minutes.

    Attributes:
        key: its name within the study: letters, digits, "-", "." and "_".
        work: does it; the result goes into JSON.
        config: all that the result depends on besides data and seeds.
        seeds: random seeds it uses.
        source: its log, whose hash is kept with the result; None without one.
    """

    key: str
    work: Callable[[], Mapping[str, Any]]
    config: Mapping[str, Any]
    seeds: Sequence[int]
    source: Source | None = None

    def identity(self, study: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """What must be the same for a kept result to count as this piece's."""
        return plain(
            {
                "format": FORMAT,
                "study": study,
                "key": self.key,
                "config": dict(self.config),
                "seeds": list(self.seeds),
                "data": None if self.source is None else self.source.log.content_hash,
                "protocol": dict(protocol),
            }
        )


def run_pieces(
    study: str,
    pieces: Sequence[Piece],
    folder: Path,
    *,
    protocol: Mapping[str, Any],
    quick: bool,
    progress: bool | None = None,
) -> list[Path]:
    """Works off the pieces that ``folder`` does not hold yet.

    Args:
        study: name.
        pieces: all of them; a piece stopped on the way starts anew.
        folder: of the study; each piece becomes ``KEY.json`` in it, written whole or not at all.
        protocol: kept in every piece.
        quick: recorded with the plan.
        progress: False is silent; None shows a bar on a terminal and a line a piece elsewhere.

    Returns:
        the files of all pieces, in order.

    Raises:
        ValueError: a kept piece has other data, options or protocol; or another process works there.
    """
    show = Progress(progress)
    keys = [piece.key for piece in pieces]
    if len(set(keys)) < len(keys):
        raise ValueError(f"pieces of {study} must have different keys, found {keys}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{piece.key}.json" for piece in pieces]
    with locked(folder):
        remove_temporaries(folder, [path.name for path in paths] + [PLAN])
        sources = {p.source.name: p.source for p in pieces if p.source is not None}
        plan = {
            "study": study,
            "quick": quick,
            "pieces": keys,
            "protocol": dict(protocol),
            "data": {name: source.log.summary() for name, source in sources.items()},
        }
        bar = tqdm(
            total=len(pieces), desc=study, unit="piece", file=show.stream, disable=not show.terminal
        )
        with bar:
            todo = []
            for piece, path in zip(pieces, paths, strict=True):
                if path.exists():
                    _check(path, piece.identity(study, protocol))
                    bar.update()
                else:
                    todo.append((piece, path))
            write_json(folder / PLAN, plan)
            if len(todo) < len(pieces):
                show.say(f"{study}  {len(pieces) - len(todo)} of {len(pieces)} pieces are done")
            for piece, path in todo:
                bar.set_postfix_str(piece.key)
                began = time.perf_counter()
                result = plain(dict(piece.work()))
                seconds = time.perf_counter() - began
                kept = piece.identity(study, protocol)
                write_json(
                    path, {**kept, "seconds": seconds, "versions": _versions(), "result": result}
                )
                show.say(f"{study}  {piece.key}  {seconds:.1f} s")
                bar.update()
    return paths


def _versions() -> dict[str, Any]:
    from resemb_ext import __version__

    return {
        "resemb_ext": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "threads": torch.get_num_threads(),
    }


def _check(path: Path, identity: Mapping[str, Any]) -> None:
    kept = read_json(path)
    wrong = [name for name, value in identity.items() if kept.get(name) != value]
    if wrong:
        raise ValueError(
            f"out: {path} was made with another {' and '.join(wrong)}; choose another folder or "
            "remove that file"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A file of a study.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected an object, found {type(value).__name__}")
    return value


@dataclass(frozen=True)
class Results:
    """What a study's folder holds.

    Attributes:
        plan: the plan of the newest run.
        pieces: kept pieces by key, those of the plan only.
        missing: keys of the plan without a result.
    """

    plan: dict[str, Any]
    pieces: dict[str, dict[str, Any]]
    missing: list[str]


def read_results(folder: Path) -> Results:
    """All kept pieces of a study.

    Raises:
        FileNotFoundError: the study was never run there.
    """
    if not (folder / PLAN).is_file():
        raise FileNotFoundError(f"out: {folder} holds no study (no {PLAN}); run it first")
    plan = read_json(folder / PLAN)
    pieces, missing = {}, []
    for key in plan["pieces"]:
        path = folder / f"{key}.json"
        if path.is_file():
            pieces[key] = read_json(path)
        else:
            missing.append(key)
    return Results(plan, pieces, missing)
