"""How histories that are text join their ids: found in the histories themselves, never assumed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .columns import printable
from .spelled import NULL_WORDS, NUMBER

# The form of lists in brackets: "[1, 2]" as JSON and Python write them, "[1 2]" as NumPy does.
LIST = "[]"
# Joins the ids of list columns, which are then split like text; no id holds it.
UNIT = "\x1f"
_BRACKETED = r"(?s)^\s*(\[.*\]|\(.*\))\s*$"
# How lists of NumPy's numbers and texts show them: "[np.int64(1), np.str_('a')]".
_SCALAR = r"\bnp\.\w+\(([^()]*)\)"
# What histories are often filled up with, which tells of no separator.
PADDING = ("0", "-1", "<pad>", "<PAD>", "[PAD]", "pad", "PAD", "padding")
# Signs that people double; of others, two in a row are an empty id.
_DOUBLED = ("::", "||")
# An id that is never a target is hardly a larger share of the ids in histories.
_MOST_OF_ONE = 0.2
# Histories that are looked at to find the separator; all are checked afterwards.
_SAMPLE = 20_000


@dataclass(frozen=True)
class Targets:
    """What is known of ids that histories should hold.

    Attributes:
        integers: all are integers.
        texts: large_string, the distinct known ids; they are not looked at where all are integers.
        complete: whether most ids of histories are known ones.
        names, never, option: for messages: what the known ids are, what others are not, and the
            option that names the separator.
    """

    integers: bool
    texts: pa.Array
    complete: bool = True
    names: str = "targets"
    never: str = "are never a target"
    option: str = "history_separator= (--history-separator on the command line)"

    def holds(self, word: str) -> bool:
        """Whether a text is one of the known ids."""
        return bool(pc.is_in(pa.scalar(word, pa.large_string()), value_set=self.texts).as_py())

    @cached_property
    def nulls(self) -> list[str]:
        """Words for null that are none of the known ids: a history that is one of them is none."""
        return [word for word in NULL_WORDS if not self.holds(word)]

    @cached_property
    def characters(self) -> set[str]:
        """ASCII characters of the texts that are no letters or digits."""
        return _ascii(self.texts)

    @cached_property
    def bracketed(self) -> bool:
        """Whether a text looks like a list in brackets."""
        return bool(pc.any(_holds(self.texts, LIST)).as_py())


class BadHistory(ValueError):
    """A history that cannot be split: ``text``, None where the fault is that of no single one."""

    def __init__(self, fault: str, text: str | None = None) -> None:
        self.text = text
        super().__init__(fault)


_PADDING = pa.array(PADDING, pa.large_string())


def describe(separator: str) -> str:
    """For people: "ids joined by '^'"."""
    if separator in (LIST, UNIT):
        return "lists in brackets" if separator == LIST else "lists"
    return f"ids joined by {separator!r}" if separator else "one id each"


def unescaped(separator: str) -> str:
    r"""A separator as it is typed: ``tab`` or ``\t`` stands for a tab.

    Raises:
        ValueError: it is empty.
    """
    if not separator:
        raise ValueError("separator must not be empty; leave it out to have it found")
    return "\t" if separator == "tab" else separator.replace("\\t", "\t")


def find_separator(texts: pa.Array, targets: Targets) -> str:
    """The separator by which most ids of histories are ids; "" where histories are single ids.

    A character that is part of a target is none: splitting there would break ids.

    Args:
        texts: large_string, distinct histories, none null or empty.
        targets: what the ids should be.
    """
    if not len(texts):
        return ""
    sample = texts.take(pa.array(np.arange(0, len(texts), -(-len(texts) // _SAMPLE))))
    fits = {form: _fit(sample, form, targets) for form in _candidates(sample, targets)}
    best = max(fits, key=lambda form: fits[form], default="")
    if not best or fits[best][0] <= 0.5:
        return ""
    twice = best * 2
    if twice not in _DOUBLED or not holds(sample, twice):
        return best
    return best if holds(pc.replace_substring(sample, twice, ""), best) else twice


def holds(texts: pa.Array, separator: str) -> bool:
    """Whether a text holds a separator; "" is none."""
    return bool(separator and pc.any(_holds(texts, separator)).as_py())


def split_texts(texts: pa.Array, separator: str) -> pa.Array:
    """Ids of each history, a list<large_string> array; blanks around an id are dropped.

    Args:
        texts: large_string, no nulls.
        separator: text between ids, ``LIST`` for lists in brackets, "" where a history is one id.

    Raises:
        BadHistory: with ``LIST``, a history that is no such list.
    """
    if separator == LIST:
        return _split_lists(texts)
    if separator == UNIT:
        return pc.split_pattern(texts, UNIT)
    if separator == " ":
        return pc.split_pattern_regex(pc.utf8_trim_whitespace(texts), " +")
    if not separator:
        sizes, words = np.ones(len(texts), np.int64), texts
    else:
        lists = pc.split_pattern(texts, separator)
        sizes, words = _sizes(lists), pc.list_flatten(lists)
    return _lists(pc.utf8_trim(words, " "), sizes)


def check_words(words: pa.Array, counts: np.ndarray, separator: str, targets: Targets, *, given: bool) -> str | None:
    """Whether the ids of histories can be those of the targets.

    Args:
        words: large_string, distinct ids of histories.
        counts: int64, how often each occurs.
        separator: that they were split by.
        targets: what they should be.
        given: whether the user named the separator, so that odd ids are only a warning.

    Returns:
        A warning, or None.

    Raises:
        BadHistory: ids that are no integers where all targets are; histories joined in two ways; or
            most ids are never a target. ``text`` is the odd id, if there is one.
    """
    if not len(words):
        return None
    total = int(counts.sum())
    odd = ~_known(words, targets)
    wrong = int(counts[odd].sum())
    if not wrong:
        return None
    place = int(np.flatnonzero(odd)[0])
    example = printable(words[place].as_py(), 60)
    split = f"histories were read as {describe(separator)}"
    if targets.integers:
        fault = f"{example!r} in a history is no integer, as all {targets.names} are; {split}"
        if given and 2 * wrong < total:
            return f"{fault}; all ids are read as text ({wrong:,} of {total:,} are such)"
        remedy = "write both alike" if separator == UNIT else f"name what parts the ids with {targets.option}"
        raise BadHistory(f"{fault}; {remedy}", words[place].as_py())
    name_it = f"name what parts the ids with {targets.option}"
    never = f"{wrong:,} of {total:,} ids in histories, such as {example!r}, {targets.never}"
    if given:
        return f"{never}; {split}" if 2 * wrong >= total else None
    unknown = words.filter(pa.array(odd))
    for form in _candidates(unknown, targets):
        if form != separator and _fit(unknown, form, targets)[0] > 0.5:
            text = unknown.filter(_holds(unknown, form))[0].as_py()
            raise BadHistory(
                f"{split}, but {printable(text, 60)!r} looks like {describe(form)}; join all alike, or name what "
                f"parts the ids with {targets.option}",
                text,
            )
    signs = pc.match_substring_regex(unknown, r"^[^\pL\pN]+$")
    if pc.any(signs).as_py():
        sign = unknown.filter(signs)[0].as_py()
        raise BadHistory(f"{printable(sign, 60)!r} in a history is no id; {split}: {name_it}", sign)
    split_further = not separator and _candidates(unknown, targets)
    if 2 * wrong >= total and (targets.complete or split_further):
        raise BadHistory(f"{never}; {split}: {name_it}", words[place].as_py())
    most = int(np.argmax(np.where(odd, counts, 0)))
    if targets.complete and counts[most] >= _MOST_OF_ONE * total and counts[most] > 1:
        word = words[most].as_py()
        raise BadHistory(
            f"{printable(word, 60)!r} is never a target, but {counts[most]:,} of {total:,} ids in histories; {split}: "
            f"{name_it}",
            word,
        )
    return None


def _known(words: pa.Array, targets: Targets) -> np.ndarray:
    if targets.integers:
        known = pc.match_substring_regex(words, NUMBER)
    else:
        known = pc.or_(*(pc.is_in(words, value_set=ids.cast(words.type)) for ids in (targets.texts, _PADDING)))
    # An empty id is another fault, found later.
    return pc.or_(known, pc.equal(words, "")).to_numpy(zero_copy_only=False)


def _candidates(texts: pa.Array, targets: Targets) -> list[str]:
    """Characters of the histories that can be separators, the usual ones first."""
    held = _ascii(texts)
    barred = set("\"'[](){}\\") | (set(".+") if targets.integers else targets.characters)
    usual = "^|;,\t "
    found = sorted(held - barred, key=lambda c: (usual.index(c) if c in usual else len(usual), c))
    lists = _holds(texts, LIST)
    if pc.any(lists).as_py() and (targets.integers or not targets.bracketed):
        found.insert(0, LIST)
    return found


def _ascii(texts: pa.Array) -> set[str]:
    """Characters of ASCII in texts, letters and digits left out."""
    data = np.frombuffer("".join(texts.to_pylist()).encode(), dtype=np.uint8)
    found = np.flatnonzero(np.bincount(data, minlength=128)[:128])
    return {chr(code) for code in found if not chr(code).isalnum()}


def _holds(texts: pa.Array, form: str) -> pa.Array:
    return pc.match_substring_regex(texts, _BRACKETED) if form == LIST else pc.match_substring(texts, form)


def _fit(texts: pa.Array, form: str, targets: Targets) -> tuple[float, int]:
    """Of the ids of histories that a form splits, the share that is known; and how many histories it splits."""
    held = texts.filter(_holds(texts, form))
    try:
        lists = split_texts(held, form)
    except BadHistory:
        return 1.0, len(held)  # it is the form; the fault is reported when all are split
    words = pc.list_flatten(lists)
    owner = pc.list_parent_indices(lists).to_numpy()
    filled = pc.not_equal(words, "").to_numpy(zero_copy_only=False)
    size = np.bincount(owner[filled], minlength=len(held))
    used = filled & ((size > 1) | (form == LIST))[owner]
    return (float(_known(words, targets)[used].mean()) if used.any() else 0.0), len(held)


def _sizes(lists: pa.Array) -> np.ndarray:
    return pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)


def _lists(words: pa.Array, sizes: Sequence[int] | np.ndarray) -> pa.Array:
    offsets = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    return pa.LargeListArray.from_arrays(pa.array(offsets), words.cast(pa.large_string()))


def _split_lists(texts: pa.Array) -> pa.Array:
    inside = _holds(texts, LIST)
    if not pc.all(inside).as_py() and len(texts):
        text = texts.filter(pc.invert(inside))[0].as_py()
        raise BadHistory(
            f"{printable(text, 60)!r} is no list in brackets, as other histories are; write all alike", text
        )
    texts = pc.replace_substring_regex(texts, _SCALAR, r"\1")
    bare = pc.utf8_trim_whitespace(pc.utf8_slice_codeunits(pc.utf8_trim_whitespace(texts), 1, -1))
    quoted = pc.match_substring_regex(bare, "[\"']")
    if pc.any(quoted).as_py():
        entries = [_literal(text) for text in texts.to_pylist()]
        words = [word for entry in entries for word in entry]
        return _lists(pa.array(words, pa.large_string()), [len(entry) for entry in entries])
    bare = pc.replace_substring_regex(bare, r"\s*,$", "")  # of a tuple of one: "(1,)"
    commas = pc.any(pc.match_substring(bare, ",")).as_py()
    lists = pc.split_pattern_regex(bare, r"\s*,\s*" if commas else r"\s+")
    sizes = np.where(pc.equal(bare, "").to_numpy(zero_copy_only=False), 0, _sizes(lists))
    words = pc.list_flatten(lists)
    if len(words) != sizes.sum():  # the single empty word of "[]"
        words = words.filter(pa.array(np.repeat(sizes > 0, _sizes(lists))))
    return _lists(words, sizes)


def _literal(text: str) -> list[str]:
    """Entries of a list in JSON or Python, of which some are in quotes."""
    shown = printable(text, 60)
    if re.search(r"""(['"])\s+\1""", text):
        raise BadHistory(f"{shown!r} has quoted ids without commas between them, as NumPy prints them", text)
    entries: Any = None
    for parse in (json.loads, ast.literal_eval):
        try:
            entries = parse(text.strip())
            break
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    if isinstance(entries, str):
        entries = (entries,)
    if not isinstance(entries, (list, tuple)):
        raise BadHistory(f"{shown!r} is no list in JSON or Python", text)
    for entry in entries:
        if isinstance(entry, bool) or not isinstance(entry, (str, int, float)):
            raise BadHistory(f"{shown!r} holds {entry!r:.40}, expected ids", text)
    return [str(entry) for entry in entries]
