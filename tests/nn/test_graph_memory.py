"""An embedding's graph lies in memory once; link weights in 16 bits."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from resemb_ext import InterestGraph, ResEmbedding, ResEmbeddingBag
from resemb_ext.nn import graph_state
from tests.nn.test_state import D, H, make, make_graph, table

HELD = {"_indptr": "indptr", "_neighbors": "neighbors", "_link_weights": "weights"}
LINKS = ("average", "gcn", "given", "attention")
half = {"weights_dtype": torch.float16}


def assert_held_once(emb: ResEmbedding | ResEmbeddingBag) -> None:
    for name, field in HELD.items():
        if field == "weights" and emb.link == "attention":
            continue
        tensor, array = getattr(emb, name), getattr(emb.graph, field)
        assert np.shares_memory(tensor.numpy(), array) and tensor.shape == array.shape
        assert not array.flags.writeable


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


def through_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def shared(value: nn.Module):
    return value.share_memory()


MOVES = {
    "made": lambda e: e,
    "half": lambda e: e.half().float(),
    "double": lambda e: e.double().float(),
    "deepcopy": copy.deepcopy,
    "pickled": through_pickle,
    "saved": through_file,
    "shared": shared,
    "copy of shared": lambda e: copy.deepcopy(shared(e)),
    "pickle of shared": lambda e: through_pickle(shared(e)),
}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("options", [{}, half], ids=["float32", "float16"])
def test_the_graph_is_held_once(link: str, move: str, options: dict) -> None:
    emb = make(link=link, **options)
    assert_held_once(emb)
    before, hash, dtype = table(emb), emb.graph.hash, emb._link_weights.dtype
    assert dtype == options.get("weights_dtype", torch.float32)
    found = MOVES[move](emb)
    assert_held_once(found)
    assert found.graph.hash == hash and found._link_weights.dtype == dtype
    torch.testing.assert_close(
        table(found), before, rtol=1e-2 if move == "half" else 0, atol=1e-2 if move == "half" else 0
    )


def test_the_raw_graph_is_shared() -> None:
    graph = make_graph()
    linked = graph.with_link("average")  # rows get their own entries
    for given in (linked, linked.with_weights_dtype("float16")):
        emb = ResEmbedding(given, D, "given")
        assert np.shares_memory(emb._neighbors.numpy(), given.neighbors)
        assert np.shares_memory(emb._link_weights.numpy(), given.weights)
        assert_held_once(copy.deepcopy(emb))
        assert np.shares_memory(copy.deepcopy(emb)._neighbors.numpy(), given.neighbors)


def test_a_pickle_has_the_graph_once() -> None:
    rng = np.random.default_rng(0)
    indptr = np.arange(0, 2001 * 20, 20)
    neighbors = np.sort(rng.permuted(np.tile(np.arange(2000), (2000, 1)), axis=1)[:, :20], axis=1).ravel()
    emb = ResEmbedding(InterestGraph.from_csr(indptr, neighbors, rng.random(40_000)), 1, "given", **half)
    graph = sum(array.nbytes for array in emb.graph.arrays().values())
    tables = 2 * 4 * 2000
    assert len(pickle.dumps(emb)) < graph + tables + 20_000


def test_a_module_on_the_meta_device_comes_back() -> None:
    emb = make(**half)
    before = table(emb)
    state = emb.state_dict()
    emb.to("meta")
    assert emb._link_weights.is_meta
    emb.to_empty(device="cpu").load_state_dict(state)
    assert_held_once(emb)
    assert torch.equal(table(emb), before)
    with FakeTensorMode():
        fake = make(**half)
        assert fake._link_weights.dtype == torch.float16


def test_pickles_of_before_hold_tensors_of_their_own() -> None:
    emb = make()
    state = {**vars(emb), **{name: getattr(emb, name).clone() for name in HELD}}
    old = ResEmbedding.__new__(ResEmbedding)
    old.__setstate__(state)
    assert_held_once(old)
    assert torch.equal(table(old), table(emb))


@pytest.mark.parametrize("link", LINKS)
def test_vectors_differ_by_the_documented_bound(link: str) -> None:
    rng = np.random.default_rng(0)
    dense = np.ceil(rng.random((50, 50)) ** 8 * 60_000) * (rng.random((50, 50)) < 0.3)
    dense[np.diag_indices(50)] = 1
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=50))])
    graph = InterestGraph.from_csr(indptr, columns, dense[rows, columns])
    exact = ResEmbedding(graph, 8, link, dtype=torch.float64)
    near = ResEmbedding(graph, 8, link, dtype=torch.float64, **half)
    near.load_state_dict(exact.state_dict())
    with torch.no_grad():
        if link == "attention":
            for one in (exact, near):
                one.attention.a_src.fill_(0.1), one.attention.b.fill_(1.5)
        error = (exact.materialize() - near.materialize()).abs()
        assert error.max() > 0
        weights = torch.zeros(50, 50, dtype=torch.float64)
        linked = exact.graph
        rows = np.repeat(np.arange(50), np.diff(linked.indptr))
        weights[rows, linked.neighbors] = torch.tensor(linked.weights, dtype=torch.float64)
        if link == "attention":
            # z moves by 2^-11 of itself, log(z / max z) by 2^-11 of itself, which its share makes small.
            weights = 4 * torch.ones(50, 50, dtype=torch.float64)
        bound = torch.where(weights > 0, (weights * 2.0**-11).clamp(min=2.0**-25), 0) @ exact.central.abs()
    assert (error <= bound + 1e-12).all()


def test_link_weights_stay_float16() -> None:
    emb = make(**half)
    for change in (emb.double, emb.half, emb.bfloat16, emb.float):
        change()
        assert emb._link_weights.dtype == torch.float16
    assert "weights_dtype=float16" in repr(emb) and "weights_dtype" not in repr(make())


@pytest.mark.parametrize("sparse", [False, True])
def test_training_goes_on_over_rounded_weights(sparse: bool) -> None:
    emb, wide = make(sparse=sparse, **half), make(sparse=sparse)
    wide.load_state_dict(emb.state_dict())
    for one in (emb, wide):
        one(torch.arange(H)).square().sum().backward()
        one.bag(torch.tensor([[1, 2]])).sum().backward()
    for a, b in zip(emb.parameters(), wide.parameters(), strict=True):
        torch.testing.assert_close(a.grad.to_dense(), b.grad.to_dense(), rtol=4e-3, atol=4e-3)
    assert isinstance(ResEmbedding.from_embedding(nn.Embedding(H, D), make_graph(), **half), ResEmbedding)
    torch.testing.assert_close(emb.to_embedding().weight, table(emb), rtol=0, atol=0)


@pytest.mark.parametrize("saved", [{}, half], ids=["float32", "float16"])
@pytest.mark.parametrize("loaded", [{}, half], ids=["float32", "float16"])
def test_checkpoints_go_from_one_to_the_other(saved: dict, loaded: dict) -> None:
    source, to = make(**saved), make(**loaded)
    to.load_state_dict(source.state_dict())
    assert torch.equal(to.central, source.central)
    other = ResEmbedding(make_graph(extra=3.0), D, padding_idx=0, **loaded)
    with pytest.raises(ValueError, match="was saved over the graph"):
        other.load_state_dict(source.state_dict())


@pytest.mark.parametrize("options", [{}, half], ids=["float32", "float16"])
def test_a_graph_in_the_state_is_safetensors(options: dict) -> None:
    emb = make(save_graph=True, **options)
    state = emb.state_dict()
    body = state["_extra_state"].numpy().tobytes()[128:]
    arrays = safetensors.numpy.load(body)
    for name, array in emb.graph.arrays().items():
        assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array)
    graph = ResEmbedding.graph_from_state(state)
    assert graph.hash == emb.graph.hash and not np.shares_memory(graph.weights, state["_extra_state"].numpy())
    # As the library writes it, in the order of its own.
    text = np.frombuffer(graph.link.encode(), np.uint8)
    theirs = np.frombuffer(safetensors.numpy.save({**graph.arrays(), "link": text}), np.uint8)
    assert graph_state._read(theirs)["weights"].dtype == emb.graph.weights.dtype
    ResEmbedding(graph, D, padding_idx=0).load_state_dict(state)


def test_a_weight_that_does_not_fit_is_refused() -> None:
    graph = InterestGraph.from_csr([0, 1, 2], [1, 0], [1.0, 70_000.0])
    with pytest.raises(ValueError, match=r"weights: row 1 holds 70000\.0 for item 0"):
        ResEmbedding(graph, D, "given", **half)
    assert ResEmbedding(graph, D, "average", **half)._link_weights.dtype == torch.float16
    with pytest.raises(ValueError, match=r"weights_dtype: found torch\.bfloat16"):
        ResEmbedding(graph, D, weights_dtype=torch.bfloat16)


PEAK = """
import sys
import numpy as np, torch
import resemb_ext as rx
from resemb_ext.runtime.peak_memory import PeakMemory

