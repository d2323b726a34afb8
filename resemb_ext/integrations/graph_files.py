"""Graphs saved once beside a trainer's checkpoints, and read again to build the model that loads them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from torch import nn

from resemb_ext.graph import InterestGraph
from resemb_ext.nn import ResEmbeddingBase
from resemb_ext.runtime import files

_INDEX = "interest_graphs.json"


def tables_of(model: nn.Module) -> dict[str, ResEmbeddingBase]:
    """The embeddings over graphs inside a model, by the names that its state_dict gives them."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ResEmbeddingBase)}


def save_graphs(model: nn.Module, folder: str | os.PathLike[str]) -> dict[str, str]:
    """Writes the graphs of a model into a folder, each once: one that is there already is not written again.

    Args:
        model: holds embeddings over graphs.
        folder: made where it is missing.

    Returns:
        Of each embedding's name its graph's file: ``interest_graph_HASH.npz``, also in ``interest_graphs.json``.
    """
    folder = Path(folder)
    names = {}
    for name, module in tables_of(model).items():
        names[name] = f"interest_graph_{module.graph.hash[:16]}.npz"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / names[name]).exists():
            module.graph.save(folder / names[name])
    if names:
        files.write_json(folder / _INDEX, names)
    return names


def load_graphs(path: str | os.PathLike[str]) -> dict[str, InterestGraph]:
    """The graphs that ``save_graphs`` wrote, by their embeddings' names.

    They hold the weights of their link. ``ResEmbedding(graph, D, link)`` with the same link takes them as they are.

    Args:
        path: the folder, or a checkpoint in it or in a folder of it.

    Raises:
        FileNotFoundError: neither the folder nor the two above it have graphs.
        ValueError: a file is damaged.
    """
    start = Path(path)
    for folder in (start, *start.absolute().parents[:2]):
        if (folder / _INDEX).is_file():
            names = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            return {name: InterestGraph.load(folder / file) for name, file in names.items()}
    raise FileNotFoundError(f"{start}: no {_INDEX} there, nor in the two folders above it")
