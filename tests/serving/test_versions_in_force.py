"""What is put in force can be read, and what is damaged can be left for another version."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from resemb_ext.serving import Table, lite
from resemb_ext.serving.lite import Items, TableError
from resemb_ext.serving.publish import publish, publish_rows
from resemb_ext.serving.versions import keep_newest, roll_back, versions

ROWS, DIM = 12, 4


def draw(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)


def ids(count: int = ROWS - 2) -> Items:
    return Items(np.arange(100, 100 + count))


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_no_version_that_readers_refuse_is_put_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items.table"
    publish(draw(), path, items=ids())
    saved = content(tmp_path)
    twice = np.array([500, 500])
    cases = (
        (lambda: publish(draw(seed=1), path, oov=3, compact=9), "oov: found 3, and the table's is 11"),
        (lambda: publish_rows(path, [11, 12, 13], draw(3), new_ids=twice, compact=9), "1 of the 2 ids are repeats"),
        (lambda: publish_rows(path, [11, 12, 13], draw(3), new_ids=twice, compact=0), "1 of the 2 ids are repeats"),
        (lambda: publish(draw(14), path, items=Items(np.r_[ids().values, twice])), "1 of the 12 ids are repeats"),
    )
    for call, message in cases:
        with pytest.raises(TableError, match=message):
            call()
        assert content(tmp_path) == saved
    # Whatever comes past those checks, the reader's own is made before the version is in force.
    with monkeypatch.context() as patch:
        patch.setattr("resemb_ext.serving.publish.following", lambda now, *_: lite_next(now, oov=3))
        with pytest.raises(TableError, match="moves the out-of-vocabulary row from 11 to 3"):
            publish(draw(seed=1), path, compact=9)
    assert content(tmp_path) == saved
    assert lite.read_snapshot(path).sequence == 0


def lite_next(now: lite.Snapshot, oov: int) -> object:
    from resemb_ext.serving.following import Next

    return Next(now.rows, oov)


def test_raw_ids_that_repeat_are_not_written(tmp_path: Path) -> None:
    for repeats in (Items(np.array([1, 2, 1])), Items(["a", "b", "a"])):
        for call in (
            lambda items=repeats: publish(draw(), tmp_path / "one.table", items=items),
            lambda items=repeats: Table.write(draw(), tmp_path / "two.table", items=items, oov=4),
        ):
            with pytest.raises(TableError, match="items: 1 of the 3 ids are repeats"):
                call()
    assert not list(tmp_path.glob("*.table"))


def test_options_that_say_two_things_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    with pytest.raises(ValueError, match="oov: found 2, and items have 11; give one of them"):
        publish(draw(), path, items=ids(), oov=2)
    with pytest.raises(TypeError, match="items: found list; expected an IdMap"):
        publish(draw(), path, items=["a"])  # type: ignore[arg-type]
    for bad in (True, 1.0):
        with pytest.raises(ValueError, match=r"oov: found .*; expected the number of a row, or None"):
            Table.write(draw(), path, oov=bad)  # type: ignore[arg-type]
    for options, message in (
        ({"keep": 1.5}, "keep: found 1.5"),
        ({"tolerance": "1"}, "tolerance: found str"),
        ({"compact": None}, "compact: found NoneType"),
    ):
        with pytest.raises(ValueError, match=message):
            publish(draw(), path, **options)  # type: ignore[arg-type]
    assert not path.exists()
    assert Table.write(draw(), path, oov=np.int64(3)).oov == 3  # type: ignore[arg-type]


def test_padding_reads_zeros_everywhere(tmp_path: Path) -> None:
    bags = torch.nn.EmbeddingBag(5, DIM, padding_idx=2)  # its padding row counts in no bag, whatever it holds
    with torch.no_grad():
        bags.weight.fill_(1)
    path = tmp_path / "items.table"
    table = Table.write(bags, path, "float32")
    assert table.padding == 2
    assert table.as_torch().tolist() == [[1.0] * DIM, [1.0] * DIM, [0.0] * DIM, [1.0] * DIM, [1.0] * DIM]
    assert bool((bags.weight == 1).all())
    with pytest.raises(ValueError, match="numbers: row 2 is padding, which reads zeros"):
        publish_rows(path, [2, 3], draw(2))
    assert publish_rows(path, [2, 3], np.stack([np.zeros(DIM), np.full(DIM, 5)])).changed == 1


def _damage(file: Path, how: str) -> None:
    held = bytearray(file.read_bytes())
    if how == "rows":
        held[-1] ^= 1
    elif how == "header":
        held[60] ^= 1
    else:
        del held[-1:]
    file.unlink()
    if how != "gone":
        file.write_bytes(held)


@pytest.mark.parametrize("how", ["rows", "header", "cut", "gone"])
@pytest.mark.parametrize("full", [False, True])
def test_a_damaged_version_can_be_left(how: str, full: bool, tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    for seed in range(3):
        publish(draw(seed=seed), path, dtype="float32", compact=9, full=full and seed == 2)
    reader = Table.open(path)
    file = lite.folder_of(path) / ("00000002.table" if full else "00000002.delta")
    _damage(file, how)
    unreadable = not (full and how == "rows")  # rows of a base are compared by verify alone
    if unreadable:
        with pytest.raises(TableError):
            lite.read_snapshot(path)
        with pytest.raises(TableError):
            roll_back(path, 2)
    if how == "rows":
        assert [v.sequence for v in versions(path)] == [0, 1, 2]
    else:
        for call in (lambda: versions(path), lambda: keep_newest(path, 1)):
            with pytest.raises(TableError):
                call()
    assert roll_back(path, 1).sequence == 1
    assert reader.refresh() and reader.sequence == 1
    np.testing.assert_array_equal(reader(torch.arange(ROWS)).numpy(), draw(seed=1))
    assert publish(draw(seed=3), path, compact=9, keep=2).sequence == 3
    assert [v.sequence for v in versions(path)] == ([0, 1, 2, 3] if how == "rows" else [0, 1, 3])
    assert file.exists() == (how == "rows")
    assert reader.refresh()
    np.testing.assert_array_equal(reader(torch.arange(ROWS)).numpy(), draw(seed=3))


def test_a_version_that_came_meanwhile_keeps_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items.table"
    publish(draw(), path, dtype="float32")
    write_table = lite.write_table

    def slow(*args: object, **options: object) -> lite.TableHeader:
        header = write_table(*args, **options)  # type: ignore[arg-type]
        publish_rows(path, [1], draw(1, seed=9), compact=9)
        return header

    with monkeypatch.context() as patch:
        patch.setattr(lite, "write_table", slow)
        with pytest.raises(ValueError, match=r"path: .*items\.table has versions in"):
            Table.write(draw(seed=1), path)
    np.testing.assert_array_equal(Table.open(path)(torch.tensor([1])).numpy(), draw(1, seed=9))


def test_a_table_that_came_meanwhile_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items.table"
    from resemb_ext.serving import publish as room

    publishing, first = room.publishing, []

    def after_another(table: Path):  # type: ignore[no-untyped-def]
        if not first:
            first.append(True)
            publish(draw(), table, dtype="float32")
        return publishing(table)

    monkeypatch.setattr(room, "publishing", after_another)
    assert publish(draw(seed=1), path, compact=9).kind == "delta"


@pytest.mark.parametrize("known", [False, True])
def test_rows_that_all_changed_are_never_in_memory_together(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("changes._READ", "changes._COMPARED", "publish._COPIED", "lite.format._WRITE"):
        monkeypatch.setattr(f"resemb_ext.serving.{name}", 1 << 14)
    path, count, dim = tmp_path / "items.table", 5000, 64
    table = torch.from_numpy(np.random.default_rng(0).standard_normal((count, dim), np.float32))
    publish(table, path, dtype="float32")
    later = torch.cat([table + 1, table[:100]])
    rows = np.arange(count) if known else None
    tracemalloc.start()
    try:
        done = publish(later, path, rows=rows, compact=0.1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (done.kind, done.changed, done.compared, done.rows) == ("base", count + 100, count + 100, count + 100)
    assert peak < 0.5 * 4 * dim * count
    now = lite.read_snapshot(path)
    now.verify()
    np.testing.assert_array_equal(now.gather(np.arange(count + 100)).view(np.float32), later.numpy())
