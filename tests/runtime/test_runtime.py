"""Files of a run, peak memory, and the environment that a result names."""

import errno
import json
import math
import os
import subprocess

import numpy as np
import pytest

from resemb_ext.runtime.environment import commit, environment
from resemb_ext.runtime.files import locked, plain, write_atomic, write_json, write_text
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
