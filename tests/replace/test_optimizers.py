"""Living optimizers across replace_embeddings and restore_embeddings."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import resemb_ext as rx
from resemb_ext.testing.strategies import examples
from tests.replace.models import ROWS, Model, identities, inputs, refused, ring

pytestmark = pytest.mark.usefixtures("one_thread")

DENSE = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"fused": True}),
    (torch.optim.AdamW, {"foreach": True}),
    (torch.optim.Adagrad, {"initial_accumulator_value": 0.5}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.RMSprop, {}),
    (torch.optim.NAdam, {}),
    (torch.optim.LBFGS, {"max_iter": 1}),
    (rx.optim.Adam, {}),
    (rx.optim.RowwiseAdagrad, {}),
]


def step(model: nn.Module, optimizer: Any, seed: int) -> None:
    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(*inputs(seed)) ** 2
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("kind, options", DENSE, ids=lambda value: getattr(value, "__module__", "")[:6] or str(value))
def test_the_same_numbers_as_of_an_optimizer_made_after(kind: Any, options: dict[str, Any]) -> None:
    """A swap before the first step equals a swap before the optimizer is made."""
    model = Model()
    other = copy.deepcopy(model)
    optimizer = kind(model.parameters(), lr=0.05, **options)
    rx.replace_embeddings(model, {"item": ring()}, optimizer=optimizer)
    rx.replace_embeddings(other, {"item": ring()})
    later = kind(other.parameters(), lr=0.05, **options)
    assert [len(group["params"]) for group in optimizer.param_groups] == [5]
    for seed in range(3):
        step(model, optimizer, seed)
        step(other, later, seed)
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert model.tables["item"].residual.abs().sum() != other.tables["user"].weight.sum()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, rx.optim.AdamW])
@pytest.mark.parametrize("sparse", [False, True])
def test_without_neighbours_training_is_that_of_the_plain_model(kind: Any, sparse: bool) -> None:
    """An item that is not in its own row either has the vector R."""
    if sparse and kind is torch.optim.Adam:
        kind = rx.optim.Adam
    model = Model(sparse=sparse)
    plain = copy.deepcopy(model)
    ours, theirs = (kind(one.parameters(), lr=1e-3) for one in (model, plain))
    empty = rx.InterestGraph.from_csr([0] * (ROWS + 1), [], [])
    rx.replace_embeddings(model, {"item": empty}, optimizer=ours, link="given")
    for seed in range(5):
        step(model, ours, seed)
        step(plain, theirs, seed)
    rx.restore_embeddings(model, optimizer=ours)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_groups_names_and_the_state_of_others_stay() -> None:
    model = Model()
    named = list(model.named_parameters())
    optimizer = torch.optim.Adam(
        [
            {"params": [pair for pair in named if "out" in pair[0]], "lr": 0.1},
            {"params": [pair for pair in named if "tables" in pair[0]], "lr": 0.2},
        ]
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    step(model, optimizer, 0)
    weight = model.tables["item"].weight
    others = {p: {k: id(v) for k, v in optimizer.state[p].items()} for _, p in named if p is not weight}
    lists = [id(group["params"]) for group in optimizer.param_groups]
    report = rx.replace_embeddings(model, {"item": ring()}, optimizer=optimizer, link="attention")
    assert weight not in optimizer.state
    assert {p: {k: id(v) for k, v in optimizer.state[p].items()} for p in others} == others
    assert [id(group["params"]) for group in optimizer.param_groups] == lists
    head = "tables.item"
    assert optimizer.param_groups[1]["param_names"] == [
        *(f"{head}.central", f"{head}.residual"),
        *(f"{head}.attention.a_src", f"{head}.attention.a_dst", f"{head}.attention.b"),
        "tables.user.weight",
    ]
    by_name = dict(model.named_parameters())
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            assert by_name[name] is parameter
    assert "  Adam: group 1; the state of the old table is dropped" in str(report)
    step(model, optimizer, 1)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1]
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    rx.restore_embeddings(model, optimizer=optimizer)
    assert optimizer.param_groups[1]["param_names"] == ["tables.item.weight", "tables.user.weight"]
    assert optimizer.param_groups[1]["params"][0] is model.tables["item"].weight
    assert {p: {k: id(v) for k, v in optimizer.state[p].items()} for p in others} != others  # loaded since
    assert len(optimizer.state) == 3
    before = model.tables["item"].weight.detach().clone()
    step(model, optimizer, 2)
    assert not torch.equal(model.tables["item"].weight, before)


def test_several_optimizers() -> None:
    model = Model(sparse=True)
    sparse = rx.optim.Adam(model.tables.parameters())
    dense = torch.optim.AdamW(model.out.parameters())
    report = rx.replace_embeddings(model, {"item": ring()}, optimizer=[dense, sparse])
    assert [change.optimizer for change in report.tables[0].optimizers] == [sparse]
    before = [p.detach().clone() for p in model.parameters()]
    model(*inputs()).backward()
    sparse.step()
    dense.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_table_spread_over_two_groups_comes_back_into_the_first() -> None:
    model = Model()
    rx.replace_embeddings(model, {"item": ring()})
    item = model.tables["item"]
    optimizer = rx.optim.Adam([{"params": [item.residual]}, {"params": [item.central], "lr": 0.5}])
    report = rx.restore_embeddings(model, optimizer=optimizer)
    assert [group["params"] for group in optimizer.param_groups] == [[], [item.weight]]
    assert report.tables[0].optimizers[0].groups == (0, 1)


class Wrapper:
    """As accelerate's and Lightning's: the optimizer is its attribute."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer


