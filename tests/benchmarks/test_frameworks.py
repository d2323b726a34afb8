"""The comparison with other libraries, at a tiny size; the libraries themselves where they are installed."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import resemb_ext as rx
from benchmarks.frameworks import __main__ as frameworks
from benchmarks.frameworks import child, samples
from benchmarks.frameworks.report import frameworks_table
from benchmarks.frameworks.settings import MODULES, OWN, SIDES, WARMUP

BATCH = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    log = rx.data.simulate(users=40, items=60, domains=2, seed=0)[0]
    place = tmp_path_factory.mktemp("frameworks")
    about = samples.write(place, *samples.draw(log, 200))
    assert about["samples"] == 200 and about["items"] == log.num_items and about["edges"] > 0
    return place


def test_every_library_gets_the_same_samples(folder):
    log = rx.data.simulate(users=40, items=60, domains=2, seed=0)[0]
    chosen, _ = samples.draw(log, 200)
    given = np.load(folder / "train.npz")
    lines = (folder / "recbole" / "recbole.train.inter").read_text().splitlines()[1:]
    assert len(lines) == len(chosen) == len(given["item"]) == 200
    for row, line in enumerate(lines):
        batch = chosen.batch(slice(row, row + 1))
        length = given["length"][row]
        assert length == len(batch.history) > 0
        assert given["history"][row, :length].tolist() == batch.history.tolist()
        assert not given["history"][row, length:].any()
        user, item, label, history = line.split("\t")
        assert (int(user), int(item), float(label)) == (batch.user[0] + 1, batch.target[0], batch.label[0])
        assert [int(i) for i in history.split()] == batch.history.tolist()
    listed = (folder / "recbole" / "recbole.item").read_text().split()[1:]
    assert len(listed) == chosen.num_items - 1


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("side", ["res", "plain", "dense", *MODULES])
def test_a_side_trains(side, folder):
    if side in MODULES and importlib.util.find_spec(MODULES[side]) is None:
        pytest.skip(f"{MODULES[side]} is not installed")
    made = child.make(side, folder, BATCH)
    table = max((p for p in made.model.parameters() if p.dim() == 2), key=lambda p: p.shape[0])
    before = table.detach().clone()
    made.warm(WARMUP)
    assert made.read() == 7
    first = made.train()
    for _ in range(8):
        last = made.train()
    assert np.isfinite(first) and last < first
    assert not torch.equal(table, before)


def test_time_of_children_counts():
    import subprocess

    burn = "import time\nt = time.process_time()\nwhile time.process_time() < t + 0.2: pass"
    _, cpu, wall = child.timed(lambda: subprocess.run([sys.executable, "-c", burn]))
    assert cpu >= 0.2 and wall >= 0.2


def test_compare_and_its_table(monkeypatch):
    log = rx.data.simulate(users=40, items=60, domains=2, seed=0)[0]
    asked = []

    def run(side, python, folder, batch_size, threads):
        asked.append((side, python, batch_size, threads))
        turn = len(asked)
        slower = {"res": 1.0, "fuxictr": 12.0}[side]
        rest = {
            "data_cpu_s": 0.1 * slower,
            "peak_mib": 100.4,
            "prepare_s": 1.0,
            "loss": 0.5,
            "batches": 4,
            "torch": "2",
        }
        version = "2.3.10" if side == "fuxictr" else None
        return {"cpu_s": slower, "wall_s": 2 * slower + turn / 1e6, "version": version, **rest}

    found = frameworks.compare(
        log, {OWN: "a", "fuxictr": "b"}, samples=100, batch_size=BATCH, threads=1, rounds=3, run=run
    )
    assert sorted(asked) == sorted([(OWN, "a", BATCH, 1), ("fuxictr", "b", BATCH, 1)] * 3)
    assert found["sides"]["fuxictr"]["cpu_ratio"] == [12.0] * 3 and found["sides"][OWN]["cpu_us"] == 10_000.0
    about = {"cpu": "a CPU", "torch": "2"}
    text = frameworks_table({"machine": about, "dim": 4, "hidden": [8], "attention": [8], "logs": [found]})
    assert "| FuxiCTR 2.3.10 | 120,000.0 |" in text and "12.0 [12.0, 12.0]" in text and "10%" in text


@pytest.mark.full
def test_a_side_in_a_process_of_its_own(folder):
    found = frameworks.run_side("plain", sys.executable, folder, BATCH, 1)
    assert found["batches"] == 7 and 0 < found["data_cpu_s"] < found["cpu_s"] and found["peak_mib"] > 50
    with pytest.raises(RuntimeError, match=r"resemb_ext, plain, dense Adam: .* ended with 1:"):
        frameworks.run_side("dense", sys.executable, folder / "nowhere", BATCH, 1)


def test_a_library_that_is_missing_is_named(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    python.chmod(0o755)
    assert frameworks.missing("recbole", str(python)) == f"recbole is not installed for {python}"
    assert frameworks.missing(OWN, str(python)) is None


def test_committed_results_name_every_side():
    result = json.loads((frameworks.ROOT / "benchmarks/results/frameworks.json").read_text())
    assert not result["left_out"] and {log["items"] > 100_000 for log in result["logs"]} == {False, True}
    for log in result["logs"]:
        assert log["sides"].keys() == SIDES.keys()
