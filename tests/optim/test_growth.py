"""Optimizers over tables that grow: steps on known rows as if they had not, new rows as in a new table."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from resemb_ext import InterestGraph, ResEmbedding, optim

H, MORE, D = 60, 7, 6
OOV = H - 1
OWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (optim.SGD, {"lr": 0.1}),
    "momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "adagrad": (optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.3, "lr_decay": 0.1}),
    "rowwise adagrad": (optim.RowwiseAdagrad, {"lr": 0.1, "initial_accumulator_value": 0.3}),
    "adam": (optim.Adam, {"lr": 0.01}),
    "adam by row": (optim.Adam, {"lr": 0.01, "bias_correction": "row"}),
    "adamw": (optim.AdamW, {"lr": 0.01}),
    "global": (optim.Adam, {"lr": 0.01, "weight_decay": 1.0, "decay": "global"}),
    **{
        state: (optim.Adam, {"lr": 0.01, "state": state, "stochastic_rounding": True})
        for state in ("bfloat16", "rowwise", "bfloat16_rowwise", "int8_rowwise", "compact")
    },
    "compact global": (optim.Adam, {"lr": 0.01, "state": "compact", "weight_decay": 1.0, "decay": "global"}),
}
TORCH: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "Adam": (torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "fused": True}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.3}),
    "SparseAdam": (torch.optim.SparseAdam, {"lr": 0.01}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True}),
    "Adamax": (torch.optim.Adamax, {"lr": 0.01}),
    "NAdam": (torch.optim.NAdam, {"lr": 0.01}),
    "RAdam": (torch.optim.RAdam, {"lr": 0.01}),
    "Adadelta": (torch.optim.Adadelta, {"lr": 0.1}),
}


def graphs() -> tuple[InterestGraph, InterestGraph]:
    """Of H items, and with more, whose rows hold known ones; known rows stay as they are."""
    rng = np.random.default_rng(0)
    rows = [np.sort(rng.choice(np.arange(1, OOV), 4, replace=False)) for _ in range(OOV)] + [np.array([OOV])]
    rows[0] = rows[0][:0]
    more = [*rows[:-1], *(np.sort(rng.choice(np.arange(1, OOV), 3, replace=False)) for _ in range(MORE))]
    return tuple(
        InterestGraph.from_csr(np.r_[0, np.cumsum([*map(len, r)])], np.concatenate(r), np.full(sum(map(len, r)), 0.25))
        for r in (rows, [*more, np.array([OOV + MORE])])
    )


def step(emb: ResEmbedding, optimizer: Any, number: int) -> None:
    """One on known items, the out-of-vocabulary one not among them."""
    rng = np.random.default_rng(number)
    ids = torch.from_numpy(rng.integers(0, OOV, 30))
    target = torch.from_numpy(rng.standard_normal((30, D))).to(emb.central.dtype)
    ((emb(ids) - target) ** 2).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", OWN)
def test_steps_on_known_rows_are_as_without_growth(kind: str, dtype: torch.dtype, sparse: bool) -> None:
    _compare(*OWN[kind], dtype=dtype, sparse=sparse, in_backward=False)


@pytest.mark.parametrize("kind", OWN)
def test_steps_in_backward_are_as_without_growth(kind: str) -> None:
    _compare(*OWN[kind], dtype=torch.float32, sparse=True, in_backward=True)


@pytest.mark.parametrize("kind", TORCH)
def test_torchs_optimizers(kind: str) -> None:
    own, options = TORCH[kind]
    _compare(own, options, dtype=torch.float32, sparse=kind == "SparseAdam", in_backward=False)


def _compare(own: Any, options: dict[str, Any], *, dtype: torch.dtype, sparse: bool, in_backward: bool) -> None:
    small, large = graphs()
    runs = []
    for grows in (False, True):
        torch.manual_seed(0)
        emb = ResEmbedding(small, D, "given", padding_idx=0, sparse=sparse, dtype=dtype)
        optimizer = own(emb.parameters(), **options)
        if options.get("decay") == "global":
            optimizer.attach(emb)
        if in_backward:
            optimizer.step_in_backward(emb)
        for number in range(3):
            step(emb, optimizer, number)
        if grows:
            before = {p: copy.deepcopy(dict(optimizer.state[p])) for p in emb.parameters()}
            assert emb.grow(large, oov=OOV).tolist() == list(range(OOV, OOV + MORE))
            _check_state(optimizer, emb, before, options)
        elif options.get("decay") == "global":
            optimizer.catch_up()  # as every reader of a whole table does
        for number in range(3, 6):
            step(emb, optimizer, number)
        assert optimizer.state_dict()  # pending decay comes in
        runs.append((emb, optimizer))
    (one, first), (two, second) = runs
    for name in ("central", "residual"):
        table, grown = one.get_parameter(name), two.get_parameter(name)
        assert torch.equal(grown[:OOV], table[:OOV])
        for key, value in first.state[table].items():
            other = second.state[grown][key]
            if torch.is_tensor(value) and value.dim():
                assert other.dtype == value.dtype and len(other) == H + MORE
                assert torch.equal(other[:OOV], value[:OOV]), key
            else:
                assert other == value, key
    step_new = torch.tensor([OOV, OOV + MORE - 1])
    vectors = two(step_new).detach().clone()
    two(step_new).sum().backward()
    second.step()
    assert (two(step_new) != vectors).any(1).all() and two(step_new).isfinite().all()


def _check_state(optimizer: Any, emb: ResEmbedding, before: dict[Any, Any], options: dict[str, Any]) -> None:
    fresh = list(range(OOV, OOV + MORE))
    for table in emb.parameters():
        state = optimizer.state[table]
        assert state.keys() == before[table].keys()
        for key, value in state.items():
            if not (torch.is_tensor(value) and value.dim()):
                continue
            assert torch.equal(value[-1], state["decay_log"] if key == "decayed" else before[table][key][OOV])
            start = {"sum": options.get("initial_accumulator_value", 0.0), "decayed": state.get("decay_log", 0.0)}
            expected = torch.as_tensor(start.get(key, 0.0), dtype=value.dtype)
            assert (value[fresh] == expected).all(), key


def test_subclasses_as_frameworks_make_them() -> None:
    class Wrapped(torch.optim.Adam):
        __module__ = "framework"

    _compare(Wrapped, {"lr": 0.01}, dtype=torch.float32, sparse=False, in_backward=False)


def test_an_optimizer_whose_state_is_not_by_row_is_refused() -> None:
    small, large = graphs()
    emb = ResEmbedding(small, D, "given", padding_idx=0)
    optimizer = torch.optim.LBFGS(emb.parameters(), max_iter=1)

    kept: list[torch.optim.Optimizer] = [optimizer]

    def closure() -> torch.Tensor:
        kept[0].zero_grad()
        loss = emb(torch.tensor([1, 2])).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.zero_grad()
    central = emb.central.detach().clone()
    with pytest.raises(TypeError, match="torch's LBFGS keeps state of central, residual that cannot") as refused:
        emb.grow(large)
    assert torch.equal(emb.central, central) and emb.num_embeddings == H
    kept.clear()
    optimizer.circle = optimizer  # Python collects it late; that is asked for before anything is refused
    del optimizer, closure, refused
    emb.grow(large)


def test_a_lookup_from_before_is_not_stepped_in_backward() -> None:
    small, large = graphs()
    emb = ResEmbedding(small, D, "given", padding_idx=0, sparse=True)
    optimizer = optim.Adam(emb.parameters())
    optimizer.step_in_backward(emb)
    waiting = emb(torch.tensor([1, 2]))
    emb.grow(large, oov=OOV)
    with pytest.raises(RuntimeError, match="look up anew"):
        waiting.sum().backward()
    emb(torch.tensor([1, 2])).sum().backward()
    assert optimizer.state[emb.central]["step"] == 1
