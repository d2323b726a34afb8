"""Steps made in backward: bit for bit those of the separate optimizer, and what is refused."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from resemb_ext import InterestGraph, ResEmbedding, models, optim
from resemb_ext.testing.problems import make_graph

from .stepped import ALL, D, H, check_same, ids_of, linked, pair, res_embedding


class Calls(TorchDispatchMode):
    """Counts calls of our operators."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "resemb_ext":
            self.count[func._schema.name.split("::")[1]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.operators("res_embedding_backward_step_")
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (kind, dtype)
        for kind, (_, options) in ALL.items()
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
        if dtype != torch.float64 or "state" not in options
    ],
)
def test_one_lookup_steps_in_the_kernel(kind: str, dtype: torch.dtype) -> None:
    """Hub neighbours have segments of over 256 terms here."""
    module = res_embedding(dtype)
    inside, after, twin = pair(kind, module)
    for step in range(3):
        upstream = torch.randn(900, D, dtype=dtype)
        with Calls() as calls:
            module(ids_of(step)).backward(upstream)
        assert calls.count["res_embedding_backward_step_"] == 1
        assert calls.count["res_embedding_backward_rows"] == 0
        assert module.central.grad is None
        after.zero_grad()
        twin(ids_of(step)).backward(upstream)
        after.step()
    check_same(module, twin, inside, after)


def test_bags_with_sample_weights_and_their_gradient() -> None:
    module = res_embedding()
    inside, after, twin = pair("adam", module)
    for step in range(2):
        ids, offsets = ids_of(step, 60), torch.tensor([0, 10, 10, 40])
        gradients = []
        for m in (module, twin):
            samples = torch.rand(60, generator=torch.Generator().manual_seed(1)).requires_grad_()
            m.bag(ids, offsets, "sum", samples).square().sum().backward()
            gradients.append(samples.grad)
        after.step()
        after.zero_grad()
        assert torch.equal(*gradients)
    check_same(module, twin, inside, after)


@pytest.mark.parametrize("kind", ["sgd", "adam", "global"])
def test_several_lookups_a_pass_are_one_step(kind: str) -> None:
    module = res_embedding()
    inside, after, twin = pair(kind, module)
    for step in range(3):
        for m in (module, twin):
            total = m(ids_of(step)).square().sum() + m(ids_of(step + 10)).sum()
            (total + m.bag(ids_of(step + 20)[:, None]).sum()).backward()
        after.step()
        after.zero_grad()
    check_same(module, twin, inside, after)
    assert inside.state[module.central]["step"] == 3


def test_a_lookup_kept_from_an_earlier_pass_does_not_count() -> None:
    module = res_embedding()
    inside, after, twin = pair("adam", module)
    kept = []
    for step in range(3):
        with Calls() as calls:
            loss = module(ids_of(step)).square().sum()
            loss.backward()
        kept.append(loss)  # with its graph
        assert calls.count["res_embedding_backward_step_"] == 1
        twin(ids_of(step)).square().sum().backward()
        after.step()
        after.zero_grad()
    check_same(module, twin, inside, after)


def test_a_lookup_that_is_not_yet_done_keeps_others_from_the_kernel() -> None:
    """It might send its gradient in the same pass."""
    module = res_embedding()
    inside, after, twin = pair("adam", module)
    first, second = module(ids_of(0)).sum(), module(ids_of(1)).square().sum()
    second.backward()
    first.backward()
    for step, power in ((1, 2), (0, 1)):
        (twin(ids_of(step)) ** power).sum().backward()
        after.step()
        after.zero_grad()
    # The first looked up tables that the second then stepped; its own gradient does not read them.
    check_same(module, twin, inside, after)


@pytest.mark.parametrize("kind", ALL)
def test_plain_embeddings_step_through_the_hook(kind: str) -> None:
    torch.manual_seed(0)
    module = nn.Embedding(H, D, sparse=True)
    inside, after, twin = pair(kind, module)
    for step in range(3):
        for m in (module, twin):
            (m(ids_of(step)).square().sum() + m(ids_of(step + 9)).sum()).backward()
        assert module.weight.grad is None
        after.step()
        after.zero_grad()
    check_same(module, twin, inside, after)


