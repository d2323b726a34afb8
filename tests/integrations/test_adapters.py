"""The table of adapters, and what resemb doctor says of them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resemb_ext.integrations import adapters
from resemb_ext.integrations.adapters import ADAPTERS, Adapter, look_at

ROOT = Path(__file__).resolve().parents[2]
PINS = {
    name: found
    for file in (ROOT / "tests/integrations/environments").rglob("*.txt")
    for name, found in re.findall(r"^([\w.-]+)==([\w.]+)$", file.read_text(), re.MULTILINE)
}
EXTRAS = dict(re.findall(r'^(\w+) = (\[".*"\])$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))


def test_every_adapter_is_in_the_table():
    modules = {
        file.stem
        for file in (ROOT / "resemb_ext/integrations").glob("*.py")
        if "pip install" in file.read_text() and file.stem != "adapters"
    }
    assert modules == {adapter.name for adapter in ADAPTERS}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
def test_versions_are_those_that_tests_run_and_extras_install_them(adapter):
    assert PINS[adapter.package] == adapter.tested
    extra = json.loads(EXTRAS[adapter.extra])
    assert any(re.match(rf"{adapter.package}\b", needed) for needed in extra)
    assert set(adapter.clashes) <= set(extra)
    assert (
        f'pip install "resemb_ext[{adapter.extra}]"'
        in (ROOT / f"resemb_ext/integrations/{adapter.name}.py").read_text()
    )
    assert re.search(rf"^\| .*`{adapter.extra}`.* \|", (ROOT / "docs/install.md").read_text(), re.MULTILINE)


@pytest.fixture
def installed(monkeypatch):
    """Sets which versions are installed; an adapter is not imported."""

    def install(**versions):
        monkeypatch.setattr(adapters, "_version", versions.get)
        monkeypatch.setattr(adapters, "_fault", lambda module: versions.get("fault"))

    return install


RECBOLE = Adapter("recbole", "recbole", "1.2.1", "1.3", "recbole", ("numpy<2", "torch==2.13"))


@pytest.mark.parametrize(
    ("versions", "loads", "text"),
    [
        ({}, False, 'recbole is not installed: pip install "resemb_ext[recbole]"'),
        ({"recbole": "1.2.1"}, True, "recbole 1.2.1, loads"),
        ({"recbole": "1.2.9rc1", "numpy": "1.26.4", "torch": "2.13.0+cpu"}, True, "recbole 1.2.9rc1, loads"),
        ({"recbole": "1.3.0"}, True, "recbole 1.3.0 (tested: 1.2.1), loads"),
        ({"recbole": "1.2.0"}, True, "recbole 1.2.0 (tested: 1.2.1), loads"),
        (
            {"recbole": "1.2.1", "numpy": "2.4.0"},
            False,
            "recbole 1.2.1 does not work with numpy 2.4.0, it needs numpy<2",
        ),
        (
            {"recbole": "1.2.1", "torch": "2.14"},
            False,
            "recbole 1.2.1 does not work with torch 2.14, it needs torch==2.13",
        ),
        ({"recbole": "1.2.1", "fault": "ImportError: x"}, False, "recbole 1.2.1 cannot be loaded: ImportError: x"),
    ],
)
def test_what_is_said(installed, versions, loads, text):
    installed(**versions)
    found = look_at(RECBOLE)
    assert (found.framework, found.loads, found.text) == (versions.get("recbole"), loads, text)


def test_faults_of_an_import(tmp_path, monkeypatch):
    for name, code in (
        ("good", ""),
        ("lacks", "import not_there"),
        ("dies", "import os; os._exit(7)"),
        ("slow", "import time; time.sleep(60)"),
    ):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert adapters._fault("good") is None
    assert adapters._fault("lacks") == "ModuleNotFoundError: No module named 'not_there'"
    assert adapters._fault("dies") == "the process ended with status 7"
    monkeypatch.setattr(adapters, "_SECONDS", 1)
    assert adapters._fault("slow") == "no end after 1 s"


@pytest.mark.full
def test_doctor_tells_of_every_adapter():
    """Those whose framework is installed here really load; ``python -m resemb_ext`` is the command."""
    done = subprocess.run(
        [sys.executable, "-m", "resemb_ext", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    info = json.loads(done.stdout)
    assert info["build"]["isa"] in info["build"]["available_isas"] and info["versions"]["torch"]
    told = info["adapters"]
    assert list(told) == [adapter.name for adapter in ADAPTERS]
    for adapter in ADAPTERS:
        assert told[adapter.name] == vars(look_at(adapter))
