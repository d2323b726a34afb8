"""A trained model beside its item table, as a folder that scores without torch and takes new versions of the table.

- ``bundle.json``: what it is, what it was trained on, and the sha256 of its files;
- ``model.onnx``, ``model.pt2``: the model, whose inputs are the rows of a batch (see ``ModuleBesideTable``);
- ``items.table``: rows and raw ids of the items, to which versions are published;
- ``weights.table``: first-order weights of items, of a model that has them: float32, and not published to;
- ``item_category.npy``: the category of each item, of a model that takes them: int32 [H];
- ``resemb_lite``, ``score.py``: what scores, a copy of ``resemb_ext.serving.lite``.

An item that the table gains later has the first-order weights and the category of unseen items.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resemb_ext.data import IdMap
from resemb_ext.models import CTRModel
from resemb_ext.runtime.digests import read_checked_json, sha256_of
from resemb_ext.runtime.environment import versions
from resemb_ext.runtime.files import write_json
from resemb_ext.train.folder import ENTRY, arm_folder, saved_config
from resemb_ext.train.inputs import COMPUTED, INPUTS, PLACES

from . import lite
from .beside_table import ModuleBesideTable, example_inputs, free_sizes, layers_digest
from .exportable import PADDING
from .following import items_of
from .lite.bundle import ABOUT, CATEGORIES, FORMAT, LIBRARY, TABLE, VERSION, WEIGHTS, Bundle
from .lite.command import SCRIPT
from .saved import SavedModel
from .vectors import vectors_of
from .writing import move_into, need_onnx, write_programs, written_into

_COMPARED = 256  # rows that the bundle and the model score alike
# A float32 table gives the model's own logits but for the order of sums.
_RTOL, _ATOL = 1e-3, 1e-4
#: Options of a run that name files: a bundle tells their names, not where they lay. Others say where results went.
_FILES, _LEFT_OUT = ("data", "graph"), ("out", "log_to", "overwrite")


def export_bundle(
    folder: Path | str,
    out: Path | str | None = None,
    *,
    table: str = "int8",
    arm: str | None = None,
    seed: int | None = None,
) -> Path:
    """Writes the model of a run beside its item table.

    What was written is opened again and scores rows as the model does; how far logits differ is kept in
    ``bundle.json``, and for a float32 table is an error above rounding.

    Args:
        folder: of ``resemb train``.
        out: folder to write; default ``bundle`` in the run folder. It must not be there, or be empty: a bundle may be
            in use, and its model never changes.
        table: "float32", "float16", "int8" or "int4", the numbers of ``items.table``.
        arm, seed: which training; None takes the one with the best validation metric.

    Returns:
        the folder.

    Raises:
        FileNotFoundError: a file of the run is missing.
        ValueError: ``out`` is taken, another dtype, no such training, or a model that cannot be exported so.
        RuntimeError: what was written scores otherwise than the model.
        ImportError: a package of the extra "onnx" is missing.
    """
    place = Path(out) if out is not None else Path(folder) / "bundle"
    if table not in lite.DTYPES:
        raise ValueError(f"table: found {table!r}; expected one of {', '.join(lite.DTYPES)}")
    _check_free(place)
    need_onnx()
    saved = SavedModel.load(folder, arm, seed)
    assert isinstance(saved.model, CTRModel)
    module = ModuleBesideTable(saved.model).eval().requires_grad_(False)
    lite.row_bytes(table, module.dim)  # refuses an odd D for int4
    with written_into(place, ABOUT) as (temporary, target):
        _write_model(module, saved.max_history, temporary)
        made_of = {"model": layers_digest(saved.model), "arm": saved.arm, "seed": saved.seed}
        embedding = saved.model.item_embedding
        header = write_item_table(embedding, saved.items, temporary / TABLE, dtype=table, meta=made_of)
        if module.weights is not None:
            weights = saved.model.get_submodule(module.weights)
            write_item_table(weights, saved.items, temporary / WEIGHTS, dtype="float32", meta=made_of)
        if saved.item_category is not None:
            np.save(temporary / CATEGORIES, saved.item_category.astype(np.int32), allow_pickle=False)
        _copy_library(temporary)
        about = {
            "format": FORMAT,
            "version": VERSION,
            "model": type(saved.model).__name__,
            "embedding": saved.arm,
            "seed": saved.seed,
            "max_history": saved.max_history,
            "padding": PADDING,
            "output": "logit",
            "table": {
                "file": TABLE,
                "id": header.id,
                "dtype": header.dtype,
                "rows": header.rows,
                "dim": header.dim,
                "sha256_of_rows": header.digest,
                "model": made_of["model"],
            },
            "trained_on": _trained_on(Path(folder), saved),
            "made_with": versions(),
            "sha256": {
                file.relative_to(temporary).as_posix(): sha256_of(file)
                for file in sorted(temporary.rglob("*"))
                if file.is_file() and file.name != TABLE
            },
        }
        write_json(temporary / ABOUT, about)
        about["agreement"] = _agreement(saved, temporary, table)
        write_json(temporary / ABOUT, about)
        move_into(temporary, target, ABOUT)
    return place


def write_item_table(
    module: nn.Module, items: IdMap, path: Path, *, dtype: str, meta: dict[str, Any]
) -> lite.TableHeader:
    """Writes the rows of an embedding as a table, some at a time.

    Args:
        module: from item numbers to vectors; row 0 is padding and row ``items.oov`` that of unseen items.
        items: raw ids of its rows.
        path: file to write.
        dtype: of the rows.
        meta: JSON that the table keeps.

    Returns:
        its header.
    """
    vectors = vectors_of(module)
    fields = {
        "dtype": dtype,
        "rows": vectors.rows,
        "dim": vectors.dim,
        "oov": items.oov,
        "padding": vectors.padding,
        "meta": meta,
    }
    return lite.write_table(path, fields, vectors.encoded(dtype), items_of(items))


def _check_free(place: Path) -> None:
    if place.exists() and not place.is_dir():
        raise ValueError(f"out: {place} is a file; expected a folder to make")
    held = min((file.name for file in place.iterdir()), default=None) if place.exists() else None
    if held is not None:
        raise ValueError(
            f"out: {place} holds files, say {held}; choose another folder: a bundle may be in use, so none is replaced"
        )


def _write_model(module: ModuleBesideTable, longest: int, place: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    some = [example_inputs(module, longest, draw, rows, samples) for rows, samples in ((7, 5), (3, 1))]
    write_programs(module, some, dict(free_sizes(some[0])), place, onnx=True)


def _copy_library(place: Path) -> None:
    """The scoring library under another name, so that ``resemb_ext`` need not be there."""
    (place / LIBRARY).mkdir()
    for file in sorted(Path(lite.__file__).parent.glob("*.py")):
        shutil.copyfile(file, place / LIBRARY / file.name)
    (place / "score.py").write_text(SCRIPT.format(library=LIBRARY), encoding="utf-8")


def _trained_on(folder: Path, saved: SavedModel) -> dict[str, Any]:
    """The log by name and hash, options, and metrics; no path of the machine that trained."""
    options = saved_config(folder).to_dict()
    options = {
        name: Path(value).name if name in _FILES and isinstance(value, str) else value
        for name, value in options.items()
        if name not in _LEFT_OUT
    }
    inputs = read_checked_json(folder, folder / INPUTS) if (folder / INPUTS).is_file() else {}
    entry_file = arm_folder(folder, saved.arm, saved.seed) / ENTRY
    entry = read_checked_json(folder, entry_file) if entry_file.is_file() else {}
    return {
        "log": options.get("data"),
        "hashes": {name: value for name, value in inputs.items() if name not in (PLACES, COMPUTED)},
        "options": options,
        "metrics": {part: entry.get(part) for part in ("valid", "test")},
        "best_epoch": entry.get("best_epoch"),
        "smoothing": None
        if saved.smoothing is None
        else {"strength": saved.smoothing.strength, **entry.get("smoothing", {})},
    }


def _agreement(saved: SavedModel, place: Path, table: str) -> dict[str, Any]:
    """How far the bundle's logits lie from the model's, on random rows.

    Raises:
        RuntimeError: further than rounding explains, with a float32 table.
    """
    draw = np.random.default_rng(0)
    lengths = draw.integers(0, saved.max_history + 1, _COMPARED)
    target, history = (draw.integers(1, saved.items.size, n) for n in (_COMPARED, int(lengths.sum())))
    expected = saved.score(target, history, lengths)
    found = Bundle.open(place).score_numbers(target, history, lengths)
    largest = float(np.abs(found - expected).max())
    if table == "float32" and not np.allclose(found, expected, _RTOL, _ATOL):
        raise RuntimeError(f"{place.name}: its logits differ from the model's by {largest}")
    return {"rows": _COMPARED, "largest_difference": largest, "logit_std": float(expected.std())}