@pytest.mark.parametrize("kind", ["lookup", "attention", "plain"])
def test_the_module_keeps_the_optimizer_and_nothing_keeps_both(kind: str) -> None:
    """Tables and moments are freed with their module, before the garbage collector runs."""
    if kind == "plain":
        module: nn.Module = nn.Embedding(H, D, sparse=True)
    else:
        graph = InterestGraph.from_csr(*make_graph(np.random.default_rng(0), H, 9))
        link = "attention" if kind == "attention" else "given"
        module = ResEmbedding(graph, D, link=link, sparse=True)
    optim.Adam(module.parameters(), lr=0.1).step_in_backward(module)
    table = next(module.parameters())
    before = table.detach().clone()
    module(ids_of(0)).sum().backward()
    assert not torch.equal(table, before)
    kept = weakref.ref(table)
    del table, module
    assert kept() is None


def test_a_table_that_outlives_its_module_is_not_stepped() -> None:
    module = nn.Embedding(H, D, sparse=True)
    optim.Adam(module.parameters(), lr=0.1).step_in_backward(module)
    table = module.weight
    del module
    with pytest.raises(RuntimeError, match="embedding and optimizer are gone"):
        nn.functional.embedding(ids_of(0), table, sparse=True).sum().backward()


def test_other_parameters_are_left_to_step() -> None:
    module = nn.Sequential(res_embedding(), nn.Linear(D, 1))
    inside, after, twin = pair("adam", module)
    schedule = torch.optim.lr_scheduler.ExponentialLR(inside, 0.5)
    other = torch.optim.lr_scheduler.ExponentialLR(after, 0.5)
    for step in range(3):
        for m, o, s in ((module, inside, schedule), (twin, after, other)):
            m(ids_of(step)).square().sum().backward()
            o.step()
            o.zero_grad()
            s.step()
    check_same(module, twin, inside, after)


def test_reading_without_gradients_is_no_lookup() -> None:
    module = res_embedding()
    inside, after, twin = pair("adam", module)
    with torch.no_grad():
        module(ids_of(5))
    module.eval()
    table = module.materialize().detach()
    assert torch.equal(table, twin.materialize().detach())
    for m in (module, twin):
        m(ids_of(0)).sum().backward()
    after.step()
    check_same(module, twin, inside, after)


def test_din_dedupes_once_a_step() -> None:
    """Target and history in one lookup: one dedupe in forward, none in backward, one step."""
    batch = models.TorchBatch(
        target=torch.tensor([5, 6, 7]),
        history=torch.tensor([1, 2, 3, 2]),
        offsets=torch.tensor([0, 3, 3]),
        label=torch.tensor([0.0, 1.0, 1.0]),
        target_category=None,
        history_category=None,
    )
    model = models.DIN(res_embedding())
    optimizer = optim.Adam(model.parameters())
    optimizer.step_in_backward(model)
    with Calls() as calls:
        model(batch).sum().backward()
        optimizer.step()
    assert calls.count["res_embedding"] == 1
    assert calls.count["res_embedding_backward_step_"] == 1
    assert calls.count["coalesce_rows"] == 0


def total(module: Any, reads: str, step: int) -> Tensor:
    """A loss over one lookup, two, a bag, or a bag with sample weights that are learned."""
    ids = ids_of(step, 60)
    if reads == "lookup":
        return module(ids).square().sum()
    if reads == "two":
        return module(ids).square().sum() + module(ids_of(step + 50, 60)).sum()
    samples = None
    if reads == "samples":
        samples = torch.rand(20, 3, generator=torch.Generator().manual_seed(step)).requires_grad_()
    return module.bag(ids.view(20, 3), None, "sum", samples).square().sum()


FROZEN = [
    (names, link, reads, kind)
    for names in ("central", "residual", "central residual")
    for link in ("average", "attention")
    for reads in ("lookup", "two", "bag", "samples")
    for kind in ("momentum", "adam", "global")
]


@pytest.mark.one_in(7)
@pytest.mark.parametrize(
    ("names", "link", "reads", "kind"),
    [*FROZEN, ("weight", "plain", "lookup", "adam"), ("weight", "plain", "lookup", "global")],
)
def test_frozen_tables_stay_until_they_are_thawed(names: str, link: str, reads: str, kind: str) -> None:
    module = linked(link)
    inside, after, twin = pair(kind, module)
    chosen = names.split()

    def step(number: int) -> None:
        for m in (module, twin):
            loss = total(m, reads, number)
            if loss.requires_grad:
                loss.backward()
        for optimizer in (inside, after):
            optimizer.step()
            optimizer.zero_grad()

    step(0)
    inside.catch_up()
    after.catch_up()
    for m in (module, twin):
        for name in chosen:
            getattr(m, name).requires_grad_(False)
    frozen = [getattr(module, name).clone() for name in chosen]
    step(1)
    assert all(torch.equal(getattr(module, name), before) for name, before in zip(chosen, frozen, strict=True))
    check_same(module, twin, inside, after)
    for m in (module, twin):
        m.requires_grad_(True)
    step(2)
    check_same(module, twin, inside, after)
    assert not any(torch.equal(getattr(module, name), before) for name, before in zip(chosen, frozen, strict=True))


