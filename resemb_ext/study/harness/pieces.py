"""Studies as small pieces of work, each kept in a file of its own while they run, and how they are run."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from tqdm import tqdm

from resemb_ext import data
from resemb_ext.runtime.environment import cpu_name
from resemb_ext.runtime.files import locked, plain, remove_temporaries, write_json
from resemb_ext.runtime.progress import Progress

from .pool import in_turn
from .results import (
    FORMAT,
    PLAN,
    check_plan,
    earlier_file,
    fill_folder,
    load_results,
    piece_file,
    read_json,
    read_lines,
    results_file,
    write_lines,
)


@dataclass(frozen=True)
class Source:
    """A log by name: a file, or a simulation.

    Attributes:
        name: short, for keys of pieces.
        read: gives the log and its truth (None for a real one).
        setting: how the study is to set it up, by the study's own names; "" for its usual way.
    """

    name: str
    read: Callable[[], tuple[data.Log, data.SimulationTruth | None]]
    setting: str = ""

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
    """A log of ``rx.data.simulate``."""
    return Source(name, lambda: data.simulate(**options))


@dataclass(frozen=True)
class Context:
    """What a piece is given that needs others or writes files.

    Attributes:
        folder: of the study.
        results: of the needed pieces, by key.
        made_for: hash of all that the piece's result depends on.
    """

    folder: Path
    results: Mapping[str, dict[str, Any]]
    made_for: str


@dataclass(frozen=True)
class Piece:
    """A piece of work, done in one go.

    Attributes:
        key: its name within the study: letters, digits, "-", "." and "_".
        work: does it; the result goes into JSON. It is given a ``Context`` where ``needs``,
            ``files`` or ``checkpoint`` are there, else nothing.
        config: all that the result depends on besides data and seeds.
        seeds: random seeds it uses.
        source: its log, whose hash is kept with the result; None without one.
        needs: keys of pieces that must be done before.
        files: names of files that it writes into the folder for pieces that need it. They are no
            results; where they are gone when such a piece is to be done, this one is done again.
        checkpoint: name of a file that it may keep its steps in until it is done.
    """

    key: str
    work: Callable[..., Mapping[str, Any]]
    config: Mapping[str, Any]
    seeds: Sequence[int]
    source: Source | None = None
    needs: Sequence[str] = ()
    files: Sequence[str] = ()
    checkpoint: str | None = None

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
    out: Path,
    *,
    protocol: Mapping[str, Any],
    quick: bool,
    jobs: int = 1,
    only: str | None = None,
    progress: bool | None = None,
) -> Path:
    """Works off the pieces that ``out`` does not hold yet.

    While it runs, each piece is a file ``KEY.json`` in the folder ``out/STUDY``, written whole or not at all, so that
    a run that was killed goes on where it stood. At the end all are gathered in ``out/STUDY.jsonl``
    (``resemb_ext.study.harness.results.write_lines``); where only that file is there, a run goes on from it.

    A piece that was made from another result of one that it needs, as after that one was done again
    on another machine, is done again too. The first result of a piece that came out another the second
    time stays beside it as ``KEY.earlier.json``.

    Args:
        study: name.
        pieces: all of them, the most important first.
        out: folder of all studies' results.
        protocol: kept with the results.
        quick: recorded with the plan.
        jobs: processes to work in.
        only: pattern of keys to do now, as in a shell, with what they need; None for all.
        progress: False is silent; None shows a bar on a terminal and a line a piece elsewhere.

    Returns:
        the JSON-lines file.

    Raises:
        ValueError: a kept piece has other data, options or protocol; no key fits ``only``; or another
            process works there.
    """
    show = Progress(progress)
    keys = [piece.key for piece in pieces]
    if len(set(keys)) < len(keys):
        raise ValueError(f"pieces of {study} must have different keys, found {keys}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, found {jobs}")
    wanted = _wanted(study, pieces, only)
    folder, file = out / study, results_file(out, study)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {piece.key: piece_file(folder, piece.key) for piece in pieces}
    with locked(folder):
        remove_temporaries(folder)
        remove_temporaries(out)
        plan = _plan(study, pieces, protocol, quick)
        if file.exists():
            kept = read_lines(file)
            check_plan(kept.plan, plan, file)
            if not (folder / PLAN).exists():
                fill_folder(kept, folder)
        for piece in pieces:
            if paths[piece.key].exists():
                _check(paths[piece.key], piece.identity(study, protocol))
        write_json(folder / PLAN, plan)
        asked = [piece for piece in pieces if piece.key in wanted]
        told = False
        while True:
            stale = _stale(asked, paths)
            todo = _todo(asked, folder, paths, stale)
            done = len(asked) - len(todo)
            if done and not told:
                show.say(f"{study}  {done} of {len(asked)} pieces are done")
            told = True
            for key in stale:
                show.say(f"{study}  {key} was made from another result: it is done again")
            if not todo:
                break
            place = {piece.key: number for number, piece in enumerate(todo)}
            needs = [[place[key] for key in piece.needs if key in place] for piece in todo]

            def work(number: int, todo: Sequence[Piece] = todo) -> float:
                return _do(study, todo[number], protocol, folder, paths)

            bar = tqdm(
                total=len(asked), initial=done, desc=study, unit="piece", file=show.stream, disable=not show.terminal
            )
            with bar:
                for number, seconds in in_turn(needs, work, jobs):
                    show.say(f"{study}  {todo[number].key}  {seconds:.1f} s")
                    bar.update()
        write_lines(file, load_results(out, study))
    return file


def _plan(study: str, pieces: Sequence[Piece], protocol: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    sources = {piece.source.name: piece.source for piece in pieces if piece.source is not None}
    data = {name: source.log.summary() for name, source in sources.items()}
    plan = {"study": study, "quick": quick, "pieces": [piece.key for piece in pieces], "protocol": dict(protocol)}
    return plain({**plan, "data": data})


def _wanted(study: str, pieces: Sequence[Piece], only: str | None) -> set[str]:
    """Keys that fit ``only``, and what they need."""
    needs = {piece.key: piece.needs for piece in pieces}
    left = [key for key in needs if only is None or fnmatchcase(key, only)]
    if only is not None and not left:
        raise ValueError(f"only: no piece of {study} is named like {only!r}, say {next(iter(needs))}")
    wanted: set[str] = set()
    while left:
        key = left.pop()
        if key not in wanted:
            wanted.add(key)
            left += needs[key]
    return wanted


def _stale(pieces: Sequence[Piece], paths: Mapping[str, Path]) -> list[str]:
    """Keys of those that were made from another result of one that they need."""
    found = []
    digests: dict[str, str] = {}
    for piece in pieces:
        made_from = read_json(paths[piece.key]).get("made_from", {}) if paths[piece.key].exists() else {}
        for key, digest in made_from.items():
            if key not in digests and paths[key].exists():
                digests[key] = _digest(read_json(paths[key])["result"])
            if digests.get(key, digest) != digest:
                found.append(piece.key)
                break
    return found


def _todo(pieces: Sequence[Piece], folder: Path, paths: Mapping[str, Path], stale: Sequence[str]) -> list[Piece]:
    """Those without a valid result, and those whose files are gone though one of these needs them."""
    missing = {piece.key for piece in pieces if not paths[piece.key].exists()}.union(stale)
    needed = {key for piece in pieces if piece.key in missing for key in piece.needs}
    return [
        piece
        for piece in pieces
        if piece.key in missing or (piece.key in needed and not all((folder / name).exists() for name in piece.files))
    ]


def _do(study: str, piece: Piece, protocol: Mapping[str, Any], folder: Path, paths: Mapping[str, Path]) -> float:
    """Does a piece and keeps its result; the seconds it took."""
    began = time.perf_counter()
    needed = {key: read_json(paths[key])["result"] for key in piece.needs}
    identity = piece.identity(study, protocol)
    made_for = _digest({"identity": identity, "needed": needed, "versions": _versions()})
    wants = piece.needs or piece.files or piece.checkpoint
    context = (Context(folder, needed, made_for),) if wants else ()
    result = plain(dict(piece.work(*context)))
    seconds = time.perf_counter() - began
    path = paths[piece.key]
    made_from = {key: _digest(value) for key, value in needed.items()}
    old = read_json(path) if path.exists() else {}
    if old.get("made_from", {}) == made_from and _digest(old.get("result", {})) == _digest(result):
        return seconds  # done again for its files
    kept: dict[str, Any] = {**identity, "seconds": seconds}
    if piece.needs:
        kept["made_from"] = made_from
    if old and _digest(old["result"]) != _digest(result):
        first = earlier_file(folder, piece.key)
        if not first.exists():
            write_json(first, old)
    write_json(path, {**kept, "versions": _versions(), "result": result})
    if piece.checkpoint is not None:
        (folder / piece.checkpoint).unlink(missing_ok=True)
    return seconds


def _digest(result: Mapping[str, Any]) -> str:
    """Of all but times, which are never twice the same."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if not k.endswith("seconds")}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    return hashlib.sha256(json.dumps(timeless(result), sort_keys=True).encode()).hexdigest()


def _versions() -> dict[str, Any]:
    from resemb_ext import __version__

    return {
        "resemb_ext": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "threads": torch.get_num_threads(),
        "processor": cpu_name(),
    }


def _check(path: Path, identity: Mapping[str, Any]) -> None:
    kept = read_json(path)
    wrong = [name for name, value in identity.items() if kept.get(name) != value]
    if wrong:
        raise ValueError(
            f"out: {path} was made with another {' and '.join(wrong)}; choose another folder or remove that file"
        )
