"""A model and its optimizer in a checkpoint that any number of ranks reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .rows import Dealt
from .shards import Shards, write_shards
from .whole import deals, inner, load_whole, whole_optimizer_state, whole_state, wire_of

FORMAT, VERSION = "resemb-distributed-checkpoint", 1


def save(model: nn.Module, path: Path | str, optimizer: torch.optim.Optimizer | None = None, about: Any = None) -> None:
    """Saves a model, and an optimizer, by torch.distributed.checkpoint; call it on every rank.

    Tables and what the optimizer keeps of their rows are saved whole, [H, ...], as "model.item.central" and
    "optimizer.item.central.exp_avg": names and shapes depend on no rank. So any number of ranks loads them, and one
    process. Every rank writes blocks of 16 MiB of rows, which come to it one at a time.

    Args:
        model: what ``shard`` gave, or a model of one process.
        path: a folder, new or empty, on a disk that all ranks see. It holds ``SHA256SUMS`` once it is complete.
        optimizer: over the model's parameters.
        about: JSON-able, kept with it; rank 0's.

    Raises:
        ValueError: the folder holds something, or ``optimizer`` a parameter that is not the model's; on every rank.
        OSError: a rank cannot write; it is named on every rank.
        RankError: a rank is gone.
    """
    folder, wire = Path(path), wire_of(model)
    state = whole_state(model)
    values: dict[str, Tensor | Dealt] = {f"model.{name}": value for name, value in state.items()}
    text: dict[str, Any] = {"format": FORMAT, "version": VERSION, "about": about}
    if optimizer is not None:
        optimizer_values, text["optimizer"] = _of_optimizer(model, optimizer)
        values.update(optimizer_values)
    held = folder.exists() and any(folder.iterdir())
    if any(wire.gather_objects(held)) if wire is not None else held:
        raise ValueError(f"path: {folder} is not empty; expected a new folder")
    write_shards(folder, values, text, wire)


def load(model: nn.Module, path: Path | str, optimizer: torch.optim.Optimizer | None = None) -> Any:
    """Loads what ``save`` saved, on any number of ranks; call it on every rank.

    Tables are read in place: where reading fails, they may hold a part of what was saved.

    Args:
        model: of the same tables and layers as the saved one.
        path: the folder.
        optimizer: over the model's parameters, of the same rule as the saved one.

    Returns:
        the ``about`` that was saved.

    Raises:
        FileNotFoundError: a file of the checkpoint is missing; on every rank.
        ValueError: no such checkpoint, damaged files, or tensors of other names, shapes or types; no optimizer in it.
        OSError: a rank cannot read.
        RankError: a rank is gone.
    """
    shards = Shards(Path(path), wire_of(model))
    text = shards.text
    if not isinstance(text, Mapping) or text.get("format") != FORMAT:
        raise ValueError(f"{path} is no checkpoint of rx.distributed.save")
    if text.get("version") != VERSION:
        raise ValueError(f"{path} has checkpoint version {text.get('version')}, this package reads {VERSION}")
    if optimizer is not None and "optimizer" not in text:
        raise ValueError(f"optimizer: {path} holds none; expected a checkpoint that was saved with one")
    # A state_dict has no decay pending that could be applied to what is loaded.
    wanted = {f"model.{name}": _target(value) for name, value in whole_state(model).items()}
    saved = {name for name in shards.entries if name.startswith("model.")}
    odd = sorted(saved ^ {*wanted})
    if odd:
        raise ValueError(f"model: other tensors than in {path}: {', '.join(odd)[:200]}")
    state = _empty_state(model, optimizer, shards, text["optimizer"]) if optimizer is not None else {}
    shards.load({**wanted, **{name: value for part in state.values() for name, value in part.items()}})
    prefix = len("model.")
    load_whole(model, {name[prefix:]: _part(value) for name, value in wanted.items()})
    if optimizer is not None:
        optimizer.load_state_dict(_packed(model, optimizer, state, text["optimizer"]))
    return text["about"]


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Of the optimizer's parameters, in its order.

    Raises:
        ValueError: one is not the model's.
    """
    names = {id(parameter): name for name, parameter in inner(model).named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if any(id(p) not in names for p in parameters):
        raise ValueError("optimizer: holds a parameter that is not the model's; expected one over model.parameters()")
    return [names[id(p)] for p in parameters]


def _of_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor | Dealt], dict[str, Any]]:
    """The tensors of its state by global name; its groups, with parameters by name, and what is no tensor."""
    names = _names(model, optimizer)
    packed = whole_optimizer_state(model, optimizer)
    by_number = dict(zip([n for group in packed["param_groups"] for n in group["params"]], names, strict=True))
    values: dict[str, Tensor | Dealt] = {}
    others: dict[str, dict[str, Any]] = {}
    for number, state in packed["state"].items():
        name = by_number[number]
        others[name] = {key: value for key, value in state.items() if not isinstance(value, (Tensor, Dealt))}
        values.update({f"optimizer.{name}.{k}": v for k, v in state.items() if k not in others[name]})
    groups = [{**_plain(g), "params": [by_number[n] for n in g["params"]]} for g in packed["param_groups"]]
    return values, {"groups": groups, "others": others}


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group's options in JSON's types."""
    return {k: v.item() if isinstance(v, Tensor) else v for k, v in group.items() if k != "params"}


def _empty_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, shards: Shards, saved: Mapping[str, Any]
) -> dict[str, dict[str, Tensor | Dealt]]:
    """Room for the optimizer's state, by parameter and then by name in the checkpoint.

    Raises:
        ValueError: the checkpoint's optimizer is over other parameters.
    """
    names, of_table = _names(model, optimizer), deals(model)
    others = sorted({*names} ^ {name for group in saved["groups"] for name in group["params"]})
    if others:
        raise ValueError(f"optimizer: is over other parameters than the saved one: {', '.join(others)[:200]}")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[str, dict[str, Tensor | Dealt]] = {}
    for name, parameter in zip(names, parameters, strict=True):
        deal = of_table.get(id(parameter))
        for full in (full for full in shards.entries if _is_of(full, name)):
            shape, dtype = shards.entries[full]
            if deal is not None and len(shape):
                value: Tensor | Dealt = Dealt(torch.empty((deal.count, *shape[1:]), dtype=dtype), deal)
            else:
                value = torch.empty(shape, dtype=dtype)
            state.setdefault(name, {})[full] = value
    return state


def _is_of(full: str, name: str) -> bool:
    """Whether a tensor is state of a parameter; names of parameters may begin with those of others."""
    return full.rpartition(".")[0] == f"optimizer.{name}"


def _packed(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Mapping[str, Tensor | Dealt]],
    saved: Mapping[str, Any],
) -> dict[str, Any]:
    """A state_dict for the optimizer, in its own order of parameters."""
    names = _names(model, optimizer)
    options = {name: group for group in saved["groups"] for name in group["params"]}
    groups, at = [], 0
    for group in optimizer.param_groups:
        numbers = list(range(at, at + len(group["params"])))
        of_saved = options[names[at]] if numbers else {}
        groups.append({**{k: v for k, v in group.items() if k != "params"}, **of_saved, "params": numbers})
        at += len(numbers)
    found = {
        number: {
            **saved["others"][name],
            **{full.rpartition(".")[2]: _part(value) for full, value in state.get(name, {}).items()},
        }
        for number, name in enumerate(names)
        if name in saved["others"]
    }
    return {"state": found, "param_groups": groups}


def _target(value: Tensor | Dealt) -> Tensor | Dealt:
    """What to load into: tables themselves, of which there is no room for a second copy."""
    return value if isinstance(value, Dealt) else torch.empty_like(value, device="cpu")


def _part(value: Tensor | Dealt) -> Tensor:
    return value.part if isinstance(value, Dealt) else value
