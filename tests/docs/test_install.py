"""docs/install.md names the variables that the build and the package read."""

from __future__ import annotations

import re

from tests.docs.pages import DOCS, ROOT

PAGE = (DOCS / "install.md").read_text(encoding="utf-8")


def test_variables_of_the_build_are_named() -> None:
    build = (ROOT / "setup.py").read_text(encoding="utf-8")
    read = set(re.findall(r"environ(?:\.get\(|\[)[\"'](RESEMB_\w+)", build))
    assert read
    assert {name for name in read if f"`{name}`" not in PAGE} == set()


def test_extras_are_named() -> None:
    (table,) = re.findall(
        r"^\[project.optional-dependencies\]\n(.*?)\n\n",
        (ROOT / "pyproject.toml").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    named = re.search(r"## Extras\n(.*?)\n## ", PAGE, re.DOTALL)
    assert named
    assert set(re.findall(r"^\| (`.*?`) \|", named[1], re.MULTILINE)) >= {"`test`, `dev`"}
    assert set(re.findall(r"^(\w+) = ", table, re.MULTILINE)) <= set(re.findall(r"`(\w+)`", named[1]))
