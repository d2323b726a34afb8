"""Subclasses of nn.Embedding and nn.EmbeddingBag over a graph: their forward, state, copies, and way back."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import resemb_ext as rx
from resemb_ext import ResEmbedding, ResEmbeddingBag
from resemb_ext.nn import combined, graph_attributes, plain_class

H, D = 9, 6
IDS = torch.tensor([[3, 0, 5], [8, 8, 1]])


def make_graph() -> rx.InterestGraph:
    items = np.arange(1, H)
    return rx.InterestGraph.from_csr(np.concatenate([[0, 0], items]), np.roll(items, 1), np.full(H - 1, 2.0))


class Scaled(nn.Embedding):
    """As the scaled word embeddings of transformers."""

    def __init__(self, rows: int, dim: int, padding_idx: int | None = None, scale: float = 1.0, **options) -> None:
        super().__init__(rows, dim, padding_idx, **options)
        self.scale = scale
        self.register_buffer("factor", torch.tensor(scale), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.factor.to(self.weight.dtype)


class Functional(nn.Embedding):
    """Calls the function itself."""

    def forward(self, ids: Tensor) -> Tensor:
        found = F.embedding(ids, self.weight, self.padding_idx, self.max_norm, self.norm_type, False, self.sparse)
        return found + 1


class Shifted(nn.Embedding):
    """Names the class, as older code does, and has a parameter and a module of its own."""

    def __init__(self, rows: int, dim: int, **options) -> None:
        super().__init__(rows, dim, **options)
        self.shift = nn.Parameter(torch.full((dim,), 0.5))
        self.out = nn.Linear(dim, dim)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(nn.Embedding.forward(self, ids) + self.shift)

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -0.1, 0.1)
        self._fill_padding_idx_with_zero()


class Gathered(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids]


class Named(nn.Embedding):
    """Adds an attribute alone."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.field = "item"


class Halves(nn.EmbeddingBag):
    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        return super().forward(input, offsets, per_sample_weights) / 2


class FunctionalBags(nn.EmbeddingBag):
    def forward(self, input: Tensor, offsets: Tensor | None = None) -> Tensor:
        return F.embedding_bag(
            input, self.weight, offsets, mode=self.mode, sparse=self.sparse, padding_idx=self.padding_idx
        )


KINDS: dict[str, Any] = {
    "scaled": lambda **o: Scaled(H, D, 0, 8.0, **o),
    "functional": lambda **o: Functional(H, D, 0, **o),
    "shifted": lambda **o: Shifted(H, D, padding_idx=0, **o),
    "gathered": lambda **o: Gathered(H, D, 0, **o),
    "named": lambda **o: Named(H, D, 0, **o),
    "bags": lambda **o: Halves(H, D, padding_idx=0, mode="sum", **o),
    "functional bags": lambda **o: FunctionalBags(H, D, padding_idx=0, mode="mean", **o),
}


def over_graph(plain: Any, **options) -> Any:
    if isinstance(plain, nn.EmbeddingBag):
        return ResEmbeddingBag.from_embedding_bag(plain, make_graph(), **options)
    return ResEmbedding.from_embedding(plain, make_graph(), **options)


