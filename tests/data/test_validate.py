"""``rx.data.validate`` and ``resemb data``: figures, findings, exit statuses, conversion."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.data import read_log
from resemb_ext.data.clocks import time_unit
from resemb_ext.data.kinds import SUFFIXES
from resemb_ext.data.validation import duplicates

NOW = 2_000_000_000


def clean(users=4, items=9, events=6):
    """A log without anything to remark on but its missing labels."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), events),
            "item_id": np.concatenate([rng.permutation(items)[:events] for _ in range(users)]),
            "timestamp": 1_500_000_000 + 10 * rng.permutation(events * users).reshape(users, -1).copy().ravel(),
        }
    ).sort_values(["user_id", "timestamp"])


def found(frame, **options):
    report = rx.data.validate(read_log(frame, **options), now=NOW)
    return {finding.name: finding for finding in report.findings}, report


def test_a_clean_log():
    findings, report = found(clean())
    assert list(findings) == ["no labels"] and report.level == "note"
    figures = report.figures
    assert (figures["rows"], figures["users"], figures["items"]) == (24, 4, 8)
    assert figures["guessed"] == ["user", "item", "time"] and figures["time_unit"] == "s"
    assert figures["in_time_order"] is True
    assert figures["splits"]["leave-last-out"] == {"train": 16, "valid": 4, "test": 4}
    json.dumps(report.to_dict(), allow_nan=False)


def test_order_and_ties():
    frame = clean()
    frame["timestamp"] = frame.timestamp.to_numpy()[::-1].copy()
    findings, report = found(frame)
    assert "sorted by user and time" in findings["time order"].done and report.level == "note"
    frame = clean()
    frame.loc[frame.user_id == 1, "timestamp"] = 1_500_000_000
    findings, _ = found(frame)
    assert findings["ties"].found.startswith("5 of 24 (20.8%) events")


def test_duplicates_and_repeats():
    frame = clean()
    frame = pd.concat([frame, frame.iloc[[0, 0, 7]], frame.iloc[[3]].assign(timestamp=1)])
    findings, report = found(frame)
    assert findings["duplicates"].found.startswith("3 of 28")
    assert findings["repeats"].found.startswith("1 of 28")
    assert report.level == "warning"


rows = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3))


@given(st.lists(rows, min_size=1))
def test_duplicates_match_a_set(events):
    log = read_log(pd.DataFrame(events, columns=["user", "item", "time"]))
    seen, expected = set(), []
    for row in zip(log.user, log.item, log.time, strict=True):
        expected.append(row in seen)
        seen.add(row)
    assert duplicates(log).tolist() == expected


@pytest.mark.parametrize(("ticks", "unit"), [(1, "s"), (10**3, "ms"), (10**6, "us"), (10**9, "ns")])
def test_future_times_in_every_unit(ticks, unit):
    frame = clean()
    frame["timestamp"] = frame.timestamp * ticks
    assert "future times" not in found(frame)[0]
    frame.loc[frame.index[:2], "timestamp"] = (NOW + 1) * ticks
    findings, report = found(frame)
    assert report.figures["time_unit"] == unit and report.level == "warning"
    assert findings["future times"].found.startswith("2 of 24")


def test_small_times_have_no_unit():
    frame = clean()
    frame["timestamp"] = np.arange(len(frame))
    assert time_unit(read_log(frame).time) is None
    frame["timestamp"] = pd.to_datetime(frame.timestamp + 2**31, unit="s")
    assert found(frame)[1].figures["future_times"] == 24


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_labels(label):
    findings, report = found(clean().assign(label=label))
    assert "--label-column -" in findings["one-class labels"].done and report.level == "error"
    assert "one-class labels" not in found(clean().assign(label=label), label=False)[0]


def test_labels_and_categories():
    frame = clean().assign(label=[0, 1] * 12, category=["a", "b", None] * 8)
    findings, report = found(frame)
    assert report.figures["positive_share"] == 0.5 and "histories" in findings["labels"].done
    assert findings["no category"].found.startswith("8 of 24")
    frame["category"] = frame.item_id % 2
    assert "several categories" not in found(frame)[0]
    frame.loc[frame.item_id == frame.item_id.iloc[0], "category"] = [5, 6, 7, 8][
        : (frame.item_id == frame.item_id.iloc[0]).sum()
    ]
    assert found(frame)[0]["several categories"].found.startswith("1 of 8")


