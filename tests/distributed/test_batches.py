"""Any batches on any ranks: vectors and gradients are those of whole tables; bytes on the wire are few."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import resemb_ext as rx
from resemb_ext.testing.strategies import examples
from tests.distributed.worlds import Case, D, H, Model, gathered, graph, train
from tests.processes import Ranks

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

pytestmark = pytest.mark.full


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Ranks]]:
    with Ranks(request.param, tmp_path_factory.mktemp("ranks")) as running:
        yield request.param, running


def _module(link: str, items: int, options: dict[str, Any]) -> nn.Module:
    torch.manual_seed(5)
    if link == "plain":
        return nn.Embedding(items, D, sparse=True, padding_idx=options.get("padding_idx"), dtype=torch.float64)
    if link == "plain bag":
        return nn.EmbeddingBag(items, D, mode="sum", sparse=True, dtype=torch.float64, **options)
    of_graph = graph(items, own=True)
    module = rx.ResEmbedding(of_graph, D, link, sparse=True, dtype=torch.float64, **options)
    if module.attention is not None:
        for part in module.attention.parameters():
            nn.init.normal_(part)
    return module


def _looked_up(module: Any, ids: Tensor, offsets: Tensor | None, weights: Tensor | None, seed: int) -> dict[str, Any]:
    """Vectors or bags, and the gradient of weights; tables get theirs."""
    if offsets is None:
        out = module(ids)
    elif hasattr(module, "bag"):
        out = module.bag(ids, offsets, "mean", weights)
    else:
        out = module(ids, offsets, weights)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype)
    if out.requires_grad:
        out.backward(upstream)
    return {"out": out.detach(), "weights": None if weights is None else weights.grad}


def _of_rank(link: str, items: int, options: dict[str, Any], how: str, batches: list[Any]) -> dict[str, Any]:
    module = _module(link, items, options)
    model = rx.distributed.shard(nn.ModuleList([module]), graph=how)
    ids, offsets, weights = batches[dist.get_rank()]
    weights = None if weights is None else weights.clone().requires_grad_()
    found = _looked_up(model.module[0], ids, offsets, weights, dist.get_rank())
    gradients = {}
    for table in rx.distributed.tables(model):
        gradient = table.part.grad
        assert gradient is not None and gradient.is_sparse
        gradients[table.name] = (table.rows(), gradient.coalesce().indices()[0], gradient.to_dense())
    return {**found, "gradients": gradients}


@given(data=st.data())
@examples(60)
def test_equals_whole_tables(ranks: tuple[int, Ranks], data: st.DataObject) -> None:
    """Unequal and empty batches, repeats, padding, bags with weights, few or many items."""
    world, running = ranks
    items = data.draw(st.integers(3, 30), label="items")
    link = data.draw(st.sampled_from(["average", "gcn", "attention", "given", "plain", "plain bag"]), label="link")
    padding = data.draw(st.none() | st.just(0), label="padding")  # nothing points at item 0
    bags = link == "plain bag" or (link != "plain" and data.draw(st.booleans(), label="bags"))
    weighted = bags and data.draw(st.booleans(), label="weights")
    how = data.draw(st.sampled_from(["dealt", "whole"]), label="graph")
    batches = []
    for rank in range(world):
        drawn = data.draw(st.lists(st.integers(0, items - 1), max_size=12), label=f"ids of rank {rank}")
        ids = torch.tensor(drawn, dtype=data.draw(st.sampled_from([torch.int64, torch.int32])))
        offsets = weights = None
        if bags:
            ends = sorted(data.draw(st.lists(st.integers(0, len(drawn)), max_size=3), label="offsets"))
            offsets = torch.tensor([0, *ends])
        if weighted:
            weights = torch.linspace(0.5, 2, len(drawn), dtype=torch.float64)
        batches.append((ids, offsets, weights))
    options = {"padding_idx": padding}
    parts = running.run(_of_rank, link, items, options, how, batches)
    whole = _module(link, items, options)
    for rank, (ids, offsets, weights) in enumerate(batches):
        weights = None if weights is None else weights.clone().requires_grad_()
        expected = _looked_up(whole, ids, offsets, weights, rank)
        torch.testing.assert_close(parts[rank]["out"], expected["out"], rtol=1e-12, atol=1e-12)
        if weights is not None:
            torch.testing.assert_close(parts[rank]["weights"], expected["weights"], rtol=1e-10, atol=1e-12)
    for name, table in whole.named_parameters(recurse=False):
        mean = table.grad.coalesce()
        touched = set()
        for part in parts:
            rows, places, gradient = part["gradients"][f"0.{name}"]
            torch.testing.assert_close(gradient, mean.to_dense()[rows] / world, rtol=1e-10, atol=1e-12)
            touched |= set(rows[places].tolist())
        assert touched == set(mean.indices()[0].tolist())


def _counted(how: str, rows_dtype: torch.dtype | None, ids: list[Tensor], items: int, dim: int) -> dict[str, int]:
    torch.manual_seed(0)
    model = rx.distributed.shard(
        nn.ModuleList([rx.ResEmbedding(_wide(items), dim, "gcn", sparse=True)]), graph=how, rows_dtype=rows_dtype
    )
    model.module[0](ids[dist.get_rank()]).sum().backward()
    return model.traffic()


def _wide(items: int) -> rx.InterestGraph:
    """20 neighbours for each item, most of them popular."""
    rng = np.random.default_rng(0)
    rows = [np.unique(np.minimum(rng.zipf(1.3, 20) * 7 % items, items - 1)) for _ in range(items)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return rx.InterestGraph.from_csr(indptr, np.concatenate(rows), directed=False)


@pytest.mark.parametrize("how", ["dealt", "whole"])
@pytest.mark.parametrize("rows_dtype", [None, torch.bfloat16])
def test_few_bytes(how: str, rows_dtype: torch.dtype | None, ranks: tuple[int, Ranks]) -> None:
    """At most 1.1 times ids, and rows of R and C there and back; with the lists where owners send those."""
    world, running = ranks
    items, dim = 3000, 64
    rng = np.random.default_rng(1)
    ids = [torch.from_numpy(np.minimum(rng.zipf(1.2, 800 + 400 * rank) - 1, items - 1)) for rank in range(world)]
    sent = running.run(_counted, how, rows_dtype, ids, items, dim)
    linked, width = _wide(items).with_link("gcn"), dim * (4 if rows_dtype is None else 2)
    rows = lists = 0
    for rank in range(world):
        unique = np.unique(ids[rank])
        edges = [linked.neighbors[linked.indptr[i] : linked.indptr[i + 1]] for i in unique]
        neighbors = np.unique(np.concatenate(edges))
        rows += (unique % world != rank).sum() + (neighbors % world != rank).sum()
        lists += sum(4 + 8 * len(e) for e, i in zip(edges, unique, strict=True) if i % world != rank)
    compulsory = rows * (4 + 2 * width) + (lists if how == "dealt" else 0)
    total = sum(part["all"] for part in sent)
    assert 0.9 * compulsory < total <= 1.1 * compulsory
    for part in sent:
        assert part["all"] == sum(n for kind, n in part.items() if kind != "all")


def _differs(what: str) -> str:
    """The error of a rank where the last one has something else."""
    odd = dist.get_rank() == dist.get_world_size() - 1
    torch.manual_seed(6 if odd and what == "seed" else 5)
    of_graph = graph(seed=1 if odd and what == "graph" else 0)
    dtype = torch.float64 if odd and what == "dtype" else torch.float32
    module: nn.Module = rx.ResEmbedding(of_graph, D + (odd and what == "size"), dtype=dtype)
    if what == "meta":
        module = rx.ResEmbedding(of_graph, D, device="meta")
        torch.manual_seed(odd)
    if odd and what == "kind":
        module = nn.Embedding(H, D, sparse=True)
    if odd and what == "refused":
        module.register_forward_hook(lambda *_: None)
    model = nn.ModuleDict({"item": module})
    if odd and what == "more":
        model["user"] = nn.Embedding(3, D, sparse=True)
    try:
        rx.distributed.shard(model, graph="whole" if odd and what == "option" else "dealt")
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("graph", "item: graph is "),
        ("seed", "item: central at the start (another seed?) is "),
        ("meta", "item: central at the start (another seed?) is "),
        ("dtype", "item: dtype is torch.float64; rank 0 has torch.float32"),
        ("size", f"item: embedding_dim is {D + 1}; rank 0 has {D}"),
        ("kind", "item: kind is Embedding; rank 0 has ResEmbedding"),
        ("more", "holds other tables than rank 0: user is not on both"),
        ("option", "graph is whole; rank 0 has dealt"),
    ],
)
def test_ranks_that_differ(what: str, message: str, ranks: tuple[int, Ranks]) -> None:
    world, running = ranks
    lines = running.run(_differs, what)
    assert len({*lines}) == 1
    assert lines[0].startswith(f"rank {world - 1}: {message}") and "\n" not in lines[0]


def test_a_rank_that_refuses(ranks: tuple[int, Ranks]) -> None:
    world, running = ranks
    *others, own = running.run(_differs, "refused")
    assert own.startswith("item: has hooks")
    assert {*others} == {f"rank {world - 1}: ValueError: {own}"}


def _clipped(case: Case, ranks: int) -> dict[str, Any]:
    return train(case, 4, ranks, dist.get_rank(), clip=0.05)


def test_norms_are_those_of_all_rows(ranks: tuple[int, Ranks]) -> None:
    world, running = ranks
    case = Case(optimizer="SGD")
    expected, parts = train(case, 4, clip=0.05), running.run(_clipped, case, world)
    for part in parts:
        np.testing.assert_allclose(part["norms"], expected["norms"], rtol=1e-5)
        assert (expected["norms"] > 0.05).all()
    for name, value in gathered(parts)["tables"].items():
        torch.testing.assert_close(value, expected["tables"][name], rtol=0, atol=1e-6)


def _rounded(case: Case, ranks: int) -> dict[str, Any]:
    return train(case, 20, ranks, dist.get_rank())


def test_rows_in_bfloat16(ranks: tuple[int, Ranks]) -> None:
    world, running = ranks
    case = Case(optimizer="SGD", shard={"rows_dtype": torch.bfloat16})
    expected, found = train(case, 20), gathered(running.run(_rounded, case, world))
    assert 1e-6 < np.abs(found["losses"] - expected["losses"]).max() < 1e-2


def _saved_and_loaded(state: dict[str, Tensor]) -> list[str]:
    """A state of whole tables, then this rank's own, then that of another rank."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model = rx.distributed.shard(Model(Case()))
    said = []
    model.module.load_state_dict(state)
    for table in rx.distributed.tables(model):
        assert torch.equal(table.part, state[table.name][rank::world])
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict(own)
    assert torch.equal(model.module.item.central, state["item.central"][rank::world])
    own["module.item._extra_state"] = torch.tensor([H, world, (rank + 1) % world])
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        said.append(str(error))
    return said


