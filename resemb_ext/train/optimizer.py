"""Parameter groups of a CTR model, and the optimizer over them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from resemb_ext._ownership import ShardedTables
from resemb_ext.optim import Adam
from resemb_ext.optim.moments import moment_form

from .config import AUTO_TABLES, FLOAT_STATE, FitConfig


def parameter_groups(model: nn.Module, config: FitConfig) -> list[dict[str, Any]]:
    """Splits a model's parameters by what they are, each group with its own rate and L2.

    A module with parameters ``central`` and ``residual`` gives the groups of those names, any
    other ``nn.Embedding`` the group "embedding"; what is left is "other". Frozen parameters are
    left out, and so are empty groups.

    Args:
        model: any module.
        config: its rates and L2 (Adam's weight decay) are taken.

    Returns:
        dicts with ``name``, ``params``, ``lr`` and ``weight_decay``.
    """
    groups: dict[str, list[nn.Parameter]] = {"embedding": [], "central": [], "residual": [], "other": []}
    taken: set[int] = set()

    def put(name: str, parameter: nn.Parameter) -> None:
        if id(parameter) not in taken and parameter.requires_grad:
            taken.add(id(parameter))
            groups[name].append(parameter)

    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if "central" in own and "residual" in own:
            put("central", own["central"])
            put("residual", own["residual"])
        elif isinstance(module, (nn.Embedding, ShardedTables)):
            put("embedding", own["weight"])
    for parameter in model.parameters():
        put("other", parameter)

    settings = {**config.table_rates(), "other": (config.lr, config.l2)}
    return [
        {"name": name, "params": params, "lr": settings[name][0], "weight_decay": settings[name][1]}
        for name, params in groups.items()
        if params
    ]


def moment_bytes(model: nn.Module, config: FitConfig) -> int:
    """Bytes of Adam's moments of all parameters."""
    return sum(
        math.prod(shape) * dtype.itemsize
        for group in parameter_groups(model, config)
        for parameter in group["params"]
        for shape, dtype in moment_form(_state_of(group, config), parameter).values()
    )


def _state_of(group: dict[str, Any], config: FitConfig) -> str:
    return FLOAT_STATE if group["name"] == "other" else config.state


def build_optimizer(model: nn.Module, config: FitConfig, seed: int = 0) -> torch.optim.Optimizer:
    """Adam over ``parameter_groups``, of the kind that ``config.table_optimizer`` names.

    It is ``torch.optim.Adam`` where tables are dense, float32 and have a float32 state, else ``rx.optim.Adam``.

    Args:
        model: with ``sparse=True`` embeddings where the table optimizer is lazy. Parameters of bfloat16 and float16
            are rounded at random.
        config: optimizer, state, rates and L2.
        seed: of rounding at random.

    Raises:
        ValueError: an embedding gives sparse gradients where dense ones are needed, or the other
            way round; or it learns link weights, which steps in backward do not take.
    """
    embeddings = {
        name or "the model": module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Embedding, ShardedTables))
    }
    lazy = config.lazy
    if config.table_optimizer == AUTO_TABLES:
        lazy = any(module.sparse for module in embeddings.values())
    for name, module in embeddings.items():
        if module.sparse != lazy:
            found, uses = ("sparse", "dense") if module.sparse else ("dense", "lazy")
            raise ValueError(
                f"{name} gives {found} gradients, but table_optimizer is {uses}: build the embedding with sparse={lazy}"
            )
    groups = parameter_groups(model, config)
    halves = any(p.dtype in (torch.bfloat16, torch.float16) for group in groups for p in group["params"])
    if not lazy and not halves and config.state == FLOAT_STATE:
        return torch.optim.Adam(groups, fused=True)
    for group in groups:
        # The rest of the model has dense gradients, whose L2 is torch.optim.Adam's.
        group["decay"] = "touched" if group["name"] == "other" else config.decay or "touched"
        group["state"] = _state_of(group, config)
    # Tables draw from streams that lie 2^32 apart.
    optimizer = Adam(groups, fused=True, stochastic_rounding=halves, seed=seed % 2**32)
    if config.decay == "global":
        optimizer.attach(model)
    if config.in_backward:
        for name, module in embeddings.items():
            if len([p for p in module.parameters(recurse=False) if p.requires_grad]) > 2:
                raise ValueError(f"in_backward: {name} learns link weights, which are not stepped in backward")
        optimizer.step_in_backward(model)
    return optimizer
