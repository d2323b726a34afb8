"""Results of a study: one JSON-lines file that holds every number in full, from which a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resemb_ext.study.harness.pieces import Piece, run_pieces
from resemb_ext.study.harness.results import Results, has_results, hours, load_results, read_lines, write_lines

PROTOCOL = {"version": 1, "primary": "a protocol that is said once"}
OPTIONS: dict[str, Any] = {"protocol": PROTOCOL, "quick": False, "progress": False}


def _piece(key: str, **result: Any) -> dict[str, Any]:
    common = {"format": 1, "study": "s", "protocol": PROTOCOL}
    return {**common, "key": key, "config": {"x": 1}, "seeds": [0], "data": None, "seconds": 0.5, "result": result}


def _results(*missing: str) -> Results:
    curve = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2.0**60 + 1, 1, None]
    nested = {"curve": curve, "text": "Ünïcode \u2028 in it", "deep": {"curve": curve, "more": [curve, {"a": curve}]}}
    pieces = {
        "b": _piece("b", **nested),
        "a": _piece("a", **nested, other=[[1.5, 2.5]] * 30),
        "c": _piece("c", curve=curve[:-1], empty={}, none=None),
    }
    plan = {"study": "s", "quick": False, "protocol": PROTOCOL, "data": {}, "pieces": [*pieces, *missing]}
    return Results(plan, pieces, list(missing), {"a": _piece("a", curve=curve)})


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    results = _results("late")
    write_lines(tmp_path / "s.jsonl", results)
    again = read_lines(tmp_path / "s.jsonl")
    assert again == results
    for key, piece in results.pieces.items():
        assert json.dumps(again.pieces[key]["result"]) == json.dumps(piece["result"])  # order and sign of zero too
    before = (tmp_path / "s.jsonl").read_bytes()
    write_lines(tmp_path / "s.jsonl", again)
    assert (tmp_path / "s.jsonl").read_bytes() == before


def test_protocol_and_values_that_occur_twice_are_written_once(tmp_path: Path) -> None:
    write_lines(tmp_path / "s.jsonl", _results())
    text = (tmp_path / "s.jsonl").read_text(encoding="utf-8")
    assert text.count("said once") == 1 and "said once" in text.split("\n")[0]
    assert text.count("1.7976931348623157e+308") == 2  # c has another curve
    assert text.count("1.5,2.5") == 1 or "[1.5,2.5],[1.5,2.5]" in text
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [line["key"] for line in lines[1:] if "key" in line] == ["b", "a", "a", "c"]


def test_files_that_are_no_results_are_refused_by_name_and_line(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    write_lines(path, _results())
    text = path.read_text(encoding="utf-8")
    for wrong, message in (
        (text[:-20], "s.jsonl, line [0-9]+: "),
        (text + "[]\n", "expected an object, found list"),
        (text + '{"key": "d", "result": {"$": 99}}\n', "line [0-9]+: list index"),
        (text + '{"key": "d", "result": {"$": "x"}}\n', "line [0-9]+: list indices"),
        (text + '{"result": {}}\n', "line [0-9]+: expected the key of a piece"),
        ("", "holds no results of a study"),
        ('{"format": 1, "protocol": {}}\n', "holds no results of a study"),
        ('{"format": 9, "protocol": {}}\n', r"holds no results of a study \(format 1\)"),
    ):
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_lines(path)
    with pytest.raises(ValueError, match="must not have the key"):
        write_lines(path, Results(_results().plan, {"a": _piece("a", **{"$": 1})}, []))
    with pytest.raises(FileNotFoundError, match="holds no study other"):
        load_results(tmp_path, "other")
    assert has_results(tmp_path, "s") and not has_results(tmp_path, "other")


def _pieces(calls: list[str], keys: str, value: float = 1.0) -> list[Piece]:
    def work(key: str) -> dict[str, float]:
        calls.append(key)
        return {"value": value}

    return [Piece(key, lambda key=key: work(key), {"x": 1}, [0]) for key in keys]


def test_a_run_goes_on_from_the_file_alone(tmp_path: Path) -> None:
    calls: list[str] = []
    file = run_pieces("s", _pieces(calls, "ab"), tmp_path / "first", **OPTIONS)
    other = tmp_path / "other"
    other.mkdir()
    (other / "s.jsonl").write_bytes(file.read_bytes())
    assert run_pieces("s", _pieces(calls, "bcd"), other, **OPTIONS, only="[bc]") == other / "s.jsonl"
    assert calls == ["a", "b", "c"]
    results = load_results(other, "s")
    # What is no longer in the plan is kept.
    assert list(results.pieces) == ["a", "b", "c"] and results.missing == ["d"]
    assert results == read_lines(other / "s.jsonl")


def test_what_a_killed_run_had_done_is_reported_and_gathered_by_the_next(tmp_path: Path) -> None:
    calls: list[str] = []
    run_pieces("s", _pieces(calls, "a"), tmp_path, **OPTIONS)
    failing = [*_pieces(calls, "ab"), Piece("c", lambda: {}[0], {}, [0])]
    with pytest.raises(KeyError):
        run_pieces("s", failing, tmp_path, **OPTIONS)
    assert list(read_lines(tmp_path / "s.jsonl").pieces) == ["a"]
    results = load_results(tmp_path, "s")
    assert list(results.pieces) == ["a", "b"] and results.missing == ["c"]
    run_pieces("s", _pieces(calls, "abc"), tmp_path, **{**OPTIONS, "only": "[ab]"})
    assert list(read_lines(tmp_path / "s.jsonl").pieces) == ["a", "b"] and calls == ["a", "b"]


def test_results_of_another_protocol_size_or_log_do_not_go_into_one_file(tmp_path: Path) -> None:
    run_pieces("s", _pieces([], "a"), tmp_path, **OPTIONS)
    for changed in ({"protocol": {"version": 2}}, {"quick": True}):
        with pytest.raises(ValueError, match=f"made with another {next(iter(changed))}; choose another folder"):
            run_pieces("s", _pieces([], "b"), tmp_path, **{**OPTIONS, **changed})
    assert list(load_results(tmp_path, "s").pieces) == ["a"]
    kept = read_lines(tmp_path / "s.jsonl")
    log = {"hash": "x"}
    write_lines(tmp_path / "s.jsonl", Results({**kept.plan, "data": {"log": log}}, kept.pieces, []))
    plan = json.loads((tmp_path / "s" / "plan.json").read_text())
    (tmp_path / "s" / "plan.json").write_text(json.dumps({**plan, "data": {"log": {"hash": "y"}}}))
    with pytest.raises(ValueError, match="made with another log log"):
        load_results(tmp_path, "s")


def test_hours_count_steps_of_earlier_sessions() -> None:
    steps = {"trials": [{"seconds": 3600.0}] * 2, "touched": {"trials": [{"seconds": 1800.0}]}}
    pieces = [{"seconds": 1800.0, "result": {}}, {"seconds": 100.0, "result": steps}]
    assert hours(pieces) == 3.0
    assert hours([{"seconds": 36000.0, "result": steps}]) == 10.0