def saved(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", ["average", "attention"])
def test_forward_and_gradients(kind: str, link: str) -> None:
    plain = KINDS[kind](dtype=torch.float64)
    if kind == "shifted":
        plain.out.double()
    both = over_graph(plain, link=link)
    own = ResEmbedding if isinstance(both, nn.Embedding) else ResEmbeddingBag
    assert isinstance(both, own) and isinstance(both, type(plain)) and type(both) is combined(type(plain))
    assert type(both).__name__ == f"Res{type(plain).__name__}" and repr(both).startswith(f"{type(both).__name__}(")
    expected = plain(IDS)
    torch.testing.assert_close(both(IDS), expected.to(both(IDS).dtype), check_dtype=False)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    others = [p.grad.clone() for n, p in plain.named_parameters() if n != "weight"]
    plain.zero_grad()
    both(IDS).backward(upstream)
    torch.testing.assert_close(both.residual.grad[1:], weight_gradient(plain, upstream)[1:])
    ours = [p.grad for n, p in both.named_parameters() if n.split(".")[0] in ("shift", "out")]
    torch.testing.assert_close(ours, others)


def weight_gradient(plain: nn.Module, upstream: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(plain(IDS), plain.weight, upstream)
    return gradient


@pytest.mark.parametrize("kind", ["functional", "shifted", "functional bags", "scaled", "bags"])
def test_lookups_of_a_subclass_do_not_make_the_table(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    both = over_graph(KINDS[kind](sparse=True))
    monkeypatch.setattr(both, "materialize", None)
    both(IDS).sum().backward()
    assert both.central.grad.is_sparse and both.residual.grad._indices().tolist() == [[1, 3, 5, 8]]


def test_steps_in_backward_through_a_forward_of_its_own() -> None:
    torch.manual_seed(0)
    first, second = (over_graph(Functional(H, D, 0, sparse=True)) for _ in range(2))
    second.load_state_dict(first.state_dict())
    optimizers = [rx.optim.Adam(m.parameters(), lr=0.1) for m in (first, second)]
    optimizers[1].step_in_backward(second)
    for _ in range(2):
        for module, optimizer in zip((first, second), optimizers, strict=True):
            (module(IDS) ** 2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert second.central.grad is None and torch.equal(first.central, second.central)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how",
    [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m)), saved],
    ids=["deep", "copy", "pickle", "save"],
)
def test_copies(kind: str, how) -> None:
    both = over_graph(KINDS[kind](sparse=True))
    other = how(nn.Sequential(both))[0]
    assert type(other) is type(both) and other.sparse
    assert torch.equal(other(IDS), both(IDS))
    assert getattr(other, "field", None) == getattr(both, "field", None)
    other(IDS).sum().backward()
    assert (other.central.grad is not None and both.central.grad is None) or how is copy.copy


@pytest.mark.parametrize("kind", KINDS)
def test_back_to_the_subclass(kind: str) -> None:
    plain = KINDS[kind]().eval()
    both = over_graph(plain)
    back = both.to_plain(freeze=False)
    assert type(back) is type(plain) and not back.training and back.weight.requires_grad
    assert vars(back).keys() == vars(plain).keys()
    assert back.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(back(IDS), plain(IDS))
    if kind == "shifted":
        assert back.shift is not both.shift and torch.equal(back.shift, both.shift)
    folded = rx.serving.export.fold(nn.Sequential(both))[0]
    assert type(folded) is type(plain)
    torch.testing.assert_close(folded(IDS), plain(IDS))


def test_state_dicts() -> None:
    plain = Shifted(H, D, padding_idx=0)
    both, other = over_graph(plain), over_graph(Shifted(H, D, padding_idx=0))
    assert {*both.state_dict()} == {"central", "residual", "_extra_state", "shift", "out.weight", "out.bias"}
    other.load_state_dict(both.state_dict())
    assert torch.equal(other(IDS), both(IDS))
    over_graph(Shifted(H, D, padding_idx=0)).load_state_dict(plain.state_dict())


def test_its_own_initialisation_writes_the_table() -> None:
    both = over_graph(Shifted(H, D, padding_idx=0))
    both.reset_parameters()
    table = both.weight.detach()
    assert 0 < table.abs().max() <= 0.1 and not table[0].any()


def test_symbolic_trace_runs_its_forward_once() -> None:
    for plain in (Scaled(H, D, 0, 8.0), Shifted(H, D, padding_idx=0), Halves(H, D, mode="sum", padding_idx=0)):
        model = nn.Sequential(over_graph(plain))
        traced = torch.fx.symbolic_trace(model)
        torch.testing.assert_close(traced(IDS), model(IDS))


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_and_exported(kind: str) -> None:
    both = over_graph(KINDS[kind]())
    expected = both(IDS)
    found = torch.compile(both, fullgraph=True, backend="aot_eager")(IDS)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(out.sin().sum(), [both.central, both.residual]) for out in (found, expected))
    )
    program = torch.export.export(nn.Sequential(both), (IDS,))
    torch.testing.assert_close(program.module()(IDS), expected)


