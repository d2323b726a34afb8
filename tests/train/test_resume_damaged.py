"""A run folder whose files are damaged, foreign or of another log: one line, or digests made anew."""

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest

from resemb_ext.cli import main
from resemb_ext.runtime.digests import UncheckedWarning
from resemb_ext.train import run, saved_config
from tests.train.stopped import SMALL, simulate_little, stopped_run


@pytest.fixture(autouse=True)
def small_simulation(monkeypatch):
    simulate_little(monkeypatch)


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    """A finished run of one arm, to be copied."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        simulate_little(patch)
        run(**SMALL, embedding="plain", out=str(folder))
    return folder


@pytest.fixture(scope="module")
def one_stopped(tmp_path_factory):
    """A run of one arm that was stopped, to be copied."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        simulate_little(patch)
        stopped_run(folder, patch, embedding="res")
    return folder


def cut(content):
    return content[: len(content) // 2]


def foreign(content):
    return b"PK\x03\x04 something else"


def flipped(content):
    return content[:-5] + bytes([content[-5] ^ 16]) + content[-4:]


LAST = "arms/res-seed0/last.safetensors"


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        (LAST, cut, "last.safetensors is no readable checkpoint"),
        (LAST, foreign, "last.safetensors is no readable checkpoint"),
        (LAST, flipped, "last.safetensors is damaged"),
        ("config.resolved.json", cut, "config.resolved.json does not match its digest"),
        ("config.resolved.json", flipped, "config.resolved.json does not match its digest"),
        ("inputs.json", cut, "inputs.json does not match its digest"),
        ("inputs.json", flipped, "inputs.json does not match its digest"),
        ("SHA256SUMS", cut, "SHA256SUMS is damaged"),
    ],
)
def test_damaged_files_are_one_line_and_exit_2(one_stopped, tmp_path, capsys, file, damage, words):
    out = tmp_path / "out"
    shutil.copytree(one_stopped, out)
    (out / file).write_bytes(damage((out / file).read_bytes()))
    assert main(["train", "--resume", str(out), "--quiet"]) == 2
    shown = capsys.readouterr().err
    assert words in shown and len(shown.splitlines()) == 1 and "Traceback" not in shown


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("result.json", "{}", "result.json is no result of a run"),
        ("result.json", "[]", "result.json is no result of a run"),
        ("result.json", "[" * 100_000, "result.json cannot be read: it is nested too deeply"),
        ("arms/plain-seed0/run.json", "{}", "has damaged results of arm plain with seed 0"),
        ("arms/plain-seed0/run.json", "[3]", "has damaged results of arm plain with seed 0"),
        ("inputs.json", "[]", "inputs.json cannot be read: expected hashes by name"),
        ("config.resolved.json", '{"model": "Gnn"}', "model must be one of dnn"),
        ("config.resolved.json", "3", "expected options by name, found int"),
    ],
)
def test_foreign_json_without_digests_is_a_line(one_run, tmp_path, capsys, file, content, words):
    out = tmp_path / "out"
    shutil.copytree(one_run, out)
    (out / "SHA256SUMS").unlink()
    if file != "result.json":
        (out / "result.json").unlink()
    (out / file).write_text(content)
    assert main(["train", "--resume", str(out), "--quiet"]) == 2
    warned, shown = capsys.readouterr().err.splitlines()
    assert words in shown
    assert warned.startswith("resemb train: warning: ") and warned.endswith("its files are read unchecked")


@pytest.mark.parametrize("file", ["arms/plain-seed0/run.json", "test_scores.parquet", "result.json"])
def test_results_that_were_changed_are_not_resumed_from(one_run, tmp_path, capsys, file):
    out = tmp_path / "out"
    shutil.copytree(one_run, out)
    if file != "result.json":
        (out / "result.json").unlink()
    content = bytearray((out / file).read_bytes())
    content[len(content) // 3] ^= 1
    (out / file).write_bytes(content)
    assert main(["train", "--resume", str(out), "--quiet"]) == 2
    shown = capsys.readouterr().err
    assert f"{out / file} does not match its digest" in shown and len(shown.splitlines()) == 1


def test_checkpoints_of_another_log_are_not_resumed_from(tmp_path, monkeypatch):
    """Its arms, sizes and options are equal, and its digests are right."""
    frame = pd.DataFrame({"user_id": np.repeat(range(40), 5), "item_id": np.arange(200) % 17, "timestamp": range(200)})
    for name, log in (("a", frame), ("b", frame.assign(item_id=frame.item_id[::-1].to_numpy()))):
        log.to_csv(tmp_path / f"{name}.csv", index=False)
        stopped_run(tmp_path / name, monkeypatch, data=str(tmp_path / f"{name}.csv"), embedding="plain")
    shutil.copytree(tmp_path / "b" / "arms", tmp_path / "a" / "arms", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"last\.safetensors was trained with other data than those here"):
        run(saved_config(tmp_path / "a"), resume=True, progress=False)


def test_an_older_folder_gets_digests_when_it_is_resumed(one_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(one_run, out)
    for name in ("SHA256SUMS", "result.json", "summary.md"):
        (out / name).unlink()
    with pytest.warns(UncheckedWarning, match="read unchecked"):
        first = run(saved_config(out), resume=True, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(saved_config(out), resume=True, progress=False).result == first.result
    assert (out / "summary.md").exists()
    lines = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert {"config.resolved.json", "test_scores.parquet", "arms/plain-seed0/run.json"} < lines
