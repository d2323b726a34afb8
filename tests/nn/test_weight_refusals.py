"""Writing to ``weight``: its padding row, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nn.ring import PADDING, D, H, make, table

# --- the padding row -------------------------------------------------------------------------------

TO_PADDING: dict[str, Callable[[Any], Any]] = {
    "fill_": lambda e: e.weight.data[PADDING].fill_(1),
    "setitem": lambda e: e.weight.data.__setitem__(PADDING, 1.0),
    "with others": lambda e: e.weight.data[:3].normal_(),
    "nan": lambda e: e.weight.data[PADDING].fill_(math.nan),
    "index_fill_": lambda e: e.weight.data.index_fill_(0, torch.tensor([PADDING, 4]), 2.0),
}


@pytest.mark.parametrize("write", TO_PADDING)
def test_padding_stays_zero(write: str) -> None:
    emb = make()
    before, view = [p.detach().clone() for p in emb.parameters()], emb.weight.data[:]
    with pytest.raises(ValueError, match=r"ResEmbedding\.weight: row 0 is padding.*keep_padding=True"):
        TO_PADDING[write](emb)
    assert all(torch.equal(a, b) for a, b in zip(emb.parameters(), before, strict=True))
    view[4].zero_()
    assert not table(emb)[4].any()


def test_a_copied_table_whose_padding_is_lost_warns_its_caller() -> None:
    emb = make()
    with pytest.warns(UserWarning, match=r"ResEmbedding\.weight: row 0, its padding, is not zero") as found:
        emb.weight.data.copy_(torch.ones(H, D))
    with pytest.warns(UserWarning, match="its padding") as more:
        emb.weight.data = torch.ones(H, D)
    assert {w.filename for w in [*found, *more]} == {__file__}
    assert not table(emb)[PADDING].any()


# --- what is refused -------------------------------------------------------------------------------

RECORDED: dict[str, Callable[[Any], Any]] = {
    "normal_": lambda e: e.weight.normal_(),
    "row": lambda e: e.weight[PADDING].fill_(0),
    "setitem": lambda e: e.weight.__setitem__(0, 1.0),
    "view": lambda e: e.weight.view(-1)[3:].mul_(2),
    "imul": lambda e: exec("e.weight *= 2", {"e": e}),
    "foreach": lambda e: torch._foreach_add_([e.weight], 1.0),
    "recorded value": lambda e: e.weight.data.copy_(torch.zeros(H, D, requires_grad=True)),
    "recorded row": lambda e: e.weight.data.__setitem__(3, torch.zeros(D, requires_grad=True)),
}


@pytest.mark.parametrize("write", RECORDED)
def test_recorded_writes_are_refused(write: str) -> None:
    emb = make()
    before = table(emb)
    with pytest.raises(RuntimeError, match=r"would be recorded by autograd.*weight\.data, or under torch\.no_grad"):
        RECORDED[write](emb)
    assert torch.equal(table(emb), before)


LOST: dict[str, Callable[[Any], Any]] = {
    "set_": torch.no_grad()(lambda e: e.weight.set_(torch.zeros(H, D))),
    "data of data": lambda e: setattr(e.weight.data.view(-1), "data", torch.zeros(H * D)),
    "renormalised in a lookup": torch.no_grad()(lambda e: F.embedding(torch.tensor([1]), e.weight, max_norm=1e-3)),
    "grad": lambda e: setattr(e.weight, "grad", torch.zeros(H, D)),
}


@pytest.mark.parametrize("write", LOST)
def test_writes_that_would_be_lost_are_refused(write: str) -> None:
    emb = make()
    before = table(emb)
    with pytest.raises(TypeError, match=r"weight"):
        LOST[write](emb)
    assert torch.equal(table(emb), before)


def test_arrays_of_it_are_read_only() -> None:
    emb = make()
    for array in (emb.weight.detach().numpy(), emb.weight.data[3].numpy(), np.asarray(emb.weight.detach())):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    emb.weight.detach().numpy().copy()[:] = 0


def test_a_failing_write_changes_nothing() -> None:
    emb = make()
    before, view = table(emb), emb.weight.data
    with pytest.raises(RuntimeError):
        view.copy_(torch.zeros(3, 3))
    with pytest.raises(IndexError):
        view[H] = 0
    assert torch.equal(table(emb), before) and torch.equal(view, before)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (torch.zeros(H, D + 1), ValueError, r"found shape \(9, 7\).*expected \(9, 6\)"),
        (torch.zeros(H, D, dtype=torch.float64), ValueError, r"float64 on cpu; expected .*float32"),
        (torch.zeros(H, D, device="meta"), ValueError, "on meta"),
        (np.zeros((H, D)), TypeError, "found ndarray; expected a tensor"),
    ],
)
def test_data_that_does_not_fit(value: Any, error: type[Exception], message: str) -> None:
    emb = make()
    before = table(emb)
    with pytest.raises(error, match=message):
        emb.weight.data = value
    assert torch.equal(table(emb), before)


def test_no_parameter_takes_its_place() -> None:
    emb = make()
    for value in (nn.Parameter(torch.zeros(H, D)), torch.zeros(H, D), None):
        with pytest.raises(AttributeError, match=r"no parameter can take its place; weight\.data\.copy_\(table\)"):
            emb.weight = value
    assert [n for n, _ in emb.named_parameters()] == ["central", "residual"]
    emb.weight = emb.weight  # all is written already
    with torch.no_grad():
        emb.weight = nn.init.zeros_(emb.weight)
    assert not table(emb).any()


def test_parametrized_tables_are_refused() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    emb = make()
    nn.utils.parametrize.register_parametrization(emb, "central", Twice())
    for write in (lambda: emb.weight.data.zero_(), lambda: emb.weight.data[3].zero_()):
        with pytest.raises(RuntimeError, match=r"while \.central or \.residual is parametrized"):
            write()
