"""Graphs read from rows in Parquet files: whole, and the rows of one of several processes."""

import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import resemb_ext as rx
from resemb_ext.graph import GraphRows
from resemb_ext.testing.graphs import same_arrays


def sample(num_items=53, padding_idx=0):
    rng = np.random.default_rng(0)
    item = rng.integers(1, num_items - 3, 400)  # the last items were never met
    return rx.InterestGraph.from_events(
        rng.integers(0, 9, 400), item, num_items=num_items, padding_idx=padding_idx, top_k=4, weighting="cosine"
    )


def table(graph, items):
    """The rows of these items, as any writer of Parquet may hold them."""
    spans = [slice(graph.indptr[i], graph.indptr[i + 1]) for i in items]
    columns = {
        "item": pa.array(items, pa.int32()),
        "neighbors": pa.array([graph.neighbors[span].tolist() for span in spans], pa.list_(pa.int32())),
        "weights": pa.array([graph.weights[span].tolist() for span in spans], pa.list_(pa.float32())),
        "degree": graph.degree[items],
    }
    return pa.table(columns)


def written(graph, folder, parts, files=2):
    """A folder of rows, a few files a part, in no order."""
    rng = np.random.default_rng(1)
    for part in range(parts):
        items = rng.permutation(np.arange(part, graph.num_items, parts))
        if len(items):
            (folder / f"part={part}").mkdir(parents=True)
            for number, some in enumerate(np.array_split(items, files)):
                pq.write_table(table(graph, some), folder / f"part={part}" / f"{number}.snappy.parquet")
    header = {
        "format": "resemb-interest-graph-rows",
        "version": 1,
        "num_items": graph.num_items,
        "parts": parts,
        "meta": graph.meta,
    }
    (folder / "_graph.json").write_text(json.dumps(header))
    return folder


@pytest.mark.parametrize("parts", [1, 4, 60])
def test_whole_graph(tmp_path, parts):
    graph = sample()
    found = rx.InterestGraph.from_rows(written(graph, tmp_path / "rows", parts))
    assert same_arrays(found, graph) and found.hash == graph.hash and found.meta == graph.meta
    assert rx.InterestGraph.from_rows((tmp_path / "rows").as_uri()).hash == graph.hash


@pytest.mark.parametrize("ranks", [1, 2, 3, 6, 8, 70])
def test_shards_hold_every_row_once_and_read_their_parts_alone(tmp_path, ranks, monkeypatch):
    graph, parts = sample(), 12
    stored = GraphRows(written(graph, tmp_path / "rows", parts))
    opened = []
    real = GraphRows._opened
    monkeypatch.setattr(GraphRows, "_opened", lambda self, part: opened.append(part) or real(self, part))
    for rank in range(ranks):
        opened.clear()
        shard = stored.shard(rank, ranks)
        assert shard.items.tolist() == list(range(rank, 53, ranks))
        assert len(set(opened)) == parts // math.gcd(parts, ranks)
        for k, item in enumerate(shard.items):
            own, all_ = slice(*shard.indptr[k : k + 2]), slice(*graph.indptr[item : item + 2])
            np.testing.assert_array_equal(shard.neighbors[own], graph.neighbors[all_])
            np.testing.assert_array_equal(shard.weights[own], graph.weights[all_])
            assert shard.degree[k] == graph.degree[item]
        blocks = list(stored.blocks(rank, ranks))
        assert sorted(np.concatenate([b.items for b in blocks] or [[]]).tolist()) == shard.items.tolist()
        assert sum(b.indptr[-1] for b in blocks) == sum(len(b.weights) for b in blocks) == len(shard.weights)


def test_shards_are_dealt_as_distributed_tables_are(tmp_path):
    from resemb_ext.distributed import Deal

    stored = GraphRows(written(sample(), tmp_path / "rows", 4))
    for rank in range(3):
        assert stored.shard(rank, 3).items.tolist() == Deal(53, 3, rank).rows().tolist()


def drop_part(folder):
    shutil.rmtree(folder / "part=2")


def drop_file(folder):
    (folder / "part=1" / "0.snappy.parquet").unlink()


def cut_file(folder):
    file = folder / "part=3" / "1.snappy.parquet"
    file.write_bytes(file.read_bytes()[:-9])


def drop_header(folder):
    (folder / "_graph.json").unlink()


def other_version(folder):
    file = folder / "_graph.json"
    file.write_text(file.read_text().replace('"version": 1', '"version": 9', 1))


def no_number(folder):
    file = folder / "_graph.json"
    file.write_text(file.read_text().replace('"num_items": 53', '"num_items": -1', 1))


def rewrite(change):
    def spoil(folder):
        file = folder / "part=0" / "0.snappy.parquet"
        pq.write_table(change(pq.read_table(file)), file)

    return spoil


def replaced(name, change):
    def column(found):
        values = change(found[name].to_pylist())
        return found.set_column(found.schema.names.index(name), name, pa.array(values, found[name].type))

    return rewrite(column)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_part, r"part=2 has 0 rows, expected 13$"),
        (drop_file, r"part=1 has 6 rows, expected 13$"),
        (cut_file, r"part=3: "),
        (drop_header, r"holds no _graph.json: no rows of a graph, or such as were not written to the end$"),
        (other_version, r"_graph.json is foreign or of another version, expected resemb-interest-graph-rows 1$"),
        (no_number, r"holds no valid rows of a graph: _graph.json: num_items is -1"),
        (rewrite(lambda found: found.drop_columns(["weights"])), r"part=0 has no column 'weights'$"),
        (replaced("item", lambda items: [items[0] + 1, *items[1:]]), r"part=0 has a row of item \d+$"),
        (replaced("item", lambda items: [items[1], *items[1:]]), r"no row of item \d+$"),
        (replaced("weights", lambda rows: [[-1.0] * len(row) for row in rows]), r"weights\[\d+\] is -1.0"),
        (
            replaced("weights", lambda rows: [row[1:] for row in rows]),
            r"part=0: \d+ float in lists, expected \d+ float32",
        ),
        (replaced("neighbors", lambda rows: [row[::-1] for row in rows]), "neighbors: rows are not ascending$"),
        (replaced("neighbors", lambda rows: [None, *rows[1:]]), "part=0: null in column 'neighbors'$"),
        (
            rewrite(lambda found: found.set_column(1, "neighbors", found["neighbors"].cast(pa.list_(pa.int64())))),
            "part=0: .* int64 in lists, expected .* int32$",
        ),
    ],
)
def test_damage_is_one_line_that_names_the_folder(tmp_path, spoil, message):
    folder = written(sample(), tmp_path / "rows", 4)
    spoil(folder)
    with pytest.raises(ValueError, match=message) as caught:
        rx.InterestGraph.from_rows(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: no folder .*/nowhere"):
        GraphRows(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="what://x: "):
        GraphRows("what://x")
    stored = GraphRows(written(sample(), tmp_path / "rows", 4))
    assert "num_items=53, parts=4" in repr(stored) and stored.num_rows() == 53
    with pytest.raises(ValueError, match=r"rank is 2, expected an integer in \[0, 1\]"):
        stored.shard(2, 2)
    with pytest.raises(ValueError, match="ranks is 0, expected an integer >= 1"):
        stored.blocks(0, 0)
