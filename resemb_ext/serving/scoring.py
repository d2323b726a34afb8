"""Scoring files of (history, target) rows with a saved model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from resemb_ext.data import BadEntry
from resemb_ext.data.arrow import as_arrow
from resemb_ext.data.findings import warn
from resemb_ext.data.joined import no_history
from resemb_ext.data.separators import LIST, describe
from resemb_ext.data.spelled import is_text
from resemb_ext.runtime.files import check_out, write_atomic
from resemb_ext.runtime.progress import Progress

from .batches import TextHistories, find_columns, list_histories, read_batches, targets_of, without_lists
from .saved import SavedModel

_ADDED = ("logit", "probability")


@dataclass
class Unknown:
    """How many ids were counted, and how many of them the model has not seen."""

    ids: int = 0
    unknown: int = 0

    def add(self, ids: int, unknown: int) -> None:
        self.ids, self.unknown = self.ids + ids, self.unknown + unknown


@dataclass
class Scored:
    """What scoring a file met: its rows, unknown ids among targets and histories, and how histories are written."""

    rows: int = 0
    histories: str = "lists"
    target: Unknown = field(default_factory=Unknown)
    history: Unknown = field(default_factory=Unknown)


def score_file(
    saved: SavedModel,
    source: Path | str,
    out: Path | str,
    *,
    history: str | None = None,
    target: str | None = None,
    separator: str | None = None,
    progress: bool | None = False,
) -> Scored:
    """Scores every row of a file and writes it with the columns "logit" and "probability" added.

    The file is read and written a few thousand rows at a time.

    Args:
        saved: the model.
        source: ``.parquet`` or ``.csv``. A history is a list of ids, or text that joins ids, oldest
            first; null or empty is no history.
        out: ``.parquet`` or ``.csv``, written whole or not at all.
        history, target: column names; guessed from common names where None.
        separator: between the ids of histories that are text; ``"[]"`` for lists in brackets. None
            finds the one that gives ids of the run, the same in all rows.
        progress: None shows a bar on a terminal.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: ``out`` is ``source``, another suffix, a missing column, or a damaged file. A null,
            empty or fractional id, or one that is no integer where all ids of the run are (the row is
            named). Histories whose separator cannot be told.
        TypeError: a column whose type cannot be ids, or text where the map holds integers.
    """
    source, out = Path(source), Path(out)
    histories = TextHistories(saved.items, separator)
    if out.suffix not in (".parquet", ".csv"):
        raise ValueError(f"out: {out} must end in .parquet or .csv")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"out: folder {out.parent} does not exist")
    if not source.is_file():
        raise FileNotFoundError(f"no file {source}")
    if source.suffix not in (".parquet", ".csv"):
        raise ValueError(f"cannot read {source}: expected a .parquet or .csv file")
    check_out(out, [source])
    done = Scored()

    def write(path: Path) -> None:
        rows = read_batches(source)
        names, text, total = next(rows)
        columns = find_columns(names, history, target, source)
        taken = [name for name in _ADDED if name in names]
        if taken:
            raise ValueError(f"{source.name} already has a column {taken[0]!r}, which scoring adds")
        writer = None
        try:
            with Progress(progress).bar(total, "scoring", unit="row") as bar:
                for batch in rows:
                    try:
                        scored = _score_batch(saved, batch, columns, histories, text, done)
                    except BadEntry as bad:
                        raise bad.at(done.rows + bad.row) from None
                    if out.suffix == ".csv":
                        scored = without_lists(scored, "^" if separator in (None, LIST) else separator)
                    if writer is None:
                        make = pq.ParquetWriter if out.suffix == ".parquet" else pa.csv.CSVWriter
                        writer = make(path, scored.schema)
                    writer.write_batch(scored)
                    bar.advance(len(batch))
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise ValueError(f"{source} has no rows")

    try:
        write_atomic(out, write)
    except pa.ArrowException as error:
        raise ValueError(f"cannot read {source}: {' '.join(str(error).split())}") from error
    if histories.missing:
        warn(source.name, [no_history(histories.missing, "scored as none")])
    return done


def _score_batch(
    saved: SavedModel,
    batch: pa.RecordBatch,
    columns: tuple[str, str],
    histories: TextHistories,
    text: bool,
    done: Scored,
) -> pa.RecordBatch:
    history, target = columns
    values = as_arrow(batch.column(history), history)
    spelled = is_text(values.type)
    ids, lengths = (histories.split if spelled else list_histories)(values, history)
    if spelled:
        done.histories = describe(histories.separator)
    try:
        items, unseen = saved.encode(ids, history, text=text or spelled)
    except BadEntry as bad:  # its row is that of the id among those of all histories
        raise bad.at(int(np.searchsorted(np.cumsum(lengths), bad.row, side="right"))) from None
    wanted = targets_of(batch.column(target), target)
    targets, unseen_targets = saved.encode(wanted, target, text=text)
    done.target.add(len(targets), unseen_targets)
    done.history.add(len(items), unseen)
    done.rows += len(batch)
    logit = saved.score(targets, items, lengths)
    probability = 1 / (1 + np.exp(-logit.astype(np.float64)))
    for name, values in zip(_ADDED, (logit, probability.astype(np.float32)), strict=True):
        batch = batch.append_column(name, pa.array(values))
    return batch
