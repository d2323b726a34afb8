"""Writing to ``weight``: the numbers written become the vectors E, as those of a plain table would be."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import resemb_ext as rx
from resemb_ext import ResEmbedding, ResEmbeddingBag
from resemb_ext.testing.strategies import examples
from tests.nn.ring import PADDING, D, H, make, table

TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 5e-2, torch.float16: 6e-3}


def assert_vectors(emb: nn.Module, expected: Tensor) -> None:
    torch.testing.assert_close(table(emb), expected.detach(), rtol=0, atol=TOLERANCE[expected.dtype])


# --- every kind of write, beside a plain table -----------------------------------------------------

RANDOM = torch.randn(H, D, generator=torch.Generator().manual_seed(5))

# Takes an embedding; leaves a padding row as it is, or sets the whole table.
WHOLE: dict[str, Callable[[Any], Any]] = {
    "data.normal_": lambda e: e.weight.data.normal_(0, 0.02),
    "data.uniform_": lambda e: e.weight.data.uniform_(-1, 1),
    "no_grad normal_": torch.no_grad()(lambda e: e.weight.normal_()),
    "detach.copy_": lambda e: e.weight.detach().copy_(RANDOM),
    "data =": lambda e: setattr(e.weight, "data", RANDOM.to(e.weight.dtype)),
    "zero_": lambda e: e.weight.data.zero_(),
    "fill_": lambda e: e.weight.data.fill_(0.5),
    "whole slice": lambda e: e.weight.data.__setitem__(slice(None), RANDOM.to(e.weight.dtype)),
    "ellipsis": torch.no_grad()(lambda e: e.weight.__setitem__(..., RANDOM.to(e.weight.dtype))),
    "flat view": lambda e: e.weight.data.view(-1).copy_(RANDOM.view(-1)),
    "transposed": lambda e: e.weight.data.t().copy_(RANDOM.t()),
    "mul_": lambda e: e.weight.data.mul_(0.5),
    "imul": torch.no_grad()(lambda e: exec("e.weight.mul_(2); w = e.weight; w *= 0.5", {"e": e})),
    "data +=": lambda e: exec("e.weight.data += 1", {"e": e}),
    "+=": torch.no_grad()(lambda e: exec("e.weight += 1", {"e": e})),
    "add_ a tensor": lambda e: e.weight.data.add_(RANDOM.to(e.weight.dtype)),
    "out=": lambda e: torch.mul(e.weight.detach(), 3, out=e.weight.detach()),
    "normalize out=": lambda e: F.normalize(e.weight.data, out=e.weight.data),
    "renorm_": lambda e: e.weight.data.renorm_(2, 0, 1.0),
    "clamp_": lambda e: e.weight.data.clamp_(-0.1, 0.1),
    "foreach": lambda e: torch._foreach_mul_([e.weight.detach()], 2.0),
    "in turn": lambda e: e.weight.data.normal_().mul_(0.1).clamp_(-0.2, 0.2),
    "inference": torch.inference_mode()(lambda e: e.weight.normal_()),
}
ROWS: dict[str, Callable[[Any], Any]] = {
    "row zero_": lambda e: e.weight.data[3].zero_(),
    "row fill_": torch.no_grad()(lambda e: e.weight[3].fill_(0.25)),
    "setitem": lambda e: e.weight.data.__setitem__(3, 1.0),
    "setitem slice": lambda e: e.weight.data.__setitem__(slice(2, 7, 2), 1.0),
    "setitem list": torch.no_grad()(lambda e: e.weight.__setitem__([2, 5], RANDOM[:2].to(e.weight.dtype))),
    "setitem mask": lambda e: e.weight.data.__setitem__(torch.arange(H) > 6, 0.5),
    "one number": lambda e: e.weight.data.__setitem__((4, 2), 7.0),
    "index_copy_": lambda e: e.weight.data.index_copy_(0, torch.tensor([8, 1]), RANDOM[:2].to(e.weight.dtype)),
    "index_add_": lambda e: e.weight.data.index_add_(0, torch.tensor([8, 8]), RANDOM[:2].to(e.weight.dtype)),
    "masked_fill_": lambda e: e.weight.data.masked_fill_(torch.eye(H, D).bool().flip(0), 2.0),
    "view of a view": lambda e: e.weight.data[1:5].view(-1)[7:].mul_(2),
    "unbind": lambda e: e.weight.detach().unbind()[2].neg_(),
    "split": lambda e: e.weight.detach().split(4)[1].neg_(),
    "narrow out=": lambda e: torch.zeros(2, D, out=e.weight.detach()[3:5]),
    "bits": lambda e: e.weight.data[3].view(torch.uint8).zero_(),
    "padding zero_": lambda e: e.weight.data[PADDING].zero_(),
    "padding fill_": torch.no_grad()(lambda e: e.weight[PADDING].fill_(0)),
    "apply_": lambda e: e.weight.data[4].apply_(lambda x: x + 1),
    "nothing": lambda e: e.weight.data[5:5].fill_(3),
    "foreach rows": lambda e: torch._foreach_add_([e.weight.data[3], e.weight.data[4]], 1.0),
}


@pytest.mark.parametrize("link", ["average", "attention"])  # gcn has other numbers: test_any_sequence_of_writes
@pytest.mark.parametrize("write", [*WHOLE, *ROWS])
@pytest.mark.filterwarnings("ignore:.*its padding, is not zero")
def test_vectors_are_those_of_a_plain_table(write: str, link: str) -> None:
    for dtype in TOLERANCE:
        emb = make(link, padding_idx=None, dtype=dtype)
        plain = emb.to_embedding(freeze=False)
        for module in (plain, emb):
            torch.manual_seed(7)
            (WHOLE | ROWS)[write](module)
        assert_vectors(emb, plain.weight)


@pytest.mark.parametrize("cls", [ResEmbedding, ResEmbeddingBag])
@pytest.mark.parametrize("write", WHOLE)
@pytest.mark.filterwarnings("ignore:.*its padding, is not zero")
def test_a_whole_table_is_central_and_what_it_lacks_is_residual(write: str, cls: type) -> None:
    emb = make(cls=cls, dtype=torch.float64)
    before = table(emb)
    plain = nn.Embedding.from_pretrained(before.clone(), freeze=False)
    for module in (plain, emb):
        torch.manual_seed(7)
        WHOLE[write](module)
    expected = plain.weight.detach().clone()
    expected[PADDING] = 0
    assert_vectors(emb, expected)
    if write not in ("renorm_", "clamp_", "in turn"):  # those leave rows as they are
        torch.testing.assert_close(emb.central.detach(), expected)
    assert not emb.central[PADDING].any() and not emb.residual[PADDING].any()


@pytest.mark.parametrize("write", ROWS)
def test_rows_change_their_residual_alone(write: str) -> None:
    emb = make(dtype=torch.float64)
    before, central, residual = table(emb), emb.central.detach().clone(), emb.residual.detach().clone()
    ROWS[write](emb)
    touched = (table(emb) != before).any(1)
    assert touched.sum() < H - 1
    assert torch.equal(emb.central, central)
    assert torch.equal((emb.residual != residual).any(1), touched)


# --- torch.nn.init, and models that initialise themselves ------------------------------------------

INIT: dict[str, tuple] = {
    "uniform_": (-0.1, 0.1),
    "normal_": (0.0, 0.02),
    "trunc_normal_": (0.0, 0.02, -0.04, 0.04),
    "constant_": (0.3,),
    "ones_": (),
    "zeros_": (),
    "eye_": (),
    "xavier_uniform_": (),
    "xavier_normal_": (),
    "kaiming_uniform_": (math.sqrt(5),),
    "kaiming_normal_": (),
    "orthogonal_": (),
    "sparse_": (0.3,),
}


def test_all_of_torch_nn_init_is_there() -> None:
    public = {n for n, f in inspect.getmembers(nn.init, inspect.isfunction) if n.endswith("_") and n[0] != "_"}
    assert public == {*INIT, "dirac_"}  # for weights of 3 dimensions and more
    with pytest.raises(ValueError, match="3, 4, or 5"):
        nn.init.dirac_(make().weight)


@pytest.mark.parametrize("name", INIT)
@pytest.mark.parametrize("of", [lambda e: e.weight, lambda e: e.weight.data], ids=["weight", "data"])
def test_init(name: str, of: Callable) -> None:
    emb = make(padding_idx=None)
    plain = nn.Embedding(H, D)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module in (plain, emb):
            torch.manual_seed(7)
            found = getattr(nn.init, name)(of(module), *INIT[name])
            torch.testing.assert_close(found.detach(), plain.weight.detach())
    assert_vectors(emb, plain.weight)
    if name != "sparse_":  # it sets single numbers of a drawn table to zero
        torch.testing.assert_close(emb.central, plain.weight)


def test_init_with_padding_says_nothing_and_leaves_it_zero() -> None:
    emb = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.init.xavier_normal_(emb.weight.data)
        nn.init.normal_(tensor=emb.weight, std=0.02)
        emb.weight.data.normal_()
    assert not table(emb)[PADDING].any() and table(emb)[1:].all()


def initialise_as_recbole(part: nn.Module) -> None:
    if isinstance(part, nn.Embedding):
        nn.init.xavier_normal_(part.weight.data)


def initialise_as_transformers(part: nn.Module) -> None:
    if isinstance(part, nn.Embedding):
        part.weight.data.normal_(mean=0.0, std=0.02)
        if part.padding_idx is not None:
            part.weight.data[part.padding_idx].zero_()


def initialise_as_pyg(part: nn.Module) -> None:
    if isinstance(part, nn.Embedding):
        bound = 6.0 / math.sqrt(D)
        nn.init.uniform_(part.weight, -bound, bound)
        F.normalize(part.weight.data, p=2.0, dim=-1, out=part.weight.data)


@pytest.mark.parametrize("initialise", [initialise_as_recbole, initialise_as_transformers, initialise_as_pyg])
@pytest.mark.parametrize("link", ["average", "attention"])
@pytest.mark.filterwarnings("ignore:.*its padding, is not zero")
def test_models_that_initialise_their_embeddings(initialise: Callable, link: str) -> None:
    model = nn.Sequential(make(link))
    plain = nn.Sequential(nn.Embedding(H, D, padding_idx=PADDING))
    for one in (plain, model):
        torch.manual_seed(3)
        one.apply(initialise)
    expected = plain[0].weight.detach().clone()
    expected[PADDING] = 0
    assert_vectors(model[0], expected)


def test_a_plain_checkpoint_by_hand() -> None:
    emb, given_table = make(), RANDOM.clone()
    given_table[PADDING] = 0
    emb.weight.data.zero_()
    given_table[5] = 0  # equal to what is there
    emb.weight.data.copy_(given_table)
    assert_vectors(emb, given_table)
    assert torch.equal(emb.central, given_table)


# --- beside training -------------------------------------------------------------------------------


def trained(emb: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        (emb(torch.tensor([[1, 2, 3 + step]])) ** 2).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("how", ["dense", "sparse", "in backward", "decay", "bypassing"])
@pytest.mark.parametrize("cls", [ResEmbedding, ResEmbeddingBag])
def test_a_view_from_before_training_overwrites_what_it_writes_alone(how: str, cls: type) -> None:
    emb = make(cls=cls, sparse=how != "dense", dtype=torch.float64)
    weight, data, row = emb.weight, emb.weight.data, emb.weight.data[4]
    with torch.no_grad():
        held = emb.weight[2:6]
    weight.sum(), data.sum(), row.sum()
    options = {"weight_decay": 0.1, "decay": "global"} if how == "decay" else {}
    optimizer = rx.optim.Adam(emb.parameters(), lr=0.1, **options)
    if how == "in backward":
        optimizer.step_in_backward(emb)
    if how == "decay":
        optimizer.attach(emb)
    if how == "bypassing":
        for p in emb.parameters():
            p.data.mul_(0.5)  # which no version counter sees
    trained(emb, optimizer)
    expected = table(emb)
    row.zero_()
    expected[4] = 0
    assert_vectors(emb, expected)
    data[7] = 1.0
    expected[7] = 1
    held[0].mul_(2)
    expected[2] *= 2
    with torch.no_grad():
        weight[5] = 0.5
    expected[5] = 0.5
    assert_vectors(emb, expected)
    trained(emb, optimizer)
    assert not torch.equal(table(emb), expected)


def test_an_optimizer_goes_on_after_a_write() -> None:
    emb = make(sparse=True)
    optimizer = rx.optim.Adam(emb.parameters(), lr=0.1)
    trained(emb, optimizer)
    tables = [*emb.parameters()]
    nn.init.normal_(emb.weight)
    assert all(a is b for a, b in zip(tables, emb.parameters(), strict=True))
    trained(emb, optimizer)


def test_freezing() -> None:
    emb = make("attention")
    for freeze in (
        lambda flag: setattr(emb.weight, "requires_grad", flag),
        lambda flag: emb.weight.requires_grad_(flag),
    ):
        freeze(False)
        assert not any(p.requires_grad for p in emb.parameters()) and not emb.weight.requires_grad
        freeze(True)
        assert all(p.requires_grad for p in emb.parameters())
    emb.weight.grad = None
    emb.weight.requires_grad = False
    emb.weight[3] = 0  # nothing records
    assert not table(emb)[3].any()


def test_on_the_meta_device() -> None:
    emb = make(device="meta")
    nn.init.xavier_uniform_(emb.weight)
    emb.weight.data[PADDING].zero_()
    assert emb.weight.data.is_meta


def test_gradients_recorded_before_a_write_are_refused_by_torch() -> None:
    """As for a plain table: autograd sees that what it saved has changed."""
    emb = make()
    weight = emb.weight
    loss = (weight * weight).sum()
    with torch.no_grad():
        weight[3] = 0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- any sequence of writes ------------------------------------------------------------------------

ROW = st.integers(1, H - 1)
NUMBER = st.floats(-2, 2, width=16)
STEPS = st.one_of(
    st.tuples(st.just("row"), ROW, NUMBER),
    st.tuples(st.just("number"), ROW, st.integers(0, D - 1), NUMBER),
    st.tuples(st.just("slice"), ROW, ROW, NUMBER),
    st.tuples(st.just("scale"), NUMBER),
    st.tuples(st.just("normal"), st.integers(0, 9)),
    st.tuples(st.just("data"), st.integers(0, 9)),
    st.tuples(st.just("add rows"), st.lists(ROW, min_size=1, max_size=4), NUMBER),
    st.tuples(st.just("column"), st.integers(0, D - 1), NUMBER),
    st.tuples(st.just("held"), ROW, NUMBER),
)


def write(weight: Tensor, held: Tensor, step: tuple) -> None:
    match step:
        case ("row", i, x):
            weight.data[i] = x
        case ("number", i, j, x):
            weight.data[i, j] = x
        case ("slice", i, j, x):
            weight.data[min(i, j) : max(i, j)].add_(x)
        case ("scale", x):
            weight.data.mul_(x)
        case ("normal", seed):
            weight.data.normal_(generator=torch.Generator().manual_seed(seed))
        case ("data", seed):
            weight.data = torch.randn(H, D, generator=torch.Generator().manual_seed(seed)).to(weight.dtype)
        case ("add rows", rows, x):
            weight.data.index_add_(0, torch.tensor(rows), torch.full((len(rows), D), x, dtype=weight.dtype))
        case ("column", j, x):
            weight.data[1:, j].fill_(x)
        case ("held", i, x):
            held[i].sub_(x)


@given(st.lists(STEPS, max_size=12), st.sampled_from(["average", "gcn", "attention"]), st.booleans())
@examples(60)
@pytest.mark.filterwarnings("ignore:.*its padding, is not zero")
def test_any_sequence_of_writes(steps: list[tuple], link: str, pads: bool) -> None:
    torch.manual_seed(0)
    emb = make(link, PADDING if pads else None, dtype=torch.float64)
    if link == "attention":
        nn.init.normal_(emb.attention.a_src)
        nn.init.normal_(emb.attention.a_dst)
    plain = emb.to_embedding(freeze=False)
    helds = emb.weight.data, plain.weight.data
    for step in steps:
        write(plain.weight, helds[1], step)
        if step[0] == "data":
            helds = helds[0], plain.weight.data  # a plain table has new memory
        with torch.no_grad():
            if pads:
                plain.weight[PADDING] = 0
        write(emb.weight, helds[0], step)
        torch.testing.assert_close(table(emb), plain.weight.detach(), rtol=1e-10, atol=1e-10)


# --- what is written from itself --------------------------------------------------------------------

SELF: dict[str, Callable[[Any], Any]] = {
    "mul": lambda w: torch.mul(w, 2, out=w),
    "normalize": lambda w: F.normalize(w, out=w),
    "copy_": lambda w: w.copy_(w),
    "view": lambda w: torch.add(w, w.flip(1), out=w.view(H, D)),
    "slice": lambda w: w.__setitem__(slice(None), w),
}


@pytest.mark.parametrize("write", SELF)
@pytest.mark.parametrize("through", [lambda e: e.weight, lambda e: e.weight.data])
def test_a_table_is_read_before_it_is_written_from_itself(write: str, through: Callable[[Any], Any]) -> None:
    emb = make(dtype=torch.float64)
    expected = table(emb).clone()
    SELF[write](expected)
    with torch.no_grad():
        SELF[write](through(emb))
    assert_vectors(emb, expected)


def test_an_old_view_written_from_itself_reads_what_is_there() -> None:
    emb = make(dtype=torch.float64)
    view = emb.weight.data.add_(0)
    with torch.no_grad():
        emb.residual[1:] += 1
    expected = table(emb) * 2
    torch.mul(view, 2, out=view)
    assert_vectors(emb, expected)
