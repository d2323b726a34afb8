"""The tables and figure of study ``delay``, on results made by hand and on small logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resemb_ext.cli import main
from resemb_ext.study.delay import experiment as delay
from resemb_ext.study.delay import page as delay_page
from resemb_ext.study.delay.protocol import PROTOCOL
from resemb_ext.study.harness.pieces import Piece, run_pieces, simulated_source
from resemb_ext.study.harness.results import Results, load_results, write_lines

TINY = simulated_source("tiny", users=200, items=200, domains=4, seed=0)


def test_page_from_the_results_alone(tmp_path: Path) -> None:
    config = {"log": "tiny"}
    pieces = [
        Piece("recover-tiny", lambda: delay._recover(TINY, 0.95), config, [0], TINY),
        Piece("choose-delay", lambda: delay.choices("delay", [0, 1]), config, [0, 1]),
        Piece("log-tiny-communities", lambda: delay._of_log(TINY, "communities"), config, [0], TINY),
    ]
    file = run_pieces("delay", pieces, tmp_path, protocol=PROTOCOL, quick=True, progress=False)
    results = load_results(tmp_path, "delay")
    plan = {**results.plan, "pieces": [*results.plan["pieces"], "log-late"]}
    write_lines(tmp_path / "alone" / file.name, Results(plan, results.pieces, ["log-late"]))
    assert main(["study", "report", "--out", str(tmp_path / "alone"), "--into", str(tmp_path / "docs")]) == 0
    text = (tmp_path / "docs" / "delay.md").read_text()
    assert "Not run: `log-late`" in text and TINY.log.content_hash[:16] in text
    assert (tmp_path / "docs" / "delay.svg").exists() and "delay+mixture" in text
    kept = results.pieces["log-tiny-communities"]["result"]
    head = "dwell by stays | dwell by decay |\n| --- | --- | --- | --- | --- | --- |"
    assert f"{head}\n| tiny-communities | {kept['estimate']['share'][0]:.3f} " in text
    assert "\n| tiny-communities | 100 % | " in text
    half = {**kept, "estimate": {**kept["estimate"], "with_domain": 0.5 * kept["estimate"]["with_domain"]}}
    (row,) = delay_page._logs({"tiny": half}).rows
    assert row[1] == "50 %"


def _pair(independent: float, mixture: float, markov: float, stay: float, **more: Any) -> dict[str, Any]:
    against = {"independent": independent, "mixture": mixture, "markov": markov}
    models = {name: {"against_delay": {"low": x - 0.1, "high": x + 0.1}} for name, x in against.items()}
    worth = {"low": stay, "high": stay + 1}
    found = {"models": {"models": models, "stay_beyond_interests": worth}, "tail": {"verdict": "cannot tell"}}
    return {**found, "median_history": 30.0, **more}


def test_rivals_are_counted_by_intervals_on_one_side() -> None:
    heavy = {"verdict": "heavier", "shape": 0.5}
    logs = {
        "a": _pair(1, -1, 0, 0.1, tail=heavy),
        "b": _pair(1, 1, -1, -0.1, tail=heavy),
        "c": _pair(1, -1, -1, 0.1, tail=heavy, median_history=19.5),  # too short to tell
        "d": _pair(1, -1, -1, 0.1, tail=heavy),
        "e": _pair(1, -1, -1, 0.1),
    }
    drawn = {"a": {"shapes": [0.6, None, 0.7]}, "b": {"shapes": [0.4, 0.6]}}
    table = delay_page._rivals(logs, drawn)
    assert [row[1:] for row in table.rows] == [
        ("5", "0", "0", "0"),
        ("1", "4", "0", "0"),
        ("0", "4", "1", "0"),
        ("4", "0", "1", "0"),
        ("3", "0", "0", "2"),
        ("1", "0", "1", "3"),
    ]
    assert "the 5 pairs" in table.title


def test_tails_of_short_histories_cannot_be_told() -> None:
    for history, verdict in ((19.5, "cannot tell"), (20.0, "lighter")):
        result = {"median_history": history, "tail": {"verdict": "lighter"}}
        assert delay_page._tail_verdict(result) == verdict
