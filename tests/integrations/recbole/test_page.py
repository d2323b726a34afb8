"""docs/integrations/recbole.md and the example run, with the lines that they say."""

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import DOCS, ROOT, blocks, run_page
from tests.integrations.conftest import framework

framework("recbole", __file__)

from recbole.data import data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer  # noqa: E402

import resemb_ext as rx  # noqa: E402
from tests.integrations.recbole import sample  # noqa: E402

PAGE = DOCS / "integrations" / "recbole.md"


def test_the_page_runs(tmp_path: Path) -> None:
    data = sample.prepare("SASRec", tmp_path, epochs=1)
    given = {"data_preparation": data_preparation, "get_model": get_model, "get_trainer": get_trainer}
    left = run_page(
        PAGE, given | {"config": data.config, "dataset": sample.unsplit(data.config), "other_model": sample.build(data)}
    )
    (shown,) = [block.text for block in blocks(PAGE) if block.language == "text"]
    assert shown.strip() == str(left["report"])
    assert left["graph"].meta["options"]["window"] == 5
    assert isinstance(left["trainer"].optimizer, rx.optim.Adam)
    assert (tmp_path / "plain.pth").exists()


def test_two_lines_change() -> None:
    first = blocks(PAGE)[0].text.splitlines()
    assert len([line for line in first if "recbole" in line]) == 2


def test_the_example_runs(tmp_path: Path) -> None:
    script = ROOT / "examples" / "recbole_sasrec.py"
    changed = [line for line in script.read_text().splitlines() if "resemb_ext" in line or "recbole.replace" in line]
    assert len([line for line in changed if line.strip().startswith(("from", "print"))]) == 2
    run = subprocess.run(
        [sys.executable, str(script), "--epochs", "1", "--model", "GRU4Rec"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert [line.split()[0] for line in run.stdout.splitlines() if "recall@10" in line] == ["plain", "res"]
