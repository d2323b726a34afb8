"""The notebooks run from the first cell to the last, and are kept without outputs."""

import json
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
#: Those whose framework has an environment of its own, where tests/integrations runs them.
OF_FRAMEWORKS = {"fuxictr"}


def test_the_notebooks_are_there():
    assert {"quick_start", "log_to_served_table", *OF_FRAMEWORKS} <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_cleared(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        assert not re.search(r"/(home|root|work|tmp)/", "".join(cell["source"]))


@pytest.mark.full
@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem not in OF_FRAMEWORKS], ids=lambda path: path.stem
)
def test_it_runs(path, tmp_path, monkeypatch):
    why = "nbclient or ipykernel is not installed (extra notebooks)"
    nbclient = pytest.importorskip("nbclient", reason=why)
    pytest.importorskip("ipykernel", reason=why)
    import nbformat

    kernels = tmp_path / "kernels" / "python3"  # that of this Python, whatever else is installed
    kernels.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernels / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
