"""Exports that ``resemb export`` wrote, read back: their files are compared with their digests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resemb_ext.data import IdMap
from resemb_ext.runtime.digests import check_digests
from resemb_ext.runtime.files import read_json

from .writing import ONNX, ONNX_DATA, PROGRAM, onnx_runner, torch_runner

FORMAT = "resemb-export"
VERSION = 1
ITEMS, ABOUT = "items.json", "export.json"
_FILES = {PROGRAM, ONNX, ONNX_DATA, ITEMS}

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """An export, ready to score.

    Attributes:
        about: the content of ``export.json``.
        items: id map of the items; unseen ids have the number ``items.oov``.
        score: logits float32 [B] of targets int64 [B] after histories int64 [B, L], filled up with
            0; L is ``about["max_history"]``. Numbers outside [0, ``items.oov``] are read as that.
    """

    about: dict[str, Any]
    items: IdMap
    score: Score


def load_export(folder: Path | str, *, onnx: bool = False) -> ExportedModel:
    """Loads the program or the ONNX model of an export, if its files are those that were written.

    ``torch.export.load`` is as safe as the folder's owner: digests find damage, not intent.

    Args:
        folder: of ``resemb export``.
        onnx: take ``model.onnx``, through onnxruntime on the CPU.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no export, one of another version, or a file whose sha256 differs from that in
            ``export.json``.
        ImportError: ``onnx`` without onnxruntime.
    """
    place = Path(folder)
    about = read_about(place)
    used = (ONNX, ONNX_DATA) if onnx else (PROGRAM,)
    if used[0] not in about["sha256"]:
        raise FileNotFoundError(f"{place} was exported without {used[0]}; export it with --onnx")
    digests = {name: digest for name, digest in about["sha256"].items() if name in (*used, ITEMS)}
    check_digests(place, digests, "export again, or copy the whole folder anew")
    items = IdMap.from_dict(read_json(place / ITEMS))
    run = onnx_runner(place / ONNX) if onnx else torch_runner(place / PROGRAM)

    def in_table(ids: np.ndarray) -> np.ndarray:  # programs of older exports lack it
        return np.where((ids < 0) | (ids > items.oov), items.oov, ids)

    return ExportedModel(
        about, items, lambda target, history: run({"target": in_table(target), "history": in_table(history)})
    )


def read_about(place: Path) -> dict[str, Any]:
    """``export.json`` of a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is none of ours, or of another version.
    """
    if not (place / ABOUT).is_file():
        raise FileNotFoundError(f"{place} holds no export (no {ABOUT})")
    about = read_json(place / ABOUT)
    digests = about.get("sha256") if isinstance(about, dict) else None
    if not isinstance(digests, dict) or about.get("format") != FORMAT or not {ITEMS} <= set(digests) <= _FILES:
        raise ValueError(f"{place / ABOUT} is not of resemb export")
    if about.get("version") != VERSION:
        raise ValueError(f"{place / ABOUT} has version {about.get('version')!r}; this release reads {VERSION}")
    return about
