"""Tables are swapped and put back while accelerate and Lightning hold the optimizer."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import resemb_ext as rx
from tests.integrations.conftest import framework
from tests.replace.models import Model, inputs, ring

accelerate = framework("accelerate", __file__)
lightning = framework("lightning", __file__)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*num_workers", "ignore:.*LeafSpec")


def test_accelerate() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(*(lambda model: (model, torch.optim.Adam(model.parameters())))(Model()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the wrapper and what it wraps are one optimizer
        report = rx.replace_embeddings(model, {"item": ring()}, optimizer=optimizer)
    item = model.tables["item"]
    before = item.central.detach().clone()
    accelerator.backward(model(*inputs()))
    optimizer.step()
    assert not torch.equal(item.central, before)
    assert report.tables[0].optimizers[0].optimizer is optimizer.optimizer
    rx.restore_embeddings(model, optimizer=optimizer)
    assert optimizer.param_groups[0]["params"][0] is item.weight


class Lit(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.net = Model()

    def training_step(self, batch: Any, number: int) -> Any:
        return self.net(*inputs(number))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class Swaps(lightning.Callback):  # type: ignore[misc, name-defined]
    """Replaces before epoch 1 and restores before epoch 2."""

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        table = module.net.tables["item"]
        if trainer.current_epoch == 1:
            self.report = rx.replace_embeddings(module, {"item": ring()}, optimizer=module.optimizers())
            self.start = table.central.detach().clone()
        elif trainer.current_epoch == 2:
            self.moved = not torch.equal(table.central, self.start)
            rx.restore_embeddings(module, optimizer=trainer.optimizers)
            self.weight = table.weight.detach().clone()


def test_lightning(tmp_path: Any) -> None:
    swaps, module = Swaps(), Lit()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(
        max_epochs=3, callbacks=[swaps], enable_checkpointing=False, default_root_dir=tmp_path, **quiet
    )
    trainer.fit(module, torch.utils.data.DataLoader(range(4)))
    table = swaps.report.tables[0]
    assert (table.path, table.aliases) == ("net.tables.item", ())  # not those by the trainer
    assert swaps.moved and not torch.equal(module.net.tables["item"].weight, swaps.weight)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 8)
