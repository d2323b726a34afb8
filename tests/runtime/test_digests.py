"""SHA256SUMS beside a folder's files: what is found damaged, and what a kill between two writes leaves."""

import contextlib
import os
import shutil
import subprocess
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.runtime import digests
from resemb_ext.runtime.digests import (
    SUMS,
    check_digest,
    read_checked_json,
    record_digests,
    write_recorded,
    write_recorded_json,
)
from resemb_ext.testing.strategies import examples


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "arms").mkdir()
    write_recorded_json(tmp_path, tmp_path / "a.json", {"id": 3})
    write_recorded(tmp_path, tmp_path / "arms" / "b.bin", lambda target: target.write_bytes(b"\0" * 40))
    return tmp_path


def test_sha256sum_agrees(folder):
    program = shutil.which("sha256sum")
    if program is None:
        pytest.skip("no sha256sum")
    assert len((folder / SUMS).read_text().splitlines()) == 2
    subprocess.run([program, "--strict", "-c", SUMS], cwd=folder, check=True, capture_output=True)


@given(data=st.data())
@examples(100)
def test_any_flip_is_found(tmp_path, data):
    path = tmp_path / "a.json"
    (tmp_path / SUMS).unlink(missing_ok=True)
    write_recorded_json(tmp_path, path, {"ids": [1, 2, 3], "text": "abc"})
    assert read_checked_json(tmp_path, path) == {"ids": [1, 2, 3], "text": "abc"}
    hit = data.draw(st.sampled_from([path, tmp_path / SUMS]))
    content = bytearray(hit.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    hit.write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s){path}.*digest in {SUMS}.*removing|{SUMS} is damaged.*remove it"):
        read_checked_json(tmp_path, path)


def test_cut_moved_and_unknown_files_are_refused(folder):
    path = folder / "a.json"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"a\.json does not match its digest"):
        check_digest(folder, path)
    (folder / "new.json").write_text("{}")
    with pytest.raises(ValueError, match=r"new\.json has no digest"):
        check_digest(folder, folder / "new.json")
    with pytest.raises(FileNotFoundError):
        check_digest(folder, folder / "none.json")
    record_digests(folder, [path])
    check_digest(folder, path)
    check_digest(folder, folder / "arms" / "b.bin")


def test_a_folder_without_digests_is_read_with_a_warning(folder):
    (folder / SUMS).unlink()
    with pytest.warns(UserWarning, match="older versions; its files are read unchecked"):
        assert read_checked_json(folder, folder / "a.json") == {"id": 3}


class Killed(BaseException):
    """Stands for a process that ends."""


@pytest.mark.parametrize("renames", range(4))
def test_a_kill_leaves_a_file_that_is_read(folder, monkeypatch, renames):
    """Of the three renames of a write (digests, file, digests) only so many are made."""
    path, left, whole = folder / "a.json", [renames], os.replace

    def replace(old, new):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        whole(old, new)

    for value in (4, 5):  # the second finds what the first left
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            left[0] = renames
            with contextlib.suppress(Killed):
                write_recorded_json(folder, path, {"id": value})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = read_checked_json(folder, path)
        assert found == {"id": value if renames >= 2 else 3}
    write_recorded_json(folder, path, {"id": 6})
    assert read_checked_json(folder, path) == {"id": 6}
    assert len(digests._read(folder)["a.json"]) == 1


def test_a_reader_waits_for_a_writer(folder, monkeypatch):
    """Between reading the file and its digest another process may have put a new one there."""
    path, whole = folder / "a.json", digests.sha256_of

    def late(file):
        found = whole(file)
        monkeypatch.setattr(digests, "sha256_of", whole)
        write_recorded_json(folder, path, {"id": 9})
        return found

    monkeypatch.setattr(digests, "sha256_of", late)
    assert read_checked_json(folder, path) == {"id": 9}
