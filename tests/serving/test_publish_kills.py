"""Publishers and readers that are killed: readers see the version before, whole, or the new one, whole."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resemb_ext.data import IdMap
from resemb_ext.serving import lite
from resemb_ext.serving.publish import publish
from resemb_ext.serving.versions import roll_back, verify

ROWS, DIM = 300, 16
#: What a publisher asks of the system, beside writing bytes.
CALLS = ("open", "mkdir", "rmdir", "chmod", "fsync", "replace", "unlink", "close")


def table(seed: int, rows: int = ROWS) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((rows, DIM)).astype(np.float32)
    vectors[np.random.default_rng(seed).random(rows) < 0.1] += seed
    return vectors


def ids(rows: int = ROWS) -> IdMap:
    return IdMap.fit([f"item-{k:05}" for k in range(rows - 2)])


def seen(path: Path, known: lite.Snapshot | None = None) -> tuple[int, bytes, int]:
    """The version that a reader sees: its number, all rows and how many raw ids it has."""
    now = lite.read_snapshot(path, known)
    assert now.items is not None and len(now.items) == now.rows - 2
    return now.sequence, now.gather(np.arange(now.rows)).tobytes(), now.rows


def _three_versions(path: Path) -> None:
    for seed in range(3):
        publish(table(seed), path, items=ids(), compact=9)


#: Of each publication: how the table comes to be, and what is done to it then.
WORK: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "the first base": (lambda path: None, lambda path: publish(table(0), path, items=ids())),
    "a delta": (_three_versions, lambda path: publish(table(5), path, items=ids(), compact=9)),
    "a delta that grows": (
        _three_versions,
        lambda path: publish(table(5, ROWS + 9), path, items=ids(ROWS + 9), compact=9),
    ),
    "a full base": (_three_versions, lambda path: publish(table(5), path, items=ids(), full=True)),
    "a compaction, old versions removed": (
        _three_versions,
        lambda path: publish(table(5), path, items=ids(), compact=0.1, keep=1),
    ),
    "a roll back": (_three_versions, lambda path: roll_back(path, 1)),
}


def in_child(work: Callable[[], Any]) -> int:
    """Does it in a fork; 0 where it came to its end, else the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            work()
            os._exit(0)
        except BaseException:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def at_byte(count: int) -> None:
    """The system ends this process once it has written so many bytes of a file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))


def at_call(count: int) -> None:
    """This process is killed before that call of the system."""
    left = [count]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return wrapped

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def after_seconds(seconds: float) -> None:
    """The system ends this process after a time."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def kills(longest: int, seconds: float, draw: random.Random) -> Iterator[Callable[[], None]]:
    """At bytes, at calls, and after times."""
    for count in [0, 1, 4096, *draw.sample(range(longest), 12)]:
        yield lambda count=count: at_byte(count)
    for count in range(22):
        yield lambda count=count: at_call(count)
    for _ in range(7):
        after = draw.uniform(0, seconds)
        yield lambda after=after: after_seconds(after)


def check(kind: str, path: Path, some: slice) -> int:
    """Kills a publication in many ways; gives how many kills hit it."""
    prepare, work = WORK[kind]
    prepare(path)
    saved = path.parent / "saved"
    before = seen(path) if path.exists() else None
    reader = lite.read_snapshot(path) if before else None
    shutil.copytree(path.parent, saved, ignore=shutil.ignore_patterns("saved"))

    def restore() -> None:
        for place in (path, lite.folder_of(path)):
            if place.is_dir():
                shutil.rmtree(place)
            elif place.exists():
                place.unlink()
        shutil.copytree(saved, path.parent, dirs_exist_ok=True)

    start = time.perf_counter()
    work(path)
    seconds = time.perf_counter() - start
    after = seen(path)
    whole = sorted(f.name for f in path.parent.rglob("*") if f.is_file() and saved not in f.parents)
    largest = max(f.stat().st_size for f in path.parent.rglob("*") if f.is_file() and saved not in f.parents)
    longest = (lite.folder_of(path) / "HEAD").stat().st_size if kind == "a roll back" else largest
    restore()
    hits = 0
    for kill in [*kills(longest, seconds, random.Random(kind))][some]:

        def killed(kill: Callable[[], None] = kill) -> None:
            kill()
            work(path)

        ended = in_child(killed)
        hits += ended != 0
        if before is None and not path.exists():
            assert ended != 0
        else:
            found = seen(path)
            assert found == seen(path, reader)
            assert found in ((before, after) if ended else (after,))
            verify(path)
        # What the killed one left is no hindrance, and goes.
        work(path)
        assert seen(path)[1:] == after[1:]
        left = sorted(f.name for f in path.parent.rglob("*") if f.is_file() and saved not in f.parents)
        assert left == whole or len(left) == len(whole) + 1  # it came to its end, and a further version was made
        restore()
    return hits


@pytest.mark.full
@pytest.mark.usefixtures("unsynced", "one_thread")
@pytest.mark.parametrize("kind", WORK)
def test_a_kill_leaves_the_version_before_or_the_new_one(kind: str, tmp_path: Path) -> None:
    # Six times, and readers forty times: more than 200 in all.
    assert check(kind, tmp_path / "items.table", slice(None)) >= 33


@pytest.mark.usefixtures("unsynced", "one_thread")
def test_a_few_kills(tmp_path: Path) -> None:
    assert check("a delta", tmp_path / "items.table", slice(3, None, 5)) >= 4


@pytest.mark.full
@pytest.mark.usefixtures("unsynced", "one_thread")
def test_killed_readers_change_nothing_and_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "items.table"
    _three_versions(path)
    draw = random.Random(0)
    killed = 0
    for turn in range(40):
        known = lite.read_snapshot(path)
        publish(table(10 + turn), path, items=ids(), compact=0.5, keep=2)
        saved = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
        start = time.perf_counter()
        expected = seen(path, known)
        seconds = time.perf_counter() - start

        def read(seconds: float = seconds, known: lite.Snapshot = known) -> None:
            after_seconds(draw.uniform(0, seconds))
            while True:
                seen(path, known)

        killed += in_child(read) == signal.SIGALRM
        assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == saved
        assert seen(path) == expected
    assert killed == 40
