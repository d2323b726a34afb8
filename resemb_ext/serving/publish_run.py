"""The item vectors of a saved run as the next version of a table that may be bound to a model."""

from __future__ import annotations

from pathlib import Path

from resemb_ext.data import IdMap
from resemb_ext.models import CTRModel

from .beside_table import layers_digest
from .lite.errors import TableError
from .lite.snapshot import read_snapshot
from .lite.versions import read_head
from .publish import COMPACT, Published, publish
from .saved import SavedModel

_MODEL = "model"  # in the meta of a table: digest of the layers that read it


def publish_run(
    saved: SavedModel,
    to: Path | str,
    *,
    run: str,
    items: IdMap | None = None,
    dtype: str | None = None,
    tolerance: float = 0.0,
    full: bool = False,
    compact: float = COMPACT,
    keep: int | None = None,
) -> Published:
    """Publishes the item vectors of a saved run; the table keeps the run's name, arm and seed.

    Args:
        saved: the run.
        to: the table's file. One that ``resemb export --table`` wrote takes vectors only of a model with the layers
            that were exported beside it: others do not know what to make of them.
        run: its name.
        items: id map of its rows; None is that of the run.
        dtype, tolerance, full, compact, keep: as for ``publish``.

    Returns:
        what was done.

    Raises:
        ValueError, TableError, OSError: as ``publish``; and where the layers are others.
    """
    path = Path(to)
    if path.exists() or read_head(path) is not None:
        _check_layers(read_snapshot(path).meta.get(_MODEL), saved, path)
    return publish(
        saved.model.item_embedding,
        path,
        items=saved.items if items is None else items,
        dtype=dtype,
        tolerance=tolerance,
        full=full,
        compact=compact,
        keep=keep,
        meta={"run": run, "arm": saved.arm, "seed": saved.seed},
    )


def _check_layers(wanted: str | None, saved: SavedModel, path: Path) -> None:
    """Refuses vectors of another model than that beside a table; which model that is never changes."""
    if wanted is None:
        return
    assert isinstance(saved.model, CTRModel)
    try:
        found = layers_digest(saved.model)
    except ValueError as error:
        raise TableError(f"{path}: was exported beside a model, and this one cannot be: {error}") from None
    if found != wanted:
        raise TableError(
            f"{path}: was exported beside a model with other layers, which cannot read these vectors; export this run "
            "with resemb export --table, or publish to another table"
        )
