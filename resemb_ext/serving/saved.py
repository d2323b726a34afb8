"""A model of a run folder, with what turns raw ids into scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from resemb_ext.data import BadEntry, IdMap
from resemb_ext.data.arrow import canonical_ids
from resemb_ext.data.columns import printable
from resemb_ext.graph import InterestGraph
from resemb_ext.models import TorchBatch
from resemb_ext.nn import Smoothing
from resemb_ext.runtime.digests import read_checked_json
from resemb_ext.train.building import make_model
from resemb_ext.train.checkpoint import BEST, load_checkpoint
from resemb_ext.train.config import RunConfig
from resemb_ext.train.folder import ARMS, ENTRY, GRAPH, GROWN, IDS, arm_folder, saved_config
from resemb_ext.train.inputs import ids_digest
from resemb_ext.train.saving import check_made_for
from resemb_ext.train.smoothing import with_smoothed_items


@dataclass(frozen=True, eq=False)
class SavedModel:
    """The best weights of one arm and seed of a run, with what turns raw ids into scores.

    Attributes:
        model: in evaluation mode.
        items: id map of the log it was trained on; unseen ids map to the out-of-vocabulary row.
        item_category: int64 [H], or None where the model takes no category.
        arm, seed: which one of the run.
        max_history: events of a history that the model looks at, the newest.
        trained: the model before its item table was smoothed; ``model`` itself where it was not.
        smoothing: by what it was smoothed, or None.
    """

    model: nn.Module
    items: IdMap
    item_category: np.ndarray | None
    arm: str
    seed: int
    max_history: int
    trained: nn.Module
    smoothing: Smoothing | None

    @classmethod
    def load(cls, folder: Path | str, arm: str | None = None, seed: int | None = None) -> SavedModel:
        """Reads a run folder.

        Args:
            folder: of ``run``.
            arm, seed: which training; None takes the one with the best validation metric.

        Raises:
            FileNotFoundError: a file of the run is missing.
            ValueError: no such arm or seed, none that is finished to choose from, or a damaged file.
        """
        folder = Path(folder)
        config = saved_config(folder)
        arm, seed = _choose(folder, config, arm, seed)
        path = arm_folder(folder, arm, seed) / BEST
        if not path.is_file():
            raise ValueError(f"{folder} has no checkpoint of arm {arm} with seed {seed}")
        items, categories, item_category, item_counts = _read_ids(folder, folder / IDS)
        state = load_checkpoint(path)
        check_made_for(path, state, {"id_maps": ids_digest(items, categories, item_category), "embedding": arm})
        smooths = bool(config.smoothing_strengths)
        graph = InterestGraph.load(folder / GRAPH) if arm == "res" or smooths else None
        if graph is not None and graph.same_items(items) is False:
            raise ValueError(
                f"{folder / IDS} numbers the items otherwise than {folder / GRAPH}: one of them is not the run's"
            )
        model = make_model(
            config,
            arm,
            seed,
            num_items=items.size,
            num_categories=0 if categories is None else categories.size,
            graph=graph,
        )
        try:
            model.load_state_dict(state["model"])
        except (LookupError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} does not fit the run's model: {reason}") from error
        trained, smoothing = model.eval(), None
        if smooths:
            strength = _strength(folder, arm, seed)
            assert graph is not None
            if item_counts is None:
                raise ValueError(f"{folder / IDS} has no item_counts, which a smoothed run needs")
            if strength > 0:
                smoothing = Smoothing(graph, item_counts, strength)
                model = with_smoothed_items(trained, smoothing).eval()
        used = item_category if config.category else None
        return cls(model, items, used, arm, seed, config.max_history, trained, smoothing)

    def score(self, target: np.ndarray, history: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Logits of rows.

        Args:
            target: int64 [B], mapped items (``items.encode``).
            history: int64 [P], mapped items of all rows one after another, oldest first.
            lengths: int64 [B], events of each row's history; 0 is allowed.

        Returns:
            float32 [B].
        """
        kept = np.minimum(lengths, self.max_history)
        ends, offsets = np.cumsum(lengths), np.cumsum(kept) - kept
        history = history[np.repeat(ends - kept - offsets, kept) + np.arange(kept.sum())]
        category = self.item_category
        batch = TorchBatch(
            target=torch.from_numpy(target),
            history=torch.from_numpy(history),
            offsets=torch.from_numpy(offsets),
            target_category=None if category is None else torch.from_numpy(category[target]),
            history_category=None if category is None else torch.from_numpy(category[history]),
        )
        with torch.inference_mode():
            return self.model(batch).float().numpy()

    def encode(self, ids: pa.Array, column: str, *, text: bool) -> tuple[np.ndarray, int]:
        """Raw ids to mapped items, and how many are unknown.

        Args:
            ids: no nulls.
            column: name for messages.
            text: the ids come from text, where integers are spelled out, by the rule of logs in text
                files: "12.0" is 12, "007" is no integer.

        Raises:
            BadEntry: in text, a fraction, or what is no integer where all ids of the map are.
            ValueError, TypeError: as ``IdMap.encode``.
        """
        if not text or self.items.kind == "text":
            return self.items.encode(ids, name=column)
        spelled = ids.dictionary_encode()
        words = spelled.dictionary
        try:
            numbers = canonical_ids(words, column, parse=True)
            if len(words) and not pa.types.is_integer(numbers.type):
                odd = next(
                    (k for k in range(len(words)) if pa.types.is_large_string(_read(words[k : k + 1], column).type)), 0
                )
                raise BadEntry(
                    odd,
                    column,
                    f"{printable(words[odd].as_py(), 60)!r} is no integer of 64 bits, as all ids of the run's log "
                    "are; leave it out, or write what is unknown as an integer that the log does not have",
                )
        except BadEntry as bad:
            raise bad.at(pc.index(spelled.indices, bad.row).as_py()) from None
        known = self.items.encode(numbers, name=column)[0]
        mapped = known[spelled.indices.to_numpy()]
        return mapped, int((mapped == self.items.oov).sum())


