"""Accelerate's own loop with Res-embeddings: clipping, accumulation, saved states."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import resemb_ext as rx
from tests.integrations.conftest import framework
from tests.integrations.trainers import sample

accelerate = framework("accelerate", __file__)

from resemb_ext.integrations.accelerate import enable, load_graphs  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def clipping_of_torch_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``enable`` patches for good; other tests want torch as it is."""
    held = []
    patch = rx.optim.patch_clipping
    monkeypatch.setattr("resemb_ext.integrations.accelerate.patch_clipping", lambda: held.append(patch()))
    torch.set_num_threads(1)
    yield
    for each in held:
        each.__exit__(None, None, None)


def run(
    model: torch.nn.Module,
    optimizer: Any,
    epochs: int,
    load: Path | None = None,
    save: Path | None = None,
    **options: Any,
) -> list[float]:
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = enable(accelerate.Accelerator(cpu=True, **options))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.8)
    loader = torch.utils.data.DataLoader(sample.samples(), 16)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    if load is not None:
        accelerator.load_state(str(load))
    losses = []
    for _ in range(epochs):
        for batch in loader:
            with accelerator.accumulate(model):
                loss = sample.loss_of(model, *batch)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.05)
                    accelerator.clip_grad_value_(model.parameters(), 0.04)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    if save is not None:
        accelerator.save_state(str(save))
        accelerator.save_model(model, str(save / "model"))
    return losses


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 3}, {"mixed_precision": "bf16"}])
def test_an_identity_graph_gives_the_metrics_of_a_plain_table(options: dict[str, Any]) -> None:
    plain, same = sample.swapped("plain"), sample.swapped("identity")
    same.item.residual.requires_grad_(False)  # C alone is the table then
    losses = [run(m, make(m), 3, **options) for m, make in ((plain, torch_sgd), (same, our_sgd))]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6 if "mixed_precision" not in options else 2e-3)


def torch_sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.5)


def our_sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return rx.optim.like(torch_sgd(model))


def ours(model: torch.nn.Module) -> torch.optim.Optimizer:
    return rx.optim.like(torch.optim.AdamW(model.parameters(), lr=0.05))


def test_the_real_graph_trains_saves_and_resumes(tmp_path: Path) -> None:
    whole = sample.swapped("res")
    losses = run(whole, ours(whole), 6)
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    first = sample.swapped("res")
    run(first, ours(first), 4, save=tmp_path / "runs" / "4")
    assert [p.name[-4:] for p in (tmp_path / "runs").glob("*graph*")].count(".npz") == 1
    (graph,) = load_graphs(tmp_path / "runs" / "4").values()
    again = sample.CTR()
    rx.replace_embeddings(again, {"item": graph}, sparse=True)
    assert run(again, ours(again), 2, load=tmp_path / "runs" / "4") == losses[-12:]
    for a, b in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)
    state = load_file(tmp_path / "runs" / "4" / "model" / "model.safetensors")
    assert torch.equal(state["item.central"], first.item.central)


def test_what_is_no_accelerator_is_refused() -> None:
    with pytest.raises(TypeError, match="found CTR; expected"):
        enable(sample.CTR())
