"""Ready-made CTR samples: rows of label, ids and ``^``-joined histories, as RecZoo lays them out.

A folder holds ``train``, ``test`` and perhaps ``valid`` (``.csv`` or another kind of file that
``read_log`` takes). AmazonElectronics_x1 has label, user_id, item_id, cate_id, item_history and
cate_history; TaobaoAd_x1 has clk, userid, cate_id, brand and the histories cate_his and brand_his.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .arrow import BadEntry, as_arrow, canonical_ids, canonical_labels
from .columns import list_names, resolve_columns
from .files import Source, kind_of, open_source
from .idmap import IdMap
from .joined import Sequences, aligned, check_lengths, row_lengths, split_histories
from .log import Log
from .samples import Samples
from .splits import Split

PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class ReadySplit(Split):
    """Samples that came ready made, in the shape of a split.

    ``log`` and ``train`` hold what graphs may be built from: of each user of the training rows the
    longest history, followed by the target of a row that has it and label 1, if there is one (the
    last in the file); times are positions. ``valid`` and ``test`` are empty: the held-out events are in
    ``samples`` alone.

    Attributes:
        samples: by part: "train", "valid", "test".
        mixed_items: items that occur with more than one category.
        held_out: share of the training users whose rows became validation, 0 where a file did.
    """

    samples: Mapping[str, Samples] = field(default_factory=dict)
    mixed_items: int = 0
    held_out: float = 0.0

    @property
    def hash(self) -> str:  # type: ignore[override]
        """Hex sha256 over the log and the rows and histories of all parts."""
        return self.samples["train"].split_hash

    def summary(self) -> dict[str, Any]:
        """As of a split; sizes are rows."""
        sizes = {part: len(samples) for part, samples in self.samples.items()}
        return {**super().summary(), **sizes, "held_out_users": self.held_out}


class _Part(NamedTuple):
    source: Source
    columns: Mapping[str, str]
    user: pa.Array
    item: pa.Array
    category: pa.Array | None
    label: np.ndarray
    history: np.ndarray  # int64 [N]: which sequence, -1 for none
    sequences: Sequences
    categories: Sequences | None


def is_ready_made(source: Any) -> bool:
    """Whether a source is a folder, hence one of ready-made samples."""
    return isinstance(source, str | Path) and Path(source).is_dir()


def read_ready_made(
    folder: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    category: str | Literal[False] | None = None,
    label: str | None = None,
    max_history: int = 50,
    valid_share: float = 0.1,
    seed: int = 0,
) -> ReadySplit:
    """Read a folder of ready-made samples.

    The item's history column is that named after it: ``item_history`` or ``item_his`` for
    ``item_id`` or ``item``; likewise the category's. Ids of all parts are mapped together.

    Args:
        folder: holds train, test and perhaps valid.
        user, item, label: column names; guessed where None.
        category: likewise; may be missing; False leaves it out.
        max_history: newest events kept of a history.
        valid_share: without a valid file, this share of the training users, drawn at random, goes
            to validation with all of their rows.
        seed: of that draw.

    Raises:
        FileNotFoundError: no such folder, or no train or test file in it.
        ValueError: a missing column, a bad entry (its line is named), labels of one class, or a
            category history that is not as long as the item history.
    """
    place = Path(folder)
    if max_history < 1:
        raise ValueError(f"max_history must be at least 1, got {max_history}")
    if not 0 < valid_share < 1:
        raise ValueError(f"valid_share must lie between 0 and 1, got {valid_share}")
    wanted = {"user": user, "item": item, "category": category, "label": label}
    parts = {name: _read_part(path, wanted) for name, path in _files(place).items()}

    users, user_numbers = _numbers([p.user for p in parts.values()], "user", parts, first=0)
    texts = [a for p in parts.values() for a in (p.item, p.sequences.words)]
    items, item_numbers = _numbers(texts, "item", parts, first=1)
    cats: IdMap | None = None
    table, mixed = None, 0
    if all(p.categories is not None for p in parts.values()):
        texts = [a for p in parts.values() for a in (p.category, _words(p))]
        cats, cat_numbers = _numbers(texts, "category", parts, first=1)
        table, mixed = _category_table(list(parts.values()), items, item_numbers, cats, cat_numbers)

    flat, rows = {}, {}
    for k, (name, part) in enumerate(parts.items()):
        flat[name] = item_numbers[2 * k + 1][part.sequences.codes]
        rows[name] = (user_numbers[k], item_numbers[2 * k], part.label, *_ends(part))
    histories = {"train": flat["train"], "valid": flat.get("valid", flat["train"]), "test": flat["test"]}
    held_out = 0.0
    if "valid" not in rows:
        held_out = valid_share
        chosen = np.random.default_rng(seed).random(len(users)) < valid_share
        mask = chosen[rows["train"][0]]
        rows["valid"] = tuple(values[mask] for values in rows["train"])
        rows["train"] = tuple(values[~mask] for values in rows["train"])
    for name in PARTS:
        _two_classes(rows[name][2], name, place)

    log = _log(rows["train"], flat["train"], users, items, cats, table, place.name, parts["train"].columns)
    digest = hashlib.sha256(log.content_hash.encode())
    for name in PARTS:
        for values in (*rows[name], histories[name]):
            digest.update(values.tobytes())
    seen = np.bincount(log.item, minlength=log.num_items) > 0
    samples = {
        name: Samples(
            user=user_of,
            target=target,
            label=labels,
            start=np.maximum(begin, end - max_history),
            end=end,
            history_items=histories[name],
            which=name,
            target_seen=seen[target],
            num_items=log.num_items,
            max_history=max_history,
            item_category=table,
            negatives=0,
            power=0.0,
            negative_distribution=None,
            split_hash=digest.hexdigest(),
        )
        for name, (user_of, target, labels, begin, end) in ((n, rows[n]) for n in PARTS)
    }
    none = np.zeros(0, dtype=np.int64)
    return ReadySplit(
        log, log, np.arange(len(log)), none, none, "ready-made", samples=samples, mixed_items=mixed, held_out=held_out
    )


def _files(folder: Path) -> dict[str, Path]:
    """The file of each part."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}")
    inside = sorted(path for path in folder.iterdir() if path.is_file() and kind_of(path))
    chosen = {}
    for part in PARTS:
        found = [path for path in inside if path.name.split(".")[0].lower() == part]
        if len(found) > 1:
            raise ValueError(f"{folder} has several {part} files: {list_names([p.name for p in found])}")
        if found:
            chosen[part] = found[0]
        elif part != "valid":
            raise FileNotFoundError(
                f"no {part} file in {str(folder)!r}: ready-made samples are train.csv, test.csv and "
                f"perhaps valid.csv; it has {list_names([p.name for p in folder.iterdir()])}"
            )
    return chosen


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


