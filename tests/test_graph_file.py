"""The graph's file: round trip, atomic writing, and damage of every kind."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resemb_ext import InterestGraph


def a_graph():
    rng = np.random.default_rng(0)
    return InterestGraph.from_events(
        rng.integers(0, 9, 300), rng.integers(1, 20, 300), rng.integers(0, 99, 300), padding_idx=0
    )


def bytes_of(graph, folder):
    graph.save(folder / "g.npz")
    return (folder / "g.npz").read_bytes()


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


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_truncated(good, scratch, data):
    size = data.draw(st.integers(0, len(good) - 1))
    assert load_or_value_error(scratch, good[:size]) is None


@settings(deadline=None, max_examples=400)
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


def test_a_member_whose_name_breaks_the_line(good, scratch):
    damaged = good[::-1].replace(b"header.npy"[::-1], b"header.\npy"[::-1], 1)[::-1]
    assert load_or_value_error(scratch, damaged) is None


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=300))
@example(b"")
@example(b"PK\x05\x06" + bytes(18))
def test_foreign_bytes(scratch, data):
    assert load_or_value_error(scratch, data) is None


def rewritten(good, **changes):
    """A whole, CRC-clean file with members or header fields replaced, its hash made to match."""
    from resemb_ext.graph import _file

    with np.load(io.BytesIO(good)) as archive:
        arrays = dict(archive)
    header = json.loads(arrays.pop("header").tobytes())
    for name, value in changes.items():
        (arrays if name in arrays else header)[name] = value
    header.setdefault("link", "raw")
    if "hash" not in changes:
        header["hash"] = _file.content_hash(arrays, str(header["link"]))
    out = io.BytesIO()
    np.savez(out, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    return out.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "format version is 3, this release reads 1 and 2"),
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
