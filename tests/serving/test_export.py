"""Exports: what they hold, that they score alone, what is refused, and that nothing half is left."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.data import IdMap
from resemb_ext.graph import InterestGraph
from resemb_ext.models import DNN, MODELS
from resemb_ext.serving import SavedModel, ScoringModule, export, export_run, fold, write_export

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 4
HAS_ONNX = all(importlib.util.find_spec(n) for n in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason='needs ONNX: pip install -e ".[onnx]"')

# Runs the example in a process in which some packages cannot be imported.
BLOCKED = """
import importlib.abc, runpy, sys
blocked, sys.argv = sys.argv[1].split(","), sys.argv[2:]
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
for name in blocked:
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} could be imported")
runpy.run_path(sys.argv[0], run_name="__main__")
assert not set(blocked) & {name.split(".")[0] for name in sys.modules}
"""


@pytest.fixture(scope="module")
def rows(trained):
    """Rows in raw ids, one with unseen ids, one without history, and their logits by the model."""
    saved = SavedModel.load(trained, "res", 0)
    known = saved.items.values.tolist()
    found = [
        {"target": known[3], "history": known[:3]},
        {"target": known[0], "history": []},
        {"target": "nobody's", "history": ["nobody's", known[5]]},
        {"target": known[7], "history": known[8:20]},
    ]
    target = saved.items.encode([row["target"] for row in found])[0]
    history = saved.items.encode([raw for row in found for raw in row["history"]])[0]
    lengths = np.array([len(row["history"]) for row in found])
    return found, saved.score(target, history, lengths)


def score_alone(exported, rows, tmp_path, *options, blocked):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = ROOT / "examples" / "score_exported.py"
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, blocked, script, exported, file, *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.full
def test_an_export_scores_where_the_package_cannot_be_imported(exported, rows, tmp_path):
    found, logits = rows
    scored, said = score_alone(exported, found, tmp_path, blocked="resemb_ext")
    ids = sum(1 + len(row["history"]) for row in found)
    assert said == f"2 of {ids} ids were not in training\n"
    assert [row["target"] for row in scored] == [row["target"] for row in found]
    assert np.std(logits) > 1e-3
    np.testing.assert_allclose([row["logit"] for row in scored], logits, rtol=1e-4, atol=1e-5)
    expected = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose([row["probability"] for row in scored], expected, rtol=1e-4)


@pytest.mark.full
def test_ids_of_another_type_are_no_unseen_ones(exported, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"target": 3}\n')
    script = ROOT / "examples" / "score_exported.py"
    done = subprocess.run([sys.executable, script, exported, file], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == ("score_exported: rows: ids must be text, as in training; found 3\n")


@needs_onnx
def test_onnx_scores_without_torch(exported, rows, tmp_path):
    found, logits = rows
    scored, _ = score_alone(exported, found, tmp_path, "--onnx", blocked="resemb_ext,torch")
    np.testing.assert_allclose([row["logit"] for row in scored], logits, rtol=1e-4, atol=1e-5)


def test_an_export_says_what_it_is(exported, trained):
    about = json.loads((exported / "export.json").read_text())
    assert about["format"] == "resemb-export" and about["version"] == 1
    assert about["model"] == "DIN" and about["embedding"] == "res" and about["seed"] == 0
    assert about["inputs"] == {"target": ["batch"], "history": ["batch", LONGEST]}
    files = {"model.pt2", "items.json"} | ({"model.onnx"} if HAS_ONNX else set())
    assert set(about["sha256"]) == files
    assert {file.name for file in exported.iterdir()} == files | {"export.json"}
    for name, digest in about["sha256"].items():
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == digest
    saved = SavedModel.load(trained, "res", 0)
    held = json.loads((exported / "items.json").read_text())
    assert IdMap.from_dict(held) == saved.items and held["oov"] == saved.items.oov


@pytest.mark.full
def test_out_is_replaced_only_when_told(exported, trained, tmp_path, capsys):
    before = (exported / "export.json").read_bytes()
    assert main(["export", str(trained), "--arm", "plain"]) == 2
    assert "holds an earlier export" in capsys.readouterr().err
    assert (exported / "export.json").read_bytes() == before
    place = tmp_path / "other"
    export_run(trained, place, arm="res")
    assert main(["export", str(trained), "--arm", "plain", "--out", str(place), "--overwrite"]) == 0
    assert json.loads((place / "export.json").read_text())["embedding"] == "plain"
    assert [file.name for file in tmp_path.iterdir()] == ["other"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for name, words in (("mine", "holds other files"), ("mine/thesis.txt", "is a file")):
        arguments = ["export", str(trained), "--out", str(tmp_path / name), "--overwrite"]
        assert main(arguments) == 2
        assert words in capsys.readouterr().err


def test_a_failure_leaves_nothing(trained, tmp_path, monkeypatch):
    def fails(module, items, max_history, place, **_):
        (place / "model.pt2").touch()
        raise OSError("disk full")

    monkeypatch.setattr(export, "write_export", fails)
    with pytest.raises(OSError, match="disk full"):
        export_run(trained, tmp_path / "out", arm="res")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_a_line_that_names_the_folder(trained, tmp_path, capsys):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        assert main(["export", str(trained), "--arm", "res", "--out", str(tmp_path / "out")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    shown = capsys.readouterr().err
    assert shown == f"resemb export: error: [Errno 27] File too large; nothing was written: '{tmp_path / 'out'}'\n"
    assert list(tmp_path.iterdir()) == []


def test_bad_runs_are_one_line(trained, tmp_path, capsys):
    for arguments, words in (([str(tmp_path)], "holds no run"), ([str(trained), "--seed", "7"], "has no seed 7")):
        assert main(["export", *arguments, "--out", str(tmp_path / "out")]) == 2
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_packages_says_how_to_get_them(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(trained), "--onnx", "--out", str(tmp_path / "out")]) == 2
    assert "pip install" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def table(rows=20, padding_idx=0):
    return torch.nn.Embedding(rows, 4, padding_idx=padding_idx)


def test_what_cannot_be_exported_is_refused():
    for options, words in (
        ({"user_embedding": table()}, "takes user"),
        ({"context_embeddings": [table()], "dense": 2}, "takes context, dense"),
        ({"category_embedding": table()}, "takes category"),
    ):
        with pytest.raises(ValueError, match=words):
            ScoringModule(DNN(table(), **options))
    with pytest.raises(ValueError, match=r"padding_idx 0 .* found None"):
        ScoringModule(DNN(table(padding_idx=None)))
    model = DNN(table())
    with torch.no_grad():
        model.mlp.layers[0].bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"mlp.layers.0.bias holds values that are not finite"):
        ScoringModule(model)


def ring(items=20):
    indptr = np.concatenate([[0], np.arange(items)])
    neighbors = np.concatenate([np.arange(2, items), [1]])
    return rx.ResEmbedding(InterestGraph.from_csr(indptr, neighbors), 4, padding_idx=0)


def test_an_operator_of_the_package_is_refused(tmp_path):
    class Hidden(torch.nn.Module):
        """A ResEmbedding out of sight of folding: not among the modules."""

        num_embeddings, embedding_dim, padding_idx = 20, 4, 0

        def __init__(self):
            super().__init__()
            self.inner = [ring()]

        def forward(self, ids):
            return self.inner[0](ids)

    module = ScoringModule(DNN(Hidden()))
    with pytest.raises(ValueError, match=r"resemb_ext.* would be needed to load it"):
        write_export(module, IdMap.fit(np.arange(18)), LONGEST, tmp_path)


def test_folding_leaves_the_model_alone():
    model = DNN(ring())
    folded = fold(model)
    assert type(folded.item_embedding) is torch.nn.Embedding
    assert torch.equal(folded.item_embedding.weight, model.item_embedding.materialize())
    assert isinstance(model.item_embedding, rx.ResEmbedding)
    assert folded.mlp.layers[0].weight is not model.mlp.layers[0].weight


def whole_check(name, place, longest, onnx):
    items = IdMap.fit(np.arange(17))
    options = {"activation": "dice"} if name in ("din", "dien") else {}
    model = MODELS[name](ring(), category_embedding=table(6), **options)
    module = ScoringModule(model, np.arange(items.size) % 6, oov=items.oov)
    write_export(module, items, longest, place, onnx=onnx)
    # A batch of another size than those of write_export's own checks.
    draw = torch.Generator().manual_seed(5)
    target = torch.randint(1, items.size, (9,), generator=draw)
    history = torch.randint(-3, items.size + 3, (9, longest), generator=draw)
    with torch.inference_mode():
        loaded = torch.export.load(place / "model.pt2").module()(target, history)
        torch.testing.assert_close(loaded, module(target, history), rtol=1e-4, atol=1e-5)


@pytest.mark.one_in(7)
@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_exports(name, tmp_path):
    whole_check(name, tmp_path, 2, onnx=False)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_exports_to_onnx(name, tmp_path):
    whole_check(name, tmp_path, 50, onnx=True)
    assert (tmp_path / "model.onnx").exists()


def test_the_short_path_has_the_same_names():
    assert set(rx.export.__all__) <= set(rx.serving.__all__)
    assert all(getattr(rx.export, name) is getattr(rx.serving, name) for name in rx.export.__all__)
