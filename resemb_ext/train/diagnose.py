"""Why a loss or a score is no longer finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resemb_ext.models import TorchBatch

from .config import FitConfig
from .optimizer import parameter_groups

_HUGE = 1e4


def likely_cause(
    model: nn.Module, batch: TorchBatch | None, config: FitConfig, losses: tuple[float, float] | None, *, steps: int
) -> str:
    """Half a sentence on the likely cause of a loss or score that is not finite, and what to do.

    Args:
        model: as it was when the loss or score was computed.
        batch: of that loss or score; None leaves out the search of a layer, in which other ranks would have to join.
        batch: the batch of that loss or score.
        config: names the learning rates.
        losses: the first and the newest loss that were finite, or None where this process saw none.
        steps: optimizer steps made.
    """
    went = "" if losses is None else f" (the loss went from {losses[0]:.4g} to {losses[1]:.4g})"
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    worst, rate = None, ""
    for group in parameter_groups(model, config):
        option = "lr" if group["name"] == "other" else f"{group['name']}_lr"
        for parameter in group["params"]:
            size = float(parameter.detach().abs().max()) if parameter.numel() else 0.0
            if not size <= _HUGE and (worst is None or size != size):
                worst, rate = (names[id(parameter)], size), f"{option} {group['lr']:g}"
    if worst is not None:
        if not steps:
            return f"{worst[0]} started with a value of {worst[1]:g}: mend the model's start"
        return (
            f"{worst[0]} has grown to {worst[1]:g}{went}; the likely cause is a learning rate that is "
            f"too high ({rate}): lower it"
        )
    module = None if batch is None else _first_bad_module(model, batch)
    if module is not None:
        return (
            f"all parameters are finite, and the output of {module} is the first that is not: look at "
            "that layer, or at the ids and features that it was given"
        )
    return (
        f"all parameters are finite{went}; the likely cause is a learning rate that is too high "
        f"(lr {config.lr:g}, embedding_lr {config.embedding_lr:g}): lower it"
    )


def _first_bad_module(model: nn.Module, batch: TorchBatch) -> str | None:
    """Name and type of the first innermost module whose output is not finite in a new forward."""
    found: list[str] = []
    hooks = []

    def watch(name: str, module: nn.Module) -> None:
        def look(_: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append(f"{name or 'the model'} ({type(module).__name__})")

        hooks.append(module.register_forward_hook(look))

    for name, module in model.named_modules():
        watch(name, module)
    try:
        with torch.no_grad():
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
