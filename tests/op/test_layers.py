"""The layers of csrc: torch stands in ops alone, and the kernels of the devices know nothing of each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
# What a folder's files include of csrc.
ALLOWED = {
    "common": {"common"},
    "cpu": {"common", "cpu"},
    "cuda": {"common", "cuda"},
    "ops": {"common", "cpu", "cuda", "ops"},
}
# Where ops meets the devices: what makes their backends, and the pool of blocks that outputs lie in.
MEETING = {"cpu/backend.h", "cpu/buffer.h", "cuda/backend.h"}


def includes(folder: str) -> list[tuple[Path, str, str]]:
    """(file, bracket, header) of every include below a folder."""
    files = [path for path in (CSRC / folder).rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")]
    assert files
    found = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
    return [(path, *match.groups()) for path in files for match in found.finditer(path.read_text())]


@pytest.mark.parametrize("folder", ALLOWED)
def test_includes_go_one_way(folder: str) -> None:
    for path, bracket, header in includes(folder):
        if bracket == '"':
            assert header.split("/")[0] in ALLOWED[folder], f"{path} includes {header}"


@pytest.mark.parametrize("folder", ["common", "cpu", "cuda"])
def test_kernels_are_free_of_torch(folder: str) -> None:
    for path, _, header in includes(folder):
        assert not re.match(r"(torch|ATen|c10|pybind11|Python\.h)", header), f"{path} includes {header}"


def test_ops_meets_the_devices_in_their_backends() -> None:
    for path, _, header in includes("ops"):
        if header.startswith(("cpu/", "cuda/")):
            assert header in MEETING and path.name == "call.cpp", f"{path} includes {header}"


def test_devices_mirror_each_other() -> None:
    """A concern has the same name on both; what one device alone needs is named here."""
    cpu, cuda = ({path.stem for path in (CSRC / device).iterdir()} for device in ("cpu", "cuda"))
    concerns = {"attention", "backend", "backward", "lookup", "plan", "segments", "table_rows", "update"}
    assert concerns <= cpu & cuda
