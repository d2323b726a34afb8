"""The CUDA kernels compiled for the host, where every CUDA thread is a fiber (csrc/cuda/emulate.h)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ("sort", "plan", "lookup", "update", "attention")
COMPILER = os.environ.get("CXX") or shutil.which("g++")
FLAGS = [*("-std=c++20", "-DRESEMB_EMULATE", "-fno-strict-aliasing", "-Wall", "-Wno-unknown-pragmas"), "-Wno-psabi"]

#: Marks of a module that compiles them.
needs_emulation = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the fibers are written for x86-64"),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
]


def compile_all(folder: Path, csrc: Path, sources: list[Path], flags: list[str]) -> list[Path]:
    """Objects of the sources, made side by side."""
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.parent.name}_{source.name}.o"
        subprocess.run(
            [*COMPILER.split(), *FLAGS, *flags, f"-I{csrc}", "-x", "c++", "-c", source, "-o", target],  # type: ignore[union-attr]
            check=True,
            capture_output=True,
            text=True,
        )
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def link(program: Path, objects: list[Path], flags: list[str]) -> Path:
    subprocess.run(
        [*COMPILER.split(), *objects, *flags, "-o", program],  # type: ignore[union-attr]
        check=True,
        capture_output=True,
        text=True,
    )
    return program


def kernels(csrc: Path, names: tuple[str, ...] = KERNELS) -> list[Path]:
    return [csrc / "cuda" / f"{name}.cu" for name in names]
