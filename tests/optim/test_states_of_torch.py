"""States of torch.optim that ours go on with, and what cannot be carried over."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from resemb_ext import optim
from tests.optim.gradients import D, H, as_rows, mixed, rows, start, steps

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
