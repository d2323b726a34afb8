"""What test_embedding.py asks of nn.Embedding and nn.EmbeddingBag, by its tests' names, asked of the modules over graphs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from .cases import LINKS, Cases, over_graph, weight_gradient

_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_ASKED: dict[str, tuple[Callable[..., None], list[tuple]]] = {}


def embedding_cases() -> Cases:
    return {
        " ".join(map(str, (name, link, *given))): (lambda ask=ask, link=link, given=given: ask(link, *given))
        for name, (ask, over) in _ASKED.items()
        for given in over
        for link in LINKS
    }


def _asked(*over: list) -> Callable:
    def add(ask: Callable[..., None]) -> Callable[..., None]:
        _ASKED[ask.__name__] = (ask, list(itertools.product(*over)))
        return ask

    return add


def _embedding(link: str, rows: int = 10, dim: int = 4, **options: Any) -> tuple[Any, nn.Embedding]:
    plain = nn.Embedding(rows, dim, **options)
    return over_graph(plain, link), plain


def _bags(link: str, rows: int = 10, dim: int = 4, **options: Any) -> tuple[Any, nn.EmbeddingBag]:
    plain = nn.EmbeddingBag(rows, dim, **options)
    return over_graph(plain, link), plain


def _compare(ours: Any, plain: Any, *arguments: Any, **named: Any) -> None:
    """Outputs, and gradients of the vectors."""
    tolerance = _TOLERANCE[plain.weight.dtype]
    found, expected = ours(*arguments, **named), plain(*arguments, **named)
    assert_close(found, expected, rtol=tolerance, atol=tolerance)
    if found.numel():
        upstream = torch.randn_like(expected)
        for module, out in ((ours, found), (plain, expected)):
            module.zero_grad()
            out.backward(upstream)
        assert_close(weight_gradient(ours), weight_gradient(plain), rtol=tolerance, atol=tolerance)


@_asked()
def embedding_max_norm(link: str) -> None:
    _compare(*_embedding(link, max_norm=1.0), torch.tensor([3, 8]))


@_asked()
def embedding_scale_grad_by_freq(link: str) -> None:
    _compare(*_embedding(link, scale_grad_by_freq=True), torch.tensor([3, 3, 8]))


@_asked([torch.int64, torch.int32], [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def embedding_dense_grad(link: str, ids: torch.dtype, dtype: torch.dtype) -> None:
    _compare(*_embedding(link, dtype=dtype), torch.tensor([[1, 2, 4, 5], [4, 3, 2, 9]], dtype=ids))


@_asked([torch.int64, torch.int32])
def embedding_sparse_basic(link: str, ids: torch.dtype) -> None:
    ours, plain = _embedding(link, sparse=True)
    _compare(ours, plain, torch.tensor([[1, 2, 4, 5], [4, 3, 2, 9]], dtype=ids))
    assert ours.residual.grad.is_sparse and ours.residual.grad.shape == (10, 4)


@_asked()
def embedding_backward(link: str) -> None:
    """Rows of a sparse gradient add over two backward passes; the third has other ids."""
    ours, plain = _embedding(link, sparse=True, dtype=torch.float64)
    for ids in ([5, 2, 5], [5, 2, 5], [0, 9]):
        for module in (ours, plain):
            module(torch.tensor(ids)).sum().backward()
        assert_close(weight_gradient(ours), weight_gradient(plain))


@_asked()
def embedding_sparse_rows_in_order_of_ids(link: str) -> None:
    """torch's sparse gradient has an entry for each position; ours one for each row, ascending."""
    ours, plain = _embedding(link, sparse=True)
    for module in (ours, plain):
        module(torch.tensor([5, 2, 5])).sum().backward()
    assert torch.equal(ours.residual.grad._indices(), plain.weight.grad._indices())


