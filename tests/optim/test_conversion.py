"""Moments that are saved in one form and loaded into another."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resemb_ext import optim
from resemb_ext.optim import moments
from resemb_ext.optim.moments import STATES

H, D = 12, 10
FORMS = [name for name in STATES if name != "compact"]
SHAPES = [(H, D), (H,), (H, 2, 5)]


def start(shape: tuple[int, ...] = (H, D)) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))


def train(table: nn.Parameter, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        table.grad = torch.randn(table.shape, generator=torch.Generator().manual_seed(seed))
        if isinstance(optimizer, torch.optim.SparseAdam):
            table.grad = table.grad.to_sparse(1)
        optimizer.step()


def first(kept: dict[str, Any]) -> Tensor:
    values = kept["exp_avg"].float()
    return values * kept["exp_avg_scale"].view(-1, *[1] * (values.dim() - 1)) if "exp_avg_scale" in kept else values


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("to", FORMS)
@pytest.mark.parametrize("of", FORMS)
def test_every_form_becomes_every_other(
    monkeypatch: pytest.MonkeyPatch, of: str, to: str, shape: tuple[int, ...]
) -> None:
    """In parts of a few rows. Second moments: rows get the mean of their elements, elements their row's."""
    monkeypatch.setattr(moments, "_CHUNK", 5 * D)
    table = start(shape)
    optimizer = optim.Adam([table], lr=0.1, state=of, seed=1)
    train(table, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(saved)
    twin = nn.Parameter(table.detach().clone())
    other = optim.Adam([twin], state=to, seed=1)
    other.load_state_dict(saved)
    assert (other.param_groups[0]["state"], other.param_groups[0]["lr"]) == (to, 0.1)
    old, new = saved["state"][0], other.state[twin]
    assert new.keys() - {"step"} == moments.moment_form(to, table).keys()
    values, found = first(old).reshape(H, -1), first(new).reshape(H, -1)
    nearest = values.abs() * 2.0**-8 if "bfloat16" in to else values.abs().amax(1, keepdim=True) * (0.5 / 127)
    bound = torch.zeros(1) if to in ("float32", "rowwise") else nearest * 1.001
    assert ((found - values).abs() <= bound).all()
    squares, expected = new["exp_avg_sq"].float(), old["exp_avg_sq"].float()
    if "rowwise" in to and len(shape) > 1 and "rowwise" not in of:
        expected = expected.flatten(1).mean(1)
    elif "rowwise" in of and "rowwise" not in to:
        expected = expected.view(-1, *[1] * (len(shape) - 1)).expand(shape)
    torch.testing.assert_close(squares, expected, rtol=2.0**-8 if to == "bfloat16" else 1e-6, atol=0)
    assert new["step"] == 3
    train(twin, other, range(3, 5))
    if of == to:  # goes on to the bit
        train(table, optimizer, range(3, 5))
        assert torch.equal(table, twin)
    for key, value in kept["state"][0].items():  # what was given is left alone
        assert torch.equal(saved["state"][0][key], value)


@pytest.mark.parametrize("theirs", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SparseAdam])
@pytest.mark.parametrize("to", STATES)
def test_from_an_optimizer_of_torch(theirs: Any, to: str) -> None:
    table = start()
    given = theirs([table], lr=0.1)
    train(table, given, range(3))
    own = optim.AdamW if theirs is torch.optim.AdamW else optim.Adam
    loaded = own([table], state=to)
    loaded.load_state_dict(given.state_dict())
    made = optim.like(given, state=to)
    assert type(made) is own
    for optimizer in (loaded, made):
        kept = optimizer.state[table]
        assert {key: (tuple(value.shape), value.dtype) for key, value in kept.items() if key != "step"} == {
            key: (tuple(shape), dtype) for key, (shape, dtype) in moments.moment_form(to, table).items()
        }
        torch.testing.assert_close(first(kept), given.state[table]["exp_avg"], rtol=0.02, atol=0.01)
        mean = given.state[table]["exp_avg_sq"].mean()
        torch.testing.assert_close(kept["exp_avg_sq"].float().mean(), mean, rtol=0.01, atol=0)
        train(table, optimizer, range(3, 4))
    assert made.param_groups[0]["state"] == to


def test_back_to_torch_through_float32() -> None:
    """Compact state is loaded in float32, and from there into torch.optim."""
    table = start()
    optimizer = optim.Adam([table], lr=0.1, state="compact")
    train(table, optimizer, range(3))
    wide = optim.Adam([table], state="float32")
    wide.load_state_dict(optimizer.state_dict())
    back = torch.optim.Adam([table])
    back.load_state_dict(wide.state_dict())
    torch.testing.assert_close(back.state[table]["exp_avg"], first(optimizer.state[table]), rtol=0, atol=0)
    train(table, back, range(3, 4))
    assert table.isfinite().all()


def test_a_group_that_changes_its_form() -> None:
    """As lr, the option may be set between steps: the state follows at the next one."""
    table = start()
    optimizer = optim.Adam([table], lr=0.1)
    train(table, optimizer, range(2))
    before = optimizer.state[table]["exp_avg"].clone()
    optimizer.param_groups[0]["state"] = "compact"
    optimizer.param_groups[0]["betas"] = (1 - 1e-7, 0.9)
    train(table, optimizer, range(2, 3))
    assert optimizer.state[table]["exp_avg"].dtype == torch.int8
    torch.testing.assert_close(first(optimizer.state[table]), before, rtol=0, atol=before.abs().max().item() / 60)


def test_rows_that_are_not_finite_stay_so() -> None:
    table = start()
    optimizer = optim.Adam([table])
    train(table, optimizer, range(1))
    saved = optimizer.state_dict()
    saved["state"][0]["exp_avg"][2, 3] = torch.inf
    loaded = optim.Adam([table], state="compact")
    loaded.load_state_dict(saved)
    values = first(loaded.state[table])
    assert values[2].isnan().all()
    assert values[[0, 1, *range(3, H)]].isfinite().all()


def change(key: str, value: Any) -> Any:
    return lambda kept: kept.pop(key) if value is None else kept.update({key: value})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("exp_avg_scale", None), r"state exp_avg is torch\.int8 without exp_avg_scale"),
        (change("exp_avg_scale", torch.ones(H + 1)), r"exp_avg_scale has shape \[13\]; expected \[12\]"),
        (change("exp_avg", torch.zeros(H, D, dtype=torch.int32)), r"exp_avg is torch\.int32; expected floating point"),
        (
            change("exp_avg", torch.zeros(H, D + 1, dtype=torch.int8)),
            r"exp_avg has shape \[12, 11\]; expected \[12, 10\]",
        ),
        (change("exp_avg_sq", torch.zeros(H - 1)), r"exp_avg_sq has shape \[11\]; expected \[12"),
        (change("exp_avg_sq", torch.zeros(H, 3)), r"exp_avg_sq has shape \[12, 3\]; expected \[12"),
        (change("exp_avg", None), "expected exp_avg"),
    ],
)
@pytest.mark.parametrize("to", ["float32", "bfloat16", "compact"])
def test_what_cannot_be_converted_is_refused_before_anything_is_written(to: str, edit: Any, message: str) -> None:
    table = start()
    optimizer = optim.Adam([table], state="compact")
    train(table, optimizer, range(1))
    saved = optimizer.state_dict()
    edit(saved["state"][0])
    other = optim.Adam([table], lr=0.5, state=to)
    train(table, other, range(1))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(saved)
    after = other.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(torch.equal(after["state"][0][key], value) for key, value in before["state"][0].items())
