"""The format of tables and deltas, against NumPy and torch, and what its readers refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.runtime.files import write_text
from resemb_ext.serving import lite
from resemb_ext.serving.encoding import encode_rows
from resemb_ext.serving.lite import Items, TableError
from resemb_ext.serving.lite.versions import delta_file
from resemb_ext.testing.strategies import examples

PREPACK = {
    "int8": (torch.ops.quantized.embedding_bag_byte_prepack, torch.ops.quantized.embedding_bag_byte_unpack),
    "int4": (torch.ops.quantized.embedding_bag_4bit_prepack, torch.ops.quantized.embedding_bag_4bit_unpack),
}


def draw(rows: int, dim: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, dim)) * scale).astype(np.float32)


def make(path: Path, vectors: np.ndarray, dtype: str = "int8", items: Items | None = None, **fields) -> np.ndarray:
    """Writes a base; gives its rows."""
    rows = lite.encode(vectors, dtype)
    given = {"dtype": dtype, "rows": len(rows), "dim": vectors.shape[1], **fields}
    lite.write_table(path, given, [rows[:3], rows[3:]], items)
    return rows


def follow(path: Path, numbers, changed: np.ndarray, items: Items | None = None, **fields) -> lite.Snapshot:
    """Writes the delta that follows the version in force, and puts it in force."""
    now = lite.read_snapshot(path)
    given = {
        "table": now.header.id,
        "sequence": now.sequence + 1,
        "parent": now.sequence,
        "parent_fingerprint": now.fingerprint,
        "dtype": now.dtype,
        "dim": now.dim,
        "rows": now.rows,
        "oov": now.oov,
        "padding": now.padding,
        **fields,
    }
    lite.folder_of(path).mkdir(exist_ok=True)
    header = lite.write_delta(delta_file(path, given["sequence"]), given, np.asarray(numbers), changed, items)
    head = lite.Head(header.table, header.sequence, header.fingerprint, header.sequence)
    write_text(lite.folder_of(path) / "HEAD", head.text())
    return lite.read_snapshot(path)


@given(
    st.sampled_from(sorted(PREPACK)),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1.0, 1e-6, 30.0, 1e-30, 0.0]),
)
@examples(100)
def test_rows_are_those_of_torch(dtype: str, half: int, rows: int, seed: int, scale: float) -> None:
    dim = 2 * half if dtype == "int4" else half
    vectors = draw(rows, dim, seed, scale)
    vectors[0] = vectors[0, 0]  # all numbers alike
    vectors += 0.0  # of 0 and -0 in one row either may be the smallest
    pack, unpack = PREPACK[dtype]
    expected = pack(torch.from_numpy(vectors))
    found = lite.encode(vectors, dtype)
    np.testing.assert_array_equal(found, expected.numpy())
    np.testing.assert_array_equal(encode_rows(torch.from_numpy(vectors), dtype), found)
    np.testing.assert_allclose(lite.decode(found, dtype, dim), unpack(expected).numpy(), rtol=1e-6, atol=scale * 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_float_rows(dtype: str) -> None:
    vectors = draw(9, 5)
    expected = vectors.astype(dtype)
    found = lite.encode(vectors, dtype)
    assert found.tobytes() == expected.tobytes() and found.shape == (9, lite.row_bytes(dtype, 5))
    np.testing.assert_array_equal(lite.decode(found, dtype, 5), expected.astype(np.float32))


@pytest.mark.parametrize("dtype", lite.DTYPES)
def test_what_a_dtype_cannot_hold_is_refused(dtype: str) -> None:
    for value in (np.inf, np.nan, *([] if dtype == "float32" else [3e38])):
        vectors = draw(4, 6)
        vectors[2, 1], vectors[2, 2] = value, -3e38
        with pytest.raises(TableError, match=f"row 2 holds a number that is not finite in {dtype}"):
            lite.encode(vectors, dtype)
        with pytest.raises(TableError, match=f"row 7 holds a number that is not finite in {dtype}"):
            encode_rows(torch.from_numpy(vectors), dtype, first=5)
    assert lite.encode(vectors[:0], dtype).shape == (0, lite.row_bytes(dtype, 6))


@pytest.mark.parametrize("dtype", lite.DTYPES)
def test_a_table_is_read_as_it_was_written(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    rows = make(path, draw(70, 6), dtype, oov=69, padding=0, meta={"run": "first"})
    header = lite.read_header(path)
    assert (header.rows, header.dim, header.oov, header.padding, header.sequence) == (70, 6, 69, 0, 0)
    assert header.meta == {"run": "first"} and path.stat().st_size == header.body + rows.nbytes
    np.testing.assert_array_equal(lite.map_rows(path, header), rows)
    now = lite.read_snapshot(path)
    now.verify()
    assert (len(now.bits), len(now.before), now.overlay.shape) == (0, 0, (0, header.row_bytes))
    assert lite.read_snapshot(path, now) is now
    np.testing.assert_array_equal(now.gather([1, 69, 70, -1]), rows[[1, 69, 69, 69]])
    np.testing.assert_array_equal(lite.decode(now.gather([0, 3, 0]), dtype, 6)[[0, 2]], np.zeros((2, 6)))


@st.composite
def histories(draw_: st.DrawFn) -> tuple:
    rows = draw_(st.integers(1, 200), label="rows")
    grown = draw_(st.lists(st.integers(0, 70), min_size=1, max_size=4), label="grown")
    return rows, grown, draw_(st.integers(0, 2**32 - 1), label="seed")


@given(history=histories(), at_once=st.booleans())
@examples(60)
def test_a_version_is_its_base_with_all_deltas_over_it(history: tuple, at_once: bool, tmp_path_factory) -> None:
    rows, grown, seed = history
    path = tmp_path_factory.mktemp("versions") / "items.table"
    rng = np.random.default_rng(seed)
    expected = make(path, draw(rows, 4, seed), oov=rows - 1)
    base, known = expected.copy(), lite.read_snapshot(path)
    for new in grown:
        total = len(expected) + new
        some = rng.random(total) < rng.choice([0.02, 0.5, 1.0])
        some[len(expected) :] = True
        numbers = np.flatnonzero(some)
        changed = rng.integers(0, 256, (len(numbers), 12), np.uint8)
        expected = np.concatenate([expected, np.zeros((new, 12), np.uint8)])
        expected[numbers] = changed
        now = follow(path, numbers, changed, rows=total, oov=total - 1)
        if not at_once:
            known = lite.read_snapshot(path, known)
    known = lite.read_snapshot(path, known)
    assert (known.rows, known.oov, known.sequence) == (len(expected), len(expected) - 1, len(grown))
    for one in (now, known):
        np.testing.assert_array_equal(one.gather(np.arange(one.rows)), expected)
        cuts = np.unique(rng.integers(0, one.rows + 1, 3)).tolist()
        blocks = [one.block(a, b) for a, b in pairwise([0, *cuts, one.rows])]
        np.testing.assert_array_equal(np.concatenate(blocks), expected)
        np.testing.assert_array_equal(one.gather([2**40, -(2**40)]), expected[[-1, -1]])
        # The five arrays, as the kernel reads them.
        for i in range(one.rows):
            word, bit = divmod(i, 64)
            bits = int(one.bits[word])
            if bits >> bit & 1:
                row = one.overlay[one.before[word] + (bits & ((1 << bit) - 1)).bit_count()]
            else:
                row = one.base[i]
            assert bytes(row) == bytes(expected[i])
    np.testing.assert_array_equal(known.base, base)


def test_ids_that_are_no_rows_are_refused_without_an_oov_row(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    make(path, draw(5, 4))
    now = lite.read_snapshot(path)
    with pytest.raises(IndexError, match=r"ids: found -1 at position 2, expected 0 to 4; the table has no"):
        now.gather(np.array([0, 4, -1, 9]))
    with pytest.raises(IndexError, match=r"ids: found 18446744073709551615 at position 0"):
        now.gather(np.array([2**64 - 1], np.uint64))
    with pytest.raises(TypeError, match="ids: found float64, expected integers"):
        now.gather([0.5])
    assert now.gather([]).shape == (0, 12)


def broken_header(path: Path, **changes) -> None:
    """The file with other fields in its header, and the sha256 that fits them."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[8:16], "little")
    fields = {**json.loads(raw[48 : 48 + length]), **changes}
    body = -(-(48 + length) // 4096) * 4096
    path.write_bytes(lite.framing.pack(raw[:8], fields) + raw[body:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version is '2', expected a whole number from 1 to 1"),
        ({"rows": 0}, "rows is '0', expected a whole number from 1 to"),
        ({"rows": True}, "rows is 'True'"),
        ({"rows": 71}, "is cut off: "),
        ({"rows": 69}, "is too long: "),
        ({"dim": 8}, "row_bytes is '14', expected a whole number from 16 to 16"),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16', expected one of float32, float16, int8, int4"),
        ({"oov": 70}, "oov is '70', expected a whole number from 0 to 69"),
        ({"padding": -1}, "padding is '-1'"),
        ({"id": "x" * 32}, "expected 32 hexadecimal digits"),
        ({"meta": []}, "meta is '\\[\\]', expected a JSON object"),
        ({"items": {"kind": "float"}}, "items: kind is 'float'"),
        ({"parent": 0}, "parent is '0'"),
    ],
)
def test_headers_that_no_table_has_are_refused(changes: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    make(path, draw(70, 6))
    broken_header(path, **changes)
    with pytest.raises(TableError, match=message) as error:
        lite.read_snapshot(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    make(path, draw(70, 6))
    follow(path, [3], draw(1, 14, 1).astype(np.uint8))
    whole = path.read_bytes()
    for content, message in (
        (b"", "is no table of resemb"),
        (b"PK\x03\x04" + whole, "is no table of resemb"),
        (delta_file(path, 1).read_bytes(), "is no table of resemb"),
        (whole[:30], "is cut off: 30 bytes"),
        (whole[:100], "is cut off: 100 bytes"),
        (whole[:-1], f"is cut off: {len(whole) - 1} bytes, expected {len(whole)}"),
        (whole + b"x", "is too long"),
        (whole[:8] + b"\xff" * 8 + whole[16:], "a header of 18446744073709551615 bytes"),
        (whole[:60] + bytes([whole[60] ^ 1]) + whole[61:], "its header does not match its sha256"),
    ):
        path.write_bytes(content)
        with pytest.raises(TableError, match=message):
            lite.read_header(path)
    with pytest.raises(FileNotFoundError):
        lite.read_snapshot(tmp_path / "other.table")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TableError, match="its rows do not match their sha256"):
        lite.open_base(path).verify()


def test_deltas_that_do_not_follow_are_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "items.table", tmp_path / "other.table"
    ids = Items(["a", "b", "c"])
    make(path, draw(5, 4), items=ids, oov=4, padding=0)
    make(other, draw(5, 4), items=ids, oov=4, padding=0)
    row = np.zeros((1, 12), np.uint8)
    base = lite.read_snapshot(path)
    first = follow(path, [1], row)
    follow(other, [1], row)
    follow(path, [2], row)
    foreign, one, two = (lite.read_delta(delta_file(p, k)) for p, k in ((other, 1), (path, 1), (path, 2)))

    def refused(at: lite.Snapshot, delta: lite.Delta, message: str, **changes) -> None:
        with pytest.raises(TableError, match=message):
            lite.apply(at, [replace(delta, header=replace(delta.header, **changes))], ["x.delta"])

    refused(base, foreign, "x.delta: is a delta of another table")
    refused(base, two, "follows another version 1 than the one in force, 0")
    refused(first, one, "follows another version 0 than the one in force, 1")
    refused(first, two, "follows another version", parent_fingerprint="0" * 64)
    refused(first, two, "has rows of int8, D = 6; the table's are int8, D = 4", dim=6)
    refused(first, two, "has rows of float16", dtype="float16")
    refused(first, two, "makes a table of 4 rows", rows=4)
    refused(first, two, "makes a table of 5 rows, padding None", padding=None)
    refused(first, two, "makes a table of 5 rows, padding 0, oov None", oov=None)
    refused(first, two, "lacks some of the rows 5 to 5", rows=6)
    refused(first, two, "moves the out-of-vocabulary row from 4 to 3 without as many ids", oov=3)
    new = Items(np.array([7]), 4)
    wrong = replace(two, items=new, numbers=np.array([5]))
    refused(first, wrong, "has int64 ids, and the table's are text", rows=6, oov=5)
    assert lite.apply(first, [two], ["x"]).sequence == 2


def test_versions_that_are_damaged_or_missing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    make(path, draw(5, 4))
    first = follow(path, [1], np.ones((1, 12), np.uint8))
    follow(path, [2], np.ones((1, 12), np.uint8))
    place = lite.folder_of(path)
    saved = {file.name: file.read_bytes() for file in place.iterdir()}
    kept = first.gather([1, 2])

    def refused(message: str) -> None:
        for known in (None, first):
            with pytest.raises(TableError, match=message):
                lite.read_snapshot(path, known)
        np.testing.assert_array_equal(first.gather([1, 2]), kept)
        for name, content in saved.items():
            (place / name).write_bytes(content)

    (place / "00000002.delta").unlink()
    refused("version 2 is missing")
    shutil.copy(place / "00000001.delta", place / "00000002.delta")
    refused("is not the delta of version 2 that was published")
    (place / "HEAD").write_text("{}")
    refused("HEAD: last is 'None'")
    (place / "HEAD").write_text("[" * 9000)
    refused("HEAD: is damaged")
    (place / "HEAD").write_bytes(saved["HEAD"].replace(b'"last": 2', b'"last": 3'))
    refused("HEAD: is damaged: it does not match its sha256")
    lite.read_snapshot(path)
    shutil.rmtree(place)
    assert lite.read_snapshot(path).sequence == 0


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 20)


@given(
    st.one_of(
        st.tuples(st.just(np.int64), st.lists(INTEGERS, unique=True)),
        st.tuples(st.just(np.uint64), st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 20), unique=True)),
        st.tuples(st.none(), st.lists(TEXT, unique=True)),
    ),
    st.integers(0, 3),
    st.data(),
)
@examples(100)
def test_raw_ids_are_numbered_as_a_dict_numbers_them(kind_and_ids: tuple, first: int, data: st.DataObject) -> None:
    kind, ids = kind_and_ids
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=4))), len(ids)]
    parts = [ids[a:b] if kind is None else np.array(ids[a:b], kind) for a, b in pairwise(cuts)]
    items = Items(parts[0], first)
    for start, part in zip(cuts[1:], parts[1:], strict=False):
        items = items.extended(Items(part, first + start))
    section = items.section()
    again = Items.of(items.header(section), section, "x")
    assert (items.oov, len(items), items.first) == (first + len(ids), len(ids), first)
    known = {value: first + k for k, value in enumerate(ids)}
    more = {None: TEXT, np.int64: INTEGERS, np.uint64: st.integers(0, 2**64 - 1)}[kind]
    asked = [*ids, *data.draw(st.lists(more, max_size=4))]
    asked_of = asked if kind is None else np.array(asked, kind)
    for one in (items, again):
        assert one.encode(asked_of).tolist() == [known.get(value, items.oov) for value in asked]
    assert list(items.values) == list(again.values) == ids