@_asked([torch.float64, torch.float32])
def move_sparse_half_embedding(link: str, dtype: torch.dtype) -> None:
    ours, _ = _embedding(link, sparse=True)
    ours.half().to(dtype)
    ours(torch.tensor([1, 1])).sum().backward()
    assert ours.residual.grad.dtype == dtype


@_asked([(), (0,), (2, 0), (2, 3, 4)])
def embedding_shapes_and_empty_input(link: str, shape: tuple) -> None:
    _compare(*_embedding(link), torch.randint(0, 10, shape))


@_asked()
def embedding_of_no_rows(link: str) -> None:
    ours, _ = _embedding(link, rows=0)
    assert ours(torch.zeros(0, dtype=torch.int64)).shape == (0, 4)


@_asked([2, -2])
def embedding_padding_idx(link: str, padding: int) -> None:
    ours, plain = _embedding(link, padding_idx=padding)
    ids = torch.tensor([[0, 2, 4, 8], [2, 3, 2, 9]])
    _compare(ours, plain, ids)
    assert not weight_gradient(ours)[ours.padding_idx].any()


@_asked([True, False])
def embedding_padding_idx_keeps_a_vector(link: str, keep: bool) -> None:
    plain = nn.Embedding(10, 4, padding_idx=2)
    with torch.no_grad():
        plain.weight[2] = 1
    _compare(over_graph(plain, link, keep_padding=keep), plain, torch.tensor([2, 3]))


@_asked([10, -11, 25])
def embedding_padding_idx_out_of_range(link: str, padding: int) -> None:
    from resemb_ext import ResEmbedding

    from .cases import graph

    with pytest.raises(ValueError, match="padding_idx"):
        ResEmbedding(graph(link, 10), 4, link=LINKS[link], padding_idx=padding)


@_asked([torch.float64, torch.float32, torch.float16, torch.bfloat16])
def embedding_from_pretrained(link: str, dtype: torch.dtype) -> None:
    table = torch.randn(10, 4).to(dtype)
    plain = nn.Embedding.from_pretrained(table)
    ours = over_graph(plain, link)
    tolerance = _TOLERANCE[dtype]
    assert_close(ours(torch.arange(10)), table, rtol=tolerance, atol=tolerance)
    assert not any(p.requires_grad for p in (ours.central, ours.residual))


@_asked()
def embedding_from_pretrained_by_class(link: str) -> None:
    type(_embedding(link)[0]).from_pretrained(torch.randn(10, 4))


@_asked()
def embedding_from_pretrained_padding_idx(link: str) -> None:
    plain = nn.Embedding.from_pretrained(torch.randn(10, 4).index_fill(0, torch.tensor([2]), 0), padding_idx=2)
    assert over_graph(plain, link).padding_idx == 2


@_asked()
def embedding_functional(link: str) -> None:
    ours, plain = _embedding(link, padding_idx=2, dtype=torch.float64)
    ids = torch.tensor([[1, 2, 4, 5], [4, 3, 2, 9]])
    assert_close(F.embedding(ids, ours.weight, padding_idx=2), F.embedding(ids, plain.weight, padding_idx=2))


@_asked([[10], [-1], [2**40]])
def embedding_out_of_bounds_idx(link: str, ids: list[int]) -> None:
    with pytest.raises(IndexError):
        _embedding(link)[0](torch.tensor(ids))


@_asked([torch.float32, torch.int16, torch.bool])
def embedding_wrong_ids(link: str, dtype: torch.dtype) -> None:
    ours, plain = _embedding(link)
    for module in (plain, ours):
        with pytest.raises((RuntimeError, TypeError)):
            module(torch.ones(3).to(dtype))


