"""Results of a study: one JSON-lines file, its protocol on the first line, a piece a line after it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resemb_ext.runtime.files import plain, write_json, write_text

FORMAT = 1
PLAN = "plan.json"
#: What every piece of a study has in common, so that the file says it once.
COMMON = ("format", "study", "protocol")
#: A value that occurs more than once and is at least this long as JSON is written once, then referred to.
SHARED_FROM = 60
REFERENCE = "$"


@dataclass(frozen=True)
class Results:
    """What is kept of a study.

    Attributes:
        plan: ``study``, ``quick``, ``protocol``, ``data`` (summaries of the logs by name) and ``pieces`` (keys, in
            order).
        pieces: kept pieces by key.
        missing: keys of the plan without a result.
        earlier: what pieces held that were done again and came out another, by key.
    """

    plan: dict[str, Any]
    pieces: dict[str, dict[str, Any]]
    missing: list[str]
    earlier: dict[str, dict[str, Any]] = field(default_factory=dict)


def results_file(out: Path | str, study: str) -> Path:
    """Where a study's results are under ``out``."""
    return Path(out) / f"{study}.jsonl"


def has_results(out: Path | str, study: str) -> bool:
    """Whether ``load_results`` finds any."""
    return results_file(out, study).is_file() or (Path(out) / study / PLAN).is_file()


def load_results(out: Path | str, study: str) -> Results:
    """The study's results under ``out``: its file, and what a run keeps beside it in the folder ``out/STUDY``.

    A piece in the folder replaces that of the file; pieces of the file that the run has not are kept.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: one of them cannot be read, or they are of different protocols, logs or sizes.
    """
    path, folder = results_file(out, study), Path(out) / study
    kept = read_lines(path) if path.is_file() else None
    if not (folder / PLAN).is_file():
        if kept is None:
            raise FileNotFoundError(f"out: {Path(out)} holds no study {study}; run it first")
        return kept
    found = read_folder(folder)
    return found if kept is None else _merged(kept, found, path)


def _merged(kept: Results, found: Results, path: Path) -> Results:
    check_plan(kept.plan, found.plan, path)
    keys = dict.fromkeys([*kept.plan["pieces"], *found.plan["pieces"]])
    plan = {**found.plan, "pieces": list(keys), "data": {**kept.plan["data"], **found.plan["data"]}}
    pieces = {**kept.pieces, **found.pieces}
    missing = [key for key in keys if key not in pieces]
    ordered = {key: pieces[key] for key in keys if key in pieces}
    return Results(plan, ordered, missing, {**kept.earlier, **found.earlier})


def check_plan(kept: Mapping[str, Any], plan: Mapping[str, Any], path: Path) -> None:
    """Whether pieces of both plans may stand in one file.

    Raises:
        ValueError: they may not.
    """
    wrong = [name for name in ("study", "quick", "protocol") if kept[name] != plan[name]]
    logs = {name: (entry["hash"], plan["data"].get(name, entry)["hash"]) for name, entry in kept["data"].items()}
    wrong += [f"log {name}" for name, (one, other) in logs.items() if one != other]
    if wrong:
        raise ValueError(f"out: {path} was made with another {' and '.join(wrong)}; choose another folder")


def read_folder(folder: Path) -> Results:
    """The pieces of the newest run's plan that are in its folder.

    Raises:
        FileNotFoundError: no run was there.
        ValueError: a file cannot be read.
    """
    if not (folder / PLAN).is_file():
        raise FileNotFoundError(f"out: {folder} holds no study (no {PLAN}); run it first")
    plan = read_json(folder / PLAN)
    pieces, missing, earlier = {}, [], {}
    for key in plan["pieces"]:
        path, first = piece_file(folder, key), earlier_file(folder, key)
        if path.is_file():
            pieces[key] = read_json(path)
        else:
            missing.append(key)
        if first.is_file():
            earlier[key] = read_json(first)
    return Results(plan, pieces, missing, earlier)


def fill_folder(results: Results, folder: Path) -> None:
    """Writes kept pieces as files of a run, so that the next one goes on from them; the plan last."""
    for place, pieces in ((piece_file, results.pieces), (earlier_file, results.earlier)):
        for key, piece in pieces.items():
            write_json(place(folder, key), piece)
    write_json(folder / PLAN, results.plan)


def piece_file(folder: Path, key: str) -> Path:
    """Where a piece is kept while a study runs."""
    return folder / f"{key}.json"


def earlier_file(folder: Path, key: str) -> Path:
    """Where the first result of a piece stays that was done again and came out another."""
    return folder / f"{key}.earlier.json"


