"""Which split a run takes where none is named, and that ``data validate`` says what training needs."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.testing.strategies import examples
from resemb_ext.train import RunConfig, run
from resemb_ext.train import prepare as prepare_module
from resemb_ext.train.prepare import prepare

SMALL = {"epochs": 1, "batch_size": 256, "dim": 4, "hidden": (4,), "threads": 1, "embedding": "plain"}


def clicks(path, **columns):
    """A log with labels: of each user 12 events, at random times."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(40), 12),
            "item_id": rng.integers(1, 40, 480),
            "timestamp": rng.permutation(480),
            "label": rng.integers(0, 2, 480),
        }
    )
    frame.assign(**columns).to_csv(path, index=False)
    return str(path)


def test_a_log_with_labels_trains_without_options(tmp_path, capsys):
    path, out = clicks(tmp_path / "clicks.csv"), tmp_path / "out"
    done = run(RunConfig(data=path, out=str(out), **SMALL))
    shown = capsys.readouterr().err
    assert "split by time, since the log has labels" in shown and "--split leave-last-out --metric auc" in shown
    assert done.result["config"]["split"] == done.result["data"]["split"]["how"] == "time"
    for entry in done.result["runs"]:
        assert 0 <= entry["test"]["gauc"] <= 1
    # The way back that the line names.
    back = run(RunConfig(data=path, split="leave-last-out", metric="auc", out=str(tmp_path / "back"), **SMALL))
    assert back.result["data"]["split"]["how"] == "leave-last-out"
    assert "split by time" not in capsys.readouterr().err
    # A run goes on with what it had chosen, and with what version 0.1 had kept for it.
    for folder in (out, tmp_path / "back"):
        kept = json.loads((folder / "config.resolved.json").read_text())["split"]
        assert kept == ("time" if folder == out else "leave-last-out")
        metric = "gauc" if folder == out else "auc"
        (folder / "result.json").unlink()
        again = run(RunConfig(data=path, metric=metric, out=str(folder), **SMALL), resume=True, progress=False)
        assert again.result["config"]["split"] == kept


def test_other_logs_leave_the_last_out(tmp_path):
    plain = rx.data.read_log(clicks(tmp_path / "log.csv"), label=False)
    assert prepare_module.usual_split(plain) == "leave-last-out"
    positions = clicks(tmp_path / "positions.csv", timestamp=np.tile(np.arange(12), 40))
    assert prepare_module.usual_split(rx.data.read_log(positions)) == "leave-last-out"
    with pytest.raises(ValueError, match=r"take metric auc$"):
        prepare(RunConfig(data=positions, embedding="plain"))
    with pytest.raises(ValueError, match=r"take metric auc, or split time"):
        prepare(RunConfig(data=str(tmp_path / "log.csv"), split="leave-last-out", embedding="plain"))


@pytest.mark.full
def test_a_search_keeps_the_split_that_it_found(tmp_path):
    pytest.importorskip("optuna")
    out = tmp_path / "tuned"
    options = ["--epochs", "1", "--dim", "4", "--hidden", "4", "--threads", "1", "--quiet", "--embedding", "plain"]
    path = clicks(tmp_path / "clicks.csv")
    assert main(["tune", "--data", path, "--metric", "auc", *options, "--trials", "1", "--out", str(out)]) == 0
    assert json.loads((out / "best-plain.json").read_text())["split"] == "time"
    assert main(["tune", "--resume", str(out), "--trials", "2", "--quiet"]) == 0
    best = ["--config", str(out / "best-plain.json"), "--threads", "1", "--quiet", "--out", str(tmp_path / "run")]
    assert main(["train", *best]) == 0


@given(st.data())
@examples(100)
def test_what_validate_says_is_what_training_needs(data):
    users, each = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    n = users * each
    draw = data.draw(st.randoms(use_true_random=False))
    times = {"clock": draw.sample(range(n), n), "positions": list(range(each)) * users, "constant": [5] * n}[
        data.draw(st.sampled_from(["clock", "positions", "constant"]))
    ]
    share = data.draw(st.sampled_from([0.1, 0.5, 0.9]))
    label = [int(draw.random() < share) for _ in range(n)]
    assume(0 < sum(label) < n)
    log = rx.data.read_log(
        {"user": np.repeat(np.arange(users), each), "item": np.arange(n) % 7, "time": times, "label": label}
    )
    findings = rx.data.validate(log).findings
    told = [finding for finding in findings if finding.name in ("gAUC", "leave-last-out split", "time split")]
    stops = [f for f in told if f.level != "note"]

    def trains(**options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prepare_module.data, "read_log", lambda *_, **__: log)
            try:
                prepare(RunConfig(data="log.csv", embedding="plain", **options))
            except ValueError:
                return False
        return True

    assert trains() == (not stops)
    for finding in stops:
        for way in re.findall(r"training needs (.*)", finding.done):
            for one in way.split(" or "):
                words = one.split()
                assert trains(**{words[k].removeprefix("--"): words[k + 1] for k in range(0, len(words), 2)}), one