@pytest.mark.parametrize("link", ["average", "attention", "plain"])
def test_a_table_frozen_between_forward_and_backward_stays(link: str) -> None:
    module = linked(link)
    optim.Adam(module.parameters(), lr=0.1).step_in_backward(module)
    loss = total(module, "lookup", 0)
    table = next(module.parameters(recurse=False)).requires_grad_(False)
    before = table.clone()
    loss.backward()
    assert torch.equal(table, before)


@pytest.mark.parametrize("link", ["average", "attention", "plain"])
def test_a_table_that_was_frozen_at_first_is_stepped_in_backward_once_thawed(link: str) -> None:
    module = linked(link)
    table = next(module.parameters(recurse=False)).requires_grad_(False)
    inside, after, twin = pair("adam", module)
    for thawed in (False, True):
        for m in (module, twin):
            next(m.parameters(recurse=False)).requires_grad_(thawed)
            if total(m, "lookup", 0).requires_grad:
                total(m, "lookup", 0).backward()
        assert table.grad is None
        for optimizer in (inside, after):
            optimizer.step()
            optimizer.zero_grad()
        check_same(module, twin, inside, after)
    assert inside.state[table]["step"] == 1


@pytest.mark.parametrize("link", ["average", "attention", "plain"])
def test_a_gradient_that_was_not_cleared_belongs_to_the_sum(link: str) -> None:
    module = linked(link)
    total(module, "lookup", 0).backward()
    inside, after, twin = pair("adam", module)
    for part, gradient in zip(twin.parameters(), module.parameters(), strict=True):
        part.grad = gradient.grad.clone()
    for step in (1, 2):
        for m in (module, twin):
            total(m, "lookup", step).backward()
        for optimizer in (inside, after):
            optimizer.step()
            optimizer.zero_grad()
    check_same(module, twin, inside, after)


@pytest.mark.parametrize("link", ["average", "attention", "plain"])
def test_a_table_taken_out_of_the_optimizer_gets_ordinary_gradients(link: str) -> None:
    """And may go to another optimizer, which may step it in backward in turn."""
    module = linked(link)
    own = list(module.parameters(recurse=False))
    first = optim.Adam(module.parameters(), lr=0.1)
    first.step_in_backward(module)
    total(module, "lookup", 0).backward()
    first.param_groups[0]["params"] = [p for p in first.param_groups[0]["params"] if p is not own[0]]
    before = own[0].detach().clone()
    total(module, "lookup", 1).backward()
    first.step()
    assert torch.equal(own[0], before)
    assert own[0].grad is not None
    second = torch.optim.SGD(own[:1], lr=0.1)
    second.step()
    assert not torch.equal(own[0], before)
    second.zero_grad()
    first.param_groups.clear()
    last = optim.SGD(module.parameters(), lr=0.1)
    last.step_in_backward(module)
    total(module, "lookup", 2).backward()
    assert all(p.grad is None for p in own)
    assert last.state[own[0]]["step"] == 1


def test_two_modules_with_the_same_tables_are_one_step() -> None:
    one, other = linked("average"), linked("average")
    other.central, other.residual = one.central, one.residual
    model = nn.ModuleList([one, other])
    inside, after, twin = pair("adam", model)
    for m in (model, twin):
        (m[0](ids_of(0)).square().sum() + m[1](ids_of(1)).sum()).backward()
    after.step()
    check_same(model, twin, inside, after)


@pytest.mark.parametrize("link", ["average", "attention"])
def test_one_table_for_both_is_one_step(link: str) -> None:
    module = linked(link)
    module.residual = module.central
    inside, after, twin = pair("momentum", module)
    for step in range(2):
        for m in (module, twin):
            m(ids_of(step)).square().sum().backward()
        for optimizer in (inside, after):
            optimizer.step()
            optimizer.zero_grad()
    check_same(module, twin, inside, after)


@pytest.mark.parametrize("link", ["average", "attention"])
def test_checkpointed_lookups_are_one_step(link: str) -> None:
    module = linked(link)
    inside, after, twin = pair("adam", module)
    for m in (module, twin):
        pieces = [checkpoint(m, ids_of(number), use_reentrant=False) for number in range(2)]
        torch.stack(pieces).square().sum().backward()
    inside.step()
    after.step()
    check_same(module, twin, inside, after)
