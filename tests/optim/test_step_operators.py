"""Operators of the optimizers called by themselves: their schemas, steps counted on a device, other builds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from resemb_ext import _loader
from resemb_ext.optim.row_sparse import Moment, RowStep, Rule, check_names
from resemb_ext.testing.problems import make_graph

H, D = 60, 16


def test_opcheck() -> None:
    """test_faketensor and the compiled ones do not apply: no optimizer step is traced, as the number of
    rows is data. test_autograd_registration asks for formulas that updates in place have not."""
    ops = torch.ops.resemb_ext
    rows, values = torch.tensor([1, 4, 4]), torch.randn(3, D)
    table, first, second = (torch.rand(H, D) for _ in range(3))
    steps, decayed = torch.zeros(H, dtype=torch.int32), torch.zeros(H, dtype=torch.float64)
    reals = [-0.2, 1.0, 0.0, 0.1, 0.9, 0.99, 1e-8]
    step = (reals, [Rule.ADAM, 0, 0, 0, 0, 1, Moment.ACC, Moment.ACC])
    codes = (torch.zeros(H, D, dtype=torch.int8), torch.rand(H), steps, decayed, torch.rand(H))
    graph = [torch.from_numpy(a) for a in make_graph(np.random.default_rng(0), H, 4)]
    plan = ops.res_embedding(rows, table, table, *graph, None, None, -1, False, None, True)[1]

    def state() -> list[Tensor | None]:
        return [torch.rand(H, D), torch.rand(H, D), None, None, None]

    calls = [
        (ops.rows_ascend, (rows, H)),
        (ops.coalesce_rows, (rows, values, H)),
        (ops.distinct_items, (rows, H)),
        (ops.distinct_neighbors, (rows[:2], graph[0], graph[1])),
        (ops.decay_rows_, (table, decayed, rows[:2], -0.1, False, 0, 1)),
        (ops.update_rows_, (table, first, second, steps, decayed, None, rows[:2], values[:2], *step)),
        (
            ops.update_rows_,
            (table, *codes, rows[:2], values[:2], reals, [Rule.ADAM, *[0] * 4, 1, Moment.I8, Moment.ROW]),
        ),
        (
            ops.res_embedding_backward_step_,
            (
                *(values, plan, table, table.clone(), *graph, None, None, False, False),
                *(*state(), *step, None, *state(), *step, torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)),
            ),
        ),
        (ops.advance_step_, (torch.tensor(2.0), torch.tensor(0.1), 0.0, 0.5, 0.01)),
    ]
    for op, args in calls:
        torch.library.opcheck(op.default, args, test_utils="test_schema")


@pytest.mark.operators("advance_step_")
@pytest.mark.parametrize("lr", [None, torch.tensor(0.125), torch.tensor(0.125, dtype=torch.float64)], ids=str)
def test_a_step_by_numbers_counted_where_they_lie(lr: Tensor | None) -> None:
    """What ``advance_step_`` gives stands for lr, shrink and step, bit for bit."""
    ops, count = torch.ops.resemb_ext, torch.tensor(2.0)
    live = ops.advance_step_(count, lr, 0.125 if lr is None else 0.0, 0.5, 0.25)
    expected = [0.125 / (1 + 2 * 0.5), 1 - 0.125 * 0.25, 3.0]
    assert (count.item(), live.tolist()) == (3.0, expected)
    ids, upstream = torch.tensor([1, 4, 4]), torch.randn(3, D)
    central, residual = torch.rand(H, D), torch.rand(H, D)
    graph = [torch.from_numpy(a) for a in make_graph(np.random.default_rng(0), H, 4)]
    plan = ops.res_embedding(ids, central, residual, *graph, None, None, -1, False, None, True)[1]

    def stepped(rate: float, shrink: float, step: int, live: Tensor | None) -> list[Tensor]:
        own = RowStep(Rule.ADAM, rate, step, shrink=shrink, beta1=0.5, beta2=0.75, eps=1e-8).arguments()[-2:]
        tables = [central.clone(), residual.clone()]
        state = [[torch.ones(H, D), torch.ones(H, D), None, None, None] for _ in range(2)]
        arguments = [argument for s in state for argument in (*s, *own, live)]
        ops.res_embedding_backward_step_(upstream, plan, *tables, *graph, None, None, False, False, *arguments)
        return [*tables, *(s[i] for s in state for i in range(2))]

    for a, b in zip(stepped(0.0, 0.0, 0, live), stepped(*expected[:2], 3, None), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"live: shape \[2\] does not fit"):
        stepped(0.0, 0.0, 0, live[:2])


def test_operators_of_another_build_are_refused() -> None:
    names = _loader.UPDATE_RULES, _loader.UPDATE_MOMENTS, _loader.UPDATE_REALS, _loader.UPDATE_INTEGERS
    rules, moments, reals, integers = names
    check_names(*names)
    with pytest.raises(ImportError, match="built for the update rules"):
        check_names(rules[::-1], moments, reals, integers)
    with pytest.raises(ImportError, match="built for the update moments"):
        check_names(rules, moments[1:], reals, integers)
    with pytest.raises(ImportError, match="built for the update options"):
        check_names(rules, moments, (*reals, "momentum"), integers)