def test_splits_that_cannot_be():
    frame = clean()
    frame["timestamp"] = frame.groupby("user_id").cumcount()
    findings, report = found(frame)
    assert report.figures["splits"]["time"] is None and report.level == "note"
    assert "--split time stops; leave-last-out works" in findings["time split"].done
    findings, report = found(clean(users=9, items=9, events=2))
    assert "needs --split time" in findings["leave-last-out split"].done
    assert report.level == "warning"
    findings, report = found(clean().iloc[:1])
    assert report.level == "error" and "it cannot be split" in findings["time split"].done


def test_users_who_know_every_item():
    findings, report = found(clean(items=6))
    assert findings["too few items"].found.startswith("4 of 4") and report.level == "error"
    assert "too few items" not in found(clean(items=6).assign(label=[0, 1] * 12))[0]


def test_short_users():
    frame = clean()
    frame = frame[(frame.user_id > 0) | (frame.groupby("user_id").cumcount() < 2)]
    assert found(frame)[0]["short users"].found.startswith("1 of 4")


def test_the_command(tmp_path, capsys):
    path = tmp_path / "log.csv"
    clean().to_csv(path, index=False)
    assert main(["data", "validate", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "rows                         24" in shown
    assert "guessed                      user, item, time" in shown
    assert "note     no labels: there is no label column -> every event is a positive" in shown
    pd.concat([clean(), clean()]).to_csv(path, index=False)
    assert main(["data", "validate", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["figures"]["duplicates"] == 24 and report["level"] == "warning"
    clean().assign(label=1).to_csv(path, index=False)
    assert main(["data", "validate", str(path)]) == 2
    assert main(["data", "validate", str(path), "--label-column", "-"]) == 0
    capsys.readouterr()
    assert main(["data", "validate", str(path), "--item-column", "nope", "--json"]) == 2
    seen = capsys.readouterr()
    assert "no column 'nope'" in json.loads(seen.out)["error"]
    assert len(seen.err.splitlines()) == 1


def test_sessions_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "log.csv"
    clean().to_csv(path, index=False)
    main(["data", "validate", str(path), "--session-gap", "30", "--json"])
    report = json.loads(capsys.readouterr().out)
    log = read_log(path, session_gap=30)
    assert 4 < report["figures"]["sessions"] == log.num_sessions < 24


def test_help_has_an_example(capsys):
    for arguments in (["data"], ["data", "validate"], ["data", "convert"]):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--help"])
        shown = capsys.readouterr().out
        assert stop.value.code == 0 and "example" in shown and "resemb data" in shown


def test_help_names_every_kind_of_file(capsys):
    for arguments in (["train"], ["data", "validate"]):
        with pytest.raises(SystemExit):
            main([*arguments, "--help"])
        shown = capsys.readouterr().out
        assert [suffix for suffix in SUFFIXES if suffix not in shown] == [] and "folder" in shown


def test_conditions_are_checked(tmp_path, capsys):
    path = tmp_path / "log.csv"
    clean().to_csv(path, index=False)
    for bad, words in (
        (["--where", "user_id"], "expected COLUMN=VALUE"),
        (["--where", "user_id=1", "--where", "user_id=2"], "give a column once"),
        (["--where", "user_id=77"], "no row of 'log' has user_id = 77; it holds 0, 1, 2, 3"),
        (["--session-gap", "-1"], "session_gap must be a finite number >= 0"),
    ):
        try:
            assert main(["data", "validate", str(path), *bad]) == 2
        except SystemExit as stop:
            assert stop.code == 2
        assert words in capsys.readouterr().err


def test_convert(tmp_path, capsys):
    source, out = tmp_path / "raw.csv", tmp_path / "log.parquet"
    frame = clean().assign(kind=["pv", "buy", "cart"] * 8, color=["a", None] * 12)
    pd.concat([frame, frame.iloc[:4]]).to_csv(source, index=False, header=False)
    arguments = [
        "data",
        "convert",
        str(source),
        "--header",
        "u,i,t,kind,color",
        "--user-column",
        "u",
        "--item-column",
        "i",
        "--time-column",
        "t",
        "--category-column",
        "color",
        "--where",
        "kind=pv,buy",
        "--session-gap",
        "30",
        "--out",
        str(out),
    ]
    assert main(arguments) == 0
    assert "user 'u', item 'i', time 't', category 'color'" in capsys.readouterr().err
    kept = pd.concat([frame, frame.iloc[:4]])
    kept = kept[kept.kind != "cart"]
    expected = read_log(kept, category="color", session_gap=30)
    assert read_log(out).content_hash == expected.content_hash
    assert main([*arguments, "--drop-duplicates"]) == 0
    assert "16 events (3 duplicates dropped)" in capsys.readouterr().out
    assert not [p for p in tmp_path.iterdir() if p.name not in ("raw.csv", "log.parquet")]
    assert main([*arguments[:-1], str(tmp_path / "log.csv")]) == 2
    assert main([*arguments[:-1], str(tmp_path / "no" / "log.parquet")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def ready_made(folder, histories, **more):
    folder.mkdir()
    for part in ("train", "valid", "test"):
        rows = {
            "label": [0, 1] * 6,
            "user_id": [0, 0, 1, 1] * 3,
            "item_id": [1, 2, 3, 4] * 3,
            "item_history": histories,
        }
        pd.DataFrame(rows).assign(**more).to_csv(folder / f"{part}.csv", index=False)
    return folder


def test_ready_made_samples(tmp_path, capsys):
    folder = ready_made(tmp_path / "set", ["1 2 3", "4 1", ""] * 4)
    assert main(["data", "validate", str(folder)]) == 0
    shown = capsys.readouterr()
    assert "histories                    ids joined by ' '" in shown.out and not shown.err
    assert "rows                         train 12, valid 12, test 12" in shown.out
    assert "note     no history: 12 of 36 rows have none" in shown.out
    assert main(["data", "validate", str(folder), "--history-separator", "|", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "'1 2 3' in a history is no integer" in error and "--history-separator" in error
    one_class = ready_made(tmp_path / "one", ["1|2"] * 12, user_id=np.arange(12), cate_id=1)
    (one_class / "valid.csv").unlink()
    assert main(["data", "validate", str(one_class), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert list(findings) == ["category", "gAUC", "no valid file"]
    assert "needs --metric auc" in findings["gAUC"]["done"] and "left out" in findings["category"]["done"]
    for option, value in (("--where", "a=1"), ("--time-column", "t"), ("--session-gap", "3"), ("--label-column", "-")):
        assert main(["data", "validate", str(folder), option, value]) == 2
        assert "ready-made samples" in capsys.readouterr().err
    path = tmp_path / "log.csv"
    clean().to_csv(path, index=False)
    assert main(["data", "validate", str(path), "--history-separator", "|"]) == 2
    assert "is for folders of ready-made samples" in capsys.readouterr().err
    assert main(["data", "validate", str(path), "--user-column", "-"]) == 2
    assert "no column '-'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "options", "status", "words"),
    [
        (
            {"label": [5, 1] * 12},
            [],
            2,
            "label must be 0 or 1 (5), as in 11 more rows; the column was guessed: label=F",
        ),
        (
            {"timestamp": [10**9, 10**12] * 12},
            [],
            1,
            "warning  mixed units: times of column 'timestamp' look like Unix",
        ),
        (
            {"timestamp": [20220430, 20220501] * 12},
            [],
            1,
            "warning  dates in digits: times of column 'timestamp' are wh",
        ),
        (
            {"kind": ["a", "b"] * 12},
            ["--where", "kind=a,b,c"],
            1,
            "warning  where: no row of 'log' has kind = c; it hol",
        ),
        ({"category": [[1]] * 24}, ["--category-column", "-"], 0, "note     no labels"),
        ({"category": [0.5] * 24}, [], 1, "warning  category: column 'category', row 0: fractional category"),
    ],
)
def test_what_training_would_meet_is_said_before(tmp_path, capsys, change, options, status, words):
    path = tmp_path / "log.csv"
    clean().assign(**change).to_csv(path, index=False)
    assert main(["data", "validate", str(path), *options]) == status
    seen = capsys.readouterr()
    assert words in seen.out + seen.err
