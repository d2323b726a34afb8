"""resemb predict: bad files of rows and damaged runs are one line."""

import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.cli import main
from resemb_ext.runtime.digests import write_recorded_json
from resemb_ext.serving import SavedModel
from resemb_ext.testing.strategies import examples


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("history,x\n1,2\n", "cannot guess the target column: name it"),
        ("past,target\n1,2\n", "cannot guess the history column"),
        ("history,target,logit\n1,2,3\n", "already has a column 'logit'"),
        ("history,target\n1,2\n1^^2,3\n", "column 'history', row 1: empty id in a history"),
        ("history,target\n1,2\n1,\n", "column 'target', row 1: null or empty id"),
        ("history,target\n", "has no rows"),
        ("", ""),
        ("history,target\n1,2,3\n", "rows.csv': line 2: expected 2 columns, found 3"),
        ("history,target,target\n1,2,3\n", "the target column 'target' occurs more than once"),
    ],
)
def test_bad_files_are_one_line(runs, tmp_path, capsys, content, words):
    path = tmp_path / "rows.csv"
    path.write_text(content)
    folder = str(runs["integers"].folder)
    assert main(["predict", folder, str(path), "--out", str(tmp_path / "o.csv")]) == 2
    shown = capsys.readouterr().err
    assert words in shown and len(shown.splitlines()) == 1 and "Traceback" not in shown
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


def test_bad_parquet_files_are_one_line(runs, tmp_path, capsys):
    folder, path = str(runs["text"].folder), tmp_path / "rows.parquet"

    def refused(*extra):
        assert main(["predict", folder, str(path), "--out", str(tmp_path / "o.csv"), *extra]) == 2
        shown = capsys.readouterr().err
        assert len(shown.splitlines()) == 1
        return shown

    pq.write_table(pa.table({"history": [["a"], [None]], "target": ["a", "b"]}), path)
    assert "row 1: null or empty id in the history" in refused()
    pq.write_table(pa.table({"history": [1.5], "target": ["a"]}), path)
    assert "column 'history' has type double; a history is a list of ids" in refused()
    pq.write_table(pa.table({"history": [["a"]], "target": [3]}), path)
    assert "convert the column to the same type" in refused()
    assert "no column 'y' (given as target column)" in refused("--target-column", "y")
    assert "separator must not be empty" in refused("--separator", "")
    path.write_bytes(path.read_bytes()[:-9])
    assert "cannot read" in refused()
    path.unlink()
    assert "no file" in refused()


def test_bad_runs_are_one_line(runs, tmp_path, capsys):
    import shutil

    rows = tmp_path / "rows.csv"
    rows.write_text("history,target\n,1\n")
    folder = tmp_path / "run"
    shutil.copytree(runs["integers"].folder, folder)

    def refused(*extra):
        arguments = ["predict", str(folder), str(rows), "--out", str(tmp_path / "o.csv"), *extra]
        assert main(arguments) == 2
        shown = capsys.readouterr().err
        assert len(shown.splitlines()) == 1 and "Traceback" not in shown
        return shown

    assert "has no seed 7; it has 0" in refused("--seed", "7")
    best = folder / "arms" / "res-seed0" / "best.safetensors"
    whole = best.read_bytes()
    best.write_bytes(whole[:-3])
    assert "no readable checkpoint" in refused("--arm", "res")
    best.write_bytes((folder / "arms" / "plain-seed0" / "best.safetensors").read_bytes())
    assert "best.safetensors was trained with other embedding than those here" in refused("--arm", "res")
    best.write_bytes(whole)
    graph = folder / "graph.npz"
    graph.write_bytes(graph.read_bytes()[:-40])
    assert "graph.npz is not a readable interest graph" in refused("--arm", "res")
    graph.write_bytes((runs["integers"].folder / "graph.npz").read_bytes())
    ids = folder / "id_maps.json"
    held = json.loads(ids.read_text())
    held["items"]["values"][-1] += 1
    ids.write_text(json.dumps(held))
    assert "id_maps.json" in refused("--arm", "res")
    best.unlink()
    assert "no checkpoint of arm res with seed 0" in refused("--arm", "res")
    (folder / "id_maps.json").write_text('{"items": {"kind": "int64", "first": 1}}')
    assert "id_maps.json does not match its digest" in refused("--arm", "plain")
    (folder / "SHA256SUMS").unlink()
    assert main(["predict", str(folder), str(rows), "--out", str(tmp_path / "o.csv"), "--arm", "plain"]) == 2
    warned, shown = capsys.readouterr().err.splitlines()
    assert "has no SHA256SUMS" in warned and "id_maps.json cannot be read" in shown
    (folder / "config.resolved.json").unlink()
    assert "holds no run" in refused()


@pytest.mark.one_in(4)
@pytest.mark.parametrize("file", ["id_maps.json", "config.resolved.json", "arms/res-seed0/run.json", "SHA256SUMS"])
@given(data=st.data())
@examples(20)
def test_any_flipped_bit_of_what_scoring_trusts_is_refused(runs, tmp_path_factory, file, data):
    import shutil

    folder = tmp_path_factory.mktemp("flip") / "run"
    shutil.copytree(runs["integers"].folder, folder)
    path = folder / file
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    # Digests of files that scoring does not read may be damaged.
    hit = file != "SHA256SUMS"
    try:
        saved = SavedModel.load(folder)
    except ValueError as error:
        assert "SHA256SUMS" in str(error) and "\n" not in str(error)
    else:
        assert not hit and saved.items == SavedModel.load(runs["integers"].folder).items
    shutil.rmtree(folder.parent)


def test_the_id_map_of_another_run_is_refused(runs, tmp_path):
    """One of equal size, whole and with its digest: the checkpoint knows its own."""
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(runs["integers"].folder, folder)
    maps = json.loads((folder / "id_maps.json").read_text())
    maps["items"]["values"] = [value + 1 for value in maps["items"]["values"]]
    write_recorded_json(folder, folder / "id_maps.json", maps)
    with pytest.raises(ValueError, match=r"best\.safetensors was trained with other id_maps than those here"):
        SavedModel.load(folder, "plain", 0)
