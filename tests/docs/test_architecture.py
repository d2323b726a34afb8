"""docs/architecture.md names the rooms as they are."""

from __future__ import annotations

import re

from tests.docs.pages import DOCS, ROOT, blocks

LAYOUT, ORDER, *_ = (block.text for block in blocks(DOCS / "architecture.md"))
#: Ways in, which import everything: not shown.
ENTRIES = ("__main__", "export")


def test_import_order_is_that_which_is_checked() -> None:
    contract = (ROOT / "pyproject.toml").read_text().split("[[tool.importlinter.contracts]]")[1]
    (layers,) = re.findall(r"layers = \[\n(.*?)\n\]", contract, re.DOTALL)
    assert [name for name in re.findall(r'"(.+?)"', layers) if name not in ENTRIES] == ORDER.splitlines()


def test_every_room_has_its_line() -> None:
    folder = ""
    named = set()
    for line in LAYOUT.splitlines():
        words = line.split()
        folder = words[0] if not line.startswith(" ") else folder
        paths = [word for word in words if word.endswith(("/", ".py", ".cpp", ".md", ".toml"))]
        named |= {(folder if line.startswith(" ") else "") + path for path in paths}
    assert [path for path in named if not (ROOT / path).exists()] == []
    rooms = {
        f"{top}/{path.name}/" for top in ("resemb_ext", "csrc") for path in (ROOT / top).iterdir() if path.is_dir()
    }
    assert {room for room in rooms if "__pycache__" not in room} - named == set()
