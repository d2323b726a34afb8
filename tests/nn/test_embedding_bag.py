"""ResEmbeddingBag as a drop-in for nn.EmbeddingBag: forward, conversions, state, optimizers, tracing."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resemb_ext as rx
from resemb_ext import ResEmbedding, ResEmbeddingBag

H, D = 9, 6


def make_graph() -> rx.InterestGraph:
    """A ring over items 1 to 8; item 0 is padding."""
    items = np.arange(1, H)
    return rx.InterestGraph.from_csr(np.concatenate([[0, 0], items]), np.roll(items, 1), np.full(H - 1, 2.0))


def make(mode: str = "mean", **options) -> ResEmbeddingBag:
    return ResEmbeddingBag(make_graph(), D, mode, **{"padding_idx": 0, **options})


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_is_an_embedding_bag() -> None:
    bags = make("sum", include_last_offset=True)
    assert isinstance(bags, nn.EmbeddingBag) and not isinstance(bags, nn.Embedding)
    assert (bags.num_embeddings, bags.embedding_dim, bags.padding_idx) == (H, D, 0)
    assert (bags.mode, bags.include_last_offset, bags.sparse) == ("sum", True, False)
    assert (bags.max_norm, bags.norm_type, bags.scale_grad_by_freq) == (None, 2.0, False)
    assert [n for n, _ in bags.named_parameters()] == ["central", "residual"]
    assert repr(bags) == (
        "ResEmbeddingBag(9, 6, link='average', edges=16, padding_idx=0, mode='sum', include_last_offset=True)"
    )
    assert make().mode == "mean" and repr(make(mean_divisor="count")).endswith("mode='mean', mean_divisor='count')")


def test_arguments_are_named_as_in_torch() -> None:
    for ours, theirs in ((ResEmbeddingBag, nn.EmbeddingBag), (ResEmbedding, nn.Embedding)):
        assert [*inspect.signature(ours.forward).parameters] == [*inspect.signature(theirs.forward).parameters]
    ids = torch.tensor([[1, 2], [3, 0]])
    bags, emb = make(), ResEmbedding(make_graph(), D)
    assert torch.equal(bags(input=ids, offsets=None, per_sample_weights=None), bags(ids))
    assert torch.equal(emb(input=ids), emb(ids))


# input, offsets; bags that are empty, and all padding.
JAGGED = torch.tensor([1, 2, 0, 0, 0, 5, 5, 8, 3]), torch.tensor([0, 0, 3, 5, 9])
SURPLUS = torch.tensor([1, 2, 0, 5, 8, 3]), torch.tensor([0, 1, 1, 4])
ROWS = torch.tensor([[1, 2, 0], [0, 0, 0], [7, 7, 7]]), None


@pytest.mark.parametrize("link", ["average", "gcn", "attention"])
@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("where", [JAGGED, ROWS], ids=["jagged", "rows"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_forward_and_gradient_as_of_the_plain_bag(link, mode, last, where, dtype) -> None:
    bags = make(mode, link=link, include_last_offset=last, dtype=torch.float64)
    ids, offsets = (None if t is None else t.to(dtype) for t in where)
    plain = bags.to_embedding_bag(freeze=False)
    found, expected = bags(ids, offsets), plain(ids, offsets)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    (gradient,) = torch.autograd.grad(expected, plain.weight, upstream)
    torch.testing.assert_close(bags.residual.grad, gradient)  # dE/dR is the identity


def test_ids_behind_the_last_offset_are_ignored() -> None:
    for mode in ("sum", "mean"):
        bags = make(mode, include_last_offset=True)
        ids, offsets = SURPLUS
        expected = make_plain(bags)(ids[:4], offsets)
        torch.testing.assert_close(bags(ids, offsets), expected)


def make_plain(bags: ResEmbeddingBag) -> nn.EmbeddingBag:
    return bags.to_embedding_bag()


@pytest.mark.parametrize("where", [JAGGED, ROWS], ids=["jagged", "rows"])
def test_sample_weights_of_a_sum(where) -> None:
    bags, (ids, offsets) = make("sum"), where
    ours, theirs = (torch.linspace(-1, 2, ids.numel()).view(ids.shape).requires_grad_() for _ in range(2))
    found, expected = bags(ids, offsets, ours), make_plain(bags)(ids, offsets, theirs)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad(found, ours, upstream), torch.autograd.grad(expected, theirs, upstream)
    )


@pytest.mark.parametrize("divisor", ["weights", "count"])
def test_sample_weights_of_a_mean(divisor: str) -> None:
    """torch takes them for sums alone; here they are those of ``functional.res_embedding_bag``."""
    bags = make(mean_divisor=divisor)
    ids, offsets, weights = torch.tensor([1, 0, 2, 5]), torch.tensor([0, 3]), torch.tensor([1.0, 9.0, 3.0, 2.0])
    rows = bags.weight.detach()
    sums = torch.stack([rows[1] + 3 * rows[2], 2 * rows[5]])
    expected = sums / torch.tensor([4.0, 2.0] if divisor == "weights" else [2.0, 1.0])[:, None]
    torch.testing.assert_close(bags(ids, offsets, weights), expected)
    with pytest.raises(NotImplementedError, match="per_sample_weights"):
        make_plain(bags)(ids, offsets, weights)


def test_nested_ids() -> None:
    bags = make("sum")
    nested = torch.nested.nested_tensor([torch.tensor([1, 2]), torch.tensor([5])], layout=torch.jagged)
    torch.testing.assert_close(bags(nested), make_plain(bags)(nested))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "max"}, "mode: found 'max'; expected 'sum' or 'mean'"),
        ({"mean_divisor": "rows"}, "mean_divisor: found 'rows'"),
        ({"mode": "sum", "mean_divisor": "count"}, "it is of mode='mean'"),
        ({"max_norm": 1.0}, "max_norm: not supported"),
    ],
)
def test_constructor_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor([1, 2]),), "ids: 1 dimensions without offsets"),
        ((torch.tensor([[1, 2]]), torch.tensor([0])), "ids: 2 dimensions with offsets"),
        ((torch.tensor([1, 2]), torch.tensor([1])), "offsets"),
        ((torch.tensor([1, 2]), torch.tensor([0]), torch.ones(3)), "per_sample_weights: shape"),
    ],
)
def test_forward_errors(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("sum")(*arguments)
    with pytest.raises(IndexError):
        make()(torch.tensor([[H]]))


# --- from plain bags, and back ---------------------------------------------------------------------


@pytest.mark.parametrize("link", ["average", "attention"])
def test_from_embedding_bag(link: str) -> None:
    plain = nn.EmbeddingBag(H, D, mode="sum", sparse=True, include_last_offset=True, padding_idx=0).double().eval()
    plain.weight.requires_grad_(False)
    with torch.no_grad():
        plain.weight[0] = 1  # a bag never shows it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bags = ResEmbeddingBag.from_embedding_bag(plain, make_graph(), link=link)
    assert (bags.mode, bags.sparse, bags.include_last_offset, bags.padding_idx) == ("sum", True, True, 0)
    assert bags.central.dtype == torch.float64 and not bags.training
    assert not any(p.requires_grad for p in bags.parameters())
    ids, offsets = SURPLUS
    torch.testing.assert_close(bags(ids, offsets), plain(ids[:4], offsets))
    back = bags.to_embedding_bag(freeze=False)
    assert type(back) is nn.EmbeddingBag and back.weight.requires_grad and not back.training
    assert (back.mode, back.sparse, back.include_last_offset, back.padding_idx) == ("sum", True, True, 0)
    torch.testing.assert_close(back.weight[1:], plain.weight[1:])
    assert type(bags.to_plain()) is nn.EmbeddingBag
    smoothed = ResEmbeddingBag.from_embedding_bag(plain, make_graph(), exact=False, mode="mean")
    assert smoothed.mode == "mean" and not smoothed.residual.any()


def test_plain_modules_of_the_other_kind_are_refused() -> None:
    with pytest.raises(TypeError, match=r"embedding_bag: found Embedding; .*ResEmbedding\.from_embedding takes"):
        ResEmbeddingBag.from_embedding_bag(nn.Embedding(H, D), make_graph())
    with pytest.raises(TypeError, match=r"embedding: found EmbeddingBag; .*ResEmbeddingBag\.from_embedding_bag takes"):
        ResEmbedding.from_embedding(nn.EmbeddingBag(H, D), make_graph())
    with pytest.raises(TypeError, match=r"ResEmbeddingBag\.from_embedding_bag\(nn\.EmbeddingBag\.from_pretrained"):
        ResEmbeddingBag.from_pretrained(torch.randn(H, D))


def test_state_dicts_of_both_kinds_load() -> None:
    source, other = make(), make()
    assert list(source.state_dict()) == ["central", "residual", "_extra_state"]
    other.load_state_dict(source.state_dict())
    assert torch.equal(other.weight, source.weight)
    plain = nn.EmbeddingBag(H, D, padding_idx=0)
    model = nn.ModuleDict({"bags": make()})
    model.load_state_dict({f"bags.{k}": v for k, v in plain.state_dict().items()})
    torch.testing.assert_close(model["bags"](*JAGGED), plain(*JAGGED))


# --- as a module of a model ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved], ids=["deepcopy", "pickle", "torch.save"]
)
def test_copies(how) -> None:
    bags = make("sum", sparse=True)
    other = how(bags)
    assert torch.equal(other(*JAGGED), bags(*JAGGED)) and other.mode == "sum"
    other(*JAGGED).sum().backward()
    assert other.central.grad.is_sparse and bags.central.grad is None


@pytest.mark.parametrize("plain", [False, True], ids=["res", "plain"])
def test_steps_in_backward_are_those_of_step(plain: bool) -> None:
    torch.manual_seed(0)
    first = make("sum", sparse=True)
    first = first.to_embedding_bag(freeze=False) if plain else first
    second = copy.deepcopy(first)
    optimizers = [rx.optim.Adam(m.parameters(), lr=0.1) for m in (first, second)]
    optimizers[1].step_in_backward(second)
    for _ in range(3):
        for module, optimizer in zip((first, second), optimizers, strict=True):
            (module(*JAGGED) ** 2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(p.grad is None for p in second.parameters())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert {int(optimizers[1].state[p]["step"]) for p in second.parameters()} == {3}


@pytest.mark.parametrize("plain", [False, True], ids=["res", "plain"])
def test_pending_decay_is_applied_before_reading(plain: bool) -> None:
    bags = make("sum", sparse=True)
    bags = bags.to_embedding_bag(freeze=False) if plain else bags
    dense = copy.deepcopy(bags)
    optimizer = rx.optim.SGD(bags.parameters(), lr=0.1, weight_decay=0.5, decay="global")
    optimizer.attach(bags)
    for _ in range(4):
        ids = torch.tensor([[1, 2]])
        bags(ids).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        dense.zero_grad()
        dense(ids).sum().backward()
        with torch.no_grad():
            for p in dense.parameters():
                p.mul_(1 - 0.1 * 0.5).sub_(0.1 * p.grad.to_dense())
    torch.testing.assert_close(bags(*JAGGED), dense(*JAGGED))
    first = "weight" if plain else "central"
    torch.testing.assert_close(bags.state_dict()[first], dense.state_dict()[first])


def test_fx_keeps_it_whole() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bags = make("sum")

        def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
            return self.bags(ids, offsets=offsets) * 2

    model = Net()
    traced = torch.fx.symbolic_trace(model)
    assert [n.target for n in traced.graph.nodes if n.op == "call_module"] == ["bags"]
    assert torch.equal(traced(*JAGGED), model(*JAGGED))
    with pytest.raises(RuntimeError, match=r"script: does not take a ResEmbeddingBag.*to_plain\(\)"):
        torch.jit.script(model)


@pytest.mark.full
@pytest.mark.parametrize("link", ["average", "attention"])
def test_compiled_and_exported(link: str) -> None:
    bags = make("mean", link=link)
    expected = bags(*JAGGED)
    compiled = torch.compile(bags, fullgraph=True, backend="aot_eager")(*JAGGED)
    torch.testing.assert_close(compiled, expected)
    gradients = [torch.autograd.grad(out.sin().sum(), [*bags.parameters()]) for out in (compiled, expected)]
    torch.testing.assert_close(*gradients)
    program = torch.export.export(bags, JAGGED)
    torch.testing.assert_close(program.module()(*JAGGED), expected)
    folded = torch.export.export(bags.to_embedding_bag(), JAGGED)
    assert not [n for n in folded.graph.nodes if "resemb_ext" in str(n.target)]


def test_torch_func_and_fold() -> None:
    bags = make("sum", dtype=torch.float64)
    (tangent,) = torch.func.jvp(
        lambda c: torch.func.functional_call(bags, {"central": c}, JAGGED),
        (bags.central.detach(),),
        (torch.ones_like(bags.central),),
    )[1:]
    count = torch.tensor([0.0, 2, 0, 4, 0], dtype=torch.float64)  # ids that are not padding; rows of W sum to 1
    torch.testing.assert_close(tangent, count[:, None].expand(5, D))
    folded = rx.serving.export.fold(nn.Sequential(bags))[0]
    assert type(folded) is nn.EmbeddingBag
    torch.testing.assert_close(folded(*JAGGED), bags(*JAGGED))
