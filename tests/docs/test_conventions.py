"""The conventions of CONTRIBUTING.md that ruff and import-linter do not check."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path.relative_to(ROOT) for path in (ROOT / "resemb_ext").rglob("*.py"))
SINGLE = re.compile(r"(?<![`\w])`[^`]+`(?!`)|:[a-z]+:`")


def wrong_imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """Imports of the module's own folder that are not relative, and relative ones out of it."""
    room = ".".join(path.parent.parts)
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level > 1:
            yield f"line {node.lineno}: a relative import out of its folder"
        own = node.module is not None and (node.module == room or node.module.rpartition(".")[0] == room)
        folder = node.module is not None and (ROOT / node.module.replace(".", "/")).is_dir() and node.module != room
        if node.level == 0 and room != "resemb_ext" and own and not folder:
            yield f"line {node.lineno}: {node.module} is of its own folder; import it relatively"


def wrong_backticks(text: str, tree: ast.Module) -> Iterator[str]:
    """Docstrings and comments with single backticks or roles."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [(node, ast.get_docstring(node)) for node in ast.walk(tree) if isinstance(node, holders)]
    for node, doc in found:
        if doc and SINGLE.search(doc):
            yield f"docstring of {getattr(node, 'name', 'the module')}: {SINGLE.search(doc)[0]}"  # type: ignore[index]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and SINGLE.search(token.string):
            yield f"line {token.start[0]}: {token.string}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_and_backticks(path: Path) -> None:
    text = (ROOT / path).read_text()
    tree = ast.parse(text)
    assert [*wrong_imports(path, tree), *wrong_backticks(text, tree)] == []


def test_what_is_wrong_is_found() -> None:
    text = '"""Of `ids`, see :func:`f`."""\nfrom ..data import Log\nfrom resemb_ext.train.loop import fit\n'
    tree = ast.parse(text)
    assert len(list(wrong_imports(Path("resemb_ext/train/runner.py"), tree))) == 2
    assert len(list(wrong_backticks(text, tree))) == 1
