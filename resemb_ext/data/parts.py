"""The files of ready-made samples: train, test and perhaps valid, read and checked part by part."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .arrow import BadEntry, as_arrow, canonical_ids, canonical_labels
from .columns import list_names, resolve_columns
from .files import open_source
from .findings import WARNING, Finding, left_out
from .idmap import IdMap
from .joined import (
    Histories,
    Sequences,
    aligned,
    check_lengths,
    ends_with,
    no_history,
    read_histories,
    row_with,
    split_histories,
    without_nulls,
)
from .kinds import SETS, kind_of
from .separators import PADDING, UNIT, BadHistory, Targets, check_words, find_separator, holds, unescaped
from .source import Source

PARTS = ("train", "valid", "test")
# The least share of the places of histories that makes padding suspicious.
_LEAST_PADDING = 0.05


class Categories(NamedTuple):
    """Of a part's rows the target's category, and those of the histories in the order of their items."""

    target: pa.Array
    history: Sequences


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of one file.

    Attributes:
        source: the file.
        columns: column by field.
        guessed: fields whose column was guessed.
        table: the columns as read.
        user, item: large_string [N].
        label: int8 [N].
        histories: of the items.
        sequences: their ids.
    """

    source: Source
    columns: Mapping[str, str]
    guessed: tuple[str, ...]
    table: pa.Table
    user: pa.Array
    item: pa.Array
    label: np.ndarray
    histories: Histories
    sequences: Sequences

    @property
    def history(self) -> np.ndarray:
        """int64 [N]: which sequence each row has, -1 for none."""
        return self.histories.which

    def ids(self, field: str) -> pa.Array:
        """A field's ids as text; nulls are found here, where the row is known."""
        return _ids(self.table, self.columns[field], field)


class Joined(NamedTuple):
    """What parts the ids of histories that are text: as given or found, and whether any are text."""

    separator: str
    given: bool
    some: bool


def read_parts(
    folder: Path, wanted: Mapping[str, Any], separator: str | None
) -> tuple[dict[str, Part], Joined, tuple[Finding, ...]]:
    """The parts of a folder, how their histories are joined, and warnings.

    Args:
        folder: holds the files.
        wanted: column by field; None asks for a guess, False leaves an optional one out.
        separator: of histories that are text; None finds it.

    Raises:
        FileNotFoundError, ValueError, TypeError: as ``read_ready_made``.
    """
    if separator is not None:
        separator = unescaped(separator)
    files, others = _files(folder)
    parts = {name: _read(path, wanted) for name, path in files.items()}
    findings = [
        replace(finding, found=f"{part.source.path.name}: {finding.found}")
        for part in parts.values()
        for finding in part.source.findings
    ]
    if others:
        fault = f"{list_names(others)}: a part is one file, called train, valid or test"
        findings.append(Finding(WARNING, "other files", fault, "left out"))
    # What histories should hold is known from the targets alone.
    texts = [part.item for part in parts.values()]
    targets = number_texts(texts, "item", parts, first=1, findings=findings)[0]
    known = Targets(targets.kind != "text", pc.unique(pa.concat_arrays(texts)))
    missing = 0
    for name, part in parts.items():
        histories, spelled = without_nulls(part.histories, known.nulls)
        parts[name], missing = replace(part, histories=histories), missing + spelled
    if missing:
        findings.append(no_history(missing, "read as none"))
    joined = _joined([part.histories for part in parts.values()], known, separator)
    for name, part in parts.items():
        with _lines_of(part.source):
            parts[name] = replace(part, sequences=split_histories(part.histories, joined.separator))
    for lists in (False, True):
        some = [part for part in parts.values() if (part.histories.separator is not None) == lists]
        warning = _check(some, UNIT if lists else joined.separator, known, given=lists or joined.given)
        if warning:
            findings.append(Finding(WARNING, "histories", warning, "read as they stand"))
    findings += _padding([part.sequences for part in parts.values()], known)
    return parts, joined, tuple(findings)


