"""Lightning's own training of a model with Res-embeddings through the callback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing as mp

import resemb_ext as rx
from resemb_ext.nn.whole_table import WholeTable
from tests.integrations.conftest import framework
from tests.integrations.trainers import sample

lightning = framework("lightning", __file__)

from lightning.pytorch import LightningModule, Trainer  # noqa: E402
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging  # noqa: E402
from lightning.pytorch.plugins.precision import MixedPrecision  # noqa: E402

from resemb_ext.integrations.lightning import ResEmbeddings, load_graphs  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)


class Module(LightningModule):
    def __init__(self, kind: str, optimizer: str = "Adam", ours: bool = True) -> None:
        super().__init__()
        self.model = sample.swapped(kind)
        self.options = (optimizer, ours)
        self.losses: list[float] = []
        self.validated: list[float] = []
        self.norms: list[float] = []

    def configure_optimizers(self) -> Any:
        name, ours = self.options
        given = getattr(torch.optim, name)(self.parameters(), lr=0.05)
        return rx.optim.like(given) if ours else given

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        loss = sample.loss_of(self.model, *batch)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.validated.append(sample.loss_of(self.model, *batch).item())

    def on_before_zero_grad(self, _: Any) -> None:
        found = [p.grad.to_dense().norm() for p in self.parameters() if p.grad is not None]
        if found:
            self.norms.append(torch.stack(found).norm().item())


def trainer(folder: Path, *callbacks: Any, epochs: int = 2, scaled: bool = False, **options: Any) -> Trainer:
    """``scaled``: 16-mixed, for which Lightning takes bfloat16 on the CPU unless its plugin is given."""
    if scaled:
        options["plugins"] = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))]
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    kept = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    return Trainer(max_epochs=epochs, callbacks=[kept, *callbacks], **{**defaults, **options})


def loaders() -> tuple[Any, Any]:
    data = sample.samples()
    train = torch.utils.data.DataLoader(data, 16)
    return train, torch.utils.data.DataLoader(data, 48)


def fit(folder: Path, module: Module, *callbacks: Any, ckpt: Any = None, **options: Any) -> Module:
    trainer(folder, *callbacks, **options).fit(module, *loaders(), ckpt_path=ckpt)
    return module


SETTINGS: dict[str, dict[str, Any]] = {
    "32-true": {},
    "clip by norm": {"gradient_clip_val": 0.05},
    "clip by value": {"gradient_clip_val": 0.001, "gradient_clip_algorithm": "value"},
    "16-mixed": {"scaled": True, "gradient_clip_val": 0.05},
    "bf16-mixed": {"precision": "bf16-mixed", "gradient_clip_val": 0.05},
    "64-true": {"precision": "64-true"},
    "accumulate": {"accumulate_grad_batches": 3, "gradient_clip_val": 0.05},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_identity_graph_gives_the_metrics_of_a_plain_table(setting: str, tmp_path: Path) -> None:
    """SGD is the same on rows and on tables. A graph without neighbours: E = C + R, which learn at half the rate each."""
    plain = Module("plain", "SGD", ours=False)
    same = Module("identity", "SGD")
    plain.configure_optimizers = lambda: torch.optim.SGD(plain.parameters(), lr=0.5)  # type: ignore[method-assign]
    tables = [same.model.item.central, same.model.item.residual]
    others = [p for p in same.parameters() if all(p is not table for table in tables)]
    clipped = "gradient_clip_val" in SETTINGS[setting]
    # By norm the two tables' gradients count twice; so only C learns there, which then is the table.
    tables[1].requires_grad_(False)
    groups = [{"params": others}, {"params": tables[:1]}]
    same.configure_optimizers = lambda: rx.optim.SGD(groups, lr=0.5)  # type: ignore[method-assign]
    fit(tmp_path / "plain", plain, **SETTINGS[setting])
    fit(tmp_path / "same", same, ResEmbeddings(), **SETTINGS[setting])
    tolerance = 1e-6 if "mixed" not in setting else 2e-3
    assert plain.losses == pytest.approx(same.losses, abs=tolerance)
    assert plain.validated == pytest.approx(same.validated, abs=tolerance)
    assert len(same.losses) == 12 and same.model.item.sparse
    if clipped and "norm" in setting:
        assert max(same.norms) < 0.0501
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    parameter.grad = torch.eye(3, 2).to_sparse(1)
    with pytest.raises((NotImplementedError, RuntimeError), match="Sparse"):  # torch is as it was
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("optimizer", ["Adam", "Adagrad"])
def test_the_real_graph_trains(optimizer: str, in_backward: bool, tmp_path: Path) -> None:
    module = Module("res", optimizer)
    before = module.model.item.weight.clone()
    fit(tmp_path, module, ResEmbeddings(step_in_backward=in_backward), epochs=6)
    assert sum(module.losses[-6:]) < 0.8 * sum(module.losses[:6])
    assert not torch.equal(before, module.model.item.weight)
    if in_backward:
        after = fit(tmp_path / "other", Module("res", optimizer), ResEmbeddings(), epochs=6)
        assert after.losses == module.losses  # to the bit


@pytest.mark.parametrize("option", ["bf16-mixed", "64-true", "WeightAveraging"])
def test_steps_in_backward_go_with_other_options(option: str, tmp_path: Path) -> None:
    runs = []
    for in_backward in (False, True):
        options: dict[str, Any] = {} if option == "WeightAveraging" else {"precision": option}
        others = [] if options else [WeightAveraging(avg_fn=lambda a, b, n: 0.5 * a + 0.5 * b, use_buffers=False)]
        callback = ResEmbeddings(step_in_backward=in_backward)
        runs.append(fit(tmp_path / str(in_backward), Module("res"), callback, *others, **options))
    assert runs[0].losses == runs[1].losses and runs[0].validated == runs[1].validated
    for a, b in zip(runs[0].parameters(), runs[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_steps_in_backward_refuse_what_needs_whole_gradients(tmp_path: Path) -> None:
    for options, name in (
        ({"gradient_clip_val": 1.0}, "gradient_clip_val = 1.0"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches = 2"),
        ({"scaled": True}, "precision = '16-mixed'"),
    ):
        with pytest.raises(ValueError, match=f"found {name}"):
            fit(tmp_path, Module("res"), ResEmbeddings(step_in_backward=True), **options)
    with pytest.raises(ValueError, match=r"tables of model\.item are in no optimizer of resemb_ext"):
        module = Module("res", "SGD", ours=False)
        fit(tmp_path, module, ResEmbeddings(step_in_backward=True))
    with pytest.raises(ValueError, match="holds no ResEmbedding"):
        fit(tmp_path, Module("plain"), ResEmbeddings())


@pytest.mark.parametrize("averaged", [False, True])
def test_validation_computes_a_table_once_with_the_same_numbers(
    averaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    compute = WholeTable._compute
    monkeypatch.setattr(WholeTable, "_compute", lambda self: calls.append(1) or compute(self))
    found = []
    for fold in (False, True):
        calls.clear()
        # Lightning swaps the average in through parameter.data at the start of each validation epoch.
        others = [WeightAveraging(avg_fn=lambda a, b, n: 0.5 * a + 0.5 * b, use_buffers=False)] if averaged else []
        module = fit(tmp_path / str(fold), Module("res"), ResEmbeddings(fold=fold), *others, num_sanity_val_steps=1)
        found.append(module.validated)
        assert len(calls) == (2 if fold else 0)  # epochs; two batches and two lookups in each
    assert found[0] == found[1] and len(found[0]) == 5


@pytest.mark.parametrize("optimizer", ["Adam", "Adagrad", "SGD"])
@pytest.mark.parametrize("in_backward", [False, True])
def test_a_resumed_run_has_the_numbers_of_one_that_went_on(optimizer: str, in_backward: bool, tmp_path: Path) -> None:
    whole = fit(tmp_path / "a", Module("res", optimizer), ResEmbeddings(step_in_backward=in_backward), epochs=3)
    checkpoint = tmp_path / "a" / "epoch=1.ckpt"
    assert len([*(tmp_path / "a").glob("*.npz")]) == 1
    (built,) = load_graphs(checkpoint).values()
    assert load_graphs(tmp_path / "a").keys() == {"model.item"}
    module = Module("plain", optimizer)
    rx.replace_embeddings(module, {"model.item": built}, sparse=True)
    assert module.model.item.graph.hash == whole.model.item.graph.hash
    fit(tmp_path / "b", module, ResEmbeddings(step_in_backward=in_backward), epochs=3, ckpt=checkpoint)
    assert module.losses == whole.losses[-6:] and module.validated[-2:] == whole.validated[-2:]
    for a, b in zip(module.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)
    size = checkpoint.stat().st_size
    assert size < 6 * sum(p.numel() for p in module.parameters()) * 4 + 40_000  # tables and their state, no graph


def test_the_saved_model_is_exported(tmp_path: Path) -> None:
    module = fit(tmp_path, Module("res"), ResEmbeddings())
    history, target, _ = sample.samples()[:]
    expected = module.model.eval()(history, target)
    rx.restore_embeddings(module)
    assert type(module.model.item) is torch.nn.Embedding
    torch.testing.assert_close(torch.jit.trace(module.model, (history, target))(history, target), expected)


class Parts(torch.utils.data.Sampler[list[int]]):
    """Batches of 32; a rank of several takes its part of each. Lightning's own sampler shares otherwise."""

    def __iter__(self) -> Any:
        ranked = torch.distributed.is_initialized()
        world, rank = (torch.distributed.get_world_size(), torch.distributed.get_rank()) if ranked else (1, 0)
        for start in range(0, sample.N, 32):
            yield [*range(start + rank * 32 // world, start + (rank + 1) * 32 // world)]

    def __len__(self) -> int:
        return sample.N // 32


def _train_ddp(folder: str, world: int) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    module = Module("res", "SGD")
    strategy = lightning.pytorch.strategies.DDPStrategy(process_group_backend="gloo", start_method="fork")
    options = {"strategy": strategy} if world > 1 else {}
    loader = torch.utils.data.DataLoader(sample.samples(), batch_sampler=Parts())
    made = trainer(
        Path(folder), ResEmbeddings(), devices=world, gradient_clip_val=0.2, use_distributed_sampler=False, **options
    )
    made.fit(module, loader, loaders()[1])


@pytest.mark.parametrize("world", [2])
def test_ddp_of_two_processes_is_as_one(world: int, tmp_path: Path) -> None:
    """Each of two processes has half of every batch; the checkpoints hold the same numbers."""
    for ranks in (1, world):
        process = mp.get_context("spawn").Process(target=_train_ddp, args=(str(tmp_path / str(ranks)), ranks))
        process.start()
        process.join()
        assert process.exitcode == 0
    states = [torch.load(tmp_path / str(n) / "epoch=1.ckpt", weights_only=False)["state_dict"] for n in (1, world)]
    start = Module("res").state_dict()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-6)
        assert "_extra_state" in name or not torch.equal(start[name], value)
    assert load_graphs(tmp_path / str(world)).keys() == {"model.item"}