def test_wrapped_optimizers() -> None:
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    rx.replace_embeddings(model, {"item": ring()}, optimizer=Wrapper(Wrapper(optimizer)))
    assert model.tables["item"].central in set(optimizer.param_groups[0]["params"])


def test_what_is_no_optimizer() -> None:
    refused(TypeError, "optimizer: found float", Model(), {"item": ring()}, optimizer=0.1)
    refused(TypeError, "optimizer: found str", Model(), {"item": ring()}, optimizer=["Adam"])


@pytest.mark.parametrize(
    "kind, options, sparse, message",
    [
        (torch.optim.Adam, {}, True, "torch.optim.Adam does not take sparse gradients; .*optim.like"),
        (torch.optim.RMSprop, {}, True, "torch.optim.RMSprop does not take sparse gradients"),
        (torch.optim.Adagrad, {"weight_decay": 0.1}, True, "with weight_decay"),
        (torch.optim.SGD, {"weight_decay": 0.1}, True, "with weight_decay"),
        (torch.optim.Adagrad, {"fused": True}, True, "with fused=True"),
        (torch.optim.SGD, {"fused": True}, True, "with fused=True"),
        (torch.optim.SparseAdam, {}, None, "SparseAdam takes sparse gradients alone, and those of central, residual"),
    ],
)
def test_gradients_that_an_optimizer_does_not_take(
    kind: Any, options: dict[str, Any], sparse: bool | None, message: str
) -> None:
    model = Model()
    optimizer = kind(model.parameters(), lr=0.1, **options)
    refused(ValueError, f"tables.item: .*{message}", model, {"item": ring()}, optimizer=optimizer, sparse=sparse)
    # What is refused would have failed, or torch has learned it.
    if sparse:
        model.tables["item"].sparse = True
        with pytest.raises(RuntimeError):
            model(*inputs()).backward()
            optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adagrad, rx.optim.Adagrad, rx.optim.AdamW])
def test_sparse_gradients_that_an_optimizer_takes(kind: Any) -> None:
    model = Model()
    optimizer = kind(model.parameters(), lr=0.1)
    rx.replace_embeddings(model, {"item": ring()}, optimizer=optimizer, sparse=True)
    before = model.tables["item"].materialize().detach()
    model(*inputs()).backward()
    assert model.tables["item"].central.grad.is_sparse
    optimizer.step()
    assert not torch.equal(model.tables["item"].materialize(), before)


