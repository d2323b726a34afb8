"""What the package claims of its embedded logs, with the default options. Minutes long."""

import pytest

from resemb_ext.train import run

pytestmark = pytest.mark.slow
SEEDS = (0, 1, 2)


def test_res_beats_plain_on_the_simulated_log(tmp_path):
    result = run(seed=SEEDS, out=str(tmp_path), progress=False).result
    gain = result["summary"]["difference"]["test"]["gauc"]
    assert gain["n"] == 3 and gain["mean"] >= 0.01
    best = result["bayes"]["test"]["gauc"]
    for entry in result["runs"]:
        assert 0.6 < entry["test"]["gauc"] < best  # both arms learn, none passes the bound
    radius = {
        arm: [e["aggregation_radius"] for e in result["runs"] if e["embedding"] == arm] for arm in ("plain", "res")
    }
    assert max(radius["res"]) < min(radius["plain"])


def test_res_gains_nothing_on_the_null_log(tmp_path):
    result = run(data="simulated-null", seed=SEEDS, out=str(tmp_path), progress=False).result
    gain = result["summary"]["difference"]["test"]["gauc"]
    assert gain["low"] <= 0 <= gain["high"]
    assert gain["high"] - gain["low"] < 0.1  # an interval that could have excluded something
