"""A trained model as files that score without this package: torch.export, and ONNX where asked.

An export is a folder:

- ``model.pt2``: a ``torch.export`` program of the folded model, whose tables are plain. Inputs
  ``target`` int64 [B] and ``history`` int64 [B, L], output the logits, float32 [B]. B is free, L is
  the run's ``max_history``; a history shorter than L is filled up with 0, the padding. A number
  below 0 or above ``oov`` is read as ``oov``, in the program itself: runtimes differ in what they
  do with it.
- ``model.onnx``: the same in ONNX, with ``--onnx``.
- ``items.json``: the id map: ``values`` are the raw ids, of which the k-th (from 0) has the number
  ``first`` + k; ids that are not there have the number ``oov``.
- ``export.json``: what it is and where it came from, with the sha256 of each file, which
  ``load_export`` checks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resemb_ext.data import IdMap
from resemb_ext.models import CTRModel, TorchBatch
from resemb_ext.runtime.digests import sha256_of
from resemb_ext.runtime.files import remove_temporaries, write_json

from .exportable import PADDING, fold, refuse_fields, refuse_not_finite
from .exported import ABOUT, FORMAT, ITEMS, VERSION, read_about
from .guard import in_table
from .saved import SavedModel
from .writing import ONNX, ONNX_DATA, PROGRAM, move_into, need_onnx, write_programs, written_into

_EXAMPLE_ROWS = 5


class ScoringModule(nn.Module):
    """A folded model as a function of mapped ids alone.

    Args:
        model: takes items and, with ``item_category``, categories; nothing else.
        item_category: int64 [H], the category of each item, or None.
        oov: number of unseen items, ``items.oov``; None means the last row of the item embedding.
            Every id outside [0, oov] is read as this one, since runtimes differ in what they do with it.

    Raises:
        ValueError: the model needs fields that an export has no inputs for, or has weights that are
            not finite. Its item embedding has another padding than 0, or no row ``oov``.
    """

    item_category: Tensor | None

    def __init__(self, model: CTRModel, item_category: np.ndarray | None = None, *, oov: int | None = None) -> None:
        super().__init__()
        refuse_fields(model, has_categories=item_category is not None)
        self.oov = _oov(model, item_category, oov)
        self.model = fold(model).eval()
        refuse_not_finite(self.model)
        categories = None if item_category is None else torch.from_numpy(item_category)
        self.register_buffer("item_category", categories)

    def forward(self, target: Tensor, history: Tensor) -> Tensor:
        """Logits [B] of targets int64 [B] after histories int64 [B, L], 0 being no event."""
        target, history = self._in_table(target), self._in_table(history)
        of_item = self.item_category
        return self.model(
            TorchBatch(
                target=target,
                history=history,
                target_category=None if of_item is None else of_item[target],
                history_category=None if of_item is None else of_item[history],
            )
        ).float()

    def _in_table(self, ids: Tensor) -> Tensor:
        return in_table(ids, self.oov + 1, self.oov)


def _oov(model: CTRModel, item_category: np.ndarray | None, oov: int | None) -> int:
    rows = getattr(model.item_embedding, "num_embeddings", None)
    if oov is None:
        if rows is None:
            raise ValueError("oov is None, but the model's item embedding has no num_embeddings; give oov=items.oov")
        oov = int(rows) - 1
    categories = None if item_category is None else len(item_category)
    for what, size in (("the item embedding", rows), ("item_category", categories)):
        if size is not None and not PADDING < oov < size:
            raise ValueError(f"oov is {oov}, expected one of the {size} rows of {what} but {PADDING}, the padding")
    return oov


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
        out: folder to write; default ``export`` in the run folder. It may be a link to one.
        arm, seed: which training; None takes the one with the best validation metric.
        onnx: write ``model.onnx`` as well; needs the extra "onnx".
        overwrite: replace the files of an earlier export in ``out``; other files stay.

    Returns:
        the folder.

    Raises:
        FileNotFoundError: a file of the run is missing.
        ValueError: no such training, or a model that cannot be exported. ``out`` is taken: by an
            earlier export without ``overwrite``, by other files alone, or by one that has the name of
            a file to write.
        ImportError: ``onnx`` without its packages.
    """
    place = Path(out) if out is not None else Path(folder) / "export"
    _check_place(place, {PROGRAM, ITEMS, *((ONNX, ONNX_DATA) if onnx else ())}, overwrite)
    if onnx:
        need_onnx()
    saved = SavedModel.load(folder, arm, seed)
    assert isinstance(saved.model, CTRModel)
    module = ScoringModule(saved.model, saved.item_category, oov=saved.items.oov)
    with written_into(place, ABOUT) as (temporary, target):
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
            "sha256": {file.name: sha256_of(file) for file in sorted(temporary.iterdir())},
        }
        write_json(temporary / ABOUT, about)
        earlier = read_about(target)["sha256"] if (target / ABOUT).exists() else {}
        move_into(temporary, target, ABOUT, [*earlier])
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
        ValueError: the program has operators of this package, which would be needed to load it, or
            ``items`` and ``module`` number unseen items differently.
        RuntimeError: what was written scores otherwise than ``module``.
    """
    if items.oov != module.oov:
        raise ValueError(
            f"items: unseen ids have the number {items.oov}, the module's have {module.oov}; "
            "make it with ScoringModule(..., oov=items.oov)"
        )
    module.eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(1, items.size, (_EXAMPLE_ROWS,), generator=draw)
    history = torch.randint(0, items.size, (_EXAMPLE_ROWS, max_history), generator=draw)
    history[1] = PADDING
    history[2, max_history // 2 :] = PADDING
    target[3], history[3, 0], target[4], history[4, 0] = -1, items.size, 2**40, -(2**40)  # outside the table
    rows = torch.export.Dim("batch", min=1)
    some = [{"target": target, "history": history}, {"target": target[:1], "history": history[:1]}]
    write_programs(module, some, {"target": {0: rows}, "history": {0: rows}}, place, onnx=onnx)
    write_json(place / ITEMS, {**items.to_dict(), "oov": items.oov, "padding": PADDING})


def _check_place(place: Path, names: set[str], overwrite: bool) -> None:
    """Refuses a folder in which ``names`` cannot be written without the loss of something else."""
    if not place.exists():
        return
    if not place.is_dir():
        raise ValueError(f"out: {place} is a file; expected a folder to make")
    remove_temporaries(place)
    held = {file.name for file in place.iterdir()}
    if not held:
        return
    if ABOUT not in held:
        raise ValueError(f"out: {place} holds other files, say {min(held)}; choose another folder")
    mine = set(read_about(place)["sha256"])
    if not overwrite:
        raise ValueError(f"out: {place} holds an earlier export; choose another folder or give --overwrite")
    foreign = (held & names) - mine
    if foreign:
        raise ValueError(
            f"out: {place / min(foreign)} is no file of the export there; move it or choose another folder"
        )