H, K = 400_000, 20
EDGE = 6 if sys.argv[1] == "float16" else 8
MIB = 2**20
starts = np.arange(H, dtype=np.int32)[:, None]
neighbors = ((starts + np.arange(K, dtype=np.int32) * 19_997) % H).astype(np.int32)
neighbors.sort(axis=1)
weights = np.ones(H * K, np.float32)
indptr = np.arange(H + 1, dtype=np.int64) * K


def grows(what, call, mib):
    with PeakMemory() as peak:
        made = call()
    used = peak.peak_mb - peak.before_mb
    assert used < mib, f"{what}: {used:.0f} MiB, expected less than {mib:.0f}"
    return made


graph = grows("from_csr", lambda: rx.InterestGraph.from_csr(indptr, neighbors.ravel(), weights), H * (8 * K + 24) / MIB + 90)
del neighbors, weights, starts
own = H * K * (EDGE - 4) / MIB
emb = grows("ResEmbedding", lambda: rx.ResEmbedding(graph, 1, weights_dtype=sys.argv[1]), own + 2 * 4 * H / MIB + 110)
grows("deepcopy", lambda: __import__("copy").deepcopy(emb), 40)
emb.save_graph = True
whole = H * (EDGE * K + 16) / MIB
state = grows("state_dict", emb.state_dict, whole + 30)
grows("graph_from_state", lambda: emb.graph_from_state(state), whole + 30)
del state
grows("save", lambda: emb.graph.save(sys.argv[2]), 60)
grows("load", lambda: rx.InterestGraph.load(sys.argv[2]), whole + 60)
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is reset on Linux alone")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_peaks_of_memory(tmp_path, dtype: str) -> None:
    """8 million edges: what making, copying, saving and loading take beside what there is."""
    command = [sys.executable, "-c", PEAK, dtype, str(tmp_path / "g.npz")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