def _read_part(path: Path, wanted: Mapping[str, Any]) -> _Part:
    source = open_source(path)
    columns = dict(
        resolve_columns(source.names, wanted, path.name, required=("user", "item", "label"), hint=source.hint).by_field
    )
    columns["history"] = _history_column(source.names, columns["item"], "item")
    if "category" in columns:
        columns["category history"] = _history_column(source.names, columns["category"], "category")
    text = [column for name, column in columns.items() if name != "label"]
    table = source.read(list(columns.values()), text)
    if not len(table):
        raise ValueError(f"{path.name} has no rows")

    def ids(field: str) -> pa.Array:
        values = as_arrow(table[columns[field]], columns[field])
        # Nulls are found here, where the row is known.
        return canonical_ids(values, columns[field], f"{field} id").cast(pa.large_string())

    try:
        label = canonical_labels(table[columns["label"]], columns["label"])
        user, item = ids("user"), ids("item")
        category = ids("category") if "category" in columns else None
        history, sequences = split_histories(table[columns["history"]], columns["history"])
        categories = None
        if category is not None:
            column = columns["category history"]
            index, categories = split_histories(table[column], column)
            check_lengths(history, sequences, index, categories, column)
            categories = aligned(history, sequences, index, categories)
    except BadEntry as bad:
        raise _at_line(bad, source) from None
    return _Part(source, columns, user, item, category, label, history, sequences, categories)


