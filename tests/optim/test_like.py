"""Optimizers made from those of torch.optim: groups, options, state, and the numbers that follow."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from resemb_ext import optim

H, D = 30, 5
CASES = {
    "adam": (torch.optim.Adam, optim.Adam, {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6}),
    "adam, decay": (torch.optim.Adam, optim.Adam, {"weight_decay": 0.1}),
    "adam, decoupled": (torch.optim.Adam, optim.Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "adam, maximize": (torch.optim.Adam, optim.Adam, {"maximize": True, "foreach": True}),
    "adam, fused": (torch.optim.Adam, optim.Adam, {"fused": True}),
    "adam, tensor lr": (torch.optim.Adam, optim.Adam, {"lr": torch.tensor(0.03)}),
    "adamw": (torch.optim.AdamW, optim.AdamW, {"lr": 0.05, "foreach": False}),
    "sgd": (torch.optim.SGD, optim.SGD, {"lr": 0.1, "weight_decay": 0.01}),
    "sgd, nesterov": (torch.optim.SGD, optim.SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    "sgd, momentum": (torch.optim.SGD, optim.SGD, {"lr": 0.1, "momentum": 0.8, "maximize": True}),
    "adagrad": (torch.optim.Adagrad, optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.2}),
}


class Net(nn.Module):
    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.item = nn.Embedding(H, D, sparse=sparse)
        self.out = nn.Linear(D, 1)
        self.unused = nn.Linear(D, 2)


def step(net: Net, optimizer: torch.optim.Optimizer, seed: int) -> None:
    ids = torch.randint(0, H, (12,), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    net.out(net.item(ids)).square().mean().backward()
    optimizer.step()


def pair(cls: Any, options: dict[str, Any]) -> tuple[Net, Any]:
    torch.manual_seed(0)
    net = Net()
    groups = [
        {"params": [net.item.weight], "lr": 0.011, "name": "tables"},
        {"params": [*net.out.parameters(), *net.unused.parameters()]},
    ]
    return net, cls(groups, **copy.deepcopy(options))


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("case", CASES)
def test_goes_on_with_the_numbers_of_torch(case: str, before: int) -> None:
    theirs, ours, options = CASES[case]
    (net_a, a), (net_b, b) = pair(theirs, options), pair(theirs, options)
    for seed in range(before):
        step(net_a, a, seed)
        step(net_b, b, seed)
    made = optim.like(b)
    assert type(made) is ours
    for one, other in zip(a.param_groups, made.param_groups, strict=True):
        assert {**other, **one, "params": 0} == {**other, "params": 0}  # every option of torch's, and names
        assert len(one["params"]) == len(other["params"])
    for seed in range(before, before + 4):
        step(net_a, a, seed)
        step(net_b, made, seed)
    for (name, p), q in zip(net_a.named_parameters(), net_b.parameters(), strict=True):
        assert torch.equal(p, q), name
    for p, q in zip(net_a.parameters(), net_b.parameters(), strict=True):
        for key, value in a.state.get(p, {}).items():
            if value is not None:
                assert torch.equal(torch.as_tensor(value, dtype=torch.float32), made.state[q][key].float()), key


@pytest.mark.parametrize("before", [0, 3])
def test_sparse_adam(before: int) -> None:
    """The same but for eps, which is small here."""
    nets, made = [Net(sparse=True), Net(sparse=True)], []
    nets[1].load_state_dict(nets[0].state_dict())
    for net in nets:
        made.append(torch.optim.SparseAdam([net.item.weight], lr=0.01, betas=(0.8, 0.9), eps=1e-12))
        for seed in range(before):
            step(net, made[-1], seed)
    made[1] = optim.like(made[1])
    assert type(made[1]) is optim.Adam
    for net, optimizer in zip(nets, made, strict=True):
        for seed in range(before, before + 3):
            step(net, optimizer, seed)
    torch.testing.assert_close(nets[0].item.weight, nets[1].item.weight, rtol=1e-5, atol=1e-6)


def test_sparse_gradients_follow_dense_ones() -> None:
    net = Net(sparse=True)
    given = torch.optim.Adam(net.out.parameters())
    made = optim.like(given)
    made.add_param_group({"params": net.item.parameters()})
    start = net.item.weight.detach().clone()
    step(net, made, 0)
    assert not torch.equal(start, net.item.weight)


def test_the_given_one_is_left_alone() -> None:
    net, given = pair(torch.optim.Adam, {})
    step(net, given, 0)
    before = copy.deepcopy(given.state_dict())
    step(net, optim.like(given, lr=1.0, seed=3), 1)
    after = given.state_dict()
    assert str(before) == str(after)


def test_named_parameters_keep_their_names() -> None:
    net = Net()
    made = optim.like(torch.optim.AdamW(net.named_parameters()))
    assert made.param_groups[0]["param_names"] == [name for name, _ in net.named_parameters()]
    assert made.state_dict()["param_groups"][0]["param_names"][0] == "item.weight"


def test_overrides_hold_for_all_groups_and_for_later_ones() -> None:
    net, given = pair(torch.optim.Adam, {})
    given.param_groups[0]["initial_lr"] = 9.0
    made = optim.like(given, lr=0.5, stochastic_rounding=True, bias_correction="row", decay="touched")
    made.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    for group in made.param_groups:
        assert (group["lr"], group["stochastic_rounding"], group["bias_correction"]) == (0.5, True, "row")
        assert "initial_lr" not in group
    assert "stochastic_rounding" not in given.param_groups[0]
    with pytest.raises(TypeError, match="momentum: not an option of Adam; expected one of"):
        optim.like(given, momentum=0.5)
    with pytest.raises(TypeError, match="params: not an option"):
        optim.like(given, params=[])
    with pytest.raises(TypeError, match="decoupled_weight_decay"):
        optim.like(torch.optim.AdamW(net.parameters()), decoupled_weight_decay=False)


def test_a_table_keeps_the_count_of_rows() -> None:
    net, given = pair(torch.optim.Adam, {})
    for seed in range(2):
        step(net, given, seed)
    made = optim.like(given, bias_correction="row")
    step(net, made, 2)
    assert made.state[net.item.weight]["row_steps"].eq(3).all()  # dense gradients: each step was one of all rows


@pytest.mark.parametrize(
    ("options", "name"), [({"amsgrad": True}, "amsgrad"), ({"differentiable": True}, "differentiable")]
)
def test_options_without_counterpart_are_refused_and_can_be_overridden(options: dict[str, Any], name: str) -> None:
    net, given = pair(torch.optim.Adam, options)
    if name == "amsgrad":
        step(net, given, 0)
    with pytest.raises(ValueError, match=name):
        optim.like(given)
    made = optim.like(given, **{name: False})
    step(net, made, 1)
    assert "max_exp_avg_sq" not in made.state[net.item.weight]


def test_dampening_is_refused() -> None:
    with pytest.raises(ValueError, match="dampening"):
        optim.like(torch.optim.SGD(Net().parameters(), lr=0.1, momentum=0.5, dampening=0.1))


class OtherOptions(torch.optim.Adam):
    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.07)

    def describe(self) -> str:
        return "a method that torch.optim.Adam does not have"


class OtherRule(torch.optim.Adam):
    def step(self, closure: Any = None) -> Any:
        return None


class OtherZero(OtherOptions):
    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


@pytest.mark.parametrize("used", [False, True])
def test_subclasses(used: bool) -> None:
    net = Net()
    given = OtherOptions(net.parameters())
    if used:
        step(net, given, 0)
    made = optim.like(given)
    assert type(made) is optim.Adam and made.param_groups[0]["lr"] == 0.07
    with pytest.raises(TypeError, match=r"test_like.OtherRule has a step of its own"):
        optim.like(OtherRule(net.parameters()))
    with pytest.raises(TypeError, match=r"OtherZero has a zero_grad of its own"):
        optim.like(OtherZero(net.parameters()))


def test_other_optimizers_are_refused_by_name() -> None:
    net = Net()
    for other in (torch.optim.NAdam, torch.optim.RMSprop, torch.optim.Adamax):
        with pytest.raises(TypeError, match=f"{other.__name__}; expected Adam, AdamW, SGD"):
            optim.like(other(net.parameters()))
    with pytest.raises(TypeError, match="already"):
        optim.like(optim.Adam(net.parameters()))
    with pytest.raises(TypeError, match=r"found builtins\.int"):
        optim.like(3)  # type: ignore[arg-type]

    class Wrapper:
        optimizer = torch.optim.Adam(net.parameters())

    with pytest.raises(TypeError, match=r"or what it wraps \(Adam\)"):
        optim.like(Wrapper())  # type: ignore[arg-type]


def test_hooks_are_shared() -> None:
    net, given = pair(torch.optim.Adam, {})
    called: list[torch.optim.Optimizer] = []
    handle = given.register_step_pre_hook(lambda optimizer, *_: called.append(optimizer))
    given.register_state_dict_post_hook(lambda optimizer, state: {**state, "more": 1})
    made = optim.like(given)
    step(net, made, 0)
    assert called == [made] and made.state_dict()["more"] == 1
    handle.remove()
    step(net, made, 1)
    assert len(called) == 1


def test_schedulers_are_named_and_go_on_by_one_line() -> None:
    (net_a, a), (net_b, b) = pair(torch.optim.Adam, {}), pair(torch.optim.Adam, {})
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (a, b)]
    for net, optimizer, scheduler in ((net_a, a, schedulers[0]), (net_b, b, schedulers[1])):
        step(net, optimizer, 0)
        scheduler.step()
    with pytest.warns(UserWarning, match="set scheduler.optimizer to"):
        made = optim.like(b)
    schedulers[1].optimizer = made
    for seed in range(1, 4):
        for net, optimizer, scheduler in ((net_a, a, schedulers[0]), (net_b, made, schedulers[1])):
            step(net, optimizer, seed)
            scheduler.step()
    assert [g["lr"] for g in made.param_groups] == [g["lr"] for g in a.param_groups]
    assert torch.equal(net_a.item.weight, net_b.item.weight)
