"""``table_optimizer="auto"``: dense on small logs, lazy and in backward on large ones."""

import json

import numpy as np
import pytest
import torch

import resemb_ext as rx
from resemb_ext.models import DNN
from resemb_ext.train import FitConfig, RunConfig, build_optimizer, run
from resemb_ext.train import config as config_module
from resemb_ext.train import prepare as prepare_module
from resemb_ext.train import runner as runner_module

SMALL = {"epochs": 1, "batch_size": 256, "dim": 8, "hidden": (8,), "progress": False, "threads": 1}
SMALL_CONFIG = {name: value for name, value in SMALL.items() if name != "progress"}


@pytest.fixture
def log(tmp_path):
    events, _ = rx.data.simulate(users=80, items=100, domains=4, events_per_user=(5, 9), seed=2)
    path = tmp_path / "log.csv"
    columns = {"user": events.user, "item": events.items.decode(events.item), "time": events.time}
    np.savetxt(
        path, np.column_stack(list(columns.values())), fmt="%d", delimiter=",", header=",".join(columns), comments=""
    )
    return str(path)


@pytest.fixture
def most(monkeypatch):
    """Sets the size up to which "auto" is dense."""

    def put(size):
        for module in (prepare_module, runner_module):
            monkeypatch.setattr(module, "LARGE_TABLE", size)

    return put


def outcome(log, out, **options):
    result = run(**{**SMALL, "data": log, "out": str(out), **options}).result
    return [(entry["embedding"], entry["valid"], entry["test"]) for entry in result["runs"]], result["config"]


def test_the_default_is_auto_with_a_stated_size():
    assert RunConfig().table_optimizer == FitConfig().table_optimizer == "auto"
    assert config_module.LARGE_TABLE == 100_000


@pytest.mark.parametrize(
    ("size", "explicit"), [(None, {"table_optimizer": "dense"}), (50, {"table_optimizer": "lazy", "in_backward": True})]
)
def test_auto_is_what_it_says(log, tmp_path, most, size, explicit):
    if size:
        most(size)
    chosen, kept = outcome(log, tmp_path / "auto")
    named, _ = outcome(log, tmp_path / "named", **explicit)
    assert chosen == named
    assert {name: kept[name] for name in explicit} == explicit
    saved = json.loads((tmp_path / "auto" / "config.resolved.json").read_text())
    assert saved["table_optimizer"] == explicit["table_optimizer"]


@pytest.mark.parametrize(
    ("options", "in_backward"), [({"link": "attention"}, False), ({"cross_fit": 2}, False), ({}, True)]
)
def test_what_backward_cannot_step_is_stepped_after_it(log, tmp_path, most, options, in_backward):
    most(50)
    _, kept = outcome(log, tmp_path / "run", embedding="res", **options)
    assert kept["table_optimizer"] == "lazy" and kept["in_backward"] == in_backward


def test_a_choice_of_lazy_is_said_in_one_line_with_the_way_back(log, tmp_path, most, capsys):
    rows = rx.data.read_log(log).num_items  # with padding and the row of unknown items
    most(rows)
    run(**{**SMALL, "progress": True}, data=log, embedding="plain", out=str(tmp_path / "small"))
    assert "table optimizer" not in capsys.readouterr().err
    most(rows - 1)
    run(**{**SMALL, "progress": True}, data=log, embedding="plain", out=str(tmp_path / "large"))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "table optimizer" in line]
    assert "lazy" in line and "--table-optimizer dense" in line


def test_a_resumed_run_keeps_its_choice(log, tmp_path, most):
    most(50)
    whole, _ = outcome(log, tmp_path / "whole")
    folder = tmp_path / "stopped"
    outcome(log, folder)
    for name in ("result.json", "arms/res-seed0/run.json"):
        (folder / name).unlink()
    most(1000)  # another release may draw the line elsewhere
    again = run(RunConfig(**{**SMALL_CONFIG, "data": log, "out": str(folder)}), resume=True, progress=False).result
    assert again["config"]["table_optimizer"] == "lazy" and again["config"]["in_backward"]
    assert [(entry["embedding"], entry["valid"], entry["test"]) for entry in again["runs"]] == whole


@pytest.mark.parametrize("sparse", [False, True])
def test_fit_takes_what_the_embeddings_give(sparse):
    model = DNN(torch.nn.Embedding(9, 4, padding_idx=0, sparse=sparse), hidden=(4,))
    optimizer = build_optimizer(model, FitConfig())
    assert isinstance(optimizer, rx.optim.Adam if sparse else torch.optim.Adam)


def test_embeddings_of_both_kinds_are_refused():
    item, category = (torch.nn.Embedding(9, 4, padding_idx=0, sparse=sparse) for sparse in (True, False))
    with pytest.raises(ValueError, match=r"category_embedding gives dense gradients.*sparse=True"):
        build_optimizer(DNN(item, category_embedding=category, hidden=(4,)), FitConfig())
