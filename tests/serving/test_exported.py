"""Exports read back: damage, ids outside the table in every runtime, and what an export leaves alone."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.data import IdMap
from resemb_ext.models import DIN, DNN
from resemb_ext.serving import SavedModel, ScoringModule, export_run, load_export, write_export, writing
from tests.serving.runtimes import HAS_ONNX, RUNTIMES, ids_of, scorer

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 4


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the export that a test may damage."""
    place = tmp_path / "copied"
    place.mkdir()
    for file in exported.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return place


def test_an_export_is_loaded_with_its_ids(exported, trained, copied):
    saved, loaded = SavedModel.load(trained, "res", 0), load_export(exported)
    assert loaded.items == saved.items and loaded.about["max_history"] == LONGEST
    target, history = np.array([3, 5]), np.array([[1, 2, 0, 0], [0, 0, 0, 0]])
    expected = saved.score(target, np.array([1, 2]), np.array([2, 0]))
    np.testing.assert_allclose(loaded.score(target, history), expected, rtol=1e-4, atol=1e-5)
    outside, unseen = np.array([[-1, 2**40, 0, 0]]), np.full((1, 4), saved.items.oov)
    unseen[0, 2:] = 0
    np.testing.assert_array_equal(loaded.score(target[:1], outside), loaded.score(target[:1], unseen))
    about = json.loads((copied / "export.json").read_text())
    about["sha256"].pop("model.onnx", None)
    (copied / "export.json").write_text(json.dumps(about))
    with pytest.raises(FileNotFoundError, match=r"was exported without model.onnx; export it with --onnx"):
        load_export(copied, onnx=True)