@_asked(
    ["sum", "mean"],
    [None, 3],
    [torch.int64, torch.int32],
    [torch.float64, torch.float32, torch.float16, torch.bfloat16],
)
def embedding_bag_device(link: str, mode: str, padding: int | None, ids: torch.dtype, dtype: torch.dtype) -> None:
    ours, plain = _bags(link, mode=mode, padding_idx=padding, dtype=dtype)
    _compare(ours, plain, torch.tensor([3, 1, 1, 1, 4, 0], dtype=ids), torch.tensor([0, 0, 3, 3, 6], dtype=ids))
    _compare(ours, plain, torch.tensor([[3, 3, 1], [0, 9, 9]], dtype=ids))


@_asked(["sum", "mean"], [True, False])
def embedding_bag_sparse(link: str, mode: str, bags_of_one: bool) -> None:
    ours, plain = _bags(link, mode=mode, sparse=True)
    ids = torch.randint(0, 10, (6,))
    _compare(ours, plain, ids, torch.arange(6) if bags_of_one else torch.tensor([0, 2, 2]))
    assert ours.residual.grad.is_sparse


@_asked(["max"])
def embedding_bag_max(link: str, mode: str) -> None:
    _compare(*_bags(link, mode=mode), torch.tensor([[1, 2]]))


@_asked(["sum", "mean"])
def embedding_bag_1D_padding_idx(link: str, mode: str) -> None:
    ours, plain = _bags(link, mode=mode, padding_idx=4, dtype=torch.float64)
    _compare(ours, plain, torch.tensor([4, 4, 1, 4, 7, 4]), torch.tensor([0, 2, 2, 5]))


@_asked(["sum", "mean"])
def embedding_bag_2D_padding_idx(link: str, mode: str) -> None:
    ours, plain = _bags(link, mode=mode, padding_idx=4, dtype=torch.float64)
    _compare(ours, plain, torch.tensor([[4, 4], [1, 4], [7, 8]]))


@_asked([[0], [0, 0], []])
def embedding_bag_empty_input(link: str, offsets: list[int]) -> None:
    _compare(*_bags(link, mode="sum"), torch.zeros(0, dtype=torch.int64), torch.tensor(offsets, dtype=torch.int64))


@_asked([torch.float64, torch.float32], [True, False])
def EmbeddingBag_per_sample_weights_and_offsets(link: str, dtype: torch.dtype, learns: bool) -> None:
    ours, plain = _bags(link, mode="sum", dtype=dtype)
    _samples(ours, plain, torch.tensor([3, 1, 1, 1, 4, 0]), torch.tensor([0, 0, 3, 3, 6]), dtype, learns)


@_asked([torch.float64, torch.float32], [True, False])
def EmbeddingBag_per_sample_weights_and_new_offsets(link: str, dtype: torch.dtype, learns: bool) -> None:
    ours, plain = _bags(link, mode="sum", dtype=dtype, include_last_offset=True)
    _samples(ours, plain, torch.tensor([3, 1, 1, 1, 4, 0]), torch.tensor([0, 0, 3, 3, 6, 6]), dtype, learns)


@_asked([torch.float64, torch.float32], [True, False])
def EmbeddingBag_per_sample_weights_and_no_offsets(link: str, dtype: torch.dtype, learns: bool) -> None:
    ours, plain = _bags(link, mode="sum", dtype=dtype)
    _samples(ours, plain, torch.tensor([[3, 1, 1], [1, 4, 0]]), None, dtype, learns)


@_asked([torch.float64, torch.float32])
def EmbeddingBag_empty_per_sample_weights_and_offsets(link: str, dtype: torch.dtype) -> None:
    ours, plain = _bags(link, mode="sum", dtype=dtype)
    _samples(ours, plain, torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0, 0]), dtype, True)


def _samples(ours: Any, plain: Any, ids: Tensor, offsets: Tensor | None, dtype: torch.dtype, learns: bool) -> None:
    weights = torch.rand(ids.shape, dtype=dtype, requires_grad=learns)
    _compare(ours, plain, ids, offsets, per_sample_weights=weights)
    if learns:
        upstream = torch.randn_like(plain(ids, offsets, weights))
        found, expected = (torch.autograd.grad(m(ids, offsets, weights), weights, upstream) for m in (ours, plain))
        assert_close(found, expected, rtol=1e-5, atol=1e-6)


