"""Versions that are published, against a table that NumPy keeps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext.data import IdMap
from resemb_ext.runtime.files import locked
from resemb_ext.serving import lite
from resemb_ext.serving.lite import TableError
from resemb_ext.serving.publish import publish, publish_rows
from resemb_ext.serving.versions import keep_newest, roll_back, verify, versions
from resemb_ext.testing.strategies import examples


def draw(rows: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def vectors(path: Path) -> np.ndarray:
    now = lite.read_snapshot(path)
    return lite.decode(now.gather(np.arange(now.rows)), now.dtype, now.dim)


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@st.composite
def published(draw_: st.DrawFn) -> dict:
    steps = st.fixed_dictionaries(
        {
            "changed": st.sampled_from([0.0, 0.01, 0.2, 1.0]),
            "new": st.sampled_from([0, 0, 1, 40]),
            "known": st.booleans(),
            "full": st.sampled_from([False, False, False, True]),
            "back": st.none() | st.integers(0, 8),
        }
    )
    return {
        "rows": draw_(st.integers(3, 150)),
        "dtype": draw_(st.sampled_from(lite.DTYPES)),
        "items": draw_(st.booleans()),
        "compact": draw_(st.sampled_from([0.0, 0.25, 0.6, float("inf")])),
        "keep": draw_(st.none() | st.integers(1, 3)),
        "steps": draw_(st.lists(steps, min_size=1, max_size=6)),
        "seed": draw_(st.integers(0, 2**32 - 1)),
    }


@given(case=published())
@examples(100)
def test_readers_see_what_was_published(case: dict, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("published") / "items.table"
    rng = np.random.default_rng(case["seed"])
    now = draw(case["rows"], seed=case["seed"])
    options = {"compact": case["compact"], "keep": case["keep"]}

    def ids(rows: int) -> IdMap | None:
        return IdMap.fit(np.arange(rows - 2) * 3) if case["items"] else None

    def given_oov(rows: int) -> int | None:
        return None if case["items"] else rows - 1

    done = publish(now, path, items=ids(len(now)), dtype=case["dtype"], oov=given_oov(len(now)), **options)
    assert (done.kind, done.sequence, done.changed) == ("base", 0, len(now))
    held = {0: now.copy()}
    current, last, reader = 0, 0, lite.read_snapshot(path)
    for step in case["steps"]:
        if step["back"] in held and step["back"] in {v.sequence for v in versions(path)}:
            current = roll_back(path, step["back"]).sequence
            reader = lite.read_snapshot(path, reader)
            assert reader.sequence == current
        now = np.concatenate([held[current], draw(step["new"], seed=last)])
        some = rng.random(len(now)) < step["changed"]
        now[some] += 1
        known = np.flatnonzero(some) if step["known"] else None
        before = lite.read_snapshot(path)
        changed = {"rows": known, "items": ids(len(now)), "oov": given_oov(len(now)), "full": step["full"], **options}
        done = publish(now, path, **changed)
        if not some.any() and not step["new"] and not step["full"]:
            assert (done.kind, done.sequence, done.bytes) == ("nothing", current, 0)
        else:
            last += 1
            assert (done.sequence, done.bytes) == (last, done.file.stat().st_size)
            current = last
            held[last] = now.copy()
        if done.kind == "delta":
            assert done.changed <= some.sum() + step["new"] + 1
        assert before.sequence < last or done.kind == "nothing"
        reader = lite.read_snapshot(path, reader)
        expected = lite.decode(lite.encode(held[current], case["dtype"]), case["dtype"], 6)
        for one in (reader, lite.read_snapshot(path)):
            assert (one.sequence, one.rows, one.oov) == (current, len(expected), len(expected) - 1)
            found = lite.decode(one.gather(np.arange(one.rows)), one.dtype, 6)
            np.testing.assert_array_equal(found, expected)
            if case["items"]:
                assert one.items.encode(np.arange(len(expected)) * 3).tolist() == [
                    *range(1, len(expected) - 1),
                    *[len(expected) - 1] * 2,
                ]
        if case["keep"] is not None and done.kind != "nothing":
            assert len(versions(path)) >= min(case["keep"], last)
    for version in verify(path):
        roll_back(path, version.sequence)
        expected = lite.decode(lite.encode(held[version.sequence], case["dtype"]), case["dtype"], 6)
        np.testing.assert_array_equal(vectors(path), expected)


def test_a_res_embedding_is_published_as_it_looks_up(tmp_path: Path) -> None:
    log, _ = rx.data.simulate(users=40, items=50, domains=4, events_per_user=(5, 9), seed=0)
    graph = rx.InterestGraph.from_log(log)
    emb = rx.ResEmbedding(graph, 8, padding_idx=0)
    path = tmp_path / "items.table"
    publish(emb, path, items=log.items, dtype="float32")
    np.testing.assert_allclose(vectors(path), emb.materialize().detach().numpy(), rtol=1e-6)
    with torch.no_grad():
        emb.residual[[3, 9]] += 1
        emb.residual[5] += 1
    done = publish(emb, path, items=log.items, rows=torch.tensor([9, 3, 4]))
    assert (done.kind, done.changed, done.compared) == ("delta", 2, 3)
    expected = emb.materialize().detach().numpy()
    found = vectors(path)
    assert (found[[3, 9]] == expected[[3, 9]]).all() and not (found[5] == expected[5]).any()
    done = publish(emb, path, items=log.items)
    assert (done.changed, done.compared, done.sequence) == (1, log.num_items, 2)
    np.testing.assert_array_equal(vectors(path), expected)
    now = lite.read_snapshot(path)
    assert now.padding == 0 and now.items.encode(log.items.values).tolist() == [*range(1, log.items.oov)]


@pytest.mark.parametrize("dtype", lite.DTYPES)
def test_rows_within_the_tolerance_stay(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    first = draw(400)
    publish(first, path, dtype=dtype)
    held = vectors(path)
    moved = first * np.linspace(1, 1.2, 400, dtype=np.float32)[:, None]
    after = lite.decode(lite.encode(moved, dtype), dtype, 6)
    share = np.linalg.norm(after - held, axis=1) / np.linalg.norm(held, axis=1)
    done = publish(moved, path, tolerance=0.1, compact=9)
    assert 0 < done.changed == (share > 0.1).sum() < 400
    np.testing.assert_array_equal(vectors(path), np.where(share[:, None] > 0.1, after, held))
    assert publish(moved, path, tolerance=0.1).kind == "nothing"  # readers' rows are compared, not those of the source


def test_single_rows_are_published_with_new_ids(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    first = draw(5)
    publish(first, path, items=IdMap.fit(["a", "b", "c"]), dtype="float32")
    new = draw(3, seed=1)
    done = publish_rows(path, [5, 4, 2], new, new_ids=["x", "d"], compact=9)
    now = lite.read_snapshot(path)
    assert (done.kind, done.changed, now.rows, now.oov) == ("delta", 4, 7, 6)
    assert now.items.values == ["a", "b", "c", "x", "d"]
    np.testing.assert_array_equal(
        vectors(path), np.stack([first[0], first[1], new[2], first[3], new[1], new[0], first[4]])
    )
    saved = content(tmp_path)
    for numbers, given_vectors, ids, kind, message in (
        ([7], draw(1), None, ValueError, "numbers: found 7 at position 0; expected rows from 0 to 6"),
        ([1, 1], draw(2), None, ValueError, "numbers: row 1 is there twice"),
        ([1], draw(2), None, ValueError, r"vectors: shape \(2, 6\); expected \(1, 6\)"),
        ([1], draw(1, 5), None, ValueError, r"vectors: shape \(1, 5\); expected \(1, 6\)"),
        ([7], draw(1), ["y"], ValueError, "numbers: row 6 is new, and has no vector"),
        ([6], draw(1), ["a"], TableError, "items: some of the new ids are there already"),
        ([6], draw(1), [9], TableError, "items: found int64 ids, and the table's are text"),
        ([1], np.full((1, 6), np.nan), None, TableError, "vectors: row 1 holds a number that is not finite"),
    ):
        with pytest.raises(kind, match=message):
            publish_rows(path, numbers, given_vectors, new_ids=ids)
    assert content(tmp_path) == saved
    np.testing.assert_array_equal(
        publish_rows(path, [6], draw(1), new_ids=["y"]) and vectors(path)[[6, 7]], np.stack([draw(1)[0], first[4]])
    )


def test_what_does_not_follow_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    items, first = IdMap.fit(["a", "b", "c"]), draw(5)
    publish(first, path, items=items)
    publish(first + 1, path, items=items)
    saved = content(tmp_path)
    more = IdMap.fit(["a", "b", "c", "d"])
    swapped = IdMap.fit(["b", "c", "d"])
    for source, options, kind, message in (
        (first, {"items": items, "dtype": "int4"}, TableError, "dtype: found int4, and the table's is int8"),
        (draw(5, 8), {"items": items}, TableError, "source: found D = 8, and the table's is 6"),
        (first[:4], {"items": IdMap.fit(["a", "b"])}, TableError, "source: found 4 rows, and the table has 5"),
        (first, {"items": swapped}, TableError, "items: they number the table's 3 items otherwise"),
        (first, {"items": IdMap.fit([1, 2, 3])}, TableError, "items: found int64 ids, and the table's are text"),
        (draw(6), {}, TableError, "items: the table has raw ids, so those of its 1 new rows are needed"),
        (first, {"items": more}, TableError, "oov: found 5, and the table's is 4, of 5 rows"),
        (first, {"rows": [5]}, ValueError, "rows: found 5 at position 0; expected rows from 0 to 4"),
        (first, {"rows": [0.5]}, ValueError, "rows: found float64"),
        (first, {"tolerance": -1}, ValueError, "tolerance: found -1, expected a number from 0"),
        (first, {"compact": float("nan")}, ValueError, "compact: found nan"),
        (first, {"keep": 0}, ValueError, "keep: found 0, expected a whole number from 1"),
        (first.astype(int), {}, TypeError, "source: found int64"),
        (np.where(first == first[3, 2], np.inf, first), {"rows": [3]}, TableError, "row 3 holds a number that is not"),
        (np.where(first == first[3, 2], np.nan, first), {"full": True}, TableError, "row 3 holds a number that is not"),
    ):
        with pytest.raises(kind, match=message) as error:
            publish(source, path, **options)
        assert "\n" not in str(error.value)
        assert content(tmp_path) == saved
    with pytest.raises(FileNotFoundError):
        publish(first, tmp_path / "none" / "items.table")
    with pytest.raises(TableError, match="oov: found 5, expected one of the source's rows, 0 to 4"):
        publish(first, tmp_path / "other.table", oov=5)
    publish(draw(4, 8), path, items=IdMap.fit([1, 2]), dtype="float16", full=True)
    assert (lite.read_snapshot(path).dim, lite.read_snapshot(path).items.kind) == (8, "int64")
    assert roll_back(path, 1).sequence == 1 and lite.read_snapshot(path).items.kind == "text"


def test_files_that_are_no_tables_stay(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    path.write_text("mine")
    for call in (
        lambda: publish(draw(5), path),
        lambda: publish(draw(5), path, full=True),
        lambda: publish_rows(path, [1], draw(1)),
        lambda: roll_back(path, 0),
        lambda: keep_newest(path, 1),
        lambda: verify(path),
    ):
        with pytest.raises(TableError, match="is no table of resemb"):
            call()
    assert [*tmp_path.iterdir()] == [path] and path.read_text() == "mine"
    path.unlink()
    for call in (lambda: publish_rows(path, [1], draw(1)), lambda: roll_back(path, 0), lambda: versions(path)):
        with pytest.raises(FileNotFoundError):
            call()


def test_one_publisher_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    publish(draw(5), path)
    saved = content(tmp_path)
    with locked(lite.folder_of(path)):
        for call in (
            lambda: publish(draw(5, seed=1), path),
            lambda: publish_rows(path, [1], draw(1)),
            lambda: roll_back(path, 0),
            lambda: keep_newest(path, 1),
        ):
            with pytest.raises(
                TableError, match=r"to: another process publishes to .*items.table; nothing was changed"
            ):
                call()
    assert content(tmp_path) == saved
    assert publish(draw(5, seed=1), path).sequence == 1


def test_what_a_killed_publisher_left_is_not_seen_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items.table"
    publish(draw(5), path)
    held = vectors(path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for full in (True, False, True):
        with monkeypatch.context() as patch:
            patch.setattr("resemb_ext.serving.publish.put_in_force", killed)
            with pytest.raises(KeyboardInterrupt):
                publish(draw(5, seed=1), path, full=full, compact=9)
        assert [v.sequence for v in versions(path)] == [0]
        np.testing.assert_array_equal(vectors(path), held)
    assert publish(draw(5, seed=2), path, compact=9).sequence == 1
    assert [v.sequence for v in versions(path)] == [0, 1]
    assert sorted(os.listdir(lite.folder_of(path))) == ["00000001.delta", "HEAD"]


def test_old_versions_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    tables = [draw(20, seed=k) for k in range(7)]
    for k, table in enumerate(tables):
        publish(table, path, compact=9, full=k == 4)
    assert [(v.sequence, v.base, v.in_force) for v in versions(path)] == [
        *((k, 0, False) for k in range(4)),
        *((k, 4, k == 6) for k in range(4, 7)),
    ]
    roll_back(path, 2)
    reader = lite.read_snapshot(path)
    assert [v.sequence for v in keep_newest(path, 1)] == [0, 1, 2, 4, 5, 6]
    roll_back(path, 6)
    kept = keep_newest(path, 2)
    assert [v.sequence for v in kept] == [4, 5, 6]
    # The base of the version in force is now the table's own file.
    assert sorted(os.listdir(lite.folder_of(path))) == ["00000005.delta", "00000006.delta", "HEAD"]
    assert lite.read_header(path).sequence == 4
    for sequence in (5, 4, 6):
        roll_back(path, sequence)
        expected = lite.decode(lite.encode(tables[sequence], "int8"), "int8", 6)
        np.testing.assert_array_equal(vectors(path), expected)
    # Who mapped the file before still reads its rows.
    expected = lite.encode(tables[2], "int8")
    np.testing.assert_array_equal(reader.gather(np.arange(20)), expected)
    with pytest.raises(TableError, match="version: found 2, expected one of those that are there: 4, 5, 6"):
        roll_back(path, 2)


def test_damaged_versions_are_found_and_never_put_in_force(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    for k in range(3):
        publish(draw(20, seed=k), path, compact=9, items=IdMap.fit(np.arange(18)))
    verify(path)
    saved = content(tmp_path)
    for name in saved:
        if name.endswith("HEAD"):
            continue
        file = tmp_path / name
        for damaged in (saved[name][:-1], saved[name][:-9] + b"x" + saved[name][-8:]):
            file.write_bytes(damaged)
            with pytest.raises(TableError, match=r"cut off|sha256"):
                verify(path)
        if name.endswith(".delta"):
            with pytest.raises(TableError, match="sha256"):
                roll_back(path, 2)
        file.write_bytes(saved[name])
    assert content(tmp_path) == saved


def test_meta_is_kept_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    publish(draw(5), path, meta={"model": "m", "run": "first"})
    publish(draw(5, seed=1), path, meta={"run": "second"}, compact=9)
    assert lite.read_snapshot(path).meta == {"model": "m", "run": "second"}
    publish(draw(5, seed=2), path, full=True, meta={"seed": 1})
    assert lite.read_snapshot(path).header.meta == {"model": "m", "run": "second", "seed": 1}
    with pytest.raises(TableError, match="meta: JSON cannot hold it"):
        publish(draw(5), path, meta={"x": float("nan")})


def test_padding_is_never_written(tmp_path: Path) -> None:
    for dtype in lite.DTYPES:
        path = tmp_path / f"{dtype}.table"
        emb = torch.nn.Embedding(6, 4, padding_idx=2)
        publish(emb, path, dtype=dtype)
        assert publish(emb, path).kind == "nothing"
        assert not vectors(path)[2].any()
        table = emb.weight.detach().numpy()
        assert publish(table, path).kind == "nothing"
        with pytest.raises(TableError, match="source: its padding is None, and the table's is 2"):
            publish(table + 1, path)
        with pytest.raises(TableError, match="source: its padding is 1, and the table's is 2"):
            publish(torch.nn.Embedding(6, 4, padding_idx=1), path)


def test_items_of_a_table_need_its_map(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    publish(draw(5), path, oov=4)
    with pytest.raises(TableError, match="items: the table has no raw ids to compare them with"):
        publish(draw(5), path, items=IdMap.fit([1, 2, 3]))


def test_a_link_to_a_table_is_the_table(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "real.table", tmp_path / "items.table"
    publish(draw(20), real)
    link.symlink_to(real)
    publish(draw(20, seed=1), link, compact=9)
    publish(draw(20, seed=2), link, compact=9, full=True)
    assert [v.sequence for v in keep_newest(link, 1)] == [v.sequence for v in versions(real)] == [2]
    assert link.is_symlink() and sorted(os.listdir(tmp_path)) == ["items.table", "there"]
    np.testing.assert_array_equal(vectors(link), lite.decode(lite.encode(draw(20, seed=2), "int8"), "int8", 6))
