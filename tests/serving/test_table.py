"""Tables in files: written from embeddings, opened, looked up in, and given to torch's operators."""

from __future__ import annotations

import multiprocessing
import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import resemb_ext as rx
from resemb_ext.serving import Table, lite
from resemb_ext.serving.lite import TableError
from tests.serving.table_deltas import publish
from tests.serving.table_problems import decoded, encoded

DTYPES = ("float32", "float16", "int8", "int4")
#: Of numbers near 1, half a step of a row's codes.
TOLERANCE = {"float32": 0, "float16": 2e-3, "int8": 2e-2, "int4": 4e-1}


def embedding(rows: int = 40, dim: int = 16, **options: object) -> rx.ResEmbedding:
    draw = np.random.default_rng(0)
    users, items = draw.integers(0, 30, 400), draw.integers(1, rows, 400)
    graph = rx.InterestGraph.from_events(np.sort(users), items, num_items=rows)
    torch.manual_seed(0)
    emb = rx.ResEmbedding(graph, dim, **options)
    with torch.no_grad():
        emb.residual.normal_()
        emb.central.normal_()
    return emb


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("link", ["average", "attention"])
def test_rows_of_a_res_embedding(tmp_path, monkeypatch, dtype, link) -> None:
    monkeypatch.setattr("resemb_ext.serving.vectors._READ", 7 * 16)  # several blocks
    monkeypatch.setattr("resemb_ext.serving.vectors._ENCODED", 3 * 16)
    emb = embedding(padding_idx=0, link=link)
    table = Table.write(emb, tmp_path / "items.table", dtype, oov=39)
    whole = emb.materialize().detach()
    expected = encoded(whole, dtype)
    assert torch.equal(table.as_torch().view(torch.uint8), expected)
    ids = torch.tensor([[0, 1, 39], [40, -1, 5]])
    vectors = torch.from_numpy(decoded(expected, dtype))[torch.tensor([[0, 1, 39], [39, 39, 5]])]
    torch.testing.assert_close(table(ids).double(), vectors, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(table(torch.arange(40)), whole, rtol=0, atol=TOLERANCE[dtype])
    assert not table(torch.tensor(0)).any()
    assert (table.rows, table.dim, table.dtype, table.oov, table.padding, table.sequence) == (40, 16, dtype, 39, 0, 0)
    assert len(table) == 40 and "rows=40, dim=16" in repr(table)
    table.verify()


def test_torchs_operators_take_the_rows(tmp_path) -> None:
    weight, ids, offsets = torch.randn(30, 32), torch.randint(0, 30, (50,)), torch.tensor([0, 9, 9])
    for dtype, operator in (
        ("int8", torch.ops.quantized.embedding_bag_byte_rowwise_offsets),
        ("int4", torch.ops.quantized.embedding_bag_4bit_rowwise_offsets),
    ):
        table = Table.write(weight, tmp_path / dtype, dtype)
        found = operator(table.as_torch(), ids, offsets)
        torch.testing.assert_close(table.bag(ids, offsets, "sum"), found, rtol=1e-5, atol=1e-4)
    for dtype in (torch.float32, torch.float16):
        table = Table.write(weight, tmp_path / str(dtype), str(dtype)[6:])
        assert table.as_torch().dtype == dtype
        assert torch.equal(F.embedding(ids, table.as_torch()).float(), table(ids))


def test_padding_is_that_of_the_lookup(tmp_path) -> None:
    weight = torch.randn(5, 4)
    shown = Table.write(nn.Embedding.from_pretrained(weight, padding_idx=1), tmp_path / "a", "float32")
    assert shown.padding is None and torch.equal(shown(torch.tensor([1])), weight[1:2])
    pooled = Table.write(nn.EmbeddingBag.from_pretrained(weight, padding_idx=1, mode="mean"), tmp_path / "b", "float32")
    ids, offsets = torch.tensor([1, 2, 1, 1, 0]), torch.tensor([0, 2, 4])
    expected = F.embedding_bag(ids, weight, offsets, mode="mean", padding_idx=1)
    torch.testing.assert_close(pooled.bag(ids, offsets), expected)
    kept = embedding(padding_idx=0, keep_padding=True)
    with torch.no_grad():
        kept.residual[0] = 2.0
    table = Table.write(kept, tmp_path / "c", "float32")
    assert table.padding is None
    torch.testing.assert_close(table(torch.arange(40)), kept(torch.arange(40)).detach())


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("divisor", [None, "weights", "count"])
@pytest.mark.parametrize("ends", [False, True])
def test_bags_are_those_of_res_embedding_bag(tmp_path, mode, divisor, ends) -> None:
    if mode == "sum" and divisor == "count":
        pytest.skip("refused")
    emb = embedding(padding_idx=0)
    table = Table.write(emb, tmp_path / "t", "float32")
    ids = torch.randint(0, 40, (60,), dtype=torch.int32)
    offsets = torch.tensor([0, 3, 3, 40, 55], dtype=torch.int32)
    weights = None if divisor is None else torch.rand(60, dtype=torch.float64) + 0.5
    options = {"mean_divisor": divisor} if divisor else {}
    found = table.bag(ids, offsets, mode, weights, include_last_offset=ends, **options)
    expected = emb.bag(
        ids, offsets, mode=mode, per_sample_weights=weights, include_last_offset=ends, **options
    ).detach()
    torch.testing.assert_close(found, expected)
    square = ids.reshape(6, 10)
    given_weights = None if weights is None else weights.reshape(6, 10)
    found = table.bag(square, None, mode, given_weights, **options)
    torch.testing.assert_close(
        found, emb.bag(square, None, mode=mode, per_sample_weights=given_weights, **options).detach()
    )


def test_ids_that_are_no_rows(tmp_path) -> None:
    refusing = Table.write(torch.randn(5, 4), tmp_path / "a")
    for ids, position in ((torch.tensor([[0, 4], [5, -1]]), 2), (torch.tensor([1, -1], dtype=torch.int32), 1)):
        bad = int(ids.reshape(-1)[position])
        message = f"ids: {bad} at position {position}; the table has 5 rows and no out-of-vocabulary row"
        with pytest.raises(IndexError, match=message):
            refusing(ids)
        with pytest.raises(IndexError, match=message):
            refusing.bag(ids.reshape(-1), torch.tensor([0]))
    reading = Table.write(torch.randn(5, 4), tmp_path / "b", oov=3)
    ids = torch.tensor([5, -1, 2**40, -(2**63), 3])
    assert torch.equal(reading(ids), reading(torch.full((5,), 3)))
    torch.testing.assert_close(reading.bag(ids, torch.tensor([0])), reading(torch.tensor([3])))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t([1, 2]), TypeError, "ids: found list; expected a tensor of int64 or int32"),
        (lambda t: t(torch.ones(2)), TypeError, r"ids: found torch.float32; expected"),
        (lambda t: t(torch.ones(2, dtype=torch.int64, device="meta")), ValueError, "ids: on meta; a table is read on"),
        (
            lambda t: t(torch.ones(2).long().to_sparse()),
            ValueError,
            "ids: of layout torch.sparse_coo; expected torch.str",
        ),
        (
            lambda t: t.bag(torch.ones(3).long(), torch.zeros(1, dtype=torch.int64, device="meta")),
            ValueError,
            "offsets: on meta; a table is read on the CPU",
        ),
        (
            lambda t: t.bag(torch.ones(1, 3).long(), weights=torch.ones(1, 3, device="meta")),
            ValueError,
            "weights: on meta; a table is read on the CPU",
        ),
        (lambda t: t.bag(torch.ones(3).long()), ValueError, r"ids: shape \[3\] does not fit; expected \[B, N\]"),
        (lambda t: t.bag(torch.ones(3).long(), [0]), TypeError, "offsets: found list"),
        (lambda t: t.bag(torch.ones(3).long(), torch.ones(2)), TypeError, "offsets: found torch.float32"),
        (lambda t: t.bag(torch.ones(3).long(), torch.tensor([0]), "max"), ValueError, "mode: found 'max'"),
        (
            lambda t: t.bag(torch.ones(3).long(), torch.tensor([0]), "sum", mean_divisor="count"),
            ValueError,
            "mean_divisor: found 'count'",
        ),
        (
            lambda t: t.bag(torch.ones(1, 3).long(), include_last_offset=True),
            ValueError,
            "include_last_offset: needs offsets",
        ),
        (
            lambda t: t.bag(torch.ones(3).long(), torch.tensor([0]), weights=torch.ones(2)),
            ValueError,
            r"weights: shape \(2,\); expected that of ids, \(3,\)",
        ),
        (
            lambda t: t.bag(torch.ones(3).long(), torch.tensor([0]), weights=torch.ones(3).int()),
            TypeError,
            "weights: found torch.int32",
        ),
        (
            lambda t: t.bag(torch.ones(3).long(), torch.tensor([0]), weights=torch.ones(3, requires_grad=True)),
            RuntimeError,
            "weights: require a gradient",
        ),
    ],
)
def test_calls_that_are_refused(tmp_path, call, error, message) -> None:
    table = Table.write(torch.randn(5, 4), tmp_path / "t")
    with pytest.raises(error, match=message):
        call(table)


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ([1.0], {}, TypeError, "source: found list"),
        (torch.ones(3, 4), {"dtype": "int2"}, TableError, "dtype: found 'int2', expected one of"),
        (torch.ones(3, 5), {"dtype": "int4"}, TableError, "dim: found 5, expected an even number for int4"),
        (torch.ones(3, 4), {"oov": 3}, ValueError, "oov: found 3; expected a row from 0 to 2, or None"),
        (torch.tensor([[0.0, 1], [2, float("nan")]]), {}, TableError, "row 1 holds a number that is not finite"),
    ],
)
def test_what_is_refused_leaves_the_file_before(tmp_path, source, options, error, message) -> None:
    path = tmp_path / "t.table"
    path.write_bytes(b"before")
    with pytest.raises(error, match=message):
        Table.write(source, path, **options)
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["t.table"]


