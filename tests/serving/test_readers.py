"""Readers while versions change, and readers of damaged files: whole rows of one version, or one clear error."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.data import IdMap
from resemb_ext.serving import Table, lite
from resemb_ext.serving.lite import TableError, framing
from resemb_ext.serving.publish import publish
from resemb_ext.serving.versions import roll_back, verify, versions
from resemb_ext.testing.strategies import examples

ROWS, GROWTH, CYCLE = 3000, 3, 10


def stamped(rows: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    """Vectors that 8 bits hold exactly: a row's number, a version's, and the sha256 of both."""
    out = np.zeros((len(rows), 64), np.uint8)
    for line, row, stamp in zip(out, rows.tolist(), stamps.tolist(), strict=True):
        text = struct.pack("<II", row, stamp)
        line[1] = 255  # so that scale is 1 and bias 0
        line[2:10] = np.frombuffer(text, np.uint8)
        line[10:42] = np.frombuffer(hashlib.sha256(text).digest(), np.uint8)
    return out.astype(np.float32)


def stamp_at(rows: np.ndarray, sequence: int) -> np.ndarray:
    """The version that wrote each row last, as of some version: each writes every tenth row, and those that it adds."""
    hashed = rows * 2_654_435_761 % 2**32
    return np.maximum(sequence - (sequence + hashed) % CYCLE, np.maximum(0, (rows - ROWS) // GROWTH + 1))


def rows_at(sequence: int) -> int:
    return ROWS + GROWTH * sequence


def check(now: lite.Snapshot, draw: np.random.Generator) -> None:
    assert now.rows == rows_at(now.sequence)
    rows = draw.integers(0, now.rows, 100)
    expected = stamped(rows, stamp_at(rows, now.sequence)).astype(np.uint8)
    found = now.gather(rows)
    assert (found[:, :64] == expected).all(), now.sequence
    assert (lite.decode(found, "int8", 64) == expected).all()


def look_up(path: Path, goes_on: Callable[[], bool], seed: int) -> int:
    """Looks up in two threads, while a third one goes to new versions; gives how many it saw."""
    torch.set_num_threads(1)
    table = Table.open(path)

    def one(seed: int) -> None:
        draw = np.random.default_rng(seed)
        while goes_on():
            rows = draw.integers(0, rows_at(0), 100)
            before = table.sequence
            found = table(torch.from_numpy(rows)).numpy().astype(np.uint8)
            stamps = found[:, 6:10].copy().view("<u4")[:, 0].astype(np.int64)
            assert (found == stamped(rows, stamps).astype(np.uint8)).all()  # no torn row
            whole = [v for v in range(before, table.sequence + 1) if (stamp_at(rows, v) == stamps).all()]
            assert whole, (before, table.sequence)  # all of one version

    seen = {table.sequence}
    with ThreadPoolExecutor(2) as threads:
        work = [threads.submit(one, 10 * seed + k) for k in range(2)]
        while goes_on():
            table.refresh()
            seen.add(table.sequence)
        for done in work:
            done.result()
    return len(seen)


def read(path: Path, goes_on: Callable[[], bool], seed: int) -> int:
    """Reads with NumPy alone; gives how many versions it saw."""
    draw = np.random.default_rng(seed)
    now = lite.read_snapshot(path)
    seen = {now.sequence}
    while goes_on():
        before = now
        now = lite.read_snapshot(path, None if draw.random() < 0.2 else before)
        assert now.sequence >= before.sequence
        for _ in range(5):
            check(now, draw)
        check(before, draw)  # still whole, also after its files went
        seen.add(now.sequence)
    return len(seen)


@pytest.mark.usefixtures("unsynced", "one_thread")
@pytest.mark.parametrize(
    ("readers", "seconds"),
    [(2, 0.5), pytest.param(8, 2, marks=pytest.mark.full), pytest.param(8, 60, marks=pytest.mark.slow)],
)
def test_readers_see_whole_versions_while_others_are_published(readers: int, seconds: float, tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    start = np.arange(rows_at(0))
    vectors = stamped(start, np.zeros(len(start), np.int64))
    publish(vectors, path)
    ready, stop = (lambda seed: tmp_path / f"ready-{seed}"), tmp_path / "stop"

    def goes_on(seed: int) -> bool:
        ready(seed).touch()
        return not stop.exists()

    children = []
    for seed in range(readers):
        child = os.fork()
        if not child:
            status = 99
            try:
                status = min(50, (look_up if seed % 2 else read)(path, partial(goes_on, seed), seed))
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        children.append(child)
    try:
        limit = time.monotonic() + 60
        while not all(ready(seed).exists() for seed in range(readers)):
            assert time.monotonic() < limit
            time.sleep(0.01)
        end, sequence = time.monotonic() + seconds, 0
        while time.monotonic() < end or sequence < 5:
            sequence += 1
            rows = np.arange(rows_at(sequence))
            stamps = stamp_at(rows, sequence)
            changed = rows[stamps == sequence]
            vectors = np.concatenate([vectors, np.zeros((GROWTH, 64), np.float32)])
            vectors[changed] = stamped(changed, stamps[changed])
            # Deltas, a new base after each third, and old files removed at once.
            done = publish(vectors, path, rows=changed, compact=0.35, keep=1)
            assert (done.sequence, done.changed) == (sequence, len(changed))
        time.sleep(seconds / 5)
    finally:
        stop.touch()
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert all(1 < status < 99 for status in statuses), statuses
    check(lite.read_snapshot(path), np.random.default_rng(0))
    verify(path)


# Damaged files.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A table of three versions, and the content of its files."""
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "items.table"
    for turn in range(3):
        vectors = np.random.default_rng(turn).standard_normal((40 + turn, 6)).astype(np.float32)
        publish(vectors, path, items=IdMap.fit([f"item-{k:03}" for k in range(38 + turn)]), compact=9)
    return path, {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def restore(path: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(path.parent)
    for name, content in files.items():
        (path.parent / name).parent.mkdir(exist_ok=True, parents=True)
        (path.parent / name).write_bytes(content)


def whole(now: lite.Snapshot) -> tuple[Any, ...]:
    items = now.items
    return now.rows, now.oov, now.sequence, now.gather(np.arange(now.rows)).tobytes(), items and list(items.values)


def read_damaged(path: Path, known: lite.Snapshot, expected: dict[int, tuple[Any, ...]]) -> None:
    """What is read are rows that were published, or there is one error of one line."""

    def checked() -> None:
        now = lite.read_snapshot(path)
        now.verify()  # the rows of a base are compared when this is asked for
        assert whole(now) == expected[now.sequence]

    def with_known() -> None:
        now = lite.read_snapshot(path, known)
        assert now is known or whole(now)[:3] == expected[now.sequence][:3]

    for call in (checked, with_known, lambda: versions(path), lambda: verify(path)):
        try:
            call()
        except (TableError, FileNotFoundError) as error:
            assert "\n" not in str(error)
    assert whole(known) == expected[known.sequence]


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, int, int, bytes]]:
    one = st.tuples(
        st.sampled_from(["flip", "cut", "insert", "swap", "remove", "zero"]),
        st.integers(0, 2**32),
        st.integers(0, 2**32) | st.integers(0, 60),
        st.binary(min_size=1, max_size=9),
    )
    return draw(st.lists(one, min_size=1, max_size=3))