def write_lines(path: Path, results: Results) -> None:
    """Writes results as one JSON-lines file, whole or not at all.

    The first line holds the plan without its pieces. Then comes a line a piece, in the plan's order, without what all
    have in common; one without ``result`` is missing, one with ``earlier`` is what the piece of the line before held
    at first. A line ``{"$": N, "is": VALUE}`` gives a value that occurs more than once; ``{"$": N}`` is that value.
    Numbers are written in full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{line}\n" for line in _lines(results)))


def _lines(results: Results) -> Iterator[str]:
    plan = {key: value for key, value in results.plan.items() if key != "pieces"}
    yield _text({"format": FORMAT, **plan})
    entries: list[dict[str, Any]] = []
    for key in results.plan["pieces"]:
        for which, more in ((results.pieces, {}), (results.earlier, {"earlier": True})):
            if key in which:
                piece = plain(which[key])
                entries.append({"key": key, **more, **{k: v for k, v in piece.items() if k not in (*COMMON, "key")}})
        if key not in results.pieces:
            entries.append({"key": key})
    shared = _Shared(entries)
    for entry in entries:
        yield from shared.lines(entry)


class _Shared:
    """Values that occur more than once among ``entries``, each written before the first line that has it.

    Pieces share configurations, versions and the runs they were chosen from: the files are a quarter smaller for it.
    """

    def __init__(self, entries: Iterable[dict[str, Any]]) -> None:
        self.counts: Counter[str] = Counter()
        self.numbers: dict[str, int] = {}
        for entry in entries:
            for value in entry.values():
                self._count(value)

    def _count(self, value: Any) -> None:
        if isinstance(value, (dict, list)):
            text = _text(value)
            if len(text) >= SHARED_FROM:
                self.counts[text] += 1
                if self.counts[text] > 1:
                    return  # its parts go with it
            for part in value.values() if isinstance(value, dict) else value:
                self._count(part)

    def lines(self, entry: dict[str, Any]) -> list[str]:
        """The line of ``entry``, after those of values that it is the first to have."""
        before: list[str] = []
        line = {key: self._encoded(value, before) for key, value in entry.items()}
        return [*before, _text(line)]

    def _encoded(self, value: Any, before: list[str]) -> Any:
        if not isinstance(value, (dict, list)):
            return value
        text = _text(value)
        if self.counts[text] < 2:
            return self._parts(value, before)
        if text not in self.numbers:
            whole = self._parts(value, before)
            self.numbers[text] = len(self.numbers)
            before.append(_text({REFERENCE: self.numbers[text], "is": whole}))
        return {REFERENCE: self.numbers[text]}

    def _parts(self, value: Any, before: list[str]) -> Any:
        if isinstance(value, list):
            return [self._encoded(part, before) for part in value]
        if REFERENCE in value:
            raise ValueError(f"a result must not have the key {REFERENCE!r}, found {sorted(value)}")
        return {key: self._encoded(part, before) for key, part in value.items()}


def read_lines(path: Path) -> Results:
    """The results in a file of ``write_lines``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no such file.
    """
    values: list[Any] = []

    def decoded(value: dict[str, Any]) -> Any:
        return values[value[REFERENCE]] if set(value) == {REFERENCE} else value

    lines: list[dict[str, Any]] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not text:
            continue
        try:
            line = json.loads(text, object_hook=decoded)
            if not isinstance(line, dict):
                raise ValueError(f"expected an object, found {type(line).__name__}")
            if lines and not line.keys() & {REFERENCE, "key"}:
                raise ValueError("expected the key of a piece")
        except (ValueError, IndexError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if REFERENCE in line:
            values.append(line["is"])
        else:
            lines.append(line)
    if not lines or lines[0].get("format") != FORMAT or not lines[0].keys() >= {"study", "quick", "protocol", "data"}:
        raise ValueError(f"{path} holds no results of a study (format {FORMAT})")
    plan = {key: value for key, value in lines[0].items() if key != "format"}
    common = {key: lines[0][key] for key in COMMON}
    results = Results({**plan, "pieces": list(dict.fromkeys(line["key"] for line in lines[1:]))}, {}, [])
    for line in lines[1:]:
        if "result" not in line:
            results.missing.append(line["key"])
            continue
        which = results.earlier if line.pop("earlier", False) else results.pieces
        which[line["key"]] = {**common, **line}
    return results


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def read_json(path: Path) -> dict[str, Any]:
    """A file of a study.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def hours(pieces: Iterable[Mapping[str, Any]]) -> float:
    """Hours of wall clock that kept pieces took, those of earlier sessions with them where their steps say so."""
    total = 0.0
    for piece in pieces:
        result = piece["result"]
        steps = [*result.get("trials", []), *result.get("touched", {}).get("trials", [])]
        total += max(piece["seconds"], sum(step.get("seconds", 0.0) for step in steps))
    return total / 3600
