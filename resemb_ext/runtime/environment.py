"""What a result was made with: versions, commit, machine, threads."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "pyarrow", "safetensors", "matplotlib")


def versions() -> dict[str, str | None]:
    """Versions of the package, Python and what it computes with; None where not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("resemb_ext", *_PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def commit(folder: Path | None = None) -> str | None:
    """The git commit of the package's source, "+" appended when tracked files were changed.

    None when the package does not run from a git checkout that tracks it.
    """
    source = folder or Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", "."):  # a wheel inside somebody else's repository is not tracked
        return None
    head = git("rev-parse", "HEAD")
    if head is None:
        return None
    return head + "+" if git("status", "--porcelain", "--untracked-files=no") else head


def environment() -> dict[str, Any]:
    """Versions, commit, machine and threads, in JSON's types."""
    return {
        "versions": versions(),
        "commit": commit(),
        "machine": {
            "system": platform.platform(),
            "cpu": cpu_name(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "threads": torch.get_num_threads(),
    }


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