def test_states(ranks: tuple[int, Ranks]) -> None:
    world, running = ranks
    torch.manual_seed(99)
    state = {
        name: torch.randn_like(value) for name, value in Model(Case()).state_dict().items() if "_extra" not in name
    }
    for rank, (line,) in enumerate(running.run(_saved_and_loaded, state)):
        assert (
            f"item.central: holds the rows of another rank or of another number of ranks; expected those of rank {rank} of {world}"
            in line
        )


def _goes_on() -> list[str]:
    """Errors of the first rank's ids, and a lookup after that."""
    torch.manual_seed(0)
    model = rx.distributed.shard(nn.Sequential(nn.Embedding(7, 2, sparse=True)))
    said = []
    for ids in (torch.tensor([7 if dist.get_rank() == 0 else 3]), torch.tensor([1])):
        try:
            said.append(str(model(ids).shape))
        except (IndexError, rx.distributed.RankError) as error:
            said.append(f"{type(error).__name__}: {error}")
    said.append(str(model._wire.faults._told))
    return said


def test_training_goes_on_after_ids_that_were_refused(ranks: tuple[int, Ranks]) -> None:
    first, *others = ranks[1].run(_goes_on)
    line = "IndexError: ids: id 7 at position 0 is out of range; expected ids in [0, 7)"
    assert first == [line, "torch.Size([1, 2])", "False"]
    assert all(other == [f"RankError: rank 0: {line}", "torch.Size([1, 2])", "False"] for other in others)
