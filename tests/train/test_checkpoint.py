"""Checkpoint files: what they hold, and that damaged or foreign ones are one clear error."""

import errno
import math
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from resemb_ext.testing.strategies import examples
from resemb_ext.train import checkpoint as checkpoint_module
from resemb_ext.train import load_checkpoint, save_checkpoint
from resemb_ext.train.folder import RUN
from resemb_ext.train.saving import check_space

FUZZ = examples(80)
STATE = {
    "model": {"table": torch.arange(40, dtype=torch.float32).reshape(8, 5), "step": torch.tensor(3)},
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(5)}, 1: {}}, "betas": (0.9, 0.999)},
    "history": [{"loss": 0.1 + 0.2, "valid": math.inf}, None, True],
}

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=4), st.integers(0, 9)), inner, max_size=3),
    ),
    max_leaves=12,
)
DTYPES = (
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


@given(state=st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
@FUZZ
def test_plain_values_come_back(tmp_path, state):
    save_checkpoint(tmp_path / "x.safetensors", state)
    assert load_checkpoint(tmp_path / "x.safetensors") == state


@given(dtype=st.sampled_from(DTYPES), shape=st.lists(st.integers(0, 4), max_size=3), transposed=st.booleans())
@examples(60)
def test_tensors_come_back(tmp_path, dtype, shape, transposed):
    value = torch.randint(0, 2, shape).to(dtype)
    value = value.transpose(0, -1) if transposed and shape else value
    # Twice the same storage, as two names of one parameter.
    save_checkpoint(tmp_path / "x.safetensors", {"a": value, "b": [value]})
    back = load_checkpoint(tmp_path / "x.safetensors")
    for found in (back["a"], back["b"][0]):
        assert found.dtype == dtype and torch.equal(found, value)


def test_equal_states_give_equal_bytes(tmp_path):
    state, files = {**STATE, "tëxt\n": {"ключ": torch.ones(2)}}, set()
    for _ in range(12):
        save_checkpoint(tmp_path / "x.safetensors", state)
        files.add((tmp_path / "x.safetensors").read_bytes())
    assert len(files) == 1
    assert load_checkpoint(tmp_path / "x.safetensors")["tëxt\n"]["ключ"].sum() == 2


def test_floats_and_tuples_are_kept_exactly(tmp_path):
    save_checkpoint(tmp_path / "x.safetensors", STATE)
    back = load_checkpoint(tmp_path / "x.safetensors")
    assert back["history"] == STATE["history"] and back["optimizer"]["betas"] == (0.9, 0.999)
    assert list(back["optimizer"]["state"]) == [0, 1]
    save_checkpoint(tmp_path / "x.safetensors", {"x": math.nan})
    assert math.isnan(load_checkpoint(tmp_path / "x.safetensors")["x"])


@given(data=st.data())
@FUZZ
def test_any_cut_is_an_error(tmp_path, data):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        load_checkpoint(path)


@given(data=st.data())
@examples(250)
def test_any_flipped_bit_is_an_error_or_changes_nothing(tmp_path, data):
    """A flip that is no error hit what carries nothing: white space, or an unknown key."""
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, STATE)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        back = load_checkpoint(path)
    except ValueError as error:
        assert "x.safetensors" in str(error) and "\n" not in str(error)
        return
    assert torch.equal(back["model"]["table"], STATE["model"]["table"])
    assert back["history"] == STATE["history"] and set(back) == set(STATE)


@given(content=st.binary(max_size=300))
@FUZZ
def test_foreign_bytes_are_an_error(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.safetensors is no readable checkpoint"):
        load_checkpoint(path)


@given(
    state=st.text(max_size=30)
    | st.sampled_from(['{"a": {"$tensor": "z"}}', "[]", "3", "[" * 9999, '{"a": {"$items": [1]}}'])
)
@FUZZ
def test_a_right_digest_over_nonsense_is_an_error(tmp_path, state):
    path = tmp_path / "x.safetensors"
    about = {"format": "resemb-checkpoint", "version": "2", "state": state}
    save_file({}, path, {**about, "sha256": checkpoint_module._digest(state, {})})
    try:
        assert load_checkpoint(path) == {}
    except ValueError as error:
        assert "x.safetensors is no readable checkpoint" in str(error)


def test_other_files_are_told_apart(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="is no checkpoint of resemb_ext"):
        load_checkpoint(path)
    save_file({"w": torch.zeros(3)}, path, {"format": "resemb-checkpoint", "version": "99"})
    with pytest.raises(ValueError, match="version 99, this package reads 2"):
        load_checkpoint(path)
    torch.save({"model": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="no readable checkpoint"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"epoch": 2, "bad": lambda: None}, "bad is a function"),
        ({"a": [{"b": {3}}]}, "a.0.b is a set"),
        ({"a": {1.5: 2}}, "a has keys that are not text or integers"),
    ],
)
def test_a_failed_save_keeps_the_old_file(tmp_path, state, words):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"epoch": 1})
    with pytest.raises(TypeError, match=words):
        save_checkpoint(path, state)
    assert load_checkpoint(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_full_disk_is_an_oserror_that_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise checkpoint_module.SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(OSError, match=r"cannot write .*x\.safetensors: No space left"):
        save_checkpoint(tmp_path / "x.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_what_killed_writers_leave_is_removed(tmp_path):
    arm = tmp_path / "arms" / "res-seed0"
    arm.mkdir(parents=True)
    mine = ["last.safetensors", "notes.tmp", ".tmpXyZ", ".last.safetensors.abcdefgh.tmp"]
    for place in (tmp_path, arm, tmp_path / "other"):
        place.mkdir(exist_ok=True)
        for name in mine:
            (place / name).write_text("")
        left = place / ".last.safetensors.abc_efg1.resemb-tmp"
        left.mkdir()
        (left / ".tmpAbC").write_text("")  # as safetensors writes beside the file
    RUN.clean(tmp_path)
    # Nothing but the run's own: the folder may be one that somebody works in.
    assert sorted(p.name for p in arm.iterdir()) == sorted(mine)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*mine, "arms", "other"])
    assert len(list((tmp_path / "other").iterdir())) == len(mine) + 1


