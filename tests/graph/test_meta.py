"""Meta data of graph files: what is not such as the package writes is refused when the file is read."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext import InterestGraph
from resemb_ext.data import read_log
from resemb_ext.testing.strategies import examples

LOG = {"user_id": [1, 1, 1, 2, 2], "item_id": [3, 4, 5, 4, 5], "timestamp": range(5)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Bytes of graph files: of a log with and without counts, and linked."""
    folder = tmp_path_factory.mktemp("meta")
    log = read_log(LOG)
    counted = InterestGraph.from_log(log, keep_counts=True, directed=True)
    found = {}
    for name, graph in (
        ("plain", InterestGraph.from_log(log, directed=True)),
        ("counted", counted),
        ("linked", counted.with_link("gcn", padding_idx=0, hops=2)),
        ("shifted", InterestGraph.from_log(log, directed=True).shift(3, 11)),
    ):
        graph.save(folder / name)
        found[name] = (folder / name).read_bytes()
    return found


def rewritten(data, change):
    with np.load(io.BytesIO(data)) as archive:
        arrays = dict(archive)
    header = json.loads(arrays.pop("header").tobytes())
    change(header["meta"])
    out = io.BytesIO()
    np.savez(out, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    return out.getvalue()


def put(path, value):
    def change(meta):
        *inner, last = path
        for name in inner:
            meta = meta[name]
        meta[last] = value

    return change


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        ("plain", ["options"], None, "options is None, expected an object"),
        ("plain", ["options"], [1], "options is \\[1\\], expected an object"),
        ("plain", ["options", "top_k"], "ten", "options.top_k is 'ten', expected an integer"),
        ("plain", ["options", "top_k"], -1, "options.top_k is -1, expected an integer >= 0"),
        ("plain", ["options", "directed"], 1, "options.directed is 1, expected true or false or null"),
        ("plain", ["options", "self_weight"], None, "self_weight is None"),
        ("plain", ["events"], "3", "events is '3', expected an integer"),
        ("plain", ["time_cut"], "3", "time_cut is '3', expected an integer or a number or null"),
        ("plain", ["time_unit"], "int64", "time_unit is 'int64', expected the dtype of dates"),
        ("plain", ["event_hash"], 3, "event_hash is 3, expected text or null"),
        ("plain", ["sessions"], "no", "sessions is 'no', expected true or false"),
        ("plain", ["ids"], None, "ids is None, expected an object"),
        ("plain", ["ids", "items"], 3, "ids.items is 3, expected an object"),
        ("plain", ["ids", "items"], {"count": 3}, "ids.items.first is None, expected an integer"),
        ("plain", ["ids", "items", "sha256"], None, "ids.items.sha256 is None, expected text"),
        ("linked", ["link"], "gcn", "link is 'gcn', expected an object"),
        ("linked", ["link", "hops"], "two", "link.hops is 'two', expected an integer"),
        ("linked", ["link", "kept_mass"], [None], "link.kept_mass is None, expected an integer or a number"),
        ("shifted", ["shift"], 3, "shift is 3, expected an object"),
        ("shifted", ["shift", "offset"], None, "shift.offset is None, expected an integer"),
        ("shifted", ["shift", "offset"], -1, "shift.offset is -1, expected an integer >= 0"),
        ("counted", ["event_digest"], "12", "event_digest is '12', expected 32 hex digits"),
        ("counted", ["event_digest"], None, "event_digest is missing, which kept counts need"),
        ("counted", ["options", "window"], 0, "window is 0, expected an integer >= 1"),
        ("counted", ["options", "weighting"], "tf", "weighting is 'tf'"),
        ("counted", ["options", "padding_idx"], 99, "padding_idx is 99, expected an integer in"),
    ],
)
def test_foreign_meta_data_are_refused(files, tmp_path, kind, path, value, message):
    (tmp_path / "g").write_bytes(rewritten(files[kind], lambda meta: None))
    assert InterestGraph.load(tmp_path / "g").num_items == (11 if kind == "shifted" else 5)
    (tmp_path / "g").write_bytes(rewritten(files[kind], put(path, value)))
    with pytest.raises(ValueError, match=message) as caught:
        InterestGraph.load(tmp_path / "g")
    assert str(tmp_path / "g") in str(caught.value) and "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@examples(200)
@given(data=st.data())
def test_what_loads_can_be_used(files, tmp_path_factory, data):
    kind = data.draw(st.sampled_from(sorted(files)))

    def change(meta):
        for _ in range(data.draw(st.integers(1, 2))):
            place = meta
            while True:
                name = data.draw(st.sampled_from(sorted(place)))
                if not isinstance(place[name], dict) or not place[name] or data.draw(st.booleans()):
                    break
                place = place[name]
            if data.draw(st.booleans()):
                place[name] = data.draw(JSON)
            else:
                del place[name]
            if not meta:
                break

    path = tmp_path_factory.getbasetemp() / "meta-fuzz"
    path.write_bytes(rewritten(files[kind], change))
    try:
        graph = InterestGraph.load(path)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    graph.stats()
    log = read_log(LOG)
    graph.same_items(log.items)
    for use in (
        lambda: graph.with_link("gcn", padding_idx=0, hops=2),
        lambda: graph.shift(1, 99).save(path),
        lambda: graph.update(log),
        lambda: graph.update(([1], [1], [9])),
    ):
        try:
            use()
        except (ValueError, TypeError, IndexError) as error:  # one line: another link, no counts, times of another kind
            assert str(error) and "\n" not in str(error) and "NoneType" not in str(error)
