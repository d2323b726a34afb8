"""What a state_dict holds of a ResEmbedding, for tools that expect tensors; older files; plain tables."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from resemb_ext import InterestGraph, ResEmbedding

H, D = 9, 6


def make_graph(weight: float = 2.0) -> InterestGraph:
    """A ring over items 1 to 8; item 0 is padding."""
    items = np.arange(1, H)
    weights = np.r_[weight, np.full(H - 2, 2.0)]
    return InterestGraph.from_csr(np.r_[0, 0, items], np.roll(items, 1), weights)


def two_way(weight: float = 1.0) -> InterestGraph:
    items = np.arange(1, H)
    dense = np.zeros((H, H))
    dense[items, np.roll(items, 1)], dense[items, np.roll(items, -1)] = weight, 2
    rows, columns = np.nonzero(dense)
    return InterestGraph.from_csr(np.r_[0, np.cumsum(np.bincount(rows, minlength=H))], columns, dense[rows, columns])


def make(graph: InterestGraph | None = None, link: str = "average", **options: Any) -> ResEmbedding:
    return ResEmbedding(two_way() if graph is None else graph, D, link, 0, **options)


def model(**options: Any) -> nn.ModuleDict:
    return nn.ModuleDict({"item": make(**options), "top": nn.Linear(D, 1)})


def table(emb: nn.Module) -> Tensor:
    with torch.no_grad():
        return emb.materialize() if isinstance(emb, ResEmbedding) else emb.weight.clone()


def saved(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def average(state: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """The exponential moving average as it is often written, without regard to dtypes."""
    average = {k: v.clone() for k, v in state.items()}
    for _ in range(200):
        for name, value in other.items():
            average[name].copy_(0.99 * average[name] + 0.01 * value)
    return average


LOOPS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "cpu": lambda s: {k: v.cpu() for k, v in s.items()},
    "clone": lambda s: {k: v.detach().clone() for k, v in s.items()},
    "numpy": lambda s: {k: torch.from_numpy(v.numpy().copy()) for k, v in s.items()},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "bfloat16": lambda s: {k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()},
    "double": lambda s: {k: v.double() for k, v in s.items()},
    "contiguous": lambda s: {k: v.contiguous() for k, v in s.items()},
    "soup": lambda s: {k: sum([v, v, v]) / 3 for k, v in s.items()},
    "ema copy_": lambda s: average(s, s),
    "ema lerp_": lambda s: {k: v.clone().lerp_(v, 0.001) for k, v in s.items()},
    "ema mul_ add_": lambda s: {k: v.clone().mul_(0.999).add_(v, alpha=0.001) for k, v in s.items()},
    "safetensors": lambda s: safetensors.torch.load(safetensors.torch.save(s)),
    "torch.save": saved,
}


@pytest.mark.parametrize("loop", LOOPS)
def test_loops_over_tensors(loop: str) -> None:
    source, target, foreign = model(), model(), model(graph=two_way(5.0))
    state = LOOPS[loop](source.state_dict())
    target.load_state_dict(state)
    torch.testing.assert_close(table(target["item"]), table(source["item"]), rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match=r"item\.was saved over the graph"):
        foreign.load_state_dict(state)


@pytest.mark.parametrize("save_graph", [False, True])
@pytest.mark.parametrize("link", ["average", "attention"])
def test_safetensors_save_model(link: str, save_graph: bool, tmp_path: Path) -> None:
    source, target = model(link=link, save_graph=save_graph), model(link=link)
    safetensors.torch.save_model(source, str(tmp_path / "model.safetensors"))
    assert safetensors.torch.load_model(target, str(tmp_path / "model.safetensors")) == (set(), [])
    assert torch.equal(table(target["item"]), table(source["item"]))
    with pytest.raises(ValueError, match=r"item\.was saved over the graph"):
        safetensors.torch.load_model(model(graph=two_way(5.0), link=link), str(tmp_path / "model.safetensors"))


def test_values_written_in_place_are_copies() -> None:
    """As of every value of a state_dict but parameters and buffers."""
    emb = make()
    emb.state_dict()["_extra_state"].mul_(0.9)
    make().load_state_dict(emb.state_dict())


def test_tensors_alone() -> None:
    emb, other = make(), make()
    other.load_state_dict({name: value for name, value in emb.named_parameters()})
    assert torch.equal(table(emb), table(other))


@pytest.mark.parametrize("damage", ["scaled", "another graph's mean", "short", "text", "uint8"])
def test_a_hash_that_cannot_be_read_warns(damage: str) -> None:
    emb, state = make(), make().state_dict()
    state["_extra_state"] = {
        "scaled": 0.9 * state["_extra_state"],
        "another graph's mean": (state["_extra_state"] + make(two_way(5.0)).state_dict()["_extra_state"]) / 2,
        "short": state["_extra_state"][:10],
        "text": "hash",
        "uint8": torch.zeros(70, dtype=torch.uint8),
    }[damage]
    with pytest.warns(UserWarning, match="_extra_state holds no hash of a graph"):
        emb.load_state_dict(state)
    assert torch.equal(emb.central, state["central"])


@pytest.mark.parametrize("kept", [False, True])
def test_files_of_older_versions(kept: bool) -> None:
    """There the extra state was a dict."""
    emb, target = make(link="gcn"), make(link="gcn")
    extra: dict[str, Any] = {"graph_hash": emb.graph.hash, "link": "gcn"}
    if kept:
        names = ("indptr", "neighbors", "weights", "degree")
        extra["graph"] = {name: torch.from_numpy(np.array(getattr(emb.graph, name))) for name in names}
    state = saved({**emb.state_dict(), "_extra_state": extra})
    target.load_state_dict(state)
    assert torch.equal(table(emb), table(target))
    with pytest.raises(ValueError, match="was saved over the graph"):
        make(two_way(5.0), "gcn").load_state_dict(state)
    if kept:
        assert ResEmbedding.graph_from_state(state).hash == emb.graph.hash


@pytest.mark.parametrize("how", ["torch.save", "safetensors"])
def test_a_graph_that_is_kept(how: str) -> None:
    source = model(link="gcn", save_graph=True)
    state = LOOPS[how](source.state_dict())
    assert state["item._extra_state"].dtype == torch.uint8
    graph = ResEmbedding.graph_from_state(state, "item.")
    assert (graph.hash, graph.link) == (source["item"].graph.hash, "gcn")
    target = model(graph=graph, link="gcn")
    target.load_state_dict(state)
    assert torch.equal(table(target["item"]), table(source["item"]))


def test_graph_from_state_errors() -> None:
    for state in (make().state_dict(), {}, {"_extra_state": {"graph_hash": "1", "link": "raw"}}):
        with pytest.raises(ValueError, match="no graph under _extra_state; it is kept with save_graph"):
            ResEmbedding.graph_from_state(state)
    state = make(save_graph=True).state_dict()
    for place in range(0, len(state["_extra_state"]), 37):
        damaged = state["_extra_state"].clone()
        damaged[place] ^= 1
        with pytest.raises(ValueError, match="graph under _extra_state is damaged"):
            ResEmbedding.graph_from_state({"_extra_state": damaged})
    with pytest.raises(ValueError, match="graph under _extra_state is damaged"):
        ResEmbedding.graph_from_state({"_extra_state": state["_extra_state"][:200]})


# --- plain tables ----------------------------------------------------------------------------------


def plain_model(**options: Any) -> nn.ModuleDict:
    return nn.ModuleDict({"item": nn.Embedding(H, D, padding_idx=0, **options), "top": nn.Linear(D, 1)})


@pytest.mark.parametrize("link", ["average", "gcn", "attention", "given"])
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("prefix", ["", "item."])
def test_a_plain_checkpoint_loads(link: str, assign: bool, prefix: str) -> None:
    plain, target = plain_model(dtype=torch.float64), model(link=link, dtype=torch.float64)
    state = saved(plain.state_dict())
    if prefix:
        target.load_state_dict({k: v for k, v in state.items()}, assign=assign)
    else:
        target["item"].load_state_dict({"weight": state["item.weight"]}, assign=assign)
    torch.testing.assert_close(table(target["item"]), table(plain["item"]))
    assert torch.equal(target["item"].central, plain["item"].weight)
    target["item"](torch.arange(H)).sum().backward()
    assert "item.weight" in state


def test_a_plain_checkpoint_of_another_size() -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch for weight: .*\(8, 6\).*\(9, 6\)"):
        make().load_state_dict(nn.Embedding(H - 1, D).state_dict())
    with pytest.raises(RuntimeError, match="weight: a plain table cannot be loaded on the meta device"):
        make(device="meta").load_state_dict(nn.Embedding(H, D).state_dict())
    with pytest.raises(RuntimeError, match=r"weight: expected a torch\.Tensor, found ndarray"):
        make().load_state_dict({"weight": np.zeros((H, D))})


def test_a_plain_checkpoint_does_not_fit_parametrized_tables() -> None:
    emb = make()
    nn.utils.parametrize.register_parametrization(emb, "central", nn.Tanh())
    with pytest.raises(RuntimeError, match=r"Missing key.*parametrizations\.central\.original.*\n.*Unexpected.*weight"):
        emb.load_state_dict({"weight": torch.ones(H, D)})


def test_plain_and_own_tables_together_are_refused() -> None:
    state = {**make().state_dict(), "weight": torch.zeros(H, D)}
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "weight"'):
        make().load_state_dict(state)


def test_a_plain_checkpoint_whose_padding_is_not_zero() -> None:
    emb, whole = make(), ResEmbedding(two_way(), D)
    plain = torch.ones(H, D)
    with pytest.warns(
        UserWarning, match=r"state_dict: weight: row 0, its padding, is not zero.*keep_padding=True keeps it"
    ):
        emb.load_state_dict({"weight": plain})
    torch.testing.assert_close(table(emb)[1:], plain[1:])
    assert not table(emb)[0].any() and not emb.central[0].any()
    whole.load_state_dict({"weight": plain})
    torch.testing.assert_close(table(whole), plain)


# --- from and to plain embeddings ------------------------------------------------------------------


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("link", ["average", "attention"])
def test_from_embedding_keeps_flags(trains: bool, link: str) -> None:
    plain = nn.Embedding(H, D, padding_idx=0).requires_grad_(trains).train(trains)
    emb = ResEmbedding.from_embedding(plain, two_way(), link=link)
    assert [p.requires_grad for p in emb.parameters()] == [trains] * len([*emb.parameters()])
    assert [part.training for part in emb.modules()] == [trains] * len([*emb.modules()])
    assert emb(torch.arange(H)).requires_grad == trains
    assert emb.to_embedding().training == trains
    torch.testing.assert_close(table(emb), table(plain))


def test_from_embedding_whose_padding_is_not_zero() -> None:
    plain = nn.Embedding.from_pretrained(torch.ones(H, D), padding_idx=0)
    with pytest.warns(UserWarning, match=r"embedding: row 0, its padding, is not zero.*keep_padding=True keeps it"):
        emb = ResEmbedding.from_embedding(plain, two_way())
    assert not table(emb)[0].any()
    kept = ResEmbedding.from_embedding(plain, two_way(), padding_idx=None)
    torch.testing.assert_close(table(kept), table(plain))
    torch.testing.assert_close(kept.to_embedding()(torch.arange(H)), plain(torch.arange(H)))


def test_copies_keep_their_place(tmp_path: Path) -> None:
    emb = copy.deepcopy(make(save_graph=True))
    torch.save(emb, tmp_path / "module.pt")
    other = torch.load(tmp_path / "module.pt", weights_only=False)
    assert torch.equal(other.state_dict()["_extra_state"], emb.state_dict()["_extra_state"])
