"""Ready-made CTR samples: rows of label, ids and histories, as RecZoo lays them out.

A folder holds ``train``, ``test`` and perhaps ``valid`` (``.csv`` or another kind of file that
``read_log`` takes). AmazonElectronics_x1 has label, user_id, item_id, cate_id, item_history and
cate_history; TaobaoAd_x1 has clk, userid, cate_id, brand and the histories cate_his and brand_his.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .findings import WARNING, Finding, left_out, warn
from .idmap import IdMap
from .joined import row_lengths
from .kinds import kind_of
from .log import Log
from .parts import PARTS, Joined, Part, number_texts, part_of, read_categories, read_parts
from .samples import Samples
from .separators import UNIT, describe
from .splits import Split


@dataclass(frozen=True, eq=False)
class ReadySplit(Split):
    """Samples that came ready made, in the shape of a split.

    ``log`` and ``train`` hold what graphs may be built from: of each user of the training rows the
    longest history. The target of a row that has it and label 1 follows, if there is one (the last in
    the file). Times are positions. ``valid`` and ``test`` are empty: the held-out events are in
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


def is_ready_made(source: Any) -> bool:
    """Whether a source is a folder with a file called train, valid or test; other folders hold the parts of a log."""
    if not (isinstance(source, str | Path) and Path(source).is_dir()):
        return False
    return any(part_of(path) in PARTS for path in Path(source).iterdir() if path.is_file() and kind_of(path))


def read_ready_made(
    folder: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    category: str | Literal[False] | None = None,
    label: str | None = None,
    history_separator: str | None = None,
    max_history: int = 50,
    valid_share: float = 0.1,
    seed: int = 0,
) -> ReadySplit:
    """Read a folder of ready-made samples.

    The item's history column is that named after it: ``item_history`` or ``item_his`` for
    ``item_id`` or ``item``; likewise the category's. Ids of all parts are mapped together.

    Args:
        folder: holds train, test and perhaps valid (or validation, val, dev).
        user, item, label: column names; guessed where None.
        category: likewise; may be missing; False leaves it out. A guessed one that cannot be read, or
            has no history, is left out with a warning.
        history_separator: what parts the ids of histories that are text; ``"[]"`` for lists in
            brackets. None finds it: most ids must then occur as targets, and be integers where all
            targets are. List columns need none.
        max_history: newest events kept of a history.
        valid_share: without a valid file, this share of the training users, drawn at random, goes
            to validation with all of their rows.
        seed: of that draw.

    Raises:
        FileNotFoundError: no such folder, or no train or test file in it.
        ValueError: a missing column, a bad entry (its line is named), labels of one class, histories
            whose separator cannot be told, or a category history that is not as long as the item
            history.

    Warns:
        DataWarning: a guessed category is left out; a separator that was given leaves most ids odd;
            histories that spell a missing value, such as "nan", are read as none; an id that is never
            a target fills histories up.
    """
    place = Path(folder)
    if max_history < 1:
        raise ValueError(f"max_history must be at least 1, got {max_history}")
    if not 0 < valid_share < 1:
        raise ValueError(f"valid_share must lie between 0 and 1, got {valid_share}")
    wanted = {"user": user, "item": item, "category": category, "label": label}
    parts, joined, findings = read_parts(place, wanted, history_separator)
    users, user_numbers = number_texts([p.user for p in parts.values()], "user", parts, first=0)
    texts = [a for p in parts.values() for a in (p.item, p.sequences.words)]
    items, item_numbers = number_texts(texts, "item", parts, first=1)
    of_items, without = _categories_of(parts, joined, items, item_numbers)
    cats, table, mixed = of_items or (None, None, 0)
    findings += () if without is None else (without,)

    flat, rows = {}, {}
    for k, (name, part) in enumerate(parts.items()):
        flat[name] = item_numbers[2 * k + 1][part.sequences.codes]
        rows[name] = (user_numbers[k], item_numbers[2 * k], part.label, *_ends(part))
    findings += tuple(_odd_parts(parts, rows, flat["train"], items))
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

    train = parts["train"]
    dropped = () if cats is not None else ("category", "category history")
    log = replace(
        _log(rows["train"], flat["train"], users, items, cats, table),
        name=place.name,
        columns={field: column for field, column in train.columns.items() if field not in dropped},
        guessed=tuple(field for field in train.guessed if field not in dropped),
        remarks={"history": describe(joined.separator if joined.some else UNIT)},
        findings=findings,
    )
    warn(place.name, findings)
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


def _ends(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end of each row's history."""
    start = np.append(part.sequences.start[:-1], 0)
    begin = start[part.history]
    return begin, begin + row_lengths(part.history, part.sequences)


def _odd_parts(
    parts: Mapping[str, Part], rows: Mapping[str, tuple[np.ndarray, ...]], history: np.ndarray, items: IdMap
) -> Iterator[Finding]:
    """Parts that have no histories, or no item of the training part: their columns may be written otherwise."""
    trained = np.zeros(items.size, dtype=bool)
    trained[rows["train"][1]] = trained[history] = True
    for name, (_, target, _, begin, end) in rows.items():
        file = parts[name].source.path.name
        if (begin == end).all():
            yield Finding(WARNING, "no history", f"no row of {file} has a history", "read as empty histories")
        if not trained[target].any():
            shown = items.decode(target[:1])[0]
            fault = f"no target of {file} occurs in {parts['train'].source.path.name}, the first is {shown!r:.60}"
            yield Finding(WARNING, "other items", fault, "their vectors are not trained; write ids alike in all parts")


def _categories_of(
    parts: Mapping[str, Part], joined: Joined, items: IdMap, item_numbers: list[np.ndarray]
) -> tuple[tuple[IdMap, np.ndarray, int] | None, Finding | None]:
    """Map of the categories, int64 [H] each item's first one, and how many items have several; a warning."""
    found, without = read_categories(parts, joined)
    if found is None:
        return None, without
    texts = [a for c in found.values() for a in (c.target, c.history.words)]
    try:
        cats, numbers = number_texts(texts, "category", parts, first=1)
    except (ValueError, TypeError) as error:
        if not any("category" in part.guessed for part in parts.values()):
            raise
        return None, left_out(error)
    pairs = []
    for k, (part, of_part) in enumerate(zip(parts.values(), found.values(), strict=True)):
        target = item_numbers[2 * k] * np.int64(cats.size) + numbers[2 * k]
        history = item_numbers[2 * k + 1][part.sequences.codes] * np.int64(cats.size)
        history += numbers[2 * k + 1][of_part.history.codes]
        pairs += [np.unique(target), np.unique(history)]
    distinct = np.unique(np.concatenate(pairs))
    item, first, count = np.unique(distinct // cats.size, return_index=True, return_counts=True)
    table = np.zeros(items.size, dtype=np.int64)
    table[item] = distinct[first] % cats.size
    table[items.oov] = cats.oov
    return (cats, table, int((count > 1).sum())), None


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
        user=user[chosen][owner], item=item, time=time, users=users, items=items, categories=cats, _item_category=table
    )