def test_raw_ids_of_other_types_are_refused() -> None:
    words, numbers = Items(["a", "b"]), Items(np.array([-4, 5]))
    with pytest.raises(TypeError, match=r"ids: found '3' of type int, and the table's are text"):
        words.encode(["a", 3])
    for odd, name in (("a", "str"), (True, "bool"), (0.5, "float")):
        with pytest.raises(TypeError, match=f"ids: found '{odd}' of type {name}, and the table's are integers"):
            numbers.encode([5, odd])
    assert numbers.encode([-4, 2**63, 5, 2**64, -(2**63) - 1]).tolist() == [1, 3, 2, 3, 3]
    assert Items(np.array([2**63], np.uint64)).encode([-4, 2**63]).tolist() == [2, 1]
    assert numbers.encode(np.array([2**64 - 4, 5], np.uint64)).tolist() == [3, 2]
    with pytest.raises(TableError, match="found text ids, and the table's are int64"):
        numbers.extended(Items(["x"], 3))
    with pytest.raises(TableError, match="numbered from 1, expected 3"):
        numbers.extended(Items(np.array([9])))
    with pytest.raises(TableError, match="some of the new ids are there already"):
        numbers.extended(Items(np.array([5]), 3))
    with pytest.raises(TableError, match="fit no one type"):
        numbers.extended(Items(np.array([2**63], np.uint64), 3))
    with pytest.raises(TableError, match="1 of the 3 ids are repeats"):
        Items(["a", "b", "a"]).encode(["a"])
    with pytest.raises(TableError, match="of type float, expected text"):
        Items(["a", 2.5])


def test_a_copy_elsewhere_needs_numpy_alone(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    make(path, draw(5, 4), items=Items(["a", "b", "c"]), oov=4, padding=0)
    shutil.copytree(Path(lite.__file__).parent, tmp_path / "copied")
    script = (
        "import sys, copied; now = copied.read_snapshot('items.table'); assert now.items.encode(['b']) == [2];"
        "print(copied.decode(now.gather([1, 4]), now.dtype, now.dim).shape);"
        "assert not {'torch', 'resemb_ext', 'pyarrow', 'pandas'} & set(sys.modules)"
    )
    command = [sys.executable, "-s", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONSAFEPATH": ""})
    assert (done.stdout, done.returncode) == ("(2, 4)\n", 0), done.stderr
