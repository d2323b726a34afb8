"""Hugging Face Trainer 5: optimizers, clipping, evaluation and checkpoints of models with Res-embeddings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resemb_ext.nn import folded_tables
from resemb_ext.optim import RowSparseOptimizer, like, patch_clipping

from .graph_files import load_graphs, save_graphs, tables_of

try:
    import transformers
except ImportError as error:
    raise ImportError(f'Transformers cannot be imported ({error}); pip install "resemb_ext[transformers]"') from error

__all__ = ["ResEmbeddingTrainer", "SparseTables", "load_graphs"]


class SparseTables:
    """To be put before a Trainer class: ``class Mine(SparseTables, MyTrainer)``. See ``ResEmbeddingTrainer``."""

    model: Any
    optimizer: Any
    args: Any

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The Trainer's own optimizer with its groups, as one of this package where a table has sparse gradients.

        A scheduler that was given with it goes on with what it became.

        Raises:
            TypeError: ``TrainingArguments.optim`` names one that has no counterpart here.
        """
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        if _has_sparse_tables(self.model) and not isinstance(optimizer, RowSparseOptimizer):
            with warnings.catch_warnings():
                if _hand_over(getattr(self, "lr_scheduler", None), optimizer, None):
                    warnings.filterwarnings("ignore", "optimizer: a learning-rate scheduler")  # it is handed over
                ours = like(optimizer)
            _hand_over(getattr(self, "lr_scheduler", None), optimizer, ours)
            self.optimizer = optimizer = ours
        return optimizer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As of the Trainer, with clipping that takes sparse gradients."""
        with patch_clipping():
            return super().train(*args, **kwargs)  # type: ignore[misc]

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As of the Trainer, with tables computed once: the same numbers."""
        with folded_tables(self.model):
            return super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)  # type: ignore[misc]
        if self.args.should_save:
            run, folder = Path(self.args.output_dir).absolute(), Path(output_dir or self.args.output_dir).absolute()
            save_graphs(self.model, run if run in folder.parents else folder)


class ResEmbeddingTrainer(SparseTables, transformers.Trainer):
    """transformers.Trainer for models whose tables have sparse gradients.

    - The optimizer that ``TrainingArguments.optim`` names, or that is given, becomes ours (``optim.like``): AdamW,
      Adam, SGD and Adagrad of torch.
    - ``max_grad_norm`` clips sparse gradients too, while ``train`` runs.
    - ``evaluate`` and ``predict`` compute each table once.
    - Each graph is saved once in ``output_dir``; ``load_graphs`` reads them to build the model again. Checkpoints
      hold tables and optimizer state, in safetensors as always, and resume.
    """


def _hand_over(scheduler: Any, old: torch.optim.Optimizer, new: torch.optim.Optimizer | None) -> bool:
    """Whether a scheduler, or one inside it, steps the rates of an optimizer; with ``new`` it goes on with that one."""
    found = getattr(scheduler, "optimizer", None) is old
    if found and new is not None:
        scheduler.optimizer = new
    inside = [_hand_over(part, old, new) for part in getattr(scheduler, "_schedulers", ())]
    return found or any(inside)


def _has_sparse_tables(model: nn.Module) -> bool:
    plain = any(getattr(m, "sparse", False) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)))
    return plain or any(table.sparse for table in tables_of(model).values())