def _read(word: pa.Array, column: str) -> pa.Array:
    return canonical_ids(word, column, parse=True)


def _choose(folder: Path, config: RunConfig, arm: str | None, seed: int | None) -> tuple[str, int]:
    for name, value, known in (("arm", arm, config.arms), ("seed", seed, config.seed)):
        if value is not None and value not in known:
            listed = ", ".join(map(str, known))
            raise ValueError(f"{name}: {folder} has no {name} {value}; it has {listed}")
    pairs = [
        (one, number) for number in config.seed for one in config.arms if arm in (None, one) and seed in (None, number)
    ]
    if len(pairs) == 1:
        return pairs[0]
    found = {}
    for pair in pairs:
        entry = arm_folder(folder, *pair) / ENTRY
        if entry.is_file():
            try:
                found[pair] = float(read_checked_json(folder, entry)["valid"][config.metric])
            except (LookupError, TypeError) as error:
                raise ValueError(f"{entry} cannot be read: {error!r}") from error
    if not found:
        raise ValueError(
            f"{folder / ARMS} has no finished training to choose from; name arm and seed, or finish "
            "the run with resemb train --resume"
        )
    return max(found, key=lambda pair: found[pair])


def _strength(folder: Path, arm: str, seed: int) -> float:
    """By which an arm's item table was smoothed; a grown run has it of the one that it was grown from."""
    grown = folder / GROWN
    path = grown if grown.is_file() else arm_folder(folder, arm, seed) / ENTRY
    if not path.is_file():
        raise ValueError(
            f"{path.parent} is not finished, so that its strength of smoothing is not chosen; finish the run with "
            "resemb train --resume"
        )
    try:
        return float(read_checked_json(folder, path)["smoothing"]["strength"])
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error


def _read_ids(folder: Path, path: Path) -> tuple[IdMap, IdMap | None, np.ndarray | None, np.ndarray | None]:
    if not path.is_file():
        raise FileNotFoundError(f"no id maps {path}")
    held = read_checked_json(folder, path)
    try:
        items = IdMap.from_dict(held["items"])
        categories = held["categories"]
        of_item = held.get("item_category")
        maps = None if categories is None else IdMap.from_dict(categories)
        array = None if of_item is None else np.asarray(of_item, dtype=np.int64)
        met = held.get("item_counts")
        counts = None if met is None else np.asarray(met, dtype=np.int64)
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if array is not None and (
        array.shape != (items.size,) or maps is None or array.min() < 0 or array.max() >= maps.size
    ):
        raise ValueError(f"{path}: item_category does not fit the maps")
    if counts is not None and (counts.shape != (items.size,) or counts.min() < 0):
        raise ValueError(f"{path}: item_counts does not fit the map of items")
    return items, maps, array, counts
