"""Bundles that are damaged, of another model or no bundles; commands and writers that refuse; what a failure leaves."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from resemb_ext.cli import main
from resemb_ext.serving import bundle as bundle_module
from resemb_ext.serving import export_bundle
from resemb_ext.serving.lite import TableError, read_snapshot, write_table
from resemb_ext.serving.lite.bundle import Bundle, BundleError
from resemb_ext.serving.publish import publish_rows
from tests.serving.runtimes import needs_onnx

pytestmark = needs_onnx


def test_a_table_of_another_model_is_refused(copied):
    opened, table = Bundle.open(copied), copied / "items.table"
    snapshot = read_snapshot(table)
    rows = snapshot.gather(np.arange(snapshot.rows))
    for meta, dim in (({"model": "f" * 64}, 4), ({}, 4), (snapshot.meta, 3)):
        fields = {"dtype": "float32", "rows": len(rows), "dim": dim, "oov": snapshot.oov, "padding": 0, "meta": meta}
        write_table(table, fields, [np.ascontiguousarray(rows[:, : 4 * dim])], snapshot.items)
        for call in (opened.refresh, lambda: Bundle.open(copied)):
            with pytest.raises(TableError, match="is not of this bundle's model"):
                call()
    assert opened.score(["item-3"], [[]]).logit.shape == (1,) and opened.version == 0


def test_a_version_of_another_model_is_refused(copied):
    opened = Bundle.open(copied)
    publish_rows(copied / "items.table", np.array([3]), np.ones((1, 4), np.float32), meta={"model": "f" * 64})
    with pytest.raises(TableError, match="is not of this bundle's model"):
        opened.refresh()
    assert opened.version == 0


@pytest.mark.parametrize("name", ["model.onnx", "item_category.npy"])
def test_a_flipped_bit_is_found(copied, name):
    whole = bytearray((copied / name).read_bytes())
    whole[len(whole) // 2] ^= 1
    (copied / name).write_bytes(whole)
    with pytest.raises(
        BundleError, match=f"{name} is not the file that was written: its sha256 differs; copy the bundle"
    ):
        Bundle.open(copied)


def test_verify_reads_all(copied):
    opened = Bundle.open(copied)
    whole = bytearray((copied / "items.table").read_bytes())
    whole[4096 + 40] ^= 1
    (copied / "items.table").write_bytes(whole)
    with pytest.raises(TableError, match="its rows do not match their sha256"):
        Bundle.open(copied).verify()
    (copied / "resemb_lite" / "rows.py").write_text("")
    with pytest.raises(BundleError, match=r"rows.py is not the file that was written"):
        opened.verify()


def test_what_is_no_bundle_is_one_line(copied, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no bundle \(no bundle.json\)"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="runtime: found 'tf', expected one of onnx, torch"):
        Bundle.open(copied, runtime="tf")
    about = json.loads((copied / "bundle.json").read_text())
    for changes, words in (
        ({"version": 2}, "has version 2; this release reads 1"),
        ({"format": "other"}, "is not of resemb export --table"),
        ({"sha256": {**about["sha256"], "../x": ""}}, "is damaged"),
        ({"table": None}, "is damaged"),
        ({"table": {**about["table"], "dim": "4"}}, "is damaged"),
        ({"sha256": {}}, "is damaged"),
        ({"max_history": None}, "is damaged"),
    ):
        (copied / "bundle.json").write_text(json.dumps({**about, **changes}))
        with pytest.raises(BundleError, match=words):
            Bundle.open(copied)
    (copied / "bundle.json").write_text("[")
    with pytest.raises(BundleError, match=r"bundle.json cannot be read"):
        Bundle.open(copied)
    (copied / "bundle.json").write_text(json.dumps(about))
    (copied / "model.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*model.onnx; copy the whole bundle anew"):
        Bundle.open(copied)
    with pytest.raises(BundleError, match="histories: found 1, expected one for each of 2 targets"):
        Bundle.open(shutil.copytree(copied, tmp_path / "again"), runtime="torch").score(["a", "b"], [[]])


def test_none_is_replaced(trained, copied, tmp_path, capsys):
    (tmp_path / "file").touch()
    arguments = ["export", str(trained), "--table", "int8", "--out"]
    for more, words in (
        ([str(copied)], "holds files, say bundle.json; choose another folder"),
        ([str(copied), "--overwrite"], "a bundle may be in use, so none is replaced"),
        ([str(tmp_path / "file")], "is a file; expected a folder to make"),
    ):
        assert main([*arguments, *more]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(ValueError, match="table: found 'int2'; expected one of float32, float16, int8, int4"):
        export_bundle(trained, tmp_path / "none", table="int2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copied", "file"]


@pytest.mark.parametrize("part", ["_write_model", "_copy_library"])
def test_a_failure_leaves_nothing(trained, tmp_path, monkeypatch, part):
    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(bundle_module, "_write_model", lambda *_: None)
    monkeypatch.setattr(bundle_module, part, fails)
    with pytest.raises(OSError, match="disk full"):
        export_bundle(trained, tmp_path / "out", arm="res")
    assert list(tmp_path.iterdir()) == []