def test_lookups_by_function_are_those_of_the_table() -> None:
    """Also where the call is more than a lookup of the module."""
    emb = ResEmbedding(make_graph(), D, padding_idx=0, dtype=torch.float64)
    table = emb.materialize().detach().requires_grad_()
    calls: list[Any] = [
        lambda w: F.embedding(IDS, w),
        lambda w: F.embedding(IDS, w, 0),
        lambda w: F.embedding(IDS, w, -H),
        lambda w: F.embedding(IDS, w, 5),
        lambda w: F.embedding(IDS, w, scale_grad_by_freq=True),
        lambda w: F.embedding_bag(IDS, w),  # counts the padding row
        lambda w: F.embedding_bag(IDS, w, padding_idx=0),
        lambda w: F.embedding_bag(IDS, w, padding_idx=0, mode="max"),
        lambda w: F.embedding_bag(IDS.view(-1), w, torch.tensor([0, 2, 6]), mode="sum", include_last_offset=True),
        lambda w: F.embedding_bag(IDS, w, mode="sum", per_sample_weights=torch.full(IDS.shape, 0.3).double()),
    ]
    for call in calls:
        found, expected = call(emb.weight), call(table)
        torch.testing.assert_close(found, expected)
        (ours,) = torch.autograd.grad(found.sin().sum(), emb.residual)
        (theirs,) = torch.autograd.grad(expected.sin().sum(), table)
        torch.testing.assert_close(ours[1:], theirs[1:])
        assert not call(emb.weight.detach()).requires_grad
    weight = emb.weight
    weight.retain_grad()
    F.embedding(IDS, weight).sum().backward()
    assert weight.grad is not None and weight.grad[8].tolist() == [2.0] * D


# --- classes ---------------------------------------------------------------------------------------


def test_classes() -> None:
    both = combined(Scaled)
    assert both is combined(Scaled) and issubclass(both, (Scaled, ResEmbedding))
    assert (combined(nn.Embedding), combined(nn.EmbeddingBag)) == (ResEmbedding, ResEmbeddingBag)
    assert [plain_class(k) for k in (both, ResEmbedding, ResEmbeddingBag)] == [Scaled, nn.Embedding, nn.EmbeddingBag]
    module = Scaled.__new__(Scaled)
    module.__class__ = both
    with pytest.raises(TypeError, match=r"ResScaled: not constructed; make a Scaled"):
        both(make_graph(), D)
    assert {"central", "residual", "graph", "attention"} <= graph_attributes(both) == graph_attributes(ResEmbedding)
    assert not {"num_embeddings", "padding_idx", "weight"} & graph_attributes(both)


def test_no_class_is_kept_alive() -> None:
    class Local(nn.Embedding):
        pass

    reference = weakref.ref(Local)
    assert type(over_graph(Local(H, D))) is combined(Local)
    del Local
    gc.collect()
    assert reference() is None


class OwnWeight(nn.Embedding):
    @property
    def weight(self) -> Tensor:
        return torch.zeros(H, D)


class OwnPickling(nn.Embedding):
    def __reduce__(self) -> tuple:
        return nn.Embedding, (H, D)


class OwnBag(nn.Embedding):
    def bag(self) -> str:
        return "a bag"


class WithGraph(nn.Embedding):
    def __init__(self) -> None:
        super().__init__(H, D)
        self.graph = "mine"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OwnWeight, "OwnWeight: computes its weight"),
        (OwnPickling, "OwnPickling: has a pickling of its own"),
        (OwnBag, "OwnBag: defines bag, which ResEmbedding uses for something else"),
        (ResEmbedding, "kind: found ResEmbedding; expected nn.Embedding"),
        (nn.Linear, "kind: found Linear"),
        (nn.Embedding(2, 2), r"kind: found Embedding\(2, 2\)"),
    ],
)
def test_classes_that_cannot_be_combined(kind: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        combined(kind)


def test_what_cannot_be_taken_over() -> None:
    with pytest.raises(TypeError, match=r"WithGraph: has the attributes graph, which ResEmbedding uses"):
        over_graph(WithGraph())
    with pytest.raises(TypeError, match="kind: found Embedding"):
        plain_class(nn.Embedding)
