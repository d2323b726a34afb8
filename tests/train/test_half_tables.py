"""Tables of bfloat16 and compact states in training: options, steps, stops, and all that comes after."""

import importlib.util
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.nn.half import HalfEmbedding
from resemb_ext.optim.moments import STATES
from resemb_ext.serving import SavedModel, load_export
from resemb_ext.train import RunConfig, build_optimizer, fit, load_checkpoint
from resemb_ext.train.building import make_model
from resemb_ext.train.saving import checkpoint_sizes

HAS_ONNX = all(importlib.util.find_spec(n) for n in ("onnx", "onnxscript", "onnxruntime"))
HALF = {"table_dtype": "bfloat16"}
LAZY = {"table_optimizer": "lazy"}
TABLES = [{"table_optimizer": "dense"}, LAZY, {**LAZY, "decay": "global"}, {**LAZY, "in_backward": True}]
RATES = {"lr": 0.01, "embedding_lr": 0.02, "embedding_l2": 1e-3, "batch_size": 128}


class Stopped(Exception):
    """Stands for a process that dies."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def parts():
    log, _ = rx.data.simulate(users=100, items=80, domains=4, events_per_user=(6, 10), seed=1)
    split = rx.data.split(log)
    return {
        "graph": rx.InterestGraph.from_log(split.train),
        "train": rx.data.make_train_samples(split),
        "valid": rx.data.make_eval_samples(split, "valid"),
        "test": rx.data.make_eval_samples(split, "test"),
    }


def build(parts, arm="res", seed=0, **options):
    config = RunConfig(**{"epochs": 2, "dim": 8, "hidden": (8,), **RATES, **HALF, **options})
    return make_model(config, arm, seed, num_items=parts["graph"].num_items, graph=parts["graph"]), config.fit_config()


def trained(parts, arm="res", stops=None, folder=None, **options):
    """Outcome of a training; with ``stops``, of one that dies after so many forwards in every life."""
    for life in range(200):
        model, config = build(parts, arm, seed=life, **options)
        if stops:
            left = [stops + life % 3]

            def count(*_, left=left):
                left[0] -= 1
                if left[0] < 0:
                    raise Stopped

            model.register_forward_pre_hook(count)
        try:
            done = fit(
                model,
                parts["train"],
                parts["valid"],
                parts["test"],
                config=config,
                seed=3,
                folder=folder,
                resume=folder is not None,
                save_every=0,
                progress=False,
            )
        except Stopped:
            continue
        return done, {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    raise AssertionError("never finished")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table_dtype": "float16"}, "table_dtype must be one of float32, bfloat16; found 'float16'"),
        ({"state": "int4"}, "state must be one of float32, bfloat16, rowwise.*found 'int4'"),
    ],
)
def test_unknown_names_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RunConfig(**options)


@pytest.mark.parametrize("tables", TABLES, ids=str)
@pytest.mark.parametrize("arm", ["plain", "res"])
def test_tables_are_halves_and_the_rest_float32(parts, arm, tables):
    model, config = build(parts, arm, **tables, state="compact")
    optimizer = build_optimizer(model, config, seed=2**40 + 7)
    assert isinstance(optimizer, rx.optim.Adam)
    for group in optimizer.param_groups:
        of_tables = group["name"] != "other"
        assert {p.dtype for p in group["params"]} == {torch.bfloat16 if of_tables else torch.float32}
        assert group["state"] == ("compact" if of_tables else "float32")
        assert group["stochastic_rounding"]


def test_float32_tables_with_a_float32_state_keep_torchs_optimizer(parts):
    for state in STATES:
        model, config = build(parts, table_dtype="float32", table_optimizer="dense", state=state)
        assert isinstance(model.item_embedding.central, torch.nn.Parameter)
        assert type(build_optimizer(model, config)) is (torch.optim.Adam if state == "float32" else rx.optim.Adam)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("tables", TABLES, ids=str)
@pytest.mark.parametrize("arm", ["plain", "res"])
def test_stops_change_no_bit(parts, tmp_path, arm, tables, state):
    whole, weights = trained(parts, arm, **tables, state=state)
    again, same = trained(parts, arm, stops=4, folder=tmp_path, **tables, state=state)
    assert np.array_equal(whole.test_scores, again.test_scores)
    assert all(torch.equal(value, same[name]) for name, value in weights.items())
    best = load_checkpoint(tmp_path / "best.safetensors")["model"]
    assert all(torch.equal(value, best[name]) for name, value in weights.items())


def test_seeds_of_rounding_differ_by_the_run(parts):
    (_, first), (_, again) = trained(parts), trained(parts)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    model, config = build(parts)
    other = fit(model, parts["train"], parts["valid"], config=config, seed=4, progress=False)
    assert other.steps and not torch.equal(model.item_embedding.central, first["item_embedding.central"])


@pytest.mark.parametrize("tables", TABLES, ids=str)
@pytest.mark.parametrize("arm", ["plain", "res"])
def test_steps_do_not_depend_on_threads(parts, arm, tables):
    """Tables after steps on the same gradients of vectors."""
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        model, config = build(parts, arm, **tables, state="compact")
        optimizer = build_optimizer(model, config)
        table = model.item_embedding
        ids = torch.arange(1, 60).repeat(20)
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            table(ids).backward(torch.randn(len(ids), 8, generator=generator))
            optimizer.step()
            optimizer.zero_grad()
        found.append([p.detach().clone() for p in table.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("arm", ["plain", "res"])
@pytest.mark.parametrize("tables", [TABLES[0], TABLES[3]], ids=str)
def test_steps_below_a_half_unit_add_up(parts, arm, tables):
    """Of 1e-4 from 1: rounding to nearest, whose unit there is 2^-7, would never move."""
    model, config = build(parts, arm, **tables, embedding_lr=1e-4, embedding_l2=0, residual_l2=0)
    table = model.item_embedding
    with torch.no_grad():
        for parameter in table.parameters():
            parameter.fill_(1.0)
    optimizer = build_optimizer(model, config, seed=1)
    ids = torch.arange(1, 70)
    for _ in range(200):
        table(ids).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for parameter in table.parameters():
        assert abs(float(parameter.detach()[1:70].float().mean()) - 0.98) < 2e-3


def test_checkpoints_take_as_much_as_was_counted(parts, tmp_path):
    for options in ({}, {"state": "bfloat16"}, {"state": "compact"}, {"table_dtype": "float32"}):
        folder = tmp_path / str(options)
        model, config = build(parts, dim=64, **LAZY, **options)
        sizes = checkpoint_sizes(model, config)
        trained(parts, folder=folder, dim=64, epochs=1, **LAZY, **options)
        for name, counted in (("best", sizes.best), ("last", sizes.last)):
            size = (folder / f"{name}.safetensors").stat().st_size
            assert counted <= size <= counted + 40_000


def test_a_checkpoint_of_another_dtype_is_refused(parts, tmp_path):
    trained(parts, folder=tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"other parameters: item_embedding\.central, item_embedding\.residual"):
        trained(parts, folder=tmp_path, epochs=1, table_dtype="float32")


def _log(folder):
    log, truth = rx.data.simulate(seed=2, users=80, items=60, domains=4, events_per_user=(5, 9))
    columns = {"user_id": log.user, "item_id": log.item, "timestamp": log.time, "category": truth.domain[log.item]}
    pd.DataFrame(columns).to_csv(folder / "shop.csv", index=False)
    pd.DataFrame({"history": ["1 2 3", "4", ""], "target": [5, 6, 7]}).to_csv(folder / "rows.csv", index=False)
    return str(folder / "shop.csv")


SMALL = [
    "--max-history",
    "4",
    "--dim",
    "8",
    "--hidden",
    "8",
    "--epochs",
    "1",
    "--threads",
    "1",
    "--quiet",
    "--batch-size",
    "128",
]


@pytest.mark.full
@pytest.mark.parametrize(
    ("model", "tables"),
    [("dnn", ["--table-optimizer", "dense"]), ("din", ["--table-optimizer", "lazy", "--in-backward"])],
)
def test_train_predict_and_export(tmp_path, capsys, model, tables):
    run, half = tmp_path / "run", ["--table-dtype", "bfloat16", "--state", "compact"]
    arguments = ["train", "--data", _log(tmp_path), "--category", "--model", model, "--out", str(run), *SMALL]
    assert main([*arguments, *tables, *half]) == 0
    config = json.loads((run / "config.resolved.json").read_text())
    assert config["table_dtype"] == "bfloat16" and config["state"] == "compact"
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    capsys.readouterr()
    for arm, kind in (("plain", HalfEmbedding), ("res", rx.ResEmbedding)):
        saved = SavedModel.load(run, arm, 0)
        assert isinstance(saved.model.item_embedding, kind)
        assert {p.dtype for p in saved.model.item_embedding.parameters()} == {torch.bfloat16}
        out, export = tmp_path / f"{arm}.parquet", tmp_path / arm
        assert main(["predict", str(run), str(tmp_path / "rows.csv"), "--arm", arm, "--out", str(out)]) == 0
        scores = pq.read_table(out)["logit"].to_numpy()
        assert np.std(scores) > 0
        # Of a Res-embedding the table is float32, as in other runs.
        onnx = HAS_ONNX and (arm, model) == ("plain", "dnn")
        assert main(["export", str(run), "--arm", arm, "--out", str(export), *["--onnx"][: int(onnx)]]) == 0
        items = saved.items.encode(pa.array([1, 2, 3, 4, 5, 6, 7]), name="item")[0]
        history = np.zeros((3, saved.max_history), dtype=np.int64)
        history[0, :3], history[1, :1] = items[:3], items[3:4]
        for with_onnx in (False, True)[: 1 + onnx]:
            found = load_export(export, onnx=with_onnx).score(items[4:], history)
            np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("options", [["--link", "attention"], ["--cross-fit", "2"], ["--link", "gcn", "--hops", "2"]])
def test_links_and_folds(tmp_path, options):
    arguments = ["train", "--data", _log(tmp_path), "--out", str(tmp_path / "run"), *SMALL, *options]
    assert main([*arguments, "--table-dtype", "bfloat16", "--state", "compact", "--table-optimizer", "lazy"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert all(entry["test"]["gauc"] is not None for entry in result["runs"])


@pytest.mark.full
def test_tuning(tmp_path):
    pytest.importorskip("optuna")
    out = tmp_path / "tuned"
    arguments = ["tune", "--data", _log(tmp_path), "--trials", "2", "--out", str(out), *SMALL]
    assert main([*arguments, "--table-dtype", "bfloat16", "--state", "bfloat16_rowwise"]) == 0
    best = json.loads((out / "best-res.json").read_text())
    assert best["table_dtype"] == "bfloat16" and best["state"] == "bfloat16_rowwise"