def test_an_optimizer_made_like_one_of_torch() -> None:
    model = Model()
    torchs = torch.optim.Adam(model.named_parameters(), lr=0.1)
    step(model, torchs, 0)
    ours = rx.optim.like(torchs)
    rx.replace_embeddings(model, {"item": ring()}, optimizer=[ours, torchs], start="exact", sparse=False)
    for optimizer in (ours, torchs):
        assert [name for name, _ in model.named_parameters()] == optimizer.param_groups[0]["param_names"]
        assert all(a is b for a, b in zip(model.parameters(), optimizer.param_groups[0]["params"], strict=True))
    user = model.tables["user"].weight
    assert ours.state[user]["step"] == 1 and len(ours.state) == 3
    rx.restore_embeddings(model, optimizer=[ours, torchs])
    refused(ValueError, "Adam does not take", model, {"item": ring()}, optimizer=[ours, torchs], sparse=True)
    torchs.param_groups.clear()
    rx.replace_embeddings(model, {"item": ring()}, optimizer=ours, sparse=True)
    model.zero_grad()
    step(model, ours, 1)
    assert ours.state[model.tables["item"].central]["step"] == 1


def test_attention_under_sparse_adam() -> None:
    model = nn.ModuleDict({"item": nn.Embedding(ROWS, 4, padding_idx=0, sparse=True)})
    optimizer = torch.optim.SparseAdam(model.parameters())
    refused(ValueError, "those of attention.a_src", model, {"item": ring()}, optimizer=optimizer, link="attention")
    rx.replace_embeddings(model, {"item": ring()}, optimizer=optimizer)


def test_lbfgs_that_has_stepped() -> None:
    model = Model()
    optimizer = torch.optim.LBFGS(model.parameters())
    step(model, optimizer, 0)
    refused(TypeError, "LBFGS has one state for all parameters", model, {"item": ring()}, optimizer=optimizer)


@pytest.mark.parametrize("call", ["step_in_backward", "attach"])
@pytest.mark.parametrize("back", [False, True])
def test_what_an_optimizer_does_in_the_module_goes_on(call: str, back: bool) -> None:
    """Steps in backward and decay of whole tables, across a replacement (or the way back): as of a new optimizer."""
    model = Model(sparse=True)
    if back:
        rx.replace_embeddings(model, {"item": ring()})
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1, "decay": "global" if call == "attach" else "touched"}
    optimizer = rx.optim.SGD(model.parameters(), **options)
    getattr(optimizer, call)(model)

    def train(model: nn.Module, optimizer: Any, seed: int) -> None:
        model(*inputs(seed)).backward()
        assert (model.tables["user"].weight.grad is None) == (call == "step_in_backward")
        assert all(p.grad is None for p in model.tables["item"].parameters()) == (call == "step_in_backward")
        optimizer.step()
        optimizer.zero_grad()

    def change(model: nn.Module, **given: Any) -> None:
        if back:
            rx.restore_embeddings(model, **given)
        else:
            rx.replace_embeddings(model, {"item": ring()}, **given)

    for seed in range(2):
        train(model, optimizer, seed)
    other = copy.deepcopy(model)
    change(other)
    if not back:
        message = "steps it in backward" if call == "step_in_backward" else "is attached to it"
        refused(ValueError, f"tables.item: an optimizer {message}; give that one", model, {"item": ring()})
    change(model, optimizer=optimizer)
    later = rx.optim.SGD(other.parameters(), **options)
    getattr(later, call)(other)
    for seed in (3, 4):
        train(model, optimizer, seed)
        train(other, later, seed)
    optimizer.catch_up()
    later.catch_up()
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    torch.testing.assert_close(copy.deepcopy(model)(*inputs()), other(*inputs()))
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))


def test_steps_in_backward_of_two_modules_with_one_weight() -> None:
    model = Model(sparse=True)
    model.again = nn.Embedding(ROWS, 4, padding_idx=0, sparse=True)
    model.again.weight = model.tables["item"].weight
    other = copy.deepcopy(model)
    optimizer = rx.optim.Adam(model.parameters(), lr=0.1)
    optimizer.step_in_backward(model)
    rx.replace_embeddings(model, {"item": ring(), "again": ring()}, optimizer=optimizer)
    rx.replace_embeddings(other, {"item": ring(), "again": ring()})
    later = rx.optim.Adam(other.parameters(), lr=0.1)
    for made, one in ((model, optimizer), (other, later)):
        (made(*inputs()) + made.again(inputs()[0]).sum()).backward()
        one.step()
    assert model.again.central.grad is None
    torch.testing.assert_close(model.again.central, other.again.central)
    torch.testing.assert_close(model.again.residual, other.again.residual)


