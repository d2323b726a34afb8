"""ResEmbedding's state: state_dict, copies, pickles, dtypes, devices; and training with torch's optimizers."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from resemb_ext import InterestGraph, ResEmbedding, ResEmbeddingBag

H, D = 9, 6


def make_graph(extra: float = 1.0) -> InterestGraph:
    """A ring over items 1 to 8; item 0 is padding."""
    items = np.arange(1, H)
    dense = np.zeros((H, H), np.float32)
    dense[items, np.roll(items, 1)] = extra
    dense[items, np.roll(items, -1)] = 2
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=H))])
    return InterestGraph.from_csr(indptr, columns, dense[rows, columns])


def make(**options) -> ResEmbedding:
    return ResEmbedding(make_graph(), D, padding_idx=0, **options)


def table(emb: ResEmbedding) -> torch.Tensor:
    with torch.no_grad():
        return emb.materialize()


def saved(state: dict) -> dict:
    """What torch.save and torch.load(weights_only=True) leave of it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_state_dict_round_trip() -> None:
    emb, other = make(), make()
    state = emb.state_dict()
    assert list(state) == ["central", "residual", "_extra_state"]
    assert not [*emb.buffers()]  # DDP would broadcast them before every forward
    assert not torch.equal(table(emb), table(other))
    assert str(other.load_state_dict(saved(state))) == "<All keys matched successfully>"
    assert torch.equal(table(emb), table(other))


def test_state_dict_inside_a_model() -> None:
    model, other = (nn.ModuleDict({"item": make(), "top": nn.Linear(D, 1)}) for _ in range(2))
    assert list(model.state_dict()) == ["item.central", "item.residual", "item._extra_state", "top.weight", "top.bias"]
    other.load_state_dict(saved(model.state_dict()))
    assert torch.equal(table(model["item"]), table(other["item"]))


@pytest.mark.parametrize("change", ["graph", "link"])
def test_load_onto_another_graph_changes_nothing(change: str) -> None:
    state = {f"item.{k}": v for k, v in make().state_dict().items()}
    graph, link = (make_graph(5.0), "average") if change == "graph" else (make_graph(), "gcn")
    model = nn.ModuleDict({"item": ResEmbedding(graph, D, link, 0)})
    before = copy.deepcopy(model["item"].state_dict())
    with pytest.raises(ValueError, match=r"state_dict: item\.was saved over the graph \w{12}; "):
        model.load_state_dict(state)
    after = model["item"].state_dict()
    assert all(torch.equal(after[k], before[k]) for k in ("central", "residual"))


def test_saved_graph_restores_the_module() -> None:
    emb = make(link="gcn", save_graph=True)
    state = saved({f"item.{k}": v for k, v in emb.state_dict().items()})
    graph = ResEmbedding.graph_from_state(state, "item.")
    assert graph.hash == emb.graph.hash
    model = nn.ModuleDict({"item": ResEmbedding(graph, D, "gcn", 0)})
    model.load_state_dict(state)
    assert torch.equal(table(model["item"]), table(emb))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_independent(how: str, tmp_path: Path) -> None:
    emb = make(sparse=True)
    if how == "deepcopy":
        other = copy.deepcopy(emb)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(emb))
    else:
        torch.save(emb, tmp_path / "module.pt")
        other = torch.load(tmp_path / "module.pt", weights_only=False)
    ids = torch.arange(H)
    assert torch.equal(other(ids), emb(ids)) and other.graph.hash == emb.graph.hash
    with torch.no_grad():
        other.central.zero_()
    assert emb.central.any()
    other(ids).sum().backward()
    assert emb.central.grad is None and other.central.grad.is_sparse


def test_the_weight_itself_copies_and_saves_as_a_plain_tensor() -> None:
    weight = make().weight
    for copied in (copy.deepcopy(weight), pickle.loads(pickle.dumps(weight)), saved(weight)):
        assert type(copied) is torch.Tensor and torch.equal(copied, weight.detach())


@pytest.mark.parametrize(
    ("convert", "dtype"),
    [
        (lambda e: e.half(), torch.float16),
        (lambda e: e.bfloat16(), torch.bfloat16),
        (lambda e: e.double(), torch.float64),
        (lambda e: e.to(torch.float16), torch.float16),
        (lambda e: e.to(torch.bfloat16).float(), torch.float32),
        (lambda e: nn.Sequential(e).half()[0], torch.float16),
        (lambda e: e.type(torch.float64), torch.float64),
    ],
)
def test_link_weights_stay_float32(convert, dtype: torch.dtype) -> None:
    emb = make()
    before, weights = table(emb), emb.graph.weights
    emb = convert(emb)
    assert emb.central.dtype == emb.residual.dtype == dtype
    assert emb._link_weights.dtype == torch.float32
    assert np.array_equal(emb._link_weights.numpy(), weights)
    assert (emb._indptr.dtype, emb._neighbors.dtype) == (torch.int64, torch.int32)
    out = emb(torch.arange(H))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), before, rtol=0.02, atol=0.02)
    out.sum().backward()
    assert emb.central.grad.dtype == dtype


def test_out_dtype() -> None:
    emb = make(out_dtype=torch.bfloat16)
    assert emb(torch.arange(3)).dtype == torch.bfloat16
    assert emb.bag(torch.tensor([[1, 2]])).dtype == torch.bfloat16
    assert emb.materialize().dtype == torch.float32


