"""Checkpoints: written whole or not at all, read without unpickling code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .files import write_atomic

FORMAT = "resemb-checkpoint"
VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes ``state`` (tensors and plain values) to ``path`` atomically."""
    content = {"format": FORMAT, "version": VERSION, **state}
    write_atomic(path, lambda target: torch.save(content, target))


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU.

    Returns:
        what training saved: ``model`` (state dict), ``epoch`` (1-based), ``step``, ``metrics``,
        ``config``, ``seed``, and in ``last.pt`` also ``optimizer``, ``rng``, ``history``, ``best``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, no checkpoint of this package, or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's readers raise of every kind on foreign bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is no readable checkpoint: {reason}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is no checkpoint of resemb_ext")
    if state.get("version") != VERSION:
        raise ValueError(
            f"{path} has checkpoint version {state.get('version')}, this package reads {VERSION}"
        )
    return state
