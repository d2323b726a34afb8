"""``resemb publish``: what it writes and says, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from resemb_ext.cli import main
from resemb_ext.cli.publish import COMPACT, DTYPES
from resemb_ext.serving import SavedModel, lite
from resemb_ext.serving import publish as publishing
from resemb_ext.serving.beside_table import layers_digest
from resemb_ext.serving.publish_run import publish_run


def shown(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    assert main(["publish", *map(str, arguments)]) == 0
    seen = capsys.readouterr()
    assert seen.err == ""
    return seen.out


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    try:
        code = main(["publish", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    seen = capsys.readouterr()
    assert (code, seen.out, len(seen.err.splitlines())) == (2, "", 1), seen
    return seen.err


@pytest.mark.full
def test_a_run_is_published_listed_and_rolled_back(trained, tmp_path, capsys, monkeypatch) -> None:
    path = tmp_path / "items.table"
    saved = SavedModel.load(trained, "res", 0)
    said = shown(capsys, trained, "--to", path, "--arm", "res", "--dtype", "float32")
    assert (
        said.splitlines()[1] == f"version 0 is in force: a base, {saved.items.size} of {saved.items.size} rows changed"
    )
    now = lite.read_snapshot(path)
    table = saved.model.item_embedding.materialize().detach().numpy()
    np.testing.assert_array_equal(lite.decode(now.gather(np.arange(now.rows)), "float32", now.dim), table)
    assert now.items.encode(["item-5", "?"]).tolist() == saved.items.encode(["item-5", "?"])[0].tolist()
    assert now.meta == {"run": "run", "arm": "res", "seed": 0}
    said = shown(capsys, trained, "--to", path, "--arm", "res")
    assert said == f"no row of {path} changed; version 0 stays in force\n"

    moved = copy.deepcopy(saved.model)
    with torch.no_grad():
        moved.item_embedding.residual[3] += 1
        moved.item_embedding.residual[4] *= 1 + 1e-5
    monkeypatch.setattr(SavedModel, "load", lambda *given: dataclasses.replace(saved, model=moved))
    said = shown(capsys, trained, "--to", path, "--tolerance", "0.01")
    assert said.splitlines()[1] == f"version 1 is in force: a delta, 1 of {saved.items.size} rows changed"
    said = shown(capsys, trained, "--to", path, "--full", "--keep", "2")
    assert said.splitlines()[1].startswith("version 2 is in force: a base")

    lines = shown(capsys, "--to", path, "--list").splitlines()
    assert [line.split()[0] for line in lines] == ["version", "0", "1", "2"]
    assert [line.endswith("in force") for line in lines] == [False, False, False, True]
    assert shown(capsys, "--to", path, "--verify").splitlines() == [*lines, "all files match their digests"]
    assert "version 1 of" in shown(capsys, "--to", path, "--roll-back", "1")
    assert lite.read_snapshot(path).sequence == 1
    line = refused(capsys, "--to", path, "--roll-back", "7")
    assert "version: found 7, expected one of those that are there: 0, 1, 2" in line
    line = refused(capsys, trained, "--to", path, "--dtype", "int4")
    assert "dtype: found int4, and the table's is float32; a full publication (--full) may differ" in line


def test_one_thing_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "items.table"
    for arguments, found in (
        ((), "none of them"),
        (("--list", "--verify"), "--list, --verify"),
        (("run", "--roll-back", "3"), "RUN, --roll-back"),
    ):
        line = refused(capsys, *arguments, "--to", path)
        assert f"expected one of RUN, --list, --verify and --roll-back; found {found}" in line
    for arguments in (("--list",), ("--verify",), ("--roll-back", "1"), (tmp_path / "no-run",)):
        assert "items.table" in refused(capsys, *arguments, "--to", path) or "no-run" in str(arguments)
    path.write_bytes(b"x" * 100)
    for arguments in (("--list",), ("--verify",), ("--roll-back", "1")):
        assert f"{path}: is no table of resemb" in refused(capsys, *arguments, "--to", path)
    assert [*tmp_path.iterdir()] == [path]


def test_the_command_names_what_the_package_has() -> None:
    assert lite.DTYPES == DTYPES and publishing.COMPACT == COMPACT


@pytest.mark.full
def test_a_table_that_was_exported_beside_a_model_takes_no_vectors_of_others(
    trained, tmp_path, capsys, monkeypatch
) -> None:
    path = tmp_path / "items.table"
    saved = SavedModel.load(trained, "res", 0)
    publishing.publish(
        saved.model.item_embedding, path, items=saved.items, meta={"model": layers_digest(saved.model), "run": "first"}
    )
    moved = copy.deepcopy(saved.model)
    with torch.no_grad():
        moved.item_embedding.residual[3] += 1
    done = publish_run(dataclasses.replace(saved, model=moved), path, run="second", compact=9)
    assert (done.kind, lite.read_snapshot(path).meta["run"]) == ("delta", "second")

    other = copy.deepcopy(moved)
    with torch.no_grad():
        next(module for module in other.modules() if isinstance(module, torch.nn.Linear)).weight += 1
    monkeypatch.setattr(SavedModel, "load", lambda *given: dataclasses.replace(saved, model=other))
    held = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for options in ((), ("--full",)):
        line = refused(capsys, trained, "--to", path, *options)
        assert f"{path}: was exported beside a model with other layers, which cannot read these vectors" in line
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == held
    assert "version 0 is in force: a base" in shown(capsys, trained, "--to", tmp_path / "other.table")
