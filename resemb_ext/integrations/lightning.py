"""Lightning 2.6: clipping, steps in backward, validation and checkpoints of models with Res-embeddings."""

from __future__ import annotations

import contextlib
from typing import Any

from resemb_ext.nn import folded_tables
from resemb_ext.optim import RowSparseOptimizer, patch_clipping

from .graph_files import load_graphs, save_graphs, tables_of

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
except ImportError as error:
    raise ImportError(f'Lightning cannot be imported ({error}); pip install "resemb_ext[lightning]"') from error

__all__ = ["ResEmbeddings", "load_graphs"]


class ResEmbeddings(Callback):
    """What a Trainer needs for tables with sparse gradients.

    - ``gradient_clip_val`` works, by norm and by value (``optim.patch_clipping``, while ``fit`` runs).
    - Validation, test and prediction compute each table once and look up in it, with the same numbers to the bit
      (``nn.folded_tables``).
    - Each graph is saved once beside the checkpoints; ``load_graphs`` reads them to build the model again.

    Args:
        step_in_backward: backward itself steps the tables, see ``RowSparseOptimizer.step_in_backward``. It does not
            go with gradient_clip_val, accumulate_grad_batches, precision="16-mixed" or several devices.
        fold: as above; False where a table computed as a whole would cost more than the lookups of a validation.
        save_graphs: as above; False writes none.

    Raises:
        ValueError: at the start of ``fit``: no Res-embedding in the module, or an option of the Trainer that
            ``step_in_backward`` does not go with, or a table in no optimizer of this package.
    """

    def __init__(self, *, step_in_backward: bool = False, fold: bool = True, save_graphs: bool = True) -> None:
        self.step_in_backward, self.fold, self.save_graphs = step_in_backward, fold, save_graphs
        self._clipping: Any = None
        self._folding = contextlib.ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self.step_in_backward:
            _check(trainer)
        self._clipping = patch_clipping()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        tables = tables_of(pl_module)
        if not tables:
            raise ValueError("pl_module: holds no ResEmbedding or ResEmbeddingBag; swap its tables before fit")
        if self.step_in_backward:
            _step_in_backward(trainer, tables)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.save_graphs or not trainer.is_global_zero:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath:
                save_graphs(pl_module, callback.dirpath)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._unfold()
        if self.fold and not trainer.sanity_checking:
            self._folding.enter_context(folded_tables(pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._unfold()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        self._unfold()
        if self._clipping is not None:
            self._clipping.__exit__(None, None, None)
            self._clipping = None

    def _unfold(self) -> None:
        self._folding.close()


def _check(trainer: Trainer) -> None:
    """Refuses what needs whole gradients before the step."""
    for name, found, expected in (
        ("gradient_clip_val", trainer.gradient_clip_val or 0, 0),
        ("accumulate_grad_batches", trainer.accumulate_grad_batches, 1),
        ("the number of devices", trainer.world_size, 1),
        ("precision", trainer.precision if getattr(trainer.precision_plugin, "scaler", None) else "", ""),
    ):
        if found != expected:
            raise ValueError(
                f"step_in_backward: found {name} = {found!r}; steps in backward do not go with it, as each backward "
                "pass steps the tables: take step_in_backward=False"
            )


def _step_in_backward(trainer: Trainer, tables: dict[str, Any]) -> None:
    optimizers = [optimizer for optimizer in trainer.optimizers if isinstance(optimizer, RowSparseOptimizer)]
    owners = {}
    for name, module in tables.items():
        learning = [p for p in module.parameters(recurse=False) if p.requires_grad]
        owners[name] = next((o for o in optimizers if all(o._holds(p) for p in learning)), None)
        if owners[name] is None:
            raise ValueError(
                f"step_in_backward: the tables of {name} are in no optimizer of resemb_ext.optim; return one from "
                "configure_optimizers, for example resemb_ext.optim.like(torch.optim.Adam(self.parameters()))"
            )
    for name, module in tables.items():
        owners[name].step_in_backward(module)  # type: ignore[union-attr]