def _padding(sequences: list[Sequences], targets: Targets) -> Iterator[Finding]:
    """Ids that fill histories up to one length, as samples of fixed shape have them."""
    for word in PADDING:
        found = ends_with(sequences, word)
        if found is None or targets.holds(word):
            continue
        count, total, side = found
        if count >= _LEAST_PADDING * total:
            fault = f"id {word!r} is never a target and fills the {side} of histories, {count:,} of {total:,} places"
            yield Finding(WARNING, "padding", fault, "read as an item; write histories without it, as long as they are")


def _joined(histories: list[Histories], known: Targets, separator: str | None) -> Joined:
    texts = [each.texts for each in histories if each.separator is None]
    if separator is None and texts:
        return Joined(find_separator(pc.unique(pa.concat_arrays(texts)), known), False, True)
    return Joined(separator or "", separator is not None, bool(texts))


def _check(parts: list[Part], separator: str, targets: Targets, *, given: bool) -> str | None:
    if not parts:
        return None
    words = pc.unique(pa.concat_arrays([part.sequences.words for part in parts]))
    counts = np.zeros(len(words), dtype=np.int64)
    for part in parts:
        place = pc.index_in(part.sequences.words, value_set=words).to_numpy(zero_copy_only=False)
        counts += np.bincount(place[part.sequences.codes], minlength=len(words))
    try:
        warning = check_words(words, counts, separator, targets, given=given)
        if targets.integers and warning is None and canonical_ids(words, "ids", parse=True).type == pa.large_string():
            raise BadHistory("ids in histories are no integers, as all targets are", words[0].as_py())
        return warning
    except BadHistory as bad:
        word, fault = bad.text, str(bad)
    except BadEntry as bad:
        word, fault = words[bad.row].as_py(), f"{bad.fault} in a history"
    for part in parts:
        row = row_with(part.histories, part.sequences, word)
        if row is not None:
            raise _at_line(BadEntry(row, part.histories.column, fault), part.source)
    raise ValueError(fault)


def read_categories(parts: Mapping[str, Part], joined: Joined) -> tuple[dict[str, Categories] | None, Finding | None]:
    """The categories of all parts, or a warning that a guessed column is left out; None, None without one.

    Their histories are joined as those of the items, or as they show themselves where none holds that separator.

    Raises:
        ValueError, TypeError: a column that was named cannot be read, or has no history.
    """
    if not any("category" in part.columns for part in parts.values()):
        return None, None
    guessed = any("category" in part.guessed for part in parts.values())
    try:
        return _categories(parts, joined), None
    except (ValueError, TypeError) as error:
        if not guessed:
            raise
        return None, left_out(error)


def _categories(parts: Mapping[str, Part], joined: Joined) -> dict[str, Categories]:
    targets, histories = {}, {}
    for name, part in parts.items():
        if "category" not in part.columns:
            raise ValueError(f"{part.source.path.name} has no category column, other parts have one")
        column = _history_column(part.source.names, part.columns["category"], "category")
        with _lines_of(part.source):
            targets[name] = part.ids("category")
            histories[name] = read_histories(part.table[column], column)
    separator = joined.separator
    if not joined.given and not any(holds(each.texts, separator) for each in histories.values()):
        numbers = number_texts(list(targets.values()), "category", parts, first=1)[0]
        known = Targets(numbers.kind != "text", pc.unique(pa.concat_arrays(list(targets.values()))))
        separator = _joined(list(histories.values()), known, None).separator
    found = {}
    for name, part in parts.items():
        of_part = histories[name]
        with _lines_of(part.source):
            sequences = split_histories(of_part, separator)
            check_lengths(part.history, part.sequences, of_part.which, sequences, of_part.column)
        found[name] = Categories(targets[name], aligned(part.history, part.sequences, of_part.which, sequences))
    return found


def part_of(path: Path) -> str:
    """What a file is called without its suffixes; files called as ``PARTS`` make a folder one of samples."""
    return path.name.split(".")[0].lower()