@pytest.mark.parametrize("name", ["model.pt2", "items.json"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_found(copied, name, place):
    whole = bytearray((copied / name).read_bytes())
    whole[int(place * len(whole))] ^= 1
    (copied / name).write_bytes(whole)
    with pytest.raises(ValueError, match=f"{name} is not the file that was written: its sha256 differs; export again"):
        load_export(copied)


@pytest.mark.full
@pytest.mark.parametrize("name", ["model.pt2", "items.json"])
def test_the_example_finds_a_flipped_bit(copied, name):
    whole = bytearray((copied / name).read_bytes())
    whole[len(whole) // 2] ^= 1
    (copied / name).write_bytes(whole)
    (copied / "rows.jsonl").write_text('{"target": "item-3"}\n')
    script = [sys.executable, ROOT / "examples" / "score_exported.py", copied, copied / "rows.jsonl"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        f"score_exported: {copied / name} is not the file that was written: its sha256 differs; export again\n"
    )


def test_what_is_no_export_is_one_line(copied, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no export \(no export.json\)"):
        load_export(tmp_path)
    about = json.loads((copied / "export.json").read_text())
    for changes, words in (
        ({"version": 2}, "has version 2; this release reads 1"),
        ({"format": "other"}, "is not of resemb export"),
        ({"sha256": {"../items.json": ""}}, "is not of resemb export"),
        ({"sha256": None}, "is not of resemb export"),
    ):
        (copied / "export.json").write_text(json.dumps({**about, **changes}))
        with pytest.raises(ValueError, match=words):
            load_export(copied)
    (copied / "export.json").write_text("[")
    with pytest.raises(ValueError, match=r"export.json cannot be read"):
        load_export(copied)
    (copied / "export.json").write_text(json.dumps(about))
    (copied / "items.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*items.json; export again"):
        load_export(copied)


def contents(place):
    return {file.name: file.read_bytes() for file in place.iterdir() if file.is_file()}


@pytest.mark.full
def test_overwrite_replaces_the_exports_files_and_no_others(trained, copied, capsys):
    (copied / "mine.txt").write_text("thesis")
    (copied / "folder").mkdir()
    about = json.loads((copied / "export.json").read_text())
    (copied / "model.onnx").write_text("of the earlier export")
    about["sha256"]["model.onnx"] = ""
    (copied / "export.json").write_text(json.dumps(about))
    arguments = ["export", str(trained), "--arm", "plain", "--out", str(copied)]
    assert main(arguments) == 2
    assert "holds an earlier export" in capsys.readouterr().err
    (copied / "model.pt2").write_text("damaged")
    assert main([*arguments, "--overwrite"]) == 0
    printed = capsys.readouterr().out
    assert "mine.txt" not in printed and "model.pt2" in printed
    assert load_export(copied).about["sha256"].keys() == {"model.pt2", "items.json"}
    assert set(contents(copied)) == {"mine.txt", "model.pt2", "items.json", "export.json"}
    assert (copied / "mine.txt").read_text() == "thesis" and (copied / "folder").is_dir()
    assert sorted(path.name for path in copied.parent.iterdir()) == ["copied"]


def test_a_file_of_somebody_elses_is_never_replaced(trained, copied, capsys):
    about = json.loads((copied / "export.json").read_text())
    del about["sha256"]["model.pt2"]
    (copied / "export.json").write_text(json.dumps(about))
    before = contents(copied)
    arguments = ["export", str(trained), "--arm", "plain", "--out", str(copied), "--overwrite"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "model.pt2 is no file of the export there; move it or choose another folder" in said
    (copied / "export.json").write_text('{"mine": 1}')
    assert main(arguments) == 2
    assert "export.json is not of resemb export" in capsys.readouterr().err
    assert contents(copied) == {**before, "export.json": b'{"mine": 1}'}


@pytest.mark.full
def test_a_link_to_a_folder_is_followed(trained, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / ".export.json.abcdefgh.resemb-tmp").mkdir()  # as a killed process leaves it
    for target in ("there", "new"):
        link = tmp_path / f"to-{target}"
        link.symlink_to(tmp_path / target)
        assert export_run(trained, link, arm="plain") == link
        assert link.is_symlink() and load_export(tmp_path / target).about["embedding"] == "plain"
    export_run(trained, tmp_path / "to-new", arm="plain", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "there", "to-new", "to-there"]


@pytest.mark.full
def test_a_replacement_cut_short_is_refused_and_can_be_done_again(trained, copied, monkeypatch):
    replace = os.replace

    def dies(source, target):
        replace(source, target)
        raise KeyboardInterrupt

    about = json.loads((copied / "export.json").read_text())
    (copied / "items.json").write_text("of an earlier export")
    about["sha256"]["items.json"] = "its digest"
    (copied / "export.json").write_text(json.dumps(about))
    with monkeypatch.context() as patch:
        patch.setattr(writing.os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            export_run(trained, copied, arm="plain", overwrite=True)
    with pytest.raises(ValueError, match="its sha256 differs; export again"):
        load_export(copied)
    (copied / ".export.json.abcdefgh.resemb-tmp").mkdir()  # as a killed process leaves it
    export_run(trained, copied, arm="plain", overwrite=True)
    assert load_export(copied).items
    assert sorted(path.name for path in copied.iterdir()) == ["export.json", "items.json", "model.pt2"]


ITEMS = IdMap.fit(np.arange(100, 117))  # numbers 1 to 17, unseen 18


def module_of(model):
    torch.manual_seed(0)
    table = torch.nn.Embedding(ITEMS.size + 2, 4, padding_idx=0)  # two rows are to spare
    if model == "dnn":
        return ScoringModule(DNN(table), oov=ITEMS.oov)
    return ScoringModule(
        DIN(table, category_embedding=torch.nn.Embedding(5, 4, padding_idx=0)),
        np.append(np.arange(ITEMS.oov) % 4, 4),
        oov=ITEMS.oov,
    )


def rows_outside(ids):
    """Rows with ids outside the table, as targets, alone in histories and beside padding; and what they stand for."""
    target = torch.tensor([*ids, *([3] * 2 * len(ids))])
    history = torch.zeros(len(target), LONGEST, dtype=torch.int64)
    history[: len(ids), 0] = 5
    history[len(ids) : -len(ids), 0] = torch.tensor(ids)
    history[-len(ids) :, 1] = torch.tensor(ids)
    history[-len(ids) :, 0] = 2
    inside = [
        torch.where((ids < 0) | (ids > ITEMS.oov), torch.full_like(ids, ITEMS.oov), ids) for ids in (target, history)
    ]
    return {"target": target, "history": history}, tuple(inside)


@pytest.fixture(scope="module", params=["dnn", pytest.param("din", marks=pytest.mark.full)])
def programs(request, tmp_path_factory):
    """A module, and its folder with a program and, where its packages are installed, an ONNX model."""
    folder = tmp_path_factory.mktemp("programs")
    module = module_of(request.param)
    write_export(module, ITEMS, LONGEST, folder, onnx=HAS_ONNX)
    return module, folder


@pytest.mark.parametrize("runtime", ["eager", *RUNTIMES])
def test_ids_outside_the_table_are_the_out_of_vocabulary_row(programs, runtime):
    module, folder = programs
    score = scorer(runtime, folder) if runtime != "eager" else lambda inputs: module(**inputs)
    ids = [ITEMS.oov + 1, ITEMS.oov + 5, *ids_of(runtime)]
    outside, inside = rows_outside(ids)
    with torch.inference_mode():
        expected = module.model(
            rx.models.TorchBatch(
                *inside,
                target_category=None if module.item_category is None else module.item_category[inside[0]],
                history_category=None if module.item_category is None else module.item_category[inside[1]],
            )
        )
        torch.testing.assert_close(score(outside), expected, rtol=1e-4, atol=1e-5)
    padded = inside[1].clone()
    padded[padded == ITEMS.oov] = 0
    with torch.inference_mode():  # such an id is no padding
        assert (score({"target": inside[0], "history": padded}) - expected).abs()[len(ids) :].max() > 1e-4


def test_the_number_of_unseen_ids_must_be_a_row(tmp_path):
    class Own(torch.nn.Module):
        embedding_dim, padding_idx = 4, 0

    with pytest.raises(ValueError, match=r"has no num_embeddings; give oov=items.oov"):
        ScoringModule(DNN(Own()))
    table = torch.nn.Embedding(20, 4, padding_idx=0)
    for oov in (20, 0, -1):
        with pytest.raises(ValueError, match=f"oov is {oov}, expected one of the 20 rows of the item embedding"):
            ScoringModule(DNN(table), oov=oov)
    with pytest.raises(ValueError, match="oov is 19, expected one of the 18 rows of item_category"):
        ScoringModule(DIN(table, category_embedding=torch.nn.Embedding(3, 4)), np.zeros(18, np.int64))
    with pytest.raises(ValueError, match=r"unseen ids have the number 18, the module's have 19; make it with .*oov="):
        write_export(ScoringModule(DNN(table)), ITEMS, LONGEST, tmp_path)


def test_the_example_takes_lists_as_histories() -> None:
    """A text is no list of its letters, each an unseen id."""
    rows = runpy.run_path(str(ROOT / "examples" / "score_exported.py"))["read_row"]
    assert rows('{"target": "a", "history": ["b"]}', 1)["history"] == ["b"] and rows('{"target": "a"}', 1)
    assert rows('{"target": "a", "history": null}', 1)
    for line in ('{"target": "a", "history": "b^c"}', '{"history": ["b"]}', '["b"]'):
        with pytest.raises(ValueError, match="line 7: expected an object with a target and a list of ids"):
            rows(line, 7)
    with pytest.raises(ValueError, match="line 7 is not JSON"):
        rows("{", 7)
