"""Real logs from file to trained model through the command line alone."""

from __future__ import annotations

import json

import pytest

from resemb_ext.cli import main

SMALL = [
    "--epochs",
    "1",
    "--dim",
    "8",
    "--hidden",
    "16",
    "--max-history",
    "10",
    "--batch-size",
    "8192",
    "--eval-negatives",
    "2",
    "--threads",
    "1",
    "--quiet",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ml-1m", ["--split", "time"]),
        ("ml-1m", ["--split", "leave-last-out"]),
        ("ml-1m", ["--split", "time", "--label-column", "label_ge4", "--metric", "auc"]),
        ("amazon-beauty", ["--category", "--model", "din"]),
        ("amazon-toys", ["--category"]),
        ("taobao-userbehavior-815u", ["--split", "time", "--category"]),
    ],
)
def test_from_file_to_model(shared_data, tmp_path, capsys, name, options):
    log = str(shared_data(f"{name}.parquet"))
    assert main(["data", "validate", log]) == 0
    out = tmp_path / "run"
    assert main(["train", "--data", log, *options, *SMALL, "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert {run["embedding"] for run in result["runs"]} == {"plain", "res"}
    assert all(0.4 < run["test"]["auc"] < 1 for run in result["runs"])
    assert "results in" in capsys.readouterr().out
