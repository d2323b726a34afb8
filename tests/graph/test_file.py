"""The graph's file: round trip, atomic writing, and damage of every kind."""

import base64
import io
import json
import mmap
import os
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resemb_ext import InterestGraph
from resemb_ext.testing.strategies import examples


def a_graph():
    rng = np.random.default_rng(0)
    return InterestGraph.from_events(
        rng.integers(0, 9, 300), rng.integers(1, 20, 300), rng.integers(0, 99, 300), padding_idx=0
    )


# A file of version 1, of from_events([0, 0, 0, 1, 1], [1, 2, 3, 2, 3], [1, 2, 3, 1, 2], num_items=4,
# window=2, top_k=1, padding_idx=0), compressed.
VERSION_1 = (
    r"c-p;GJ8#rL5Z)s>1c@S1q(P!EE;x|xkZsnFL?BYpM4)RZD3G<@9p71rAF}syiNZ-KXrX{65>3kV(9%*;^9K+=ff8"
    r"n8JJ=@_1%lYsYCN+uv;KCz+2Q8G;((OnCVBZ~<HL_?ERj_*1|}fCn`C<(a*aH=RQlEO?USdEhtE1>hwS$R6g=;(Y"
    r"rPi}v)9*pVVcXFC4QP?0<=G3+XbM#7_$sezfGy#zth)d+Fy^QeH~AUnbg-cJ%<9~U=Sq|@KX*(Im^a+U(<IWFQPO"
    r"-9}~6hDA_u3XH&H~X2n>kYc^2V2xzbtg6kOEVMYiR6%I2!YK4{ojJkpf7d+c!%(KAc%;dsjj>BBrQn_M~40G+zom"
    r"ixkoP#<9b|8_3a!oUd4#kOgGKu|2Laa23d($Wp=@b<U6`5xKR+T7@5}&7&L{|C~qS07J$w=icH`H;k9s1>#vd3&!"
    r"Sw)lsmmts-mW9wWCIklik=RA6G3%fH;JRk3qoWvnK2cfj)q8$@Uv9tyyq%C*I87b|q3Kw*VXt|CL5<J>&*7%9y#V"
    r"hh;Eo+IOBmb)$8eb)x{f}Z4O_&EUcLL)BpzNuCQpfXT=~`Vx5T?2dFLYDMQMk`BXgtb2eMen%av?n9DaK9y~enL7"
    r"!y^cAkB*!=3(V}cs5LWE||{6VRkBLYArNm8`j77uc3yujIc`b{UNCEzkwp;;9<GQMsu}6g`aO-Z}L&VC<mx99aVl"
    r"uXJa}aAL+m5<CTq4uAa)_X6Mpiq5aIOM_jFD@PVp$<I$gwQ(byo^<g`14>SGh+4(rd{KJX^E3LTa$fs5x%!ev=)u"
    r"GF+P>S8w;M#nks^C#oqxQdE?UF`4hnwA#cJ1Q4f%w06mG%>oN0>+"
)


def counted():
    rng = np.random.default_rng(0)
    return InterestGraph.from_events(
        rng.integers(0, 9, 90),
        rng.integers(1, 20, 90),
        np.arange(90) / 2,
        padding_idx=0,
        keep_counts=True,
        category=np.arange(20) % 4,
        category_edges=1,
        num_items=20,
    )


