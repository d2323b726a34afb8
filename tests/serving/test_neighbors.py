"""Nearest items: exact ones against NumPy in float64, indexes of each library, and the command."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.cli import main
from resemb_ext.serving import SavedModel, Table
from resemb_ext.serving import neighbors as module
from resemb_ext.serving.indexes import LIBRARIES
from resemb_ext.serving.lite import Items, decode, encode, read_snapshot, write_table
from resemb_ext.serving.neighbors import export_index, nearest, open_index
from resemb_ext.serving.publish import publish_rows
from resemb_ext.testing.strategies import examples

IMPORTS = {"usearch": "usearch", "faiss": "faiss", "hnswlib": "hnswlib"}
KINDS = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(not importlib.util.find_spec(name), reason=f'needs {name}: pip install ".[{kind}]"'),
    )
    for kind, name in IMPORTS.items()
]


def write(path, vectors, dtype="float32", ids=None):
    """A table whose first row is padding and whose last is that of unseen items."""
    count = len(vectors) - 2
    items = Items(np.arange(100, 100 + count) if ids is None else ids)
    fields = {"dtype": dtype, "rows": len(vectors), "dim": vectors.shape[1], "oov": count + 1, "padding": 0}
    write_table(path, fields, [encode(vectors, dtype)], items)
    return read_snapshot(path)


def vectors_of(rows=60, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def expected(vectors, row, k, metric):
    """By float64; rows that are no items, and the item, are left out."""
    wide = vectors.astype(np.float64)
    query = wide[row]
    value = {
        "cos": lambda: wide @ query / np.maximum(np.linalg.norm(wide, axis=1) * np.linalg.norm(query), 1e-30),
        "ip": lambda: wide @ query,
        "l2": lambda: -np.square(wide - query).sum(1),
    }[metric]()
    order = [i for i in np.lexsort((np.arange(len(wide)), -value)) if i not in (0, row, len(wide) - 1)][:k]
    return order, np.abs(value[order]) if metric == "l2" else value[order]


@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_all_rows_are_compared(tmp_path, metric, dtype, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 7)
    vectors = vectors_of()
    snapshot = write(tmp_path / "items.table", vectors, dtype)
    held = decode(snapshot.gather(np.arange(60)), dtype, 8)
    for row in (1, 33, 58):
        for k in (1, 5, 100):
            near = nearest(snapshot, row, k, metric=metric)
            rows, values = expected(held, row, k, metric)
            assert near.rows.tolist() == rows
            np.testing.assert_allclose(near.similarity, values, rtol=1e-4, atol=1e-5)


@examples(40)
@given(st.data())
def test_ties_come_by_row_number(data):
    rows, dim = data.draw(st.integers(3, 12)), data.draw(st.integers(1, 3))
    numbers = data.draw(st.lists(st.integers(-1, 1), min_size=rows * dim, max_size=rows * dim))
    vectors = np.array(numbers, np.float32).reshape(rows, dim)
    row, k = data.draw(st.integers(1, rows - 2)), data.draw(st.integers(1, 12))
    metric, block = data.draw(st.sampled_from(["ip", "l2"])), data.draw(st.integers(1, 5))

    class Given:
        made_of, no_items = None, (0, rows - 1)

        def gather(self, numbers):
            return vectors[numbers]

    Given.rows, Given.dim = rows, dim
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        assert nearest(Given(), row, k, metric=metric).rows.tolist() == expected(vectors, row, k, metric)[0]


def test_rows_that_are_no_items_are_refused(tmp_path):
    snapshot = write(tmp_path / "items.table", vectors_of())
    for row in (0, 59, 60, -1):
        with pytest.raises(
            IndexError, match=f"row: found {row}; expected an item: a row from 0 to 59, but not 0 and 59"
        ):
            nearest(snapshot, row)
    with pytest.raises(ValueError, match="k: found 0; expected at least 1"):
        nearest(snapshot, 1, 0)
    with pytest.raises(ValueError, match="metric: found 'dot'; expected one of cos, ip, l2"):
        nearest(snapshot, 1, metric="dot")


@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_index_finds_what_is_nearest(tmp_path, kind, metric):
    vectors = vectors_of(400)
    vectors[[0, -1]] = 50  # would be the nearest by inner product
    snapshot = write(tmp_path / "items.table", vectors)
    path = export_index(snapshot, kind, tmp_path / "items.index", metric=metric)
    index = open_index(path)
    assert index.about["library"] == kind and index.about["items"] == 398
    hits = 0
    for row in range(1, 40):
        near = nearest(snapshot, row, 10, metric=metric, index=index)
        rows, _ = expected(snapshot.gather(np.arange(400)).view("<f4"), row, 10, metric)
        assert not {0, 399, row} & set(near.rows.tolist()) and len(near.rows) >= 9
        exact = dict(
            zip(
                nearest(snapshot, row, 400, metric=metric).rows.tolist(),
                nearest(snapshot, row, 400, metric=metric).similarity.tolist(),
                strict=True,
            )
        )
        np.testing.assert_allclose(near.similarity, [exact[r] for r in near.rows.tolist()], rtol=1e-5, atol=1e-6)
        hits += len(set(rows) & set(near.rows.tolist()))
    assert hits >= 0.95 * 390
    assert sorted(file.name for file in tmp_path.iterdir()) == ["items.index", "items.index.json", "items.table"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_writes_an_index_of_itself(tmp_path, kind):
    table = Table.write(vectors_of(), tmp_path / "items.table", oov=59)
    index = open_index(table.export_index(kind, tmp_path / "items.index", metric="l2", connectivity=8, expansion=40))
    assert index.about["made_of"]["table"] == table.snapshot.header.id and index.about["items"] == 59  # no padding
    assert set(nearest(table, 3, 5, metric="l2", index=index).rows.tolist()) <= set(range(59)) - {3}


@pytest.mark.parametrize("kind", KINDS)
def test_zero_vectors_and_asking_for_all_items(tmp_path, kind):
    vectors = vectors_of(20)
    vectors[5] = 0
    snapshot = write(tmp_path / "items.table", vectors)
    index = open_index(export_index(snapshot, kind, tmp_path / "items.index"))
    near = nearest(snapshot, 3, 50, index=index)
    assert len(near.rows) <= 17 and np.isfinite(near.similarity).all()
    assert np.isfinite(nearest(snapshot, 5, 3, index=index).similarity).all()


@pytest.mark.skipif(not importlib.util.find_spec("usearch"), reason='needs usearch: pip install ".[usearch]"')
def test_numbers_of_usearch(tmp_path):
    snapshot = write(tmp_path / "items.table", vectors_of(400, 16))
    sizes = {}
    for dtype in ("f32", "f16", "i8"):
        path = export_index(snapshot, "usearch", tmp_path / f"{dtype}.index", dtype=dtype)
        sizes[dtype], index = path.stat().st_size, open_index(path)
        found = [set(nearest(snapshot, row, 10, index=index).rows.tolist()) for row in range(1, 20)]
        exact = [set(nearest(snapshot, row, 10).rows.tolist()) for row in range(1, 20)]
        assert sum(len(a & b) for a, b in zip(found, exact, strict=True)) >= 0.85 * 190
    assert sizes["i8"] < sizes["f16"] < sizes["f32"]
    with pytest.raises(
        ValueError, match=r"metric: found 'ip' with dtype 'i8'; usearch scales each vector .* only 'cos'"
    ):
        export_index(snapshot, "usearch", tmp_path / "ip.index", metric="ip", dtype="i8")


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_of_other_rows_is_refused(tmp_path, kind):
    table, path = tmp_path / "items.table", tmp_path / "items.index"
    snapshot = write(table, vectors_of())
    export_index(snapshot, kind, path)
    with pytest.raises(ValueError, match=r"ranks by 'cos'; asked was 'ip'"):
        nearest(snapshot, 3, metric="ip", index=open_index(path))
    publish_rows(table, np.array([3]), np.ones((1, 8), np.float32))
    with pytest.raises(
        ValueError, match=r"was made of .*'sequence': 0.*these rows are .*'sequence': 1.*export it again"
    ):
        nearest(read_snapshot(table), 3, index=open_index(path))
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"its sha256 differs; export it again"):
        open_index(path)
    (tmp_path / "items.index.json").write_text("{}")
    with pytest.raises(ValueError, match="is not of export_index, or of another release"):
        open_index(path)
    with pytest.raises(ValueError, match=r"would be replaced, and is no report of this command"):
        export_index(snapshot, kind, path)


def test_bad_options_of_an_index(tmp_path):
    snapshot = write(tmp_path / "items.table", vectors_of())
    for options, words in (
        ({"kind": "annoy"}, "kind: found 'annoy'; expected one of usearch, faiss, hnswlib"),
        ({"metric": "dot"}, "metric: found 'dot'"),
        ({"dtype": "f64"}, "dtype: found 'f64'; expected one of f32, f16, i8"),
        ({"kind": "faiss", "dtype": "i8"}, "dtype: found 'i8'; an index of faiss holds 'f32'"),
        ({"connectivity": 1}, "connectivity: found 1; expected at least 2"),
    ):
        with pytest.raises(ValueError, match=words):
            export_index(snapshot, **{"kind": "usearch", "path": tmp_path / "items.index", **options})
    with pytest.raises(ValueError, match="the table has no items: 2 rows"):
        export_index(write(tmp_path / "none.table", vectors_of(2)), "usearch", tmp_path / "items.index")
    with pytest.raises(FileNotFoundError, match="index: no file"):
        open_index(tmp_path / "items.index")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["items.table", "none.table"]


@pytest.mark.parametrize("kind", list(LIBRARIES))
def test_a_library_that_is_missing_is_named(tmp_path, kind, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, {"usearch": "usearch.index"}.get(kind, kind), None)
    with pytest.raises(
        ImportError, match=rf"kind: '{kind}' needs its library \(pip install \"resemb_ext\[{kind}\]\"\)"
    ):
        export_index(write(tmp_path / "items.table", vectors_of()), kind, tmp_path / "items.index")
    assert [file.name for file in tmp_path.iterdir()] == ["items.table"]


# The command.


def test_neighbours_of_a_run(trained, capsys):
    saved = SavedModel.load(trained, "res", 0)
    item = saved.items.values[4]
    assert main(["neighbors", str(trained), item, "--k", "5", "--arm", "res", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    table = saved.model.item_embedding.materialize().detach().numpy()
    rows, values = expected(table, 5, 5, "cos")
    assert shown["item"] == item and shown["row"] == 5 and [n["row"] for n in shown["neighbors"]] == rows
    np.testing.assert_allclose([n["similarity"] for n in shown["neighbors"]], values, rtol=1e-4, atol=1e-5)
    assert [n["item"] for n in shown["neighbors"]] == [saved.items.values[row - 1] for row in rows]
    graph = saved.model.item_embedding.graph
    dense = graph.to_scipy().toarray()[5]
    np.testing.assert_allclose([n["graph_weight"] for n in shown["neighbors"]], dense[rows], rtol=1e-6)
    assert main(["neighbors", str(trained), item, "--arm", "plain", "--metric", "l2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and "nearest by l2" in lines[0] and "graph" not in lines[1]


def test_neighbours_in_a_table(tmp_path, capsys):
    table = tmp_path / "items.table"
    write(table, vectors_of())
    assert main(["neighbors", str(table), "103"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"item 103 (row 4) of {table}, version 0: nearest by cos" and len(lines) == 11
    rows, _ = expected(vectors_of(), 4, 10, "cos")
    assert [int(line.split()[-1]) for line in lines[1:]] == [row + 99 for row in rows]
    for arguments, words in (
        (["99"], "has no item '99'"),
        (["x"], "ITEM: found 'x'; expected a raw item id, an integer"),
        ([str(2**70)], "has no item"),
        (["103", "--k", "0"], "k: found 0"),
        (["103", "--arm", "res"], "arm: found res, and"),
        (["103", "--index", str(tmp_path / "none")], "index: no file"),
    ):
        assert main(["neighbors", str(table), *arguments]) == 2
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1
    assert main(["neighbors", str(tmp_path), "1"]) == 2
    assert "is no run, no bundle and no table" in capsys.readouterr().err
    assert main(["neighbors", str(tmp_path / "none.table"), "1"]) == 2
