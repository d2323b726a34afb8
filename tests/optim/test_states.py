"""One form of state a parameter: under either kind of gradient, and saved by torch's ways."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from resemb_ext import InterestGraph, ResEmbedding, optim
from tests.optim.gradients import D, H, as_rows, mixed, start, steps

ALL: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (optim.SGD, {}),
    "momentum": (optim.SGD, {"momentum": 0.9}),
    "nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adagrad": (optim.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    "decoupled adagrad": (optim.Adagrad, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "rowwise": (optim.RowwiseAdagrad, {"initial_accumulator_value": 0.1, "weight_decay": 0.1}),
    "decoupled rowwise": (optim.RowwiseAdagrad, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "adam": (optim.Adam, {"betas": (0.8, 0.9)}),
    "adam by row": (optim.Adam, {"bias_correction": "row", "weight_decay": 0.1}),
    "adamw by row": (optim.AdamW, {"bias_correction": "row", "maximize": True}),
    "adamw": (optim.AdamW, {}),
    "adamw fused": (optim.AdamW, {"fused": True}),
    "compact": (optim.Adam, {"state": "compact", "weight_decay": 0.1}),
    "bfloat16": (optim.AdamW, {"state": "bfloat16", "bias_correction": "row"}),
}


@pytest.mark.parametrize("kinds", ["ds", "sd", "dsd", "sds"])
@pytest.mark.parametrize("kind", ALL)
def test_a_dense_gradient_is_one_of_all_rows(kind: str, kinds: str) -> None:
    """Whichever comes first: the step and the state are those of the same gradient in sparse form."""
    build, options = ALL[kind]
    table, twin = start(), start()
    optimizer, other = build([table], lr=0.1, **options), build([twin], lr=0.1, **options)
    gradients = mixed(kinds)
    steps(table, optimizer, gradients)
    steps(twin, other, [as_rows(g) for g in gradients])
    torch.testing.assert_close(table, twin, rtol=1e-5, atol=1e-6)
    found, expected = optimizer.state[table], other.state[twin]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("shape", [(H,), (H, 2, 3)], ids=str)
def test_other_dimensions(kind: str, shape: tuple[int, ...]) -> None:
    build, options = ALL[kind]
    table, twin = start(shape), nn.Parameter(start(shape).detach().reshape(H, -1).clone())
    gradients = mixed("sds", shape)
    found = steps(table, build([table], lr=0.1, **options), gradients)
    flat = [as_rows(g).coalesce() for g in gradients]
    flat = [torch.sparse_coo_tensor(g.indices(), g.values().reshape(g.values().shape[0], -1), twin.shape) for g in flat]
    expected = steps(twin, build([twin], lr=0.1, **options), flat)
    torch.testing.assert_close(found.reshape(H, -1), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ALL)
def test_tables_that_are_not_contiguous(kind: str) -> None:
    build, options = ALL[kind]
    table, twin = nn.Parameter(start().detach().t().contiguous().t()), start()
    assert not table.is_contiguous()
    wide = nn.Parameter(torch.zeros(H, 2 * D)[:, ::2])
    wide.data.copy_(start().detach())
    expected = steps(twin, build([twin], lr=0.1, **options), mixed("sds"))
    for other in (table, wide):
        torch.testing.assert_close(steps(other, build([other], lr=0.1, **options), mixed("sds")), expected)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ALL)
def test_low_precision_tables_keep_float32_state(kind: str, dtype: torch.dtype) -> None:
    """Under dense gradients as under sparse ones: rounded once a step."""
    build, options = ALL[kind]
    table = start(dtype=dtype)
    twin = nn.Parameter(table.detach().float())
    optimizer, other = build([table], lr=0.1, **options), build([twin], lr=0.1, **options)
    for gradient in mixed("dsd", dtype=dtype):
        before = table.detach().float()
        twin.data.copy_(before)
        steps(table, optimizer, [gradient])
        steps(twin, other, [gradient.float()])
        torch.testing.assert_close(table.float(), twin, rtol=torch.finfo(dtype).eps, atol=1e-6)
        for key, value in other.state[twin].items():
            torch.testing.assert_close(optimizer.state[table][key], value, rtol=1e-2, atol=1e-2)
            assert optimizer.state[table][key].dtype == value.dtype


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        torch.manual_seed(seed)
        super().__init__()
        ring = InterestGraph.from_csr(list(range(H + 1)), [(i + 1) % H for i in range(H)], [1.0] * H)
        self.item = ResEmbedding(ring, D, sparse=True, dtype=dtype)
        self.user = nn.Embedding(H, D, sparse=True, dtype=dtype)
        self.out = nn.Linear(D, 1, dtype=dtype)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.item(ids) * self.user(ids))).float().sum()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        ids = torch.randint(H, (4,), generator=torch.Generator().manual_seed(seed))
        model(ids).backward()
        optimizer.step()


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "global decay": {"decay": "global", "weight_decay": 0.5},
    "stochastic rounding": {"stochastic_rounding": True},
    "in backward": {},
}


@pytest.mark.one_in(4)
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ALL)
def test_a_distributed_checkpoint_resumes(kind: str, options: str, tmp_path: Path) -> None:
    """torch fills a fresh optimizer by a step on dense zero gradients, and loads into what that made."""
    dtype = torch.bfloat16 if options == "stochastic rounding" else torch.float32
    build, own = ALL[kind]

    def make(seed: int) -> tuple[nn.Module, optim.RowSparseOptimizer]:
        model = Net(dtype, seed)
        optimizer = build(model.parameters(), **{"lr": 0.1, **own, **OPTIONS[options]})
        if options == "global decay":
            optimizer.attach(model)
        if options == "in backward":
            optimizer.step_in_backward(model)
        return model, optimizer

    model, optimizer = make(0)
    train(model, optimizer, range(4))
    saved = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    dcp.save(saved, checkpoint_id=tmp_path / "saved", no_dist=True)
    train(model, optimizer, range(4, 8))

    other, fresh = make(1)
    taken = dict(zip(("model", "optimizer"), get_state_dict(other, fresh), strict=True))
    dcp.load(taken, checkpoint_id=tmp_path / "saved", no_dist=True)
    set_state_dict(other, fresh, model_state_dict=taken["model"], optim_state_dict=taken["optimizer"])
    train(other, fresh, range(4, 8))
    # With decay applied to the tables at saving, what is left of it is counted anew.
    close = {"rtol": 1e-6, "atol": 1e-7} if options == "global decay" else {"rtol": 0, "atol": 0}
    for o in (optimizer, fresh):
        o.catch_up()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, **close)
    for key, value in optimizer.state_dict()["state"].items():
        found = fresh.state_dict()["state"][key]
        assert found.keys() == value.keys()
        for name in value.keys() - {"decayed", "decay_log"}:
            torch.testing.assert_close(found[name], value[name], **close)


@pytest.mark.parametrize("kind", ["adam by row", "momentum", "rowwise"])
def test_state_is_cast_to_the_parameters_dtype(kind: str) -> None:
    """Counts and the float32 of low precision excepted; also where the module is cast under its optimizer."""
    build, options = ALL[kind]
    table = start()
    optimizer = build([table], lr=0.1, **options)
    steps(table, optimizer, mixed("s"))
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        other = nn.Parameter(table.detach().to(dtype))
        loaded = build([other], lr=0.1, **options)
        loaded.load_state_dict(optimizer.state_dict())
        steps(other, loaded, mixed("sd", dtype=dtype))
        moved = {key: value.dtype for key, value in loaded.state[other].items()}
        assert moved == {
            key: value.dtype if key in ("step", "row_steps") else expected
            for key, value in optimizer.state[table].items()
        }
    table.data = table.data.double()
    steps(table, optimizer, mixed("sd", dtype=torch.float64))


def test_hooks_of_loading_count() -> None:
    """A copy that a pre-hook returns is what is loaded, and post-hooks have the last word."""
    table = start()
    optimizer = optim.Adam([table])
    steps(table, optimizer, mixed("s"))
    seen = []

    def before(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        changed = copy.deepcopy(state_dict)
        changed["state"][0]["exp_avg"].fill_(7.0)
        changed["param_groups"][0]["lr"] = 0.7
        return changed

    def after(loaded: torch.optim.Optimizer) -> None:
        seen.append(loaded.state[table]["exp_avg"].unique().tolist())
        loaded.state[table]["exp_avg_sq"].fill_(8.0)

    optimizer.register_load_state_dict_pre_hook(before)
    optimizer.register_load_state_dict_post_hook(after, prepend=True)
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == [[7.0]]
    assert optimizer.state[table]["exp_avg_sq"].unique().tolist() == [8.0]
    assert optimizer.param_groups[0]["lr"] == 0.7


def test_state_of_no_parameter_is_kept() -> None:
    table = start()
    optimizer = optim.Adam([table])
    saved = optimizer.state_dict()
    saved["state"]["note"] = {"of": "the user"}
    optimizer.load_state_dict(saved)
    assert optimizer.state["note"] == {"of": "the user"}