def _files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The file of each part, and the names of others that may have been meant as one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}")
    inside = sorted(path for path in folder.iterdir() if path.is_file() and kind_of(path))
    chosen = {}
    for part in PARTS:
        found = [path for path in inside if SETS.get(part_of(path)) == part]
        if len(found) > 1:
            raise ValueError(f"{folder} has several {part} files: {list_names([p.name for p in found])}")
        if found:
            chosen[part] = found[0]
        elif part != "valid":
            raise FileNotFoundError(
                f"no {part} file in {str(folder)!r}: ready-made samples are train.csv, test.csv and "
                f"perhaps valid.csv; it has {list_names([p.name for p in folder.iterdir()])}"
            )
    others = [path.name for path in inside if re.split("[-._ ]", path.name.lower())[0] in SETS]
    return chosen, [name for name in others if folder / name not in chosen.values()]


def _history_column(names: list[str], column: str, field: str) -> str:
    stem = column.removesuffix("_id")
    tried = [f"{base}{end}" for base in dict.fromkeys((column, stem)) for end in ("_history", "_his")]
    for name in tried:
        if name in names:
            return name
    raise ValueError(
        f"the {field} column {column!r} has no history column; expected one of {', '.join(tried)} "
        f"among the columns {list_names(names)}"
    )


def _read(path: Path, wanted: Mapping[str, Any]) -> Part:
    source = open_source(path)
    columns, guessed = resolve_columns(
        source.names, wanted, path.name, required=("user", "item", "label"), hint=source.hint
    )
    columns["history"] = _history_column(source.names, columns["item"], "item")
    needed = list(columns.values())
    if "category" in columns:
        try:
            columns["category history"] = _history_column(source.names, columns["category"], "category")
            needed.append(columns["category history"])
        except ValueError:
            if "category" not in guessed:
                raise
            needed.remove(columns["category"])
    table = source.read(needed)
    if not len(table):
        raise ValueError(f"{path.name} has no rows")
    with _lines_of(source):
        label = _labels(table[columns["label"]], columns["label"])
        user, item = (_ids(table, columns[field], field) for field in ("user", "item"))
        histories = read_histories(table[columns["history"]], columns["history"])
    none = Sequences(np.zeros(0, np.int32), np.zeros(1, np.int64), pa.array([], pa.large_string()))
    return Part(source, columns, guessed, table, user, item, label, histories, none)


def _labels(values: Any, column: str) -> np.ndarray:
    other = "; label= (--label-column) names another column"
    try:
        return canonical_labels(values, column)
    except BadEntry as bad:
        bad.fault += other
        raise
    except TypeError as error:
        raise TypeError(f"{error}{other}") from None


def _ids(table: pa.Table, column: str, field: str) -> pa.Array:
    return canonical_ids(as_arrow(table[column], column), column, f"{field} id").cast(pa.large_string())


def number_texts(
    texts: list[Any], field: str, parts: Mapping[str, Part], *, first: int, findings: list[Finding] | None = None
) -> tuple[IdMap, list[np.ndarray]]:
    """One id map over texts of all parts, and the numbers of each text."""
    distinct = pc.unique(pa.concat_arrays(texts))
    column = next(iter(parts.values())).columns[field]
    try:
        ids = canonical_ids(distinct, column, f"{field} id", parse=True, findings=findings)
    except BadEntry as bad:
        value = distinct[bad.row]
        for part in parts.values():
            at = pc.index(part.ids(field), value).as_py()
            if at >= 0:
                raise _at_line(bad.at(at), part.source) from None
        raise ValueError(f"in a history: {bad.what}") from None
    id_map = IdMap.fit(ids, first=first)
    number = id_map.encode(ids)[0]
    places = (pc.index_in(a, value_set=distinct).to_numpy(zero_copy_only=False) for a in texts)
    return id_map, [number[place] for place in places]


@contextmanager
def _lines_of(source: Source) -> Iterator[None]:
    """Bad entries are named by their line in the file."""
    try:
        yield
    except BadEntry as bad:
        raise _at_line(bad, source) from None


def _at_line(bad: BadEntry, source: Source) -> ValueError:
    place = f"{source.path.name}, row {bad.row}" if source.place is None else source.place(bad.row)
    return ValueError(f"{place}, {bad.what}")
