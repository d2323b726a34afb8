"""One form of state a parameter: under either kind of gradient, saved by torch's ways, and of torch.optim."""

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

H, D = 12, 5
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


def rows(touched: list[int], seed: int, shape: tuple[int, ...] = (H, D), dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(len(touched), *shape[1:], generator=torch.Generator().manual_seed(seed)).to(dtype)
    return torch.sparse_coo_tensor([touched], values, shape, check_invariants=True)


def steps(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, gradients: list[Tensor]) -> Tensor:
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def start(shape: tuple[int, ...] = (H, D), dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))


def mixed(kinds: str, shape: tuple[int, ...] = (H, D), dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """A gradient for each letter: d is dense, s of some rows; the last row is touched by dense ones alone."""
    some = [rows([1, 4, 4, 7], seed, shape, dtype) for seed in range(len(kinds))]
    dense = [torch.randn(shape, generator=torch.Generator().manual_seed(50 + i)).to(dtype) for i in range(len(kinds))]
    return [dense[i] if kind == "d" else some[i] for i, kind in enumerate(kinds)]


def as_rows(gradient: Tensor) -> Tensor:
    if gradient.is_sparse:
        return gradient
    return torch.sparse_coo_tensor(torch.arange(len(gradient))[None], gradient, gradient.shape, check_invariants=True)


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


# Of torch.optim.

FOREIGN: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "adam": (torch.optim.Adam, optim.Adam, {"weight_decay": 0.1}),
    "adam fused": (torch.optim.Adam, optim.Adam, {"fused": True}),
    "adamw": (torch.optim.AdamW, optim.AdamW, {"weight_decay": 0.1}),
    "sparse adam": (torch.optim.SparseAdam, optim.Adam, {"eps": 1e-14}),
    "adagrad": (torch.optim.Adagrad, optim.Adagrad, {"lr_decay": 0.1}),
    "sgd": (torch.optim.SGD, optim.SGD, {}),
    "momentum": (torch.optim.SGD, optim.SGD, {"momentum": 0.9, "maximize": True}),
}
MAKES_SPARSE = ("sparse adam", "adagrad", "sgd")


def older(saved: dict[str, Any]) -> dict[str, Any]:
    """As torch before 2.0 saved it: counts as numbers, no options of later versions."""
    saved = copy.deepcopy(saved)
    for group in saved["param_groups"]:
        for key in ("foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay"):
            if group.get(key) is not True:
                group.pop(key, None)
    for state in saved["state"].values():
        if "step" in state:
            state["step"] = int(state["step"])
    return saved


def require_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["param_groups"] == expected["param_groups"]
    torch.testing.assert_close(found["state"], expected["state"], rtol=0, atol=0)


