"""Optimizers and wrappers that live in this process, whoever holds them."""

from __future__ import annotations

import gc
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Living(NamedTuple):
    """What may hold tables of a model without being a part of it.

    Attributes:
        optimizers: each once, also where another object of the kind wraps it.
        wrappers: models made ready for several processes.
        modules: all modules.
    """

    optimizers: list[torch.optim.Optimizer]
    wrappers: list[nn.Module]
    modules: list[nn.Module]


def living() -> Living:
    """Looks through all objects that Python's garbage collector knows."""
    optimizers: dict[int, torch.optim.Optimizer] = {}
    wrappers: list[nn.Module] = []
    modules: list[nn.Module] = []
    things = gc.get_objects()
    # isinstance would ask the object, and proxies answer for others; most of the objects are of a few classes.
    kinds = {kind for kind in set(map(type, things)) if issubclass(kind, (torch.optim.Optimizer, nn.Module))}
    for thing in [thing for thing in things if type(thing) in kinds]:
        kind, held = type(thing), vars(thing).keys()
        if issubclass(kind, torch.optim.Optimizer):
            if "param_groups" in held:
                optimizers[id(thing.param_groups)] = thing
        elif {"_modules", "_parameters"} <= held:
            modules.append(thing)
            if issubclass(kind, DistributedDataParallel):
                wrappers.append(thing)
    return Living(list(optimizers.values()), wrappers, modules)
