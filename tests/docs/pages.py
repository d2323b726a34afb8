"""The pages that people write, and the fenced blocks in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: Pages whose code needs a framework; tests/integrations runs it, each in the framework's environment.
FRAMEWORK_PAGES = sorted(DOCS.glob("integrations/*.md"))
#: Pages of the task index; those of the studies have tests of their own.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")), *FRAMEWORK_PAGES]
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: what stands behind the opening fence.
        text: its lines.
        line: number of its first line in the page.
    """

    language: str
    text: str
    line: int

    @property
    def commands(self) -> list[list[str]]:
        """Of a block of shell lines: the words of each command; comments are left out."""
        joined = self.text.replace("\\\n", " ")
        parts = [part for line in joined.splitlines() for part in line.split("&&")]
        return [words for part in parts if (words := shlex.split(part, comments=True))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 2) for found in _FENCE.finditer(text)]


def prose(page: Path) -> str:
    """A page without fenced blocks, indented code and what programs write between markers."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"<!-- (.+?): begin -->.*?<!-- \1: end -->", "", text, flags=re.DOTALL)
    return re.sub(r"^    .*$", "", text, flags=re.MULTILINE)


def run_page(page: Path, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Runs a page's blocks of Python one after the other, in the current folder.

    Args:
        page: of ``PAGES``.
        names: what the page takes for given.

    Returns:
        The names that the blocks leave.
    """
    names = names if names is not None else {}
    for block in blocks(page):
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
    return names
