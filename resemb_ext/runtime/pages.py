"""Blocks of pages that programs write; people write the rest."""

from __future__ import annotations


def markers(name: str) -> tuple[str, str]:
    """The lines around a block of a page."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def around_block(text: str, name: str) -> tuple[str, str]:
    """A page's text up to a block, with its first marker, and from the block's last marker on.

    Raises:
        ValueError: the page has not each of the markers once, in order.
    """
    begin, end = markers(name)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"a page must have the lines {begin} and {end} as markers, once and in order")
    return text.split(begin)[0] + begin, end + text.split(end)[1]


def put_block(text: str, name: str, block: str) -> str:
    """A page's text with another block between the markers of ``name``; errors as of ``around_block``."""
    before, after = around_block(text, name)
    return f"{before}\n{block}\n{after}"
