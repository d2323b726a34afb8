"""Inputs of torch.testing's optim_db for the optimizers of ``rx.optim``, on dense gradients and on rows."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.testing import assert_close
from torch.testing._internal.common_optimizers import optim_db

from resemb_ext import optim

from .cases import Cases

H, D = 7, 3
_OURS = {"SGD": optim.SGD, "Adagrad": optim.Adagrad, "Adam": optim.Adam, "AdamW": optim.AdamW, "SparseAdam": optim.Adam}
# Options with which torch's own take rows.
_ROWS = {
    "SGD": {"lr"},
    "Adagrad": {"lr", "lr_decay", "initial_accumulator_value", "maximize"},
    "SparseAdam": {"lr", "maximize"},
}


def optimizer_cases() -> Cases:
    cases: Cases = {}
    for info in optim_db:
        name = info.optim_cls.__name__
        if name not in _OURS:
            continue
        for given in info.optim_inputs_func(device="cpu"):
            for check in _CHECKS:
                for rows in (False, True):
                    if name == "SparseAdam" and not rows:
                        continue
                    key = f"{check.__name__} {name} {'rows' if rows else 'dense'} {given.desc}"
                    cases[key] = lambda check=check, info=info, given=given, rows=rows: check(
                        info.optim_cls, dict(given.kwargs), rows
                    )
    return cases


def error_cases() -> Cases:
    cases: Cases = {}
    for info in optim_db:
        name = info.optim_cls.__name__
        if name in _OURS:
            for wrong in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
                cases[f"{name} {wrong.optimizer_error_input.desc}"] = lambda n=name, wrong=wrong: _error(n, wrong)
    return cases


def _error(name: str, wrong: Any) -> None:
    given = wrong.optimizer_error_input
    parameters = given.params if given.params is not None else [nn.Parameter(torch.zeros(H, D))]
    expected = pytest.warns if issubclass(wrong.error_type, Warning) else pytest.raises
    with expected(wrong.error_type):
        _OURS[name](parameters, **given.kwargs)


def _pair(theirs: type, options: dict[str, Any]) -> tuple[Any, Any]:
    table = torch.randn(H, D, generator=torch.Generator().manual_seed(1))
    made = []
    for kind in (_OURS[theirs.__name__], theirs):
        parameter = nn.Parameter(table.clone())
        made.append((kind([parameter], **copy.deepcopy(options)), parameter))
    return made[0], made[1]


def _gradient(parameter: nn.Parameter, rows: bool, step: int) -> None:
    draw = torch.Generator().manual_seed(step)
    if not rows:
        parameter.grad = torch.randn(H, D, generator=draw)
        return
    ids = torch.randint(0, H, (4,), generator=draw)
    ids[3] = ids[0]  # not coalesced
    parameter.grad = torch.sparse_coo_tensor(ids[None], torch.randn(4, D, generator=draw), (H, D))


def _run(optimizer: Any, parameter: nn.Parameter, rows: bool, steps: range) -> None:
    for step in steps:
        _gradient(parameter, rows, step)
        optimizer.step()


def test_same_as_torch(theirs: type, options: dict[str, Any], rows: bool) -> None:
    (ours, p), (other, q) = _pair(theirs, options)
    if rows and not (theirs.__name__ in _ROWS and options.keys() <= _ROWS[theirs.__name__]):
        # torch's refuses rows; ours on all rows must be torch's on the dense gradient.
        for step in range(5):
            _gradient(q, False, step)
            p.grad = q.grad.to_sparse(1)
            ours.step()
            other.step()
    else:
        for optimizer, parameter in ((ours, p), (other, q)):
            _run(optimizer, parameter, rows, range(5))
    assert_close(p, q)


def test_state_dict_deterministic(theirs: type, options: dict[str, Any], rows: bool) -> None:
    (first, p), _ = _pair(theirs, options)
    _run(first, p, rows, range(3))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    q = nn.Parameter(p.detach().clone())
    second = type(first)([q], **copy.deepcopy(options))
    second.load_state_dict(torch.load(file, weights_only=True))
    for optimizer, parameter in ((first, p), (second, q)):
        _run(optimizer, parameter, rows, range(3, 6))
    assert torch.equal(p, q)


def test_deepcopy_and_pickle(theirs: type, options: dict[str, Any], rows: bool) -> None:
    (first, p), _ = _pair(theirs, options)
    _run(first, p, rows, range(3))
    p.grad = None
    for copied in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        _run(copied, copied.param_groups[0]["params"][0], rows, range(3, 5))
        fresh, _ = _pair(theirs, options)
        _run(fresh[0], fresh[1], rows, range(5))
        assert torch.equal(copied.param_groups[0]["params"][0], fresh[1])


def test_load_state_of_torch(theirs: type, options: dict[str, Any], rows: bool) -> None:
    (ours, p), (other, q) = _pair(theirs, options)
    _run(other, q, rows and theirs.__name__ in ("SparseAdam",), range(3))
    with torch.no_grad():
        p.copy_(q)
    ours.load_state_dict(other.state_dict())
    for optimizer, parameter in ((ours, p), (other, q)):
        _run(optimizer, parameter, theirs.__name__ == "SparseAdam", range(3, 5))
    assert_close(p, q)


def test_step_hooks(theirs: type, options: dict[str, Any], rows: bool) -> None:
    (ours, p), _ = _pair(theirs, options)
    calls: list[str] = []
    handle = register_optimizer_step_post_hook(lambda *_: calls.append("global"))
    ours.register_step_pre_hook(lambda *_: calls.append("pre"))
    ours.register_step_post_hook(lambda *_: calls.append("post"))
    try:
        _run(ours, p, rows, range(1))
    finally:
        handle.remove()
    assert calls in (["pre", "post", "global"], ["pre", "global", "post"])


def test_noop_without_gradients(theirs: type, options: dict[str, Any], rows: bool) -> None:
    (ours, p), _ = _pair(theirs, options)
    before = p.detach().clone()
    ours.step()
    assert torch.equal(p, before) and not ours.state[p]


def test_load_state_dict_pre_hook(theirs: type, options: dict[str, Any], rows: bool) -> None:
    (ours, p), _ = _pair(theirs, options)
    _run(ours, p, rows, range(2))

    def halve(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
        changed = copy.deepcopy(state)
        changed["param_groups"][0]["lr"] = 0.125
        return changed

    ours.register_load_state_dict_pre_hook(halve)
    ours.load_state_dict(ours.state_dict())
    assert ours.param_groups[0]["lr"] == 0.125


def test_lr_scheduler(theirs: type, options: dict[str, Any], rows: bool) -> None:
    made = [optimizer for optimizer, _ in _pair(theirs, options)]
    rates = []
    for optimizer in made:
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        optimizer.step()
        scheduler.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    assert rates[0] == rates[1]


_CHECKS = (
    test_same_as_torch,
    test_state_dict_deterministic,
    test_deepcopy_and_pickle,
    test_load_state_of_torch,
    test_step_hooks,
    test_noop_without_gradients,
    test_load_state_dict_pre_hook,
    test_lr_scheduler,
)