@pytest.mark.full
def test_a_killed_save_leaves_one_folder_and_the_next_removes_it(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from resemb_ext.train import checkpoint

save_file = checkpoint.save_file

def dies(tensors, target, metadata):
    save_file(tensors, target, metadata)
    os.kill(os.getpid(), signal.SIGKILL)

checkpoint.save_file = dies
checkpoint.save_checkpoint(Path(sys.argv[1]), {"epoch": 2})
"""
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"epoch": 1})
    done = subprocess.run([sys.executable, "-c", code, path])
    assert done.returncode == -signal.SIGKILL
    assert load_checkpoint(path)["epoch"] == 1 and len(list(tmp_path.iterdir())) == 2
    save_checkpoint(path, {"epoch": 3})
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]
    assert load_checkpoint(path)["epoch"] == 3


def test_too_little_disk_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 20 * 2**20})())
    check_space(tmp_path, 2**20)
    (tmp_path / "last.safetensors").write_bytes(bytes(2**21))
    check_space(tmp_path, 5 * 2**20)  # a checkpoint that is there is room for its successor
    (tmp_path / "last.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has 20 MB of disk free, training needs about 216 MB"):
        check_space(tmp_path, 200 * 2**20)


def test_a_folder_that_changes_meanwhile_is_measured(tmp_path):
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            place = tmp_path / "arms" / "plain"
            place.mkdir(parents=True)
            for number in range(20):
                (place / f"{number}.safetensors").write_bytes(b"x")
            shutil.rmtree(tmp_path / "arms")

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(300):
            check_space(tmp_path, 1)
    finally:
        stop.set()
        other.join()


def test_errors_of_the_system_pass(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="Read-only"):
        save_checkpoint(tmp_path / "x.safetensors", {})
    assert not list(tmp_path.iterdir())
