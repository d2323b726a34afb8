"""Scoring with a bundle of ``resemb export --table``: a model beside its item table, without torch.

A bundle is a folder: ``bundle.json`` says what it is, what it was trained on and which sha256 its files have;
``model.onnx`` and ``model.pt2`` are the model; ``items.table`` holds the rows and raw ids of its items, and is mapped.
Deltas that are published to the table are taken by ``Bundle.refresh``, while other threads score.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import TableError
from .idmap import Items
from .rows import decode
from .snapshot import Snapshot, read_snapshot

FORMAT, VERSION = "resemb-bundle", 1
ABOUT, TABLE, WEIGHTS, CATEGORIES = "bundle.json", "items.table", "weights.table", "item_category.npy"
MODELS = {"onnx": "model.onnx", "torch": "model.pt2"}
LIBRARY = "resemb_lite"  # the copy of this package in a bundle
BATCH = 1024  # rows that the model scores at a time
PADDING, UNSEEN = 0, 1  # of the rows that a batch needs: no event; an item that the table does not have

Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class BundleError(ValueError):
    """A bundle is damaged, of another release, or asked for what it cannot do; the message is one line."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What a call of ``score`` found.

    Attributes:
        logit: float32 [B].
        unseen: ids among targets and histories that the table does not have; they read its out-of-vocabulary row.
        version: sequence number of the table that all rows were scored with.
    """

    logit: np.ndarray
    unseen: int
    version: int

    @property
    def probability(self) -> np.ndarray:
        """1 / (1 + exp(-logit)), float64 [B]."""
        return np.exp(-np.logaddexp(0, -self.logit.astype(np.float64)))


@dataclass(frozen=True, eq=False)
class State:
    """A version of the item table, which scoring takes as a whole.

    Attributes:
        table: its rows.
        items: its raw ids.
        oov: its row of unseen items.
    """

    table: Snapshot
    items: Items
    oov: int


class Bundle:
    """A bundle, ready to score; its methods may be called from several threads.

    Make one with ``Bundle.open``.

    Attributes:
        folder: where it lies.
        about: what ``bundle.json`` holds.
        max_history: events of a history that the model looks at, the newest.
    """

    def __init__(self, folder: Path, about: dict[str, Any], run: Run) -> None:
        self.folder, self.about, self._run = folder, about, run
        self.max_history = int(about["max_history"])
        self._writing = threading.Lock()
        self._state = self._checked(read_snapshot(folder / TABLE, None))
        self._weights = self._side_table()
        self._categories = self._item_categories()

    @classmethod
    def open(cls, folder: Path | str, *, runtime: str = "onnx", threads: int | None = None) -> Bundle:
        """Opens a bundle.

        The model is compared with its sha256; of the table, which is mapped, the header alone. ``verify`` reads all.

        Args:
            folder: of ``resemb export --table``.
            runtime: "onnx" (onnxruntime, on the CPU) or "torch".
            threads: of onnxruntime for one call; None for all cores.

        Raises:
            FileNotFoundError: a file is missing.
            BundleError: no bundle, one of another release, a file with another sha256, or another runtime.
            TableError: the table is damaged.
            ImportError: the runtime is not installed.
        """
        place = Path(folder)
        if runtime not in MODELS:
            raise BundleError(f"runtime: found {runtime!r}, expected one of {', '.join(MODELS)}")
        about = read_about(place)
        model = MODELS[runtime]
        _check(place, {name: about["sha256"][name] for name in (model, WEIGHTS, CATEGORIES) if name in about["sha256"]})
        run = _onnx(place / model, threads) if runtime == "onnx" else _torch(place / model)
        return cls(place, about, run)

    @property
    def version(self) -> int:
        """Sequence number of the table's version that scores."""
        return self._state.table.sequence

    @property
    def items(self) -> Items:
        """The raw ids of the version that scores."""
        return self._state.items

    def refresh(self) -> bool:
        """Takes the table's newest version; calls that are scoring end with the one that they began with.

        Returns:
            whether there was another one.

        Raises:
            TableError: the newest version is damaged, or of another table; the one before stays.
        """
        with self._writing:
            held = self._state
            found = read_snapshot(self.folder / TABLE, held.table)
            if found is held.table:
                return False
            self._state = self._checked(found)
            return True

    def verify(self) -> None:
        """Reads all files and compares them with their sha256.

        Raises:
            FileNotFoundError: a file is missing.
            BundleError, TableError: one is not the file that was written.
        """
        _check(self.folder, self.about["sha256"])
        self._state.table.verify()

    def score(self, targets: Sequence[Any] | np.ndarray, histories: Sequence[Sequence[Any]]) -> Scores:
        """Scores rows of raw ids.

        Args:
            targets: B raw ids, of the type of the table's.
            histories: B sequences of raw ids, oldest first; an empty one is no history.

        Raises:
            TypeError: ids of another type; unseen ids of the right type are no error.
            BundleError: another number of histories than of targets.
        """
        state = self._state
        if len(targets) != len(histories):
            raise BundleError(f"histories: found {len(histories)}, expected one for each of {len(targets)} targets")
        kept = [history[-self.max_history :] for history in histories]
        lengths = np.array([len(history) for history in kept], np.int64)
        target = state.items.encode(targets)
        history = state.items.encode([raw for one in kept for raw in one])
        unseen = int((target == state.oov).sum() + (history == state.oov).sum())
        return Scores(self._score(state, target, history, lengths), unseen, state.table.sequence)

    def score_numbers(self, target: np.ndarray, history: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Logits of rows of item numbers, as ``SavedModel.score`` of resemb_ext.

        Args:
            target: int64 [B].
            history: int64 [P], of all rows one after another, oldest first; 0 is no event.
            lengths: int64 [B], events of each row's history; 0 is allowed.

        Returns:
            float32 [B]. A number below 0, or that the table has no row for, is read as its out-of-vocabulary row.

        Raises:
            BundleError: another number of lengths than of targets, or lengths that do not add up to P.
        """
        if len(lengths) != len(target):
            raise BundleError(f"lengths: found {len(lengths)}, expected one for each of {len(target)} targets")
        return self._score(self._state, target, history, lengths)

    def _score(self, state: State, target: np.ndarray, history: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        padded = padded_histories(history, lengths, self.max_history)
        parts = [
            self._run(self._inputs(state, target[start : start + BATCH], padded[start : start + BATCH]))
            for start in range(0, len(target), BATCH)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _inputs(self, state: State, target: np.ndarray, padded: np.ndarray) -> dict[str, np.ndarray]:
        ids = np.concatenate([target, padded.reshape(-1)])
        ids = np.where((ids < 0) | (ids >= state.table.rows), state.oov, ids)
        # Row 0 of the batch is padding and row 1 the unseen item, whether it has some or not.
        keys = np.where(ids == PADDING, -2, np.where(ids == state.oov, -1, ids))
        unique, local = np.unique(np.concatenate([[-2, -1], keys]), return_inverse=True)
        unique[:2] = PADDING, state.oov
        local = local[2:].astype(np.int64)
        inputs = {
            "rows": _vectors(state.table, unique),
            "target": local[: len(target)],
            "history": local[len(target) :].reshape(padded.shape),
        }
        inputs["rows"][0] = 0
        if self._categories is not None:
            inputs["category"] = self._categories[_within(unique, len(self._categories))].astype(np.int64)
        if self._weights is not None:
            table, oov = self._weights
            inputs["weights"] = _vectors(table, _within(unique, table.rows, oov))
            inputs["weights"][0] = 0
        return inputs

    def _checked(self, table: Snapshot) -> State:
        """A version of the table, where it is one of this model's."""
        found, expected = (table.header.dim, table.meta.get("model")), self.about["table"]
        if found != (expected["dim"], expected["model"]):
            raise TableError(
                f"{self.folder / TABLE}: is not of this bundle's model: it has {found[0]} numbers a row and is of the model "
                f"{str(found[1])[:12]}, expected {expected['dim']} and {expected['model'][:12]}"
            )
        if table.items is None or table.oov is None:
            raise TableError(f"{self.folder / TABLE}: has no raw ids and no out-of-vocabulary row, which scoring needs")
        return State(table, table.items, table.oov)

    def _side_table(self) -> tuple[Snapshot, int] | None:
        if WEIGHTS not in self.about["sha256"]:
            return None
        table = read_snapshot(self.folder / WEIGHTS, None)
        assert table.oov is not None
        return table, table.oov

    def _item_categories(self) -> np.ndarray | None:
        if CATEGORIES not in self.about["sha256"]:
            return None
        return np.load(self.folder / CATEGORIES, mmap_mode="r", allow_pickle=False)


def padded_histories(history: np.ndarray, lengths: np.ndarray, longest: int) -> np.ndarray:
    """The newest ``longest`` events of each history, int64 [B, longest], filled up with 0 behind.

    Args:
        history: int64 [P], one after another.
        lengths: int64 [B].
        longest: L.

    Raises:
        BundleError: lengths below 0, or that do not add up to P.
    """
    lengths = np.asarray(lengths, np.int64)
    if (len(lengths) and lengths.min() < 0) or lengths.sum() != len(history):
        raise BundleError(f"lengths: add up to {lengths.sum()}, expected numbers >= 0 that add up to {len(history)}")
    kept = np.minimum(lengths, longest)
    row = np.repeat(np.arange(len(lengths)), kept)
    place = np.arange(len(row)) - np.repeat(np.cumsum(kept) - kept, kept)
    out = np.full((len(lengths), longest), PADDING, np.int64)
    out[row, place] = np.asarray(history, np.int64)[np.repeat(np.cumsum(lengths) - kept, kept) + place]
    return out


def read_about(folder: Path) -> dict[str, Any]:
    """``bundle.json`` of a folder.

    Raises:
        FileNotFoundError: there is none.
        BundleError: it is none of ours, or of another release.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no bundle (no {ABOUT})")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise BundleError(f"{path} is not of resemb export --table")
    if about.get("version") != VERSION:
        raise BundleError(f"{path} has version {about.get('version')!r}; this release reads {VERSION}")
    table, digests = about.get("table"), about.get("sha256")
    whole = (
        isinstance(table, dict)
        and isinstance(digests, dict)
        and set(MODELS.values()) <= set(digests)
        and all(_plain(name) for name in digests)
        and type(about.get("max_history")) is int
        and isinstance(table.get("model"), str)
        and type(table.get("dim")) is int
        and isinstance(about.get("model"), str)
    )
    if not whole:
        raise BundleError(f"{path} is damaged: it lacks what a bundle is scored with")
    return about


def _plain(name: str) -> bool:
    """Whether a name is one of a file in the folder or in its library."""
    parts = name.split("/")
    return len(parts) <= 2 and all(part not in ("", ".", "..") for part in parts) and "\\" not in name


def _check(folder: Path, digests: Mapping[str, str]) -> None:
    for name, expected in digests.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; copy the whole bundle anew")
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != expected:
            raise BundleError(f"{path} is not the file that was written: its sha256 differs; copy the bundle anew")


def _vectors(table: Snapshot, rows: np.ndarray) -> np.ndarray:
    return decode(table.gather(rows), table.header.dtype, table.header.dim)


def _within(rows: np.ndarray, size: int, oov: int | None = None) -> np.ndarray:
    """Rows of a table that does not grow with the items: those behind it, and its last, are unseen there."""
    last = size - 1 if oov is None else oov
    return np.minimum(rows, last)


def _onnx(path: Path, threads: int | None) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["logit"], dict(inputs))[0]


def _torch(path: Path) -> Run:
    import torch

    program = torch.export.load(path).module()

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        given = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        first = [given.pop(name) for name in ("rows", "target", "history")]
        with torch.inference_mode():
            return program(*first, **given).numpy()

    return run
