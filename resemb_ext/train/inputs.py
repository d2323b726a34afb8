"""What a run is made from: where its files lie now, whether they are the same, and what computes."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resemb_ext import _loader
from resemb_ext.data import IdMap
from resemb_ext.runtime.digests import read_checked_json, write_recorded_json
from resemb_ext.runtime.environment import versions
from resemb_ext.runtime.files import plain
from resemb_ext.runtime.progress import RunWarning

from .config import RunConfig
from .prepare import Prepared

INPUTS = "inputs.json"
PLACES, COMPUTED = "places", "computed_by"


def hashes(prepared: Prepared) -> dict[str, Any]:
    """What the run trains and is measured on."""
    graph, cross = prepared.graph, prepared.cross_fit
    folds = {} if cross is None else {"fold_graphs": [graph.hash for graph in cross.graphs]}
    return {
        **folds,
        "data": prepared.log.content_hash,
        "split": prepared.split.hash,
        "graph": None if graph is None else graph.hash,
        "graph_events": None if graph is None else graph.meta.get("event_hash"),
        "valid_candidates": prepared.valid.candidate_hash,
        "test_candidates": prepared.test.candidate_hash,
    }


def ids_digest(items: IdMap, categories: IdMap | None, item_category: np.ndarray | None) -> str:
    """Hex sha256 of what turns raw ids into those of a model; its checkpoints name it."""
    digest = hashlib.sha256()
    for ids in (items, categories):
        digest.update(b"-" if ids is None else ids.digest())
    digest.update(b"-" if item_category is None else np.ascontiguousarray(item_category, dtype=np.int64).tobytes())
    return digest.hexdigest()


def made_for(prepared: Prepared) -> dict[str, str]:
    """What a checkpoint belongs to."""
    log = prepared.log
    return {"data": log.content_hash, "id_maps": ids_digest(log.items, log.categories, log.item_category)}


def computed_by() -> dict[str, str | None]:
    """What the last bits of a result depend on beside the options: versions, and which CPU instructions are used."""
    known = versions()
    return {
        "resemb_ext": known["resemb_ext"],
        "torch": known["torch"],
        "instructions": _loader.isa(),
        "torch's instructions": torch.backends.cpu.get_cpu_capability(),
    }


def located(config: RunConfig, saved: Mapping[str, Any], folder: Path, own_graph: Path | None = None) -> RunConfig:
    """``config`` with log and graph where they lie now, to read them from; what they hold is compared later.

    A path that was given anew is taken as it is. One that the run had is looked for from the current folder, and
    where it lay at the start. Then the run's folder and those above it are searched, by its path and by its name.

    Args:
        config: options to continue with.
        saved: the options that the run had.
        folder: the run's folder.
        own_graph: the run's copy of its graph, taken where there is no other.

    Raises:
        FileNotFoundError: a file is nowhere; the message says how to name its place.
    """
    kept = _read(folder) or {}
    places = kept.get(PLACES) or {}
    found: dict[str, Any] = {}
    for name in _files(config):
        value = getattr(config, name)
        if value != saved[name]:
            continue
        inside = (folder.absolute(), *folder.absolute().parents)
        beside = [parent / way for parent in inside for way in (value, Path(value).name)]
        tried = [Path(value), *(Path(place) for place in (places.get(name),) if place), *beside]
        if name == "graph" and own_graph is not None:
            tried.append(own_graph)
        here = next((path for path in tried if path.exists()), None)
        if here is None:
            raise FileNotFoundError(
                f"resume: {name} {value} is not there, nor in {folder} or the folders above it; "
                f"--{name} says where it lies now"
            )
        found[name] = value if here == Path(value) else str(here)
    return replace(config, **found)


def check_inputs(folder: Path, prepared: Prepared, config: RunConfig) -> None:
    """Writes what the run trains on, or compares it with what the run in ``folder`` had.

    A ``RunWarning`` says where the run was begun with other instructions or versions.

    Args:
        folder: the run folder.
        prepared: what was read.
        config: with the paths that it was read from.

    Raises:
        ValueError: the log or the graph is another one, or the package makes other samples.
    """
    now = plain({**hashes(prepared), PLACES: _places(config), COMPUTED: computed_by()})
    saved = _read(folder)
    if saved is None:
        write_recorded_json(folder, folder / INPUTS, now)
        return
    changed = [name for name in now if name not in (PLACES, COMPUTED) and saved.get(name) != now[name]]
    if changed:
        ways = [
            f"{getattr(config, name)} is another {what} than the run's, or this version reads it otherwise: say with "
            f"--{name} where the run's lies"
            for name, what in (("data", "log"), ("graph", "graph"))
            if name in changed and name in {*_files(config), *(saved.get(PLACES) or {})}
        ]
        way = ways[0] if ways else "the package makes others now"
        raise ValueError(
            f"resume: the run in {folder} was begun on other inputs ({', '.join(changed)}); {way}, or start a new run"
        )
    if saved.get(PLACES) != now[PLACES]:
        write_recorded_json(folder, folder / INPUTS, {**saved, PLACES: now[PLACES]})
    begun = saved.get(COMPUTED)
    if not isinstance(begun, Mapping) or begun == now[COMPUTED]:
        return
    other = ", ".join(f"{k} {v} (begun: {begun.get(k)})" for k, v in now[COMPUTED].items() if begun.get(k) != v)
    warnings.warn(
        f"this continues with {other}: the end may differ in the last bits from that of a run without the stop; "
        "for the same bits, continue where it was begun",
        RunWarning,
        stacklevel=2,
    )


def _read(folder: Path) -> Mapping[str, Any] | None:
    path = folder / INPUTS
    if not path.exists():
        return None
    saved = read_checked_json(folder, path)
    if not isinstance(saved, Mapping):
        raise ValueError(f"resume: {path} cannot be read: expected hashes by name, found {type(saved).__name__}")
    return saved


def _files(config: RunConfig) -> list[str]:
    """Options that name files whose content counts, not their place."""
    return [
        name
        for name in ("data", "graph")
        if getattr(config, name) is not None and (name == "graph" or not config.simulated)
    ]


def _places(config: RunConfig) -> dict[str, str]:
    return {name: str(Path(getattr(config, name)).absolute()) for name in _files(config)}
