"""Files of a run, peak memory, and the environment that a result names."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from resemb_ext.runtime import files
from resemb_ext.runtime.digests import check_digests, sha256_of
from resemb_ext.runtime.environment import commit, environment
from resemb_ext.runtime.files import (
    locked,
    plain,
    read_json,
    remove_temporaries,
    staging,
    write_atomic,
    write_json,
    write_text,
)
from resemb_ext.runtime.peak_memory import PeakMemory


def test_peak_memory_sees_what_was_freed():
    size = 64 * 2**20
    with PeakMemory() as memory:
        block = np.ones(size // 8)
        del block
    assert memory.peak_mb > 0 and memory.source
    if memory.before_mb:  # the mark could be reset
        assert memory.peak_mb - memory.before_mb > 50
        with PeakMemory() as later:
            pass
        assert later.peak_mb - later.before_mb < 30


def test_json_is_strict_and_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"nan": math.nan, "array": np.arange(3), "scalar": np.float32(0.5), 1: (2,)})
    assert json.loads(path.read_text()) == {"nan": None, "array": [0, 1, 2], "scalar": 0.5, "1": [2]}
    assert plain(np.array([np.inf])) == [None]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(target):
        target.write_text("half")
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_atomic(path, fail)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


WRITES = """
import runpy, sys, time
from pathlib import Path

def write(target):
    target.write_text("half")
    print("writing", flush=True)
    time.sleep(60)

runpy.run_path(sys.argv[2])["write_atomic"](Path(sys.argv[1]), write)
"""  # without the import of the whole package


def test_what_a_killed_process_left_goes_with_the_next_write_and_nothing_else(tmp_path):
    foreign = [".tmpXyZ", ".a.txt.abcdefgh.tmp", ".a.txt.resemb-tmp", ".a.txt.abcdefgh.resemb-tmp-mine", ".mine.tmp"]
    for name in foreign:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".file.abcdefgh.resemb-tmp").write_text("a file, where ours are folders")
    (tmp_path / ".link.abcdefgh.resemb-tmp").symlink_to(tmp_path)
    kept = sorted(path.name for path in tmp_path.iterdir())
    code = [sys.executable, "-c", WRITES, tmp_path / "a.txt", files.__file__]
    work = subprocess.Popen(code, stdout=subprocess.PIPE, text=True)
    assert work.stdout.readline() == "writing\n"
    (left,) = set(tmp_path.iterdir()) - {tmp_path / name for name in kept}
    write_text(tmp_path / "b.txt", "other")
    remove_temporaries(tmp_path)
    assert (left / "a.txt").read_text() == "half"  # its process lives
    work.send_signal(signal.SIGKILL)
    work.wait()
    work.stdout.close()
    assert left.exists()
    write_text(tmp_path / "b.txt", "new")
    assert not left.exists() and not (tmp_path / "a.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "b.txt"])


def test_a_folder_swept_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    import fcntl

    flock, swept = fcntl.flock, []

    def slow(handle, how):
        if not swept:
            swept.append(os.readlink(f"/proc/self/fd/{handle}"))
            os.rmdir(swept[0])
        flock(handle, how)

    monkeypatch.setattr("fcntl.flock", slow)
    with staging(tmp_path / "a") as folder:
        assert folder.is_dir() and str(folder) != swept[0]
    assert list(tmp_path.iterdir()) == []


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    with staging(tmp_path / "a") as other:
        write_text(tmp_path / "a", "mine")
        assert other.is_dir()


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_permissions_of_new_ones_and_the_mask_stays(tmp_path, monkeypatch, mask):
    before = os.umask(mask)
    try:
        monkeypatch.setattr(os, "umask", None)  # it would be another for all threads, if only for a moment

        def private(target):
            target.unlink()
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))

        write_atomic(tmp_path / "a", private)
        write_text(tmp_path / "b", "")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}


def test_many_threads_write_into_one_folder(tmp_path):
    def work(number):
        for turn in range(20):
            write_text(tmp_path / f"{number % 2}", f"{turn}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "19", "1": "19"}


def test_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    kept = {"a": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert sha256_of(tmp_path / "a") == kept["a"]
    check_digests(tmp_path, kept, "write it again")
    (tmp_path / "a").write_bytes(b"abd")
    with pytest.raises(ValueError, match=r"a is not the file that was written: its sha256 differs; write it again"):
        check_digests(tmp_path, kept, "write it again")
    with pytest.raises(FileNotFoundError, match=r"no file .*b; write it again"):
        check_digests(tmp_path, {"b": ""}, "write it again")


def test_a_failed_write_names_its_file(tmp_path):
    path = tmp_path / "a.txt"

    def full(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=rf"No space left on device; nothing was written: '{path}'") as stop:
        write_atomic(path, full)
    assert stop.value.errno == errno.ENOSPC
    missing = tmp_path / "none" / "a.txt"
    with pytest.raises(FileNotFoundError, match=f"'{missing}'"):
        write_text(missing, "")
    with pytest.raises(IsADirectoryError, match=f"'{tmp_path}'"):
        write_text(tmp_path, "")
    # What is read on the way keeps its own name.
    with pytest.raises(FileNotFoundError, match=f"'{tmp_path / 'input'}'"):
        write_atomic(path, lambda target: target.write_bytes((tmp_path / "input").read_bytes()))
    assert not list(tmp_path.iterdir())


def test_a_link_is_followed(tmp_path):
    link, place = tmp_path / "link", tmp_path / "there"
    place.mkdir()
    link.symlink_to(place / "file")
    for text in ("new", "newer"):  # of a link that leads nowhere yet, and of one that leads to a file
        write_text(link, text)
        assert link.is_symlink() and (place / "file").read_text() == text
    assert len(list(place.iterdir())) == 1


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b""])
def test_json_that_cannot_be_read_names_its_file(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json cannot be read: "):
        read_json(path)


def test_environment_names_versions_and_threads():
    found = environment()
    assert found["versions"]["torch"] and found["versions"]["python"]
    assert found["threads"] >= 1


def test_commit_marks_changes(tmp_path):
    def git(*arguments):
        subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            check=True,
            capture_output=True,
        )

    assert commit(tmp_path) is None
    git("init")
    (tmp_path / "a.py").write_text("1")
    assert commit(tmp_path) is None
    git("add", "a.py")
    git("commit", "-m", "one")
    clean = commit(tmp_path)
    assert clean is not None and len(clean) == 40
    (tmp_path / "a.py").write_text("2")
    assert commit(tmp_path) == clean + "+"


def test_files_are_synced_before_and_after_the_rename(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(os.readlink(f"/proc/self/fd/{handle}")))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    write_atomic(tmp_path / "x", lambda target: target.write_text("1"))
    assert done[0].startswith(str(tmp_path / ".x.")) and done[1:] == ["rename", str(tmp_path)]


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.EIO])
def test_file_systems_without_locks(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    if number == errno.EIO:
        with pytest.raises(OSError, match="no locks"), locked(tmp_path):
            pass
    else:
        with locked(tmp_path):
            pass


def test_one_process_at_a_time(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="another process is working in"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