@pytest.mark.parametrize("age", ["new", "old"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_goes_on_from_torchs_optimizers_and_back(kind: str, age: str) -> None:
    theirs, own, options = FOREIGN[kind]
    # All rows are touched, so that sparse and dense gradients give the same step.
    dense = [torch.randn(H, D, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    takes = [as_rows(g).coalesce() if kind == "sparse adam" else g for g in dense]
    table = start()
    reference = theirs([table], lr=0.1, **options)
    steps(table, reference, takes[:2])
    saved = older(reference.state_dict()) if age == "old" else copy.deepcopy(reference.state_dict())
    kept = copy.deepcopy(saved)

    twin = nn.Parameter(table.detach().clone())
    optimizer = own([twin], lr=3.0)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.1
    for i, gradient in enumerate(dense[2:4]):
        steps(twin, optimizer, [as_rows(gradient) if i else gradient])
    steps(table, reference, takes[2:4])
    torch.testing.assert_close(twin, table, rtol=1e-5, atol=1e-6)
    require_equal(saved, kept)  # our steps left it alone

    last = nn.Parameter(twin.detach().clone())
    back = theirs([last], lr=3.0)
    back.load_state_dict(optimizer.state_dict())
    steps(last, back, takes[4:])
    steps(table, reference, takes[4:])
    torch.testing.assert_close(last, table, rtol=1e-5, atol=1e-6)


def test_own_options_stay_where_the_saved_group_has_none() -> None:
    table = start()
    theirs = torch.optim.Adam([table])
    steps(table, theirs, mixed("ddd"))
    optimizer = optim.Adam([table], stochastic_rounding=True, bias_correction="row", seed=3)
    optimizer.load_state_dict(theirs.state_dict())
    assert optimizer.param_groups[0]["stochastic_rounding"]
    steps(table, optimizer, [rows([2], 0)])
    # The earlier steps had touched every row.
    assert optimizer.state[table]["row_steps"].tolist() == [3, 3, 4] + [3] * (H - 3)
    decoupled = optim.AdamW([table])
    decoupled.load_state_dict(theirs.state_dict())
    assert decoupled.param_groups[0]["decoupled_weight_decay"]


def test_decay_of_whole_tables_stays_decoupled() -> None:
    """torch.optim.Adam saves that its decay is coupled."""
    results = []
    for build, options in ((optim.Adam, {"decay": "global"}), (torch.optim.AdamW, {})):
        table = start()
        optimizer = build([table], weight_decay=0.3, **options)
        optimizer.load_state_dict(torch.optim.Adam([start()], lr=0.1, weight_decay=0.3).state_dict())
        results.append(steps(table, optimizer, mixed("d")).clone())
    torch.testing.assert_close(*results)


def test_sums_of_elements_become_sums_of_rows() -> None:
    """A row's mean of element-wise Adagrad's sums is what RowwiseAdagrad would have."""
    table, twin = start(), start()
    theirs, own = torch.optim.Adagrad([table]), optim.RowwiseAdagrad([twin])
    gradients = mixed("ddd")
    steps(table, theirs, gradients)
    steps(twin, own, gradients)
    loaded = optim.RowwiseAdagrad([table])
    loaded.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(loaded.state[table]["sum"], own.state[twin]["sum"])
    # As in a pickle of a version that kept dense layers by element.
    loaded.state[table] = dict(theirs.state[table])
    for p, o in ((table, loaded), (twin, own)):
        steps(p, o, mixed("d"))
    torch.testing.assert_close(loaded.state[table]["sum"], own.state[twin]["sum"])


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


@pytest.mark.parametrize(
    ("build", "change", "message"),
    [
        (optim.Adam, lambda s: s["param_groups"][0].update(amsgrad=True), "amsgrad: found True; expected False"),
        (optim.SGD, lambda s: s["param_groups"][0].update(dampening=0.5), "dampening: found 0.5; expected 0"),
        (optim.Adam, lambda s: s["param_groups"][0].update(differentiable=True), "differentiable: found True"),
        (optim.Adam, lambda s: s["param_groups"][0].update(lr=float("nan")), "lr: found nan"),
        (
            optim.Adam,
            lambda s: s["state"][0].update(exp_avg=torch.ones(H, D + 1)),
            rf"parameter 0: its state exp_avg has shape \[{H}, {D + 1}\]; expected \[{H}, {D}\]",
        ),
        (
            optim.Adam,
            lambda s: s["state"][0].update(exp_avg=s["state"][0]["exp_avg"].tolist()),
            "parameter 0: its state exp_avg is list; expected a tensor",
        ),
        (optim.Adam, lambda s: s.pop("param_groups"), "state_dict: holds state; expected an optimizer's"),
        (optim.Adam, lambda s: s["param_groups"][0].update(params=[0, 1]), "doesn't match the size"),
        (optim.Adam, lambda s: s["param_groups"].append({"params": [1]}), "different number of parameter groups"),
    ],
)
def test_what_cannot_be_carried_is_refused_before_anything_is_written(build: Any, change: Any, message: str) -> None:
    table = start()
    optimizer = build([table], lr=0.5)
    steps(table, optimizer, mixed("s"))
    saved = copy.deepcopy(optimizer.state_dict())
    before = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.25
    saved["state"][0]["step"] = 9
    change(saved)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    require_equal(optimizer.state_dict(), before)
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


@pytest.mark.parametrize(
    ("theirs", "options", "own"),
    [
        (torch.optim.SGD, {"momentum": 0.9}, optim.Adam),
        (torch.optim.RMSprop, {}, optim.Adam),
        (torch.optim.RMSprop, {}, optim.SGD),
        (torch.optim.Adam, {}, optim.Adagrad),
        (torch.optim.Adam, {}, optim.SGD),
        (optim.SGD, {}, optim.Adam),
        (torch.optim.Adagrad, {}, optim.SGD),
    ],
)
def test_state_of_another_rule_is_refused(theirs: Any, options: dict[str, Any], own: Any) -> None:
    """It would go on from moments of zero under a high count."""
    table = start()
    other = theirs([table], **options)
    steps(table, other, mixed("dd"))
    optimizer = own([table], lr=0.5)
    with pytest.raises(ValueError, match=r"parameter 0: its state has .* of another rule"):
        optimizer.load_state_dict(other.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_momentum_that_is_not_there_yet() -> None:
    """A buffer of None, as older torch saved it, and none where momentum was 0."""
    table = start()
    for state in ({"momentum_buffer": None}, {"step": torch.tensor(2.0)}, {}):
        optimizer = optim.SGD([table], lr=0.5, momentum=0.9)
        saved = optimizer.state_dict()
        saved["state"] = {0: state}
        optimizer.load_state_dict(saved)
        steps(table, optimizer, mixed("s"))
        assert optimizer.state[table]["momentum_buffer"][1].any()


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
