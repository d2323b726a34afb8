"""Two checkouts side by side: here the same one twice."""

import json
from pathlib import Path

import pytest

import resemb_ext as rx
from benchmarks import din_versions
from benchmarks.report import din_versions_table


@pytest.mark.full
def test_a_checkout_against_itself(tmp_path):
    log = rx.data.simulate(users=150, items=60, domains=2, seed=0)[0]
    data = tmp_path / "log.parquet"
    events = {"user": log.users.decode(log.user), "item": log.items.decode(log.item), "time": range(len(log))}
    import pandas as pd

    pd.DataFrame(events).to_parquet(data)
    cell = din_versions.compare(
        {"old": din_versions.ROOT, "new": din_versions.ROOT}, data, arm="res", threads=1, rounds=2, steps=1, epochs=1
    )
    assert cell["old"]["loss"] == cell["new"]["loss"]
    assert cell["old"]["after_epochs"]["auc"] == cell["new"]["after_epochs"]["auc"]
    text = din_versions_table({"machine": {"cpu": "a CPU", "torch": "2"}, "against": "abc", "cells": [cell]})
    assert "| log | 1 |" in text


@pytest.mark.full
def test_another_package_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="ended with"):
        din_versions.Checkout(tmp_path, Path("no such log"), 1, "res")


def test_the_committed_result_is_what_the_page_says():
    result = json.loads((din_versions.ROOT / "benchmarks/results/din_versions.json").read_text())
    assert all(cell["ratio"][1] > 1.5 for cell in result["cells"] if cell["log"] == "ml-1m")