def test_meta_device_then_to_empty() -> None:
    """Deferred initialisation: memory comes later, the graph must survive it."""
    emb = make(device="meta")
    assert emb.central.is_meta and emb._indptr.is_meta
    emb = emb.to_empty(device="cpu")
    emb.load_state_dict((source := make()).state_dict())
    assert torch.equal(table(emb), table(source))
    emb.to_empty(device="cpu").reset_parameters()
    np.testing.assert_array_equal(emb._link_weights.numpy(), emb.graph.weights)
    assert table(emb).isfinite().all()


@pytest.mark.parametrize("link", ["average", "attention"])
@pytest.mark.parametrize("how", ["loaded", "set", "put"])
def test_tables_that_are_assigned_take_the_graph_along(how: str, link: str) -> None:
    emb, source = make(device="meta", link=link), make(link=link)
    if how == "loaded":
        emb.load_state_dict(source.state_dict(), assign=True)
    else:
        for part, other in zip(emb.modules(), source.modules(), strict=True):
            for name in part._parameters:
                if how == "set":
                    setattr(part, name, other._parameters[name])
                else:  # as accelerate does
                    part._parameters[name] = other._parameters[name]
    assert how == "put" or not emb._indptr.is_meta
    ids = torch.tensor([0, 3, 8])
    assert torch.equal(emb(ids), source(ids))
    assert torch.equal(emb.bag(ids[None]), source.bag(ids[None]))
    assert torch.equal(table(emb), table(source))
    assert emb.to("meta")(ids.to("meta")).is_meta


@pytest.mark.parametrize("link", ["average", "attention"])
@pytest.mark.parametrize("kind", [ResEmbedding, ResEmbeddingBag])
def test_under_fake_tensor_mode(kind: type, link: str) -> None:
    ids = torch.tensor([[1, 2, 0]])
    real = kind(make_graph(), D, link=link, padding_idx=0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        emb = kind(make_graph(), D, link=link, padding_idx=0, match_std=True)
        out = emb(torch.tensor([[1, 2, 0]]))
        out.sum().backward()
        nn.init.xavier_uniform_(emb.weight)
        emb.weight.data[0].zero_()
        emb.load_state_dict(real.state_dict())
        assert emb.weight.sum().shape == () and real(ids).shape == out.shape
    assert type(out).__name__ == "FakeTensor" and out.shape == real(ids).shape
    assert all(p.grad.shape == p.shape for p in emb.parameters())


def test_share_memory() -> None:
    emb = make()
    emb.share_memory()
    assert all(t.is_shared() for t in (*emb.parameters(), emb._indptr, emb._neighbors))


# --- training --------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.5}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.3}),
    "adam": (torch.optim.Adam, {"lr": 0.05}),
    "sparse_adam": (torch.optim.SparseAdam, {"lr": 0.05}),
}


@pytest.mark.parametrize(
    ("name", "sparse"),
    [("sgd", False), ("sgd", True), ("adagrad", False), ("adagrad", True), ("adam", False), ("sparse_adam", True)],
)
def test_training_lowers_the_loss(name: str, sparse: bool) -> None:
    emb = make(sparse=sparse)
    factory, options = OPTIMIZERS[name]
    optimizer = factory(emb.parameters(), **options)
    ids, target = torch.randint(0, H, (40,)), torch.randn(H, D)
    target[0] = 0  # padding is zero and stays so
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (emb(ids) - target[ids]).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0], losses[::20]
    assert not table(emb)[0].any() and not emb.central[0].any() and not emb.residual[0].any()


def test_sparse_gradients_hold_the_touched_rows() -> None:
    emb, dense = make(sparse=True), make()
    dense.load_state_dict(emb.state_dict())
    ids = torch.tensor([3, 0, 3, 5])
    upstream = torch.randn(4, D)
    emb(ids).backward(upstream)
    dense(ids).backward(upstream)
    assert emb.residual.grad._indices().tolist() == [[3, 5]]
    assert emb.central.grad._indices().tolist() == [[2, 3, 4, 5, 6]]  # ring neighbours and self
    for a, b in ((emb.central, dense.central), (emb.residual, dense.residual)):
        assert a.grad.is_sparse and not b.grad.is_sparse
        assert torch.equal(a.grad.to_dense(), b.grad)


@pytest.mark.parametrize("ids", [[0, 0], []], ids=["padding", "empty"])
@pytest.mark.parametrize("name", ["sgd", "sparse_adam", "adagrad"])
def test_a_batch_that_touches_nothing(ids: list[int], name: str) -> None:
    emb = make(sparse=True)
    before = table(emb)
    factory, options = OPTIMIZERS[name]
    optimizer = factory(emb.parameters(), **options)
    emb(torch.tensor(ids, dtype=torch.int64)).sum().backward()
    assert emb.central.grad._nnz() == emb.residual.grad._nnz() == 0
    optimizer.step()
    assert torch.equal(table(emb), before)


def test_frozen_tables() -> None:
    emb = make()
    emb.central.requires_grad_(False)
    emb(torch.arange(H)).sum().backward()
    assert emb.central.grad is None and emb.residual.grad is not None
    emb.residual.requires_grad_(False)
    assert not emb(torch.arange(H)).requires_grad
    assert not emb.weight.requires_grad


def test_two_lookups_accumulate_as_one() -> None:
    ids = torch.randint(0, H, (2, 12))
    upstream = torch.randn(2, 12, D)
    for sparse in (False, True):
        one, two = make(sparse=sparse), make(sparse=sparse)
        two.load_state_dict(one.state_dict())
        one(ids).backward(upstream)
        torch.autograd.backward([two(ids[0]), two(ids[1])], [upstream[0], upstream[1]])
        torch.testing.assert_close(two.central.grad.to_dense(), one.central.grad.to_dense())
        torch.testing.assert_close(two.residual.grad.to_dense(), one.residual.grad.to_dense())