def test_dense_gradients_under_steps_in_backward() -> None:
    model = Model(sparse=True)
    optimizer = rx.optim.Adam(model.parameters())
    optimizer.step_in_backward(model)
    refused(ValueError, "steps it in backward, which needs", model, {"item": ring()}, optimizer=optimizer, sparse=False)


def test_the_old_tables_are_let_go() -> None:
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer, 0)
    gone = torch.utils.weak.WeakTensorKeyDictionary()
    gone[model.tables["item"].weight] = True
    optimizer.zero_grad()
    rx.replace_embeddings(model, {"item": ring()}, optimizer=optimizer)
    gc.collect()
    assert len(gone) == 0


@examples(60)
@given(data=st.data())
def test_any_groups_keep_their_order(data: st.DataObject) -> None:
    """In place of each replaced weight stand its new tables; everything else, and the way back, is as it was."""
    tables = nn.ModuleDict(
        {f"t{n}": nn.Embedding(ROWS, 2) for n in range(data.draw(st.integers(1, 4), label="tables"))}
    )
    model = nn.ModuleDict({"tables": tables, "out": nn.Linear(2, 3)})
    named = data.draw(st.permutations(list(model.named_parameters())), label="order")
    cuts = sorted(data.draw(st.sets(st.integers(1, len(named) - 1), max_size=3), label="cuts"))
    parts = [named[a:b] for a, b in zip([0, *cuts], [*cuts, len(named)], strict=True)]
    kinds = st.sampled_from([torch.optim.Adam, torch.optim.Adagrad, rx.optim.Adam, rx.optim.RowwiseAdagrad])
    split = data.draw(st.integers(0, len(parts)), label="split")
    lists = [groups for groups in (parts[:split], parts[split:]) if groups]
    optimizers = [
        data.draw(kinds, label="kind")([{"params": group, "lr": 0.1 * (n + 1)} for n, group in enumerate(groups)])
        for groups in lists
    ]
    for _ in range(data.draw(st.integers(0, 1), label="steps")):
        (sum(table(torch.arange(3)).sum() for table in tables.values()) + model["out"].weight.sum()).backward()
        for optimizer in optimizers:
            optimizer.step()
    chosen = data.draw(st.sets(st.sampled_from(sorted(tables)), min_size=1), label="chosen")
    link = data.draw(st.sampled_from(["average", "attention"]), label="link")
    state = {id(p): id(s.get("step")) for optimizer in optimizers for p, s in optimizer.state.items()}
    rx.replace_embeddings(
        model, {f"tables.{name}": ring(padding=False) for name in chosen}, optimizer=optimizers, link=link
    )
    by_name = dict(model.named_parameters())
    for groups, optimizer in zip(lists, optimizers, strict=True):
        for number, (before, group) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
            want = []
            for name, _ in before:
                head = name.removesuffix(".weight")
                new = [one for one in by_name if one.startswith(f"{head}.")] if head[7:] in chosen else [name]
                want += new
            assert group["param_names"] == want and group["lr"] == pytest.approx(0.1 * (number + 1))
            assert all(by_name[name] is p for name, p in zip(want, group["params"], strict=True))
    after = {id(p): id(s.get("step")) for optimizer in optimizers for p, s in optimizer.state.items()}
    others = {id(p) for p in model.parameters()} & state.keys()
    assert {key: after[key] for key in others} == {key: state[key] for key in others}
    rx.restore_embeddings(model, optimizer=optimizers)
    by_name = dict(model.named_parameters())
    for groups, optimizer in zip(lists, optimizers, strict=True):
        for before, group in zip(groups, optimizer.param_groups, strict=True):
            assert group["param_names"] == [name for name, _ in before]
            assert all(by_name[name] is p for (name, _), p in zip(before, group["params"], strict=True))


def test_identities_hold_what_they_should() -> None:
    """The helper of the tests of refusals sees each change."""
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    before = identities(model, optimizer)
    rx.replace_embeddings(model, {"item": ring()}, optimizer=optimizer)
    after = identities(model, optimizer)
    assert before != after
    rx.restore_embeddings(model, optimizer=optimizer)
    assert identities(model, optimizer) != before != after
