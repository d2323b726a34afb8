"""Sphinx: the pages of this folder and the API reference, which is made from docstrings.

python -m sphinx -W --keep-going -b html docs build/docs
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout, which builds in place

project = "resemb_ext"
author = "the resemb_ext developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
# Links out of this folder, say to CONTRIBUTING.md; tests/docs/test_links.py checks every link.
suppress_warnings = ["myst.xref_missing"]
html_theme = "furo"
html_title = "resemb_ext"
html_copy_source = False
html_math_renderer = "mathml"  # MathJax would be loaded from the network

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False
python_use_unqualified_type_names = True
myst_heading_anchors = 3


def setup(app: Any) -> None:
    """Adds the options of a configuration class, which stand in the metadata of its fields."""
    app.connect("autodoc-process-docstring", _part_names, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", _add_options)
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))


def _formula(translator: Any, node: Any) -> None:
    """Writes a formula as MathML, which browsers show by themselves."""
    block = isinstance(node, nodes.math_block)
    translator.body.append(tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def _part_names(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Attributes described together, "a, b: text", become one entry each."""
    if "Attributes:" not in lines:
        return
    begin = lines.index("Attributes:") + 1
    end = next((n for n in range(begin, len(lines)) if lines[n] and not lines[n].startswith(" ")), len(lines))
    parted: list[str] = []
    for entry in re.split(r"\n(?=    \w)", "\n".join(lines[begin:end])):
        names = re.match(r"\s*(\w+(?:, \w+)+): ", entry)
        for one in names[1].split(", ") if names else [""]:
            parted += (entry.replace(names[1], one, 1) if names else entry).split("\n")
    lines[begin:end] = parted


def _add_options(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what != "class" or not dataclasses.is_dataclass(obj):
        return
    own = [field for field in dataclasses.fields(obj) if field.name in vars(obj).get("__annotations__", {})]
    for field in own:
        if text := field.metadata.get("help"):
            default = "" if field.default is None else f" Default: ``{field.default!r}``."
            lines += ["", f"``{field.name}`` : {field.type}", f"    {text[0].upper()}{text[1:]}.{default}"]
