"""A trained model as files that score without this package: torch.export, and ONNX where asked.

An export is a folder:

- ``model.pt2``: a ``torch.export`` program of the folded model, whose tables are plain. Inputs
  ``target`` int64 [B] and ``history`` int64 [B, L], output the logits, float32 [B]. B is free, L is
  the run's ``max_history``; a history shorter than L is filled up with 0, the padding.
- ``model.onnx``: the same in ONNX, with ``--onnx``.
- ``items.json``: the id map: ``values`` are the raw ids, of which the k-th (from 0) has the number
  ``first`` + k; ids that are not there have the number ``oov``.
- ``export.json``: what it is and where it came from, with the sha256 of each file.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resemb_ext.data import IdMap
from resemb_ext.models import CTRModel, TorchBatch
from resemb_ext.nn import ResEmbedding
from resemb_ext.runtime.files import write_json

from .saved import SavedModel

FORMAT = "resemb-export"
VERSION = 1
PROGRAM, ONNX, ITEMS, ABOUT = "model.pt2", "model.onnx", "items.json", "export.json"
PADDING = 0
_EXAMPLE_ROWS = 5
# Scores of an export may differ from the model's by the order of their sums.
_RTOL, _ATOL = 1e-3, 1e-4


class ScoringModule(nn.Module):
    """A folded model as a function of mapped ids alone.

    Args:
        model: takes items and, with ``item_category``, categories; nothing else.
        item_category: int64 [H], the category of each item, or None.

    Raises:
        ValueError: the model needs fields that an export has no inputs for, has weights that are
            not finite, or an item embedding whose padding is not 0.
    """

    item_category: Tensor | None

    def __init__(self, model: CTRModel, item_category: np.ndarray | None = None) -> None:
        super().__init__()
        missing = [
            name
            for name, needed in (
                ("user", model.user_embedding is not None),
                ("context", len(model.context_embeddings) > 0),
                ("dense", model.dense > 0),
                ("category", model.category_embedding is not None and item_category is None),
            )
            if needed
        ]
        if missing:
            raise ValueError(
                f"model: cannot be exported, since it takes {', '.join(missing)}; an export scores "
                "a target and a history of items, with their categories where those are known"
            )
        if model.padding_idx != PADDING:
            raise ValueError(
                f"model: its item embedding must have padding_idx {PADDING} to be exported, found {model.padding_idx}"
            )
        self.model = fold(model).eval()
        for name, value in self.model.state_dict().items():
            if isinstance(value, Tensor) and not torch.isfinite(value).all():
                raise ValueError(f"model: {name} holds values that are not finite")
        categories = None if item_category is None else torch.from_numpy(item_category)
        self.register_buffer("item_category", categories)

    def forward(self, target: Tensor, history: Tensor) -> Tensor:
        """Logits [B] of targets int64 [B] after histories int64 [B, L], 0 being no event."""
        of_item = self.item_category
        return self.model(
            TorchBatch(
                target=target,
                history=history,
                target_category=None if of_item is None else of_item[target],
                history_category=None if of_item is None else of_item[history],
            )
        ).float()


def fold(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which every ``ResEmbedding`` is the plain table that it amounts to."""
    memo = {id(m): m.to_embedding() for m in model.modules() if isinstance(m, ResEmbedding)}
    return copy.deepcopy(model, memo)  # type: ignore[arg-type]