def test_a_damaged_file(tmp_path) -> None:
    path = tmp_path / "t.table"
    Table.write(torch.randn(50, 8), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    table = Table.open(path)
    with pytest.raises(TableError, match="rows do not match"):
        table.verify()
    path.write_bytes(whole[:-1])
    with pytest.raises(TableError, match="cut off"):
        Table.open(path)
    with pytest.raises(FileNotFoundError):
        Table.open(tmp_path / "other.table")


def test_versions(tmp_path) -> None:
    """A delta's rows are seen after ``refresh``, by lookups, bags and ``as_torch``; grown rows too."""
    path, weight = tmp_path / "t.table", torch.randn(200, 16)
    table, other = Table.write(weight, path, oov=199), Table.open(path)
    ids = torch.arange(-1, 230)
    before = table(ids)
    assert not table.refresh()
    new = torch.randn(23, 16)
    publish(path, [5, 64, 199, *range(200, 220)], new.numpy(), rows=220, oov=219)
    assert torch.equal(table(ids), before) and table.sequence == 0
    assert table.refresh() and not table.refresh()
    assert (table.sequence, table.rows, table.oov, other.sequence) == (1, 220, 219, 0)
    expected = torch.cat([weight, torch.empty(20, 16)])
    expected[[5, 64, 199, *range(200, 220)]] = new
    rows = encoded(expected, "int8")
    assert torch.equal(table.as_torch(), rows)
    vectors = torch.from_numpy(decoded(rows, "int8")).float()
    clamped = torch.where((ids < 0) | (ids > 219), 219, ids)
    torch.testing.assert_close(table(ids), vectors[clamped], rtol=1e-6, atol=1e-5)
    found = table.bag(ids.clamp(max=400), torch.tensor([0, 70]), "mean")
    torch.testing.assert_close(found, torch.stack([vectors[clamped[:70]].mean(0), vectors[clamped[70:]].mean(0)]))
    publish(path, [5], weight[5:6].numpy())
    assert table.refresh() and torch.equal(Table.open(path)(ids), table(ids))
    torch.testing.assert_close(table(torch.tensor(5)), weight[5], rtol=0, atol=2e-2)
    with pytest.raises(ValueError, match="has versions in"):
        Table.write(weight, path)


def test_a_bad_version_leaves_the_one_before(tmp_path) -> None:
    path = tmp_path / "t.table"
    table = Table.write(torch.randn(30, 4), path)
    expected = table(torch.arange(30))
    publish(path, [3], torch.ones(1, 4).numpy())
    delta = lite.folder_of(path) / "00000001.delta"
    delta.write_bytes(delta.read_bytes()[:-1])
    with pytest.raises(TableError, match="cut off"):
        table.refresh()
    assert torch.equal(table(torch.arange(30)), expected)


def test_threads_see_whole_versions(tmp_path) -> None:
    """Each version is one value throughout; lookups run while others refresh."""
    path = tmp_path / "t.table"
    table = Table.write(torch.zeros(500, 8), path)
    ids, torn, done = torch.arange(500), [], threading.Event()

    def read() -> None:
        while not done.is_set():
            found = table(ids)
            if not bool((found == found[0, 0]).all()):
                torn.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for value in range(1, 9):
        publish(path, list(range(500)), np.full((500, 8), value))
        assert table.refresh()
    done.set()
    for reader in readers:
        reader.join()
    assert not torn and bool((table(ids) == 8).all())


def _read(path: Path, place: int) -> tuple[float, int]:
    """Of another process: a sum, and the bytes of the mapping that it has for itself."""
    table = Table.open(path)
    total = float(table(torch.arange(table.rows)).sum())
    entry = Path("/proc/self/smaps").read_text().split(str(path))[1]
    private = sum(int(n) for n in re.findall(r"Private_(?:Dirty|Clean): +(\d+) kB", entry.split("VmFlags")[0]))
    return total, private


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc/self/smaps")
def test_processes_share_the_rows(tmp_path) -> None:
    path = tmp_path / "t.table"
    table = Table.write(torch.randn(100_000, 64), path)
    expected = float(table(torch.arange(100_000)).sum())  # its pages are mapped here as well
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for total, private in pool.starmap(_read, [(path, 0), (path, 1)]):
            assert total == expected and private < 100


@pytest.mark.parametrize("preload", [False, True])
def test_preloading_changes_nothing(tmp_path, preload) -> None:
    weight = torch.randn(3000, 64)
    Table.write(weight, tmp_path / "t")
    table = Table.open(tmp_path / "t", preload=preload)
    torch.testing.assert_close(table(torch.arange(3000)), weight, rtol=0, atol=2e-2)


def test_pickles_open_the_same_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = Table.write(torch.randn(9, 4), "t.table")
    pickled = pickle.dumps(table)
    assert len(pickled) < 1000
    monkeypatch.chdir(tmp_path.parent)
    assert torch.equal(pickle.loads(pickled)(torch.arange(9)), table(torch.arange(9)))


def test_writes_into_the_rows_stay_in_this_process(tmp_path) -> None:
    path = tmp_path / "t.table"
    table = Table.write(torch.randn(9, 4), path)
    before, expected = path.read_bytes(), table(torch.arange(9))
    table.as_torch().fill_(0)
    assert path.read_bytes() == before and torch.equal(Table.open(path)(torch.arange(9)), expected)


@pytest.mark.full
def test_in_a_compiled_program(tmp_path) -> None:
    table = Table.write(torch.randn(30, 8), tmp_path / "t", oov=2)
    ids, offsets = torch.tensor([1, 40, 7, 7]), torch.tensor([0, 3])

    def scores(ids: torch.Tensor) -> torch.Tensor:
        return table(ids).sum(1)[:2] + table.bag(ids, offsets, "sum").sum(1)

    torch.testing.assert_close(torch.compile(scores)(ids), scores(ids))
