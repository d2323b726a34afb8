"""The operators of served tables: against NumPy in float64, and against torch's quantized operators."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from resemb_ext._registration_serving import pool_rows, read_rows
from resemb_ext.testing.strategies import examples
from tests.serving.table_problems import Served, decoded, encoded, make_served, served, some_ids

ID_DTYPES = (torch.int64, torch.int32)
QUANTIZED = {
    "int8": torch.ops.quantized.embedding_bag_byte_rowwise_offsets,
    "int4": torch.ops.quantized.embedding_bag_4bit_rowwise_offsets,
}


def close(found: Tensor, expected: np.ndarray, scale: float) -> None:
    assert found.dtype == torch.float32 and found.shape == expected.shape
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6 * scale)


def largest(table: Served) -> float:
    """Of the numbers that are summed: scale times code and bias cancel."""
    return 4 * float(np.abs(table.vectors).max(initial=1e-6))


def pooled(table: Served, ids: Tensor, bounds: np.ndarray, weights: Tensor | None, divisor: int) -> np.ndarray:
    """Bags in float64."""
    vectors, counted = table.read(ids), table.counted(ids).astype(np.float64)
    factor = counted if weights is None else counted * weights.numpy().astype(np.float64)
    out = np.zeros((len(bounds) - 1, vectors.shape[1]))
    for bag, (first, past) in enumerate(itertools.pairwise(bounds)):
        part = slice(first, past)
        out[bag] = (vectors[part] * factor[part, None]).sum(0)
        if divisor and counted[part].any():
            out[bag] /= factor[part].sum() if divisor == 2 else counted[part].sum()
    return out


@pytest.mark.operators("read_rows")
@examples(100)
@given(served(), st.data())
def test_lookups(isa, table, data) -> None:
    shape = data.draw(st.sampled_from([(), (0,), (1,), (5,), (70,), (3, 4), (2, 0, 3), (300,)]), label="shape")
    ids = some_ids(table, shape, data.draw(st.sampled_from(ID_DTYPES)), data.draw(st.integers(0, 2**31)))
    close(read_rows(ids, *table.arguments), table.read(ids), largest(table))


@pytest.mark.operators("pool_rows")
@examples(100)
@given(served(), st.data())
def test_bags(isa, table, data) -> None:
    lengths = data.draw(st.lists(st.integers(0, 8) | st.integers(0, 150), max_size=30), label="lengths")
    bounds = np.cumsum([0, *lengths])
    padded = data.draw(st.sampled_from([0.0, 0.3, 1.0]), label="padded")
    seed = data.draw(st.integers(0, 2**31), label="seed")
    ids = some_ids(table, (int(bounds[-1]),), data.draw(st.sampled_from(ID_DTYPES)), seed, padded)
    draw = torch.Generator().manual_seed(seed)
    weights = torch.rand(ids.shape, generator=draw) + 0.1 if data.draw(st.booleans(), label="weights") else None
    divisor = data.draw(st.sampled_from([0, 1, 2]), label="divisor")
    ends = data.draw(st.booleans(), label="ends")
    offsets = torch.from_numpy(bounds if ends else bounds[:-1])
    found = pool_rows(ids, offsets, weights, ends, divisor, *table.arguments)
    expected = pooled(table, ids, bounds, weights, divisor if weights is not None else min(divisor, 1))
    close(found, expected, largest(table) * (max([1, *lengths]) if divisor == 0 else 1))


@examples(30)
@given(served(), st.integers(0, 9), st.integers(0, 40), st.integers(0, 2**31))
def test_bags_of_one_width(table, bags, width, seed) -> None:
    ids = some_ids(table, (bags, width), torch.int64, seed)
    offsets = torch.arange(bags) * width
    for divisor in (0, 1):
        found = pool_rows(ids, None, None, False, divisor, *table.arguments)
        assert torch.equal(found, pool_rows(ids.reshape(-1), offsets, None, False, divisor, *table.arguments))


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@examples(40)
@given(st.integers(1, 300), st.integers(1, 70), st.booleans(), st.integers(0, 2**31))
def test_torch_reads_the_same(isa, dtype, rows, half_dim, weighted, seed) -> None:
    table = make_served(dtype, rows, 2 * half_dim, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, rows, (200,), generator=draw)
    offsets = torch.arange(0, 200, 25)
    weights = torch.rand(200, generator=draw) if weighted else None
    bag = QUANTIZED[dtype]
    found = pool_rows(ids, offsets, weights, False, 0, *table.arguments)
    expected = bag(table.base, ids, offsets, False, 0, False, weights, None, False)
    scale = largest(table)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=25e-6 * scale)
    expected = bag(table.base, ids, torch.arange(200))
    torch.testing.assert_close(read_rows(ids, *table.arguments), expected, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_torch_reads_floats_the_same(isa, dtype) -> None:
    table = make_served(dtype, 50, 24)
    weight = table.base.view(getattr(torch, dtype)).float()
    ids, offsets = torch.randint(0, 50, (120,)), torch.tensor([0, 0, 7, 90])
    assert torch.equal(read_rows(ids, *table.arguments), F.embedding(ids, weight))
    found = pool_rows(ids, offsets, None, False, 1, *table.arguments)
    torch.testing.assert_close(found, F.embedding_bag(ids, weight, offsets, mode="mean"))


@pytest.mark.parametrize("dtype", ["int8", "int4", "float32"])
def test_rows_out_of_cache_and_outputs_past_it(isa, dtype) -> None:
    """Enough ids for several threads, and for an output that is written past the cache."""
    table = make_served(dtype, 5000, 64, changed=0.3, padding=3)
    ids = some_ids(table, (70_000,), torch.int64, 0)
    torch.set_num_threads(2)
    close(read_rows(ids, *table.arguments), table.read(ids), largest(table))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_bits_on_any_number_of_threads(threads) -> None:
    table = make_served("int8", 900, 66, changed=0.2, padding=0, oov=899)
    ids = some_ids(table, (30_000,), torch.int64, 1)
    offsets = torch.sort(torch.randint(0, 30_000, (700,), generator=torch.Generator().manual_seed(0)))[0]
    offsets[0] = 0
    torch.set_num_threads(1)
    expected = pool_rows(ids, offsets, None, False, 1, *table.arguments)
    torch.set_num_threads(threads)
    assert torch.equal(pool_rows(ids, offsets, None, False, 1, *table.arguments), expected)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_numbers_at_the_edge(isa, dtype) -> None:
    """Rows of one value, zeros, subnormal scales, large and small numbers."""
    rows = [[0.0] * 16, [2.5] * 16, [-1.0] * 16, [1e-30 * i for i in range(16)], [1e3 * i - 8e3 for i in range(6)] * 2]
    vectors = torch.tensor([*(row for row in rows if len(row) == 16), rows[4] + [0.0] * 4])
    base = encoded(vectors, dtype)
    empty = torch.empty(0, dtype=torch.int64)
    table = Served(dtype, base, empty, empty.int(), base[:0], len(base), -1, -1)
    ids = torch.arange(len(base))
    found = read_rows(ids, *table.arguments)
    np.testing.assert_allclose(found.numpy(), decoded(base, dtype), rtol=1e-6, atol=1e-2)
    np.testing.assert_allclose(found.numpy()[:3], vectors.numpy()[:3], rtol=1e-3)


@pytest.mark.parametrize("id_dtype", ID_DTYPES)
def test_the_first_bad_id_is_named(isa, id_dtype) -> None:
    table = make_served("int8", 100, 8)
    ids = torch.zeros(9000, dtype=id_dtype)
    ids[[8999, 5003, 5002]] = torch.tensor([-5, 100, -1], dtype=id_dtype)
    message = "ids: -1 at position 5002; the table has 100 rows and no out-of-vocabulary row"
    torch.set_num_threads(2)
    with pytest.raises(IndexError, match=message):
        read_rows(ids, *table.arguments)
    with pytest.raises(IndexError, match=message):
        read_rows(ids.reshape(90, 100), *table.arguments)
    with pytest.raises(IndexError, match=message):
        pool_rows(ids, torch.arange(0, 9000, 3), None, False, 0, *table.arguments)
    # In no bag.
    assert pool_rows(ids, torch.tensor([0, 10]), None, True, 0, *table.arguments).shape == (1, 8)


def wrong(table: Served, **changed: object) -> tuple:
    names = ("base", "bits", "before", "overlay", "bits_each", "rows", "oov", "padding")
    return tuple({**dict(zip(names, table.arguments, strict=True)), **changed}.values())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bits_each": 7}, "bits_each: found 7; expected 4, 8, 16 or 32"),
        ({"base": torch.zeros(9, 8, dtype=torch.uint8)}, r"base: shape \[9, 8\] does not fit"),
        ({"base": torch.zeros(9, 12)}, "base: expected dtype Byte, found float32"),
        ({"rows": 101}, r"bits: shape \[2\] does not fit|rows: found 101"),
        ({"rows": 129}, r"bits: shape \[2\] does not fit; expected \[3\], one for 64 rows"),
        ({"bits": torch.zeros(2)}, "bits: expected dtype int64, found float32"),
        ({"before": torch.zeros(3, dtype=torch.int32)}, r"before: shape \[3\] does not fit"),
        ({"overlay": torch.zeros(3, 13, dtype=torch.uint8)}, r"overlay: shape \[3, 13\] does not fit"),
        ({"oov": 100}, "oov: found 100; expected -1 or a row below 100"),
        ({"padding": -2}, "padding: found -2"),
        ({"before": torch.full((2,), 2**30, dtype=torch.int32)}, "bits: row 0 lies neither in the base's 60 rows nor"),
        ({"bits": torch.zeros(2, dtype=torch.int64)}, "bits: row 60 lies neither in the base's"),
    ],
)
def test_arguments_that_do_not_fit(changed, message) -> None:
    table = make_served("int8", 100, 4, base_rows=60, changed=1.0)
    if changed == {"rows": 101}:
        table = make_served("int8", 100, 4)
    for ids in (torch.arange(100), torch.arange(100).int()):
        with pytest.raises(ValueError, match=message):
            read_rows(ids, *wrong(table, **changed))


@pytest.mark.parametrize(
    ("ids", "offsets", "weights", "ends", "divisor", "message"),
    [
        (torch.zeros(5), torch.tensor([0]), None, False, 0, "ids: dtype Float is not supported"),
        (torch.zeros(5).long(), torch.tensor([0, 6]), None, False, 0, "offsets: fall from 6 to 5 at 2"),
        (torch.zeros(5).long(), torch.tensor([0, 6]), None, True, 0, "offsets: end at 6; expected at most 5"),
        (torch.zeros(5).long(), torch.tensor([0, 3, 2]), None, False, 0, "offsets: fall from 3 to 2 at 2"),
        (torch.zeros(5).long(), torch.tensor([1, 3]), None, False, 0, "offsets: start at 1; expected 0"),
        (torch.zeros(5).long(), torch.tensor([0]).int(), None, False, 0, "offsets: expected dtype int64"),
        (torch.zeros(5).long(), torch.tensor([]).long(), None, True, 0, r"offsets: shape \[0\] does not fit"),
        (torch.zeros(5).long(), None, None, False, 0, r"ids: shape \[5\] does not fit; expected \[B, N\]"),
        (torch.zeros(5, 1).long(), torch.tensor([0]), None, False, 0, r"ids: shape \[5, 1\] does not fit"),
        (torch.zeros(5).long(), torch.tensor([0]), torch.ones(4), False, 0, r"weights: shape \[4\] does not fit"),
        (torch.zeros(5).long(), torch.tensor([0]), torch.ones(5).double(), False, 0, "weights: expected dtype float32"),
        (torch.zeros(5).long(), torch.tensor([0]), None, False, 3, "divisor: found 3"),
    ],
)
def test_bags_that_do_not_fit(ids, offsets, weights, ends, divisor, message) -> None:
    table = make_served("int8", 10, 4)
    with pytest.raises(ValueError, match=message):
        pool_rows(ids, offsets, weights, ends, divisor, *table.arguments)


@pytest.mark.parametrize("changed", [0.0, 0.5])
def test_opcheck(changed) -> None:
    table = make_served("int8", 70, 12, changed=changed, oov=5, padding=0)
    ids, offsets = torch.tensor([3, 0, 69, -2]), torch.tensor([0, 2])
    torch.library.opcheck(read_rows, (ids.reshape(2, 2), *table.arguments))
    torch.library.opcheck(pool_rows, (ids, offsets, None, False, 1, *table.arguments))
    torch.library.opcheck(pool_rows, (ids, offsets, torch.rand(4), True, 2, *table.arguments))
    torch.library.opcheck(pool_rows, (ids.reshape(2, 2), None, None, False, 0, *table.arguments))


def test_compiled_programs_have_the_operators() -> None:
    tables = {dtype: make_served(dtype, 30, 16) for dtype in ("int4", "int8", "float16", "float32")}
    for table in tables.values():
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
            ids = torch.zeros(2, 3, dtype=torch.int64)
            assert read_rows(ids, *table.arguments).shape == (2, 3, 16)
            assert pool_rows(ids, None, None, False, 1, *table.arguments).shape == (2, 16)