def bytes_of(graph, folder):
    graph.save(folder / "g.npz")
    return (folder / "g.npz").read_bytes()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return bytes_of(counted(), tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return bytes_of(a_graph(), tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("link", [None, "average", "gcn", "given"])
def test_round_trip(tmp_path, link):
    graph = a_graph() if link is None else a_graph().with_link(link, padding_idx=0)
    for name in ("g.npz", "no suffix"):
        graph.save(tmp_path / name)
        loaded = InterestGraph.load(os.fspath(tmp_path / name))
        for field in ("indptr", "neighbors", "weights", "degree"):
            ours, theirs = getattr(graph, field), getattr(loaded, field)
            assert ours.dtype == theirs.dtype and not theirs.flags.writeable
            np.testing.assert_array_equal(ours, theirs)
        assert (loaded.link, loaded.meta, loaded.hash) == (graph.link, graph.meta, graph.hash)
    assert sorted(os.listdir(tmp_path)) == ["g.npz", "no suffix"]


def test_plain_numpy_reads_it_and_equal_graphs_give_equal_files(tmp_path, good):
    assert bytes_of(a_graph(), tmp_path) == good
    with np.load(io.BytesIO(good), allow_pickle=False) as arrays:
        assert set(arrays) == {"header", "indptr", "neighbors", "weights", "degree"}
        header = json.loads(arrays["header"].tobytes())
    assert header["format"] == "resemb-interest-graph" and header["version"] == 2


def is_mapped(array):
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array is not None


@pytest.mark.parametrize("weights_dtype", ["float32", "float16"])
def test_mapped(tmp_path, weights_dtype):
    graph = a_graph().with_link("gcn", padding_idx=0, weights_dtype=weights_dtype)
    graph.save(tmp_path / "g.npz")
    mapped = InterestGraph.load(tmp_path / "g.npz", mapped=True)
    assert mapped.hash == graph.hash and mapped.meta == graph.meta
    again = mapped.with_link("gcn", padding_idx=0)
    for name in ("indptr", "neighbors", "weights", "degree"):
        found = getattr(mapped, name)
        np.testing.assert_array_equal(found, getattr(graph, name))
        assert is_mapped(found) and not found.flags.writeable and found.ctypes.data % 64 == 0
        assert is_mapped(getattr(again, name))
    assert not is_mapped(InterestGraph.load(tmp_path / "g.npz").neighbors)
    other = a_graph().with_link("gcn", padding_idx=0)
    other.save(tmp_path / "g.npz")  # in its place, not into it
    np.testing.assert_array_equal(mapped.weights, graph.weights)
    empty = InterestGraph.from_csr([0, 0], [])
    empty.save(tmp_path / "empty.npz")
    assert InterestGraph.load(tmp_path / "empty.npz", mapped=True).hash == empty.hash


def test_files_that_cannot_be_mapped(tmp_path, good):
    with np.load(io.BytesIO(good), allow_pickle=False) as arrays:
        np.savez(tmp_path / "old.npz", **arrays)
    InterestGraph.load(tmp_path / "old.npz")
    with pytest.raises(ValueError, match=r"old.npz is not a readable .* begins at byte .*load and save it again"):
        InterestGraph.load(tmp_path / "old.npz", mapped=True)
    flipped = bytearray(good)
    flipped[good.index(a_graph().degree.tobytes()) + 3] ^= 1
    (tmp_path / "flipped.npz").write_bytes(flipped)
    with pytest.raises(ValueError, match=r"flipped.npz is not .*its arrays do not match its hash"):
        InterestGraph.load(tmp_path / "flipped.npz", mapped=True)


def test_files_of_version_1_are_read(tmp_path):
    path = tmp_path / "old.npz"
    path.write_bytes(zlib.decompress(base64.b85decode(VERSION_1)))
    old = InterestGraph.load(path)
    new = InterestGraph.from_events(
        [0, 0, 0, 1, 1], [1, 2, 3, 2, 3], [1, 2, 3, 1, 2], num_items=4, window=2, top_k=1, padding_idx=0
    )
    assert old.hash == new.hash and old.meta["version"] == 1 and old.counts is None
    for hops in (1, 2):
        linked = [graph.with_link("gcn", padding_idx=0, hops=hops) for graph in (old, new)]
        assert linked[0].hash == linked[1].hash
    assert old.stats() == new.stats()


def test_kept_counts_round_trip(tmp_path, kept):
    (tmp_path / "g.npz").write_bytes(kept)
    loaded, ours = InterestGraph.load(tmp_path / "g.npz").counts.arrays(), counted().counts.arrays()
    assert loaded.keys() == ours.keys()
    for name, array in ours.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_a_failed_save_keeps_the_old_file(tmp_path, good, monkeypatch):
    path = tmp_path / "g.npz"
    path.write_bytes(good)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        a_graph().with_link("average").save(path)
    assert os.listdir(tmp_path) == ["g.npz"] and path.read_bytes() == good


def test_missing_places(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere does not exist"):
        a_graph().save(tmp_path / "nowhere" / "g.npz")
    with pytest.raises(FileNotFoundError):
        InterestGraph.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="is a folder"):
        InterestGraph.load(tmp_path)


def load_or_value_error(path, data):
    path.write_bytes(data)
    try:
        return InterestGraph.load(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "g.npz"


@examples(150)
@given(data=st.data())
def test_truncated(good, scratch, data):
    size = data.draw(st.integers(0, len(good) - 1))
    assert load_or_value_error(scratch, good[:size]) is None


@examples(400)
@given(data=st.data())
def test_flipped_bytes(good, scratch, data):
    damaged = bytearray(good)
    # Half of the flips hit the zip directory at the end, where the structure is.
    low = data.draw(st.sampled_from([0, len(good) - 420]))
    for at in data.draw(st.lists(st.integers(low, len(good) - 1), min_size=1, max_size=6)):
        damaged[at] ^= data.draw(st.integers(1, 255))
    loaded = load_or_value_error(scratch, bytes(damaged))
    if loaded is not None:  # the flips hit bytes without meaning, such as a date
        assert loaded.hash == a_graph().hash and loaded.meta == a_graph().meta


@examples(200)
@given(data=st.data())
def test_damaged_files_with_kept_counts(kept, scratch, data):
    damaged = bytearray(kept)
    low = data.draw(st.sampled_from([0, len(kept) - 900]))
    for at in data.draw(st.lists(st.integers(low, len(kept) - 1), max_size=4)):
        damaged[at] ^= data.draw(st.integers(1, 255))
    size = data.draw(st.sampled_from([len(kept), data.draw(st.integers(0, len(kept)))]))
    loaded = load_or_value_error(scratch, bytes(damaged[:size]))
    if loaded is not None:
        assert loaded.hash == counted().hash
        assert loaded.update(([99], [1], [1e6])).meta["events"] == 91


@pytest.mark.parametrize(
    ("member", "change", "message"),
    [
        ("masses", lambda a: np.concatenate([-a[:1], a[1:]]), "masses do not fit"),
        ("masses", lambda a: a[1:], "masses do not fit"),
        ("neighbors", lambda a: a + 19, r"neighbors\[\d+\]"),
        ("neighbors", lambda a: a[::-1].copy(), "ascending|its own item"),
        ("indptr", lambda a: a[:-1], "indptr ends at"),
        ("occurrences", lambda a: a[1:], "another number of items"),
        ("occurrences", lambda a: -a, "occurrences are negative"),
        ("tail_item", lambda a: a + 50, "last event's item is out of range"),
        ("tail_user", lambda a: a[::-1].copy(), "do not ascend"),
        ("tail_time", lambda a: a * np.nan, "time is not finite"),
        ("tail_time", lambda a: a[1:], "differ in length"),
        ("category", lambda a: a[1:], "category has the wrong length"),
        ("masses", None, "some of its kept counts are missing"),
        ("category", None, "category is missing"),
        ("tail_item", lambda a: a.astype(np.float64), "counts.tail_item is <f8"),
    ],
)
def test_wrong_kept_counts(kept, scratch, member, change, message):
    from resemb_ext.graph import file

    with np.load(io.BytesIO(kept)) as archive:
        arrays = dict(archive)
    header = json.loads(arrays.pop("header").tobytes())
    name = f"counts.{member}"
    arrays[name] = None if change is None else change(arrays[name])
    arrays = {name: array for name, array in arrays.items() if array is not None}
    counts = {name: arrays[f"counts.{name}"] for name in file.KEPT_DTYPES if f"counts.{name}" in arrays}
    header["counts_hash"] = file._hash_of(counts, f"{file.FORMAT}:counts")
    out = io.BytesIO()
    np.savez(out, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    scratch.write_bytes(out.getvalue())
    with pytest.raises(ValueError, match=message) as caught:
        InterestGraph.load(scratch)
    assert str(scratch) in str(caught.value) and "\n" not in str(caught.value)


def test_a_member_whose_name_breaks_the_line(good, scratch):
    damaged = good[::-1].replace(b"header.npy"[::-1], b"header.\npy"[::-1], 1)[::-1]
    assert load_or_value_error(scratch, damaged) is None


@examples(50)
@given(st.binary(max_size=300))
@example(b"")
@example(b"PK\x05\x06" + bytes(18))
def test_foreign_bytes(scratch, data):
    assert load_or_value_error(scratch, data) is None


def rewritten(good, **changes):
    """A whole, CRC-clean file with members or header fields replaced, its hash made to match."""
    from resemb_ext.graph import file

    with np.load(io.BytesIO(good)) as archive:
        arrays = dict(archive)
    header = json.loads(arrays.pop("header").tobytes())
    for name, value in changes.items():
        (arrays if name in arrays else header)[name] = value
    header.setdefault("link", "raw")
    if "hash" not in changes:
        header["hash"] = file.content_hash(arrays, str(header["link"]))
    out = io.BytesIO()
    np.savez(out, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    return out.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 4}, "format version is 4, this release reads 1 to 3"),
        ({"version": True}, "format version is True"),
        ({"format": "other"}, "header is foreign"),
        ({"link": "mean"}, "link is 'mean'"),
        ({"link": 3}, "lacks meta or link"),
        ({"meta": []}, "lacks meta or link"),
        ({"hash": "0" * 64}, "do not match its hash"),
        ({"weights": np.zeros(3, np.float32)}, "wrong length"),
        ({"weights": np.zeros(3, np.float64)}, "weights is <f8"),
        ({"indptr": np.zeros((2, 2), np.int64)}, "indptr is <i8 of shape"),
        ({"indptr": np.array([0, 3], np.int64)}, "indptr ends at 3"),
        ({"degree": np.full(20, np.nan)}, r"degree\[0\] is nan"),
    ],
)
def test_whole_files_with_wrong_content(good, scratch, changes, message):
    scratch.write_bytes(rewritten(good))
    assert InterestGraph.load(scratch).hash == a_graph().hash
    scratch.write_bytes(rewritten(good, **changes))
    with pytest.raises(ValueError, match=message):
        InterestGraph.load(scratch)


@pytest.mark.parametrize("bad", [-1, 20, 2**31 - 1])
def test_neighbours_out_of_range_are_refused(good, scratch, bad):
    neighbors = a_graph().neighbors.copy()
    neighbors[7] = bad
    scratch.write_bytes(rewritten(good, neighbors=neighbors))
    with pytest.raises(ValueError, match=r"neighbors\[7\]"):
        InterestGraph.load(scratch)


def test_unsorted_rows_are_refused(good, scratch):
    neighbors = a_graph().neighbors.copy()
    neighbors[[0, 1]] = neighbors[[1, 0]]
    scratch.write_bytes(rewritten(good, neighbors=neighbors))
    with pytest.raises(ValueError, match="not ascending"):
        InterestGraph.load(scratch)


def test_pickles_and_compressed_members_are_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", indptr=np.array([{}], object))
    np.savez_compressed(tmp_path / "small.npz", **{n: np.zeros(9) for n in "abc"})
    np.save(tmp_path / "array.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("header", "indptr", "neighbors", "weights", "degree"):
            archive.writestr(f"{name}.npy", bytes(10**6))
    for name in ("objects.npz", "small.npz", "array.npy", "bomb.npz"):
        with pytest.raises(ValueError, match=f"{name} is not a readable interest graph"):
            InterestGraph.load(tmp_path / name)