@given(damage=damages())
@examples(300)
def test_damaged_files_give_right_rows_or_one_error(
    damage: list[tuple[str, int, int, bytes]], place: tuple[Path, dict[str, bytes]]
) -> None:
    path, files = place
    restore(path, files)
    expected = {}
    for version in versions(path):
        roll_back(path, version.sequence)
        expected[version.sequence] = whole(lite.read_snapshot(path))
    restore(path, files)
    # Its base lies in memory of its own: a mapped file that is cut is beyond what a reader can guard against.
    known = lite.read_snapshot(path)
    vars(known)["base"] = np.array(known.base)
    names = sorted(files)
    for kind, which, at, content in damage:
        name = names[which % len(names)]
        file = path.parent / name
        held = file.read_bytes() if file.exists() else b""
        at %= len(held) + 1
        if kind == "flip" and at < len(held):
            held = held[:at] + bytes([held[at] ^ (content[0] or 1)]) + held[at + 1 :]
        elif kind == "cut":
            held = held[:at]
        elif kind == "insert":
            held = held[:at] + content + held[at:]
        elif kind == "zero":
            held = held[:at] + bytes(len(content)) + held[at + len(content) :]
        elif kind == "swap":
            held = files[names[at % len(names)]]
        file.unlink(missing_ok=True)  # those that are mapped stay as they are
        if kind != "remove":
            file.write_bytes(held)
    read_damaged(path, known, expected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.just("0" * 64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
@examples(300)
def test_headers_of_any_content_give_right_rows_or_one_error(
    data: st.DataObject, place: tuple[Path, dict[str, bytes]]
) -> None:
    path, files = place
    restore(path, files)
    name = data.draw(st.sampled_from(sorted(files)))
    raw = files[name]
    if name.endswith("HEAD"):
        fields = json.loads(raw)
    else:
        length = int.from_bytes(raw[8:16], "little")
        fields, body = json.loads(raw[48 : 48 + length]), raw[framing.body_at(length) :]
    inner = fields["items"] if data.draw(st.booleans()) and fields.get("items") else fields
    for key in data.draw(st.lists(st.sampled_from(sorted(inner)), min_size=1, max_size=3)):
        inner[key] = data.draw(JSON)
    if name.endswith("HEAD"):
        (path.parent / name).write_text(json.dumps(fields))
    else:
        try:
            head = framing.pack(raw[:8], fields)
        except TableError:  # an infinite number, which no header holds
            return
        (path.parent / name).write_bytes(head + body)
    for call in (lambda: whole(lite.read_snapshot(path)), lambda: versions(path), lambda: verify(path)):
        try:
            call()
        except (TableError, FileNotFoundError) as error:
            assert "\n" not in str(error)


@given(content=st.binary(max_size=300) | st.binary(max_size=40).map(lambda tail: b"RXTABLE\x01" + tail))
@examples(100)
def test_any_bytes_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    path.write_bytes(content)
    for call in (lite.read_header, lite.read_delta, lite.read_snapshot, versions, verify):
        with pytest.raises(TableError):
            call(path)