def export_run(
    folder: Path | str,
    out: Path | str | None = None,
    *,
    arm: str | None = None,
    seed: int | None = None,
    onnx: bool = False,
    overwrite: bool = False,
) -> Path:
    """Exports one training of a run folder.

    What was written is loaded again and must score as the model does.

    Args:
        folder: of ``resemb train``.
        out: folder to write, whole or not at all; default ``export`` in the run folder.
        arm, seed: which training; None takes the one with the best validation metric.
        onnx: write ``model.onnx`` as well; needs the extra "onnx".
        overwrite: replace an earlier export in ``out``.

    Returns:
        the folder.

    Raises:
        FileNotFoundError: a file of the run is missing.
        ValueError: no such training, a model that cannot be exported, or ``out`` is taken.
        ImportError: ``onnx`` without its packages.
    """
    place = Path(out) if out is not None else Path(folder) / "export"
    _check_place(place, overwrite)
    if onnx:
        _need_onnx()
    saved = SavedModel.load(folder, arm, seed)
    assert isinstance(saved.model, CTRModel)
    module = ScoringModule(saved.model, saved.item_category)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        write_export(module, saved.items, saved.max_history, temporary, onnx=onnx)
        about = {
            "format": FORMAT,
            "version": VERSION,
            "inputs": {"target": ["batch"], "history": ["batch", saved.max_history]},
            "output": "logit",
            "max_history": saved.max_history,
            "padding": PADDING,
            "model": type(saved.model).__name__,
            "embedding": saved.arm,
            "seed": saved.seed,
            "torch": torch.__version__,
            "sha256": {file.name: _sha256(file) for file in sorted(temporary.iterdir())},
        }
        write_json(temporary / ABOUT, about)
        _put(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place


def write_export(module: ScoringModule, items: IdMap, max_history: int, place: Path, *, onnx: bool = False) -> None:
    """Writes program and id map into an empty folder, and checks what the program scores.

    Args:
        module: what to export.
        items: of the log that it was trained on.
        max_history: L, the length of a padded history.
        place: the folder.
        onnx: write ``model.onnx`` as well.

    Raises:
        ValueError: the program has operators of this package, which would be needed to load it.
        RuntimeError: what was written scores otherwise than ``module``.
    """
    module.eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(1, items.size, (_EXAMPLE_ROWS,), generator=draw)
    history = torch.randint(0, items.size, (_EXAMPLE_ROWS, max_history), generator=draw)
    history[1] = PADDING
    history[2, max_history // 2 :] = PADDING
    rows = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (target, history), dynamic_shapes={"target": {0: rows}, "history": {0: rows}})
    foreign = sorted({str(node.target) for node in program.graph.nodes if str(node.target).startswith("resemb_ext")})
    if foreign:
        raise ValueError(
            f"model: cannot be exported, since {', '.join(foreign)} would be needed to load it; "
            "only ResEmbedding has a plain table to put in its place"
        )
    torch.export.save(program, place / PROGRAM)
    with torch.inference_mode():
        expected = module(target, history)
        single = module(target[:1], history[:1])
        loaded = torch.export.load(place / PROGRAM).module()
        _same(PROGRAM, loaded(target, history), expected)
        _same(PROGRAM, loaded(target[:1], history[:1]), single)
    if onnx:
        written = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["target", "history"], output_names=["logit"]
        )
        assert written is not None
        written.save(str(place / ONNX))
        score = _onnx_scorer(place / ONNX)
        _same(ONNX, score(target, history), expected)
        _same(ONNX, score(target[:1], history[:1]), single)
    write_json(place / ITEMS, {**items.to_dict(), "oov": items.oov, "padding": PADDING})


def _onnx_scorer(path: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def score(target: Tensor, history: Tensor) -> Tensor:
        inputs = {"target": target.numpy(), "history": history.numpy()}
        return torch.from_numpy(session.run(["logit"], inputs)[0])

    return score


def _same(name: str, found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape or not torch.allclose(found, expected, _RTOL, _ATOL):
        raise RuntimeError(f"{name}: scores {found.tolist()}; the model {expected.tolist()}")


def _need_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise ImportError(f'onnx: needs {name} (pip install "resemb_ext[onnx]"): {error}') from error


def _check_place(place: Path, overwrite: bool) -> None:
    if not place.exists():
        return
    if not place.is_dir():
        raise ValueError(f"out: {place} is a file; expected a folder to make")
    held = {file.name for file in place.iterdir()}
    if held and ABOUT not in held:
        raise ValueError(f"out: {place} holds other files, say {min(held)}; choose another folder")
    if held and not overwrite:
        raise ValueError(f"out: {place} holds an earlier export; choose another folder or give --overwrite")


def _put(temporary: Path, place: Path) -> None:
    """Moves a finished folder into place; an earlier one goes only then."""
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o777 & ~mask)
    if not place.exists():
        os.replace(temporary, place)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        os.replace(place, old)
        os.replace(temporary, place)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
