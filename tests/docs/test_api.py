"""The API reference: every public module has its place there, and every public name a docstring."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

import pytest

import resemb_ext as rx
from tests.docs.pages import DOCS

REFERENCE = "".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "api").glob("*.rst")))
#: ``testing`` is for this project's own tests; ``export`` is another name of ``serving``.
PUBLIC = [name for name in rx.__all__ if inspect.ismodule(getattr(rx, name)) and name not in ("testing", "export")] + [
    "nn",
    "graph",
    "replace",
]


def public_names(module: ModuleType) -> list[str]:
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return getattr(module, "__all__", [name for name in own if not name.startswith("_")])


@pytest.mark.parametrize("name", PUBLIC)
def test_public_modules_are_in_the_reference(name: str) -> None:
    assert f".. automodule:: resemb_ext.{name}\n   :members:" in REFERENCE


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_docstrings(name: str) -> None:
    module = importlib.import_module(f"resemb_ext.{name}")
    assert module.__doc__
    for public in public_names(module):
        thing = getattr(module, public)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        assert thing.__doc__, public
        members = vars(thing).items() if inspect.isclass(thing) else ()
        for member, value in members:
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            own = inspect.isfunction(function) and not member.startswith("_") and member != "extra_repr"
            assert not own or inspect.getdoc(getattr(thing, member)), f"{public}.{member}"
