"""The public API as a user's ``mypy --strict`` sees it: installed, by its py.typed."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "resemb_ext"


@pytest.mark.full
def test_a_typed_program_passes_strict_checks(tmp_path):
    """Errors inside of installed packages are not shown, and only those that have a py.typed are read."""
    pytest.importorskip("mypy", reason="mypy is not installed; .ci/run installs it")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "user"], check=True)
    (site,) = (tmp_path / "user").glob("lib/python3*/site-packages")
    (site / "resemb_ext").symlink_to(PACKAGE)
    (site / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    program = tmp_path / "program.py"
    program.write_text((HERE / "program.py").read_text())
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"]
    done = subprocess.run(
        [*command, "--python-executable", tmp_path / "user/bin/python", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
