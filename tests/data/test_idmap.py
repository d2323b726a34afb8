"""Id maps: any kind of raw id, there and back."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.data import IdMap

ids = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.lists(st.integers(0, 2**64 - 1), min_size=1),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1),
)


@given(ids, st.integers(0, 1))
def test_round_trip(raw, first):
    id_map = IdMap.fit(raw, first=first)
    numbers, unseen = id_map.encode(raw)
    assert unseen == 0
    assert numbers.dtype == np.int64
    assert list(id_map.decode(numbers)) == raw
    # Dense, from ``first``, one number an id.
    assert sorted(set(numbers)) == list(range(first, first + len(set(raw))))
    assert (id_map.oov, id_map.size) == (first + len(id_map), first + len(id_map) + 1)
    again = IdMap.from_dict(json.loads(json.dumps(id_map.to_dict())))
    assert again == id_map
    assert again.digest() == id_map.digest()


@given(st.lists(st.integers(-50, 50), min_size=1), st.randoms())
def test_a_map_depends_on_the_set_of_ids_alone(raw, random):
    other = [*raw, *raw]
    random.shuffle(other)
    assert IdMap.fit(raw) == IdMap.fit(other)


@given(st.lists(st.integers(-9, 9), min_size=1), st.lists(st.integers(-20, 20)))
def test_unseen_ids_are_out_of_vocabulary_and_counted(known, asked):
    id_map = IdMap.fit(known)
    numbers, unseen = id_map.encode(np.array(asked, dtype=np.int64))
    assert unseen == sum(a not in known for a in asked)
    for number, raw in zip(numbers, asked, strict=True):
        assert number == (1 + sorted(set(known)).index(raw) if raw in known else id_map.oov)


@given(ids, st.data())
def test_extended_maps_keep_known_numbers_and_put_new_ids_behind(raw, data):
    cut = data.draw(st.integers(0, len(raw)))
    known = IdMap.fit(np.array(raw, object) if isinstance(raw[0], str) else raw).values.tolist()
    old, new = sorted(raw[: cut + 1]), raw[cut + 1 :]
    first = IdMap.fit(old)
    more = first.extended(new) if new else first
    np.testing.assert_array_equal(more.encode(old)[0], first.encode(old)[0])
    assert more.values.tolist() == first.values.tolist() + sorted(set(new) - set(old))
    assert sorted(more.values.tolist()) == known and more.oov == 1 + len(known)
    assert more.extended(raw) is more
    assert more.fingerprint(len(first)) == first.fingerprint()
    assert (more.fingerprint() == first.fingerprint()) == (len(more) == len(first))
    again = IdMap.from_dict(json.loads(json.dumps(more.to_dict())))
    assert again == more and again.fingerprint() == more.fingerprint()


def test_fingerprints_differ_where_numbers_do():
    maps = [
        *(IdMap.fit([1, 2]), IdMap.fit([1, 3]), IdMap.fit([1, 2], first=0), IdMap.fit(["1", "2"]), IdMap.fit([1])),
        *(IdMap.fit(["12"]), IdMap.fit(["1", "2", "3"]), IdMap.fit(["12", "3"]), IdMap.fit([2]).extended([1])),
        *(IdMap.fit([-1]), IdMap.fit([2**64 - 1])),
    ]
    assert len({m.fingerprint() for m in maps}) == len(maps)


def test_extended_widths():
    wide = IdMap.fit([5, 1]).extended(np.array([2**63 + 1, 3], dtype=np.uint64))
    assert wide.values.tolist() == [1, 5, 3, 2**63 + 1] and wide.kind == "uint64"
    assert wide.extended(np.array([7])).values.tolist() == [1, 5, 3, 2**63 + 1, 7]
    with pytest.raises(ValueError, match="column 'sku': negative ids and ids beyond"):
        IdMap.fit([-5]).extended([2**63 + 1], name="sku")
    with pytest.raises(TypeError, match="column 'sku' holds text ids, but the map was made from int64 ids"):
        IdMap.fit([5]).extended(["a"], name="sku")


def test_widths_do_not_matter_but_values_do():
    small = IdMap.fit(np.array([1, 2, 3], dtype=np.int8))
    assert small == IdMap.fit(np.array([1, 2, 3], dtype=np.uint64))
    numbers, unseen = small.encode(np.array([2, 2**63 + 5], dtype=np.uint64))
    assert list(numbers) == [2, small.oov]
    assert unseen == 1
    big = IdMap.fit(np.array([5, 2**63 + 5], dtype=np.uint64))
    numbers, unseen = big.encode(np.array([-1, 5], dtype=np.int64))
    assert list(numbers) == [big.oov, 1]
    assert big.decode([2])[0] == 2**63 + 5


@pytest.mark.parametrize(
    "raw",
    [
        pd.Series(["b", "a"], dtype="category"),
        pd.Series(["b", "a"], dtype=object),
        pa.chunked_array([["b"], ["a"]]),
        np.array(["b", "a"]),
        pa.array([b"b", b"a"]),
    ],
)
def test_sources_of_text(raw):
    id_map = IdMap.fit(raw)
    assert id_map.kind == "text"
    assert list(id_map.encode(raw)[0]) == [2, 1]


def test_whole_floats_are_integers():
    assert IdMap.fit(np.array([3.0, -1.0])) == IdMap.fit([3, -1])


@pytest.mark.parametrize(
    ("raw", "error", "message"),
    [
        ([1.0, 2.5], ValueError, r"'item', row 1: fractional id \(2.5\)"),
        ([1.0, float("nan")], ValueError, "row 1: null id"),
        ([1, 2, None], ValueError, "row 2: null id"),
        (["a", None], ValueError, "row 1: null id"),
        (["a", ""], ValueError, "row 1: empty id"),
        (pd.Series([1, None, 3], dtype="Int64"), ValueError, "row 1: null id"),
        (pa.array([1.0, float("nan")]), ValueError, "row 1: null id"),
        (np.array([1.0, np.inf]), ValueError, "row 1: "),
        (np.array([1.0, 2.0**53 + 2]), ValueError, "row 1: .*not exact"),
        (np.array([2**24 + 2], dtype=np.float32), ValueError, "row 0: .*not exact"),
        ([True, False], TypeError, "bool"),
        ([1, "a"], TypeError, "one type"),
        (pd.Series(pd.to_datetime(["2020-01-01"])), TypeError, "timestamp"),
        ([2**64], ValueError, "int64 and uint64"),
        (np.zeros((2, 2), int), ValueError, "one-dimensional"),
    ],
)
def test_bad_ids_name_the_column_and_row(raw, error, message):
    with pytest.raises(error, match=message):
        IdMap.fit(raw, name="item")
    with pytest.raises(error, match="'item'"):
        IdMap.fit([1, 2], name="item").encode(raw, name="item")


def test_text_for_integers_is_refused_not_unseen():
    with pytest.raises(TypeError, match="text ids, but the map was made from int64"):
        IdMap.fit([1, 2]).encode(["1"])
    with pytest.raises(TypeError, match="int64 ids, but the map was made from text"):
        IdMap.fit(["1"]).encode([1])


@pytest.mark.parametrize("number", [0, 4, -1])
def test_decode_refuses_padding_oov_and_outside(number):
    with pytest.raises(IndexError, match=f"number {number} at position 1"):
        IdMap.fit([7, 8, 9]).decode([1, number])


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "float", "first": 1, "values": [1]},
        {"kind": "int64", "first": 1, "values": [1, 1]},
        {"kind": "int64", "first": 1, "values": [1, None]},
        {"kind": "int64", "first": 1, "values": ["a"]},
        {"kind": "text", "first": "x", "values": ["a"]},
        {"kind": "int64", "first": 1, "values": 3},
    ],
)
def test_foreign_descriptions_are_refused(data):
    with pytest.raises(ValueError, match="not an id map"):
        IdMap.from_dict(data)


@pytest.mark.parametrize("ids", [[5, 7, 9, 6], [-3, 4, 2**40], [2**63 - 1, 2**63 - 2], [-(2**63), 2**63 - 1], [8]])
def test_dense_maps_are_looked_up_as_others(ids):
    known = IdMap.fit(np.array(ids))
    asked = np.array([*ids, *(i - 1 for i in ids if i > -(2**63)), 0, -(2**63), 2**63 - 1], dtype=np.int64)
    numbers, unseen = known.encode(asked)
    place = {value: known.first + rank for rank, value in enumerate(sorted(ids))}
    assert numbers.tolist() == [place.get(int(i), known.oov) for i in asked]
    assert unseen == sum(int(i) not in place for i in asked)
