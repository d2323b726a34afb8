"""Accelerate 1.15: clipping and saved states of models with Res-embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from resemb_ext.optim import patch_clipping

from .graph_files import load_graphs, save_graphs

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError(f'Accelerate cannot be imported ({error}); pip install "resemb_ext[accelerate]"') from error

__all__ = ["enable", "load_graphs"]


def enable(accelerator: Accelerator) -> Accelerator:
    """Lets an Accelerator train tables with sparse gradients.

    - ``accelerator.clip_grad_norm_`` and ``clip_grad_value_`` take sparse gradients: ``optim.patch_clipping``, for
      good in this process.
    - ``accelerator.save_state(folder)`` saves each graph once, in the folder that holds ``folder``; ``load_graphs``
      reads them to build the model again.

    Models, optimizers of this package and schedulers go through ``accelerator.prepare`` as others do.

    Returns:
        The accelerator.

    Raises:
        TypeError: no Accelerator.
    """
    if not isinstance(accelerator, Accelerator):
        raise TypeError(f"accelerator: found {type(accelerator).__name__}; expected accelerate.Accelerator")
    patch_clipping()

    def save(models: list[nn.Module], _: Any, output_dir: str) -> None:
        if accelerator.is_main_process:
            own = [accelerator.unwrap_model(model) for model in models]
            save_graphs(own[0] if len(own) == 1 else nn.ModuleList(own), Path(output_dir).absolute().parent)

    accelerator.register_save_state_pre_hook(save)
    return accelerator