def _at_line(bad: BadEntry, source: Source) -> ValueError:
    where = f"row {bad.row}" if source.line is None else f"line {source.line(bad.row)}"
    return ValueError(f"{source.path.name}, {where}, {bad.what}")


def _words(part: _Part) -> pa.Array:
    assert part.categories is not None
    return part.categories.words


def _numbers(texts: list[Any], field: str, parts: Mapping[str, _Part], *, first: int) -> tuple[IdMap, list[np.ndarray]]:
    """One id map over texts of all parts, and the numbers of each text."""
    distinct = pc.unique(pa.concat_arrays(texts))
    column = next(iter(parts.values())).columns[field]
    try:
        ids = canonical_ids(distinct, column, f"{field} id", parse=True)
    except BadEntry as bad:
        value = distinct[bad.row]
        for part in parts.values():
            at = pc.index(getattr(part, field), value).as_py()
            if at >= 0:
                raise _at_line(bad.at(at), part.source) from None
        raise ValueError(f"in a history: {bad.what}") from None
    id_map = IdMap.fit(ids, first=first)
    number = id_map.encode(ids)[0]
    places = (pc.index_in(a, value_set=distinct).to_numpy(zero_copy_only=False) for a in texts)
    return id_map, [number[place] for place in places]


def _ends(part: _Part) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end of each row's history."""
    start = np.append(part.sequences.start[:-1], 0)
    begin = start[part.history]
    return begin, begin + row_lengths(part.history, part.sequences)


def _category_table(
    parts: list[_Part], items: IdMap, item_numbers: list[np.ndarray], cats: IdMap, cat_numbers: list[np.ndarray]
) -> tuple[np.ndarray, int]:
    """int64 [H]: each item's first category; and how many items have several."""
    pairs = []
    for k, part in enumerate(parts):
        assert part.categories is not None
        target = item_numbers[2 * k] * np.int64(cats.size) + cat_numbers[2 * k]
        history = item_numbers[2 * k + 1][part.sequences.codes] * np.int64(cats.size)
        history += cat_numbers[2 * k + 1][part.categories.codes]
        pairs += [np.unique(target), np.unique(history)]
    distinct = np.unique(np.concatenate(pairs))
    item, first, count = np.unique(distinct // cats.size, return_index=True, return_counts=True)
    table = np.zeros(items.size, dtype=np.int64)
    table[item] = distinct[first] % cats.size
    table[items.oov] = cats.oov
    return table, int((count > 1).sum())


def _two_classes(label: np.ndarray, part: str, folder: Path) -> None:
    if not len(label):
        raise ValueError(f"{folder}: no {part} rows")
    if label.min() == label.max():
        raise ValueError(f"{folder}: all {len(label)} {part} rows have label {label[0]}")


def _log(
    rows: tuple[np.ndarray, ...],
    flat: np.ndarray,
    users: IdMap,
    items: IdMap,
    cats: IdMap | None,
    table: np.ndarray | None,
    name: str,
    columns: Mapping[str, str],
) -> Log:
    """The training users' longest histories as events; see ``ReadySplit``."""
    user, target, label, begin, end = rows
    # Of rows with the same history, one with label 1: it brings an event more.
    order = np.lexsort((np.arange(len(user)), label, end - begin, user))
    last = np.append(user[order][1:] != user[order][:-1], True)
    chosen = order[last]
    clicked = label[chosen] == 1
    lengths = (end - begin)[chosen]
    total = lengths + clicked
    offsets = np.cumsum(total) - total
    owner = np.repeat(np.arange(len(chosen)), total)
    time = np.arange(len(owner)) - offsets[owner]
    from_history = time < lengths[owner]
    item = target[chosen][owner]
    item[from_history] = flat[(begin[chosen][owner] + time)[from_history]]
    return Log(
        user=user[chosen][owner],
        item=item,
        time=time,
        users=users,
        items=items,
        categories=cats,
        name=name,
        columns=columns,
        _item_category=table,
    )