@_asked(["another dtype", "mean", "shape"])
def EmbeddingBag_per_sample_weights_failures(link: str, what: str) -> None:
    ours, plain = _bags(link, mode="mean" if what == "mean" else "sum")
    dtype = torch.float64 if what == "another dtype" else torch.float32
    weights = torch.ones((3,) if what == "shape" else (2,), dtype=dtype)
    for module in (plain, ours):
        with pytest.raises((ValueError, RuntimeError, NotImplementedError)):
            module(torch.tensor([1, 2]), torch.tensor([0]), weights)


@_asked(["sum", "mean"])
def embedding_bag_non_contiguous_weight(link: str, mode: str) -> None:
    table = torch.randn(4, 10, dtype=torch.float64).t()
    plain = nn.EmbeddingBag.from_pretrained(table, freeze=False, mode=mode)
    _compare(over_graph(plain, link), plain, torch.tensor([[1, 2], [9, 9]]))


@_asked([[10], [-1]])
def embedding_bag_out_of_bounds_idx(link: str, ids: list[int]) -> None:
    ours, plain = _bags(link)
    for module in (plain, ours):
        with pytest.raises(RuntimeError):
            module(torch.tensor(ids), torch.tensor([0]))


@_asked(["no offsets", "2D and offsets", "3D", "2D offsets"])
def embedding_bag_dimension_errors(link: str, what: str) -> None:
    arguments = {
        "no offsets": (torch.tensor([1]),),
        "2D and offsets": (torch.tensor([[1]]), torch.tensor([0])),
        "3D": (torch.tensor([[[1]]]),),
        "2D offsets": (torch.tensor([1]), torch.tensor([[0]])),
    }[what]
    for module in _bags(link):
        with pytest.raises(ValueError):
            module(*arguments)


@_asked([True, False])
def embeddingbag_from_pretrained(link: str, freeze: bool) -> None:
    plain = nn.EmbeddingBag.from_pretrained(torch.randn(10, 4), freeze=freeze)
    ours = over_graph(plain, link)
    assert_close(ours(torch.tensor([[1, 2]])), plain(torch.tensor([[1, 2]])))
    assert ours.central.requires_grad is not freeze


@_asked(["sum", "mean"])
def embeddingbag_include_last_offset(link: str, mode: str) -> None:
    ours, plain = _bags(link, mode=mode, include_last_offset=True)
    _compare(ours, plain, torch.tensor([3, 1, 1, 1, 4, 0]), torch.tensor([0, 2, 2, 6]))


@_asked()
def embedding_bag_functional(link: str) -> None:
    ours, plain = _bags(link, mode="sum", dtype=torch.float64)
    ids, offsets = torch.tensor([3, 1, 4]), torch.tensor([0, 2])
    assert_close(F.embedding_bag(ids, ours.weight, offsets, mode="sum"), plain(ids, offsets))


@_asked(["sum", "mean"])
def embedding_bag_jagged(link: str, mode: str) -> None:
    ids = torch.nested.nested_tensor([torch.tensor([1, 2]), torch.tensor([5])], layout=torch.jagged)
    _compare(*_bags(link, mode=mode, dtype=torch.float64), ids)


@_asked(["weight.data", "no_grad", "init"])
def weight_is_written_by_tests(link: str, how: str) -> None:
    """As many of torch's tests set up their modules."""
    for module in (pair := _embedding(link, dtype=torch.float64)):
        table = torch.arange(40, dtype=torch.float64).view(10, 4)
        if how == "weight.data":
            module.weight.data = table.clone()
        elif how == "no_grad":
            with torch.no_grad():
                module.weight.copy_(table)
        else:
            nn.init.constant_(module.weight, 0.5)
    _compare(*pair, torch.tensor([1, 9]))
