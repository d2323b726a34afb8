"""Pages are written in short sentences and in the field's terms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, prose

LONGEST = 30  # words of a sentence
#: Words that this project replaced by the field's terms.
REPLACED = {"twin": "reference", "peer": "baseline", "peers": "baselines"}


def sentences(text: str) -> list[str]:
    """The sentences of prose; a table's cell, a heading and an item of a list end one."""
    found = []
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#]|\d+\.) )|(?<=\|)", text):
        found += re.split(r"(?<=[.!?])[)*]*\s+(?=[A-Z`*\[(])", " ".join(paragraph.split()))
    return [sentence for sentence in found if sentence.strip("| -:")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_sentences_are_short(page: Path) -> None:
    long = [s for s in sentences(prose(page)) if len(s.split()) > LONGEST]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_terms_are_the_fields(page: Path) -> None:
    words = set(re.findall(r"[a-z]+", prose(page).lower()))
    assert not words & set(REPLACED)


def test_sentences_are_told_apart() -> None:
    text = "One two. Three `four`.\n\n- five\n- six seven\n\n| a b | c |\n"
    assert [len(s.strip("| ").split()) for s in sentences(text)] == [2, 2, 2, 3, 2, 1]
