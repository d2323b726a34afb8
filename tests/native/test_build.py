"""What setup.py decides: the architectures to compile for, and which kernels spill."""

from __future__ import annotations

import ast
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(name="setup")
def setup_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of setup.py, without its call of setup()."""
    monkeypatch.delenv("RESEMB_CUDA_ARCHS", raising=False)
    tree = ast.parse((ROOT / "setup.py").read_text())
    assert isinstance(tree.body[-1], ast.Expr)
    del tree.body[-1]
    names: dict[str, Any] = {"__file__": str(ROOT / "setup.py")}
    exec(compile(tree, "setup.py", "exec"), names)
    return names


@pytest.fixture(name="nvcc")
def fake_nvcc(tmp_path: Path) -> Path:
    """A compiler that knows sm_75, 80 and 90."""
    path = tmp_path / "nvcc"
    path.write_text(f"#!{sys.executable}\nprint('compute_75\\ncompute_80\\ncompute_90')\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("here", "archs", "why"),
    [
        ([], "80+PTX", "no GPU here"),
        ([90], "90", "the GPU here"),
        ([80, 90], "80;90", "the GPUs here"),
        ([120], "90+PTX", "below the GPU here (120)"),
        ([70], "80+PTX", "knows no architecture for the GPU here (70)"),
    ],
)
def test_native_is_the_gpu_here(setup: dict[str, Any], nvcc: Path, here: list[int], archs: str, why: str) -> None:
    setup["compute_capabilities"] = lambda: here
    chosen, reason = setup["choose_archs"](nvcc)
    assert chosen == archs and why in reason
    assert setup["arch_flags"](chosen)


def test_a_list_and_a_release(setup: dict[str, Any], nvcc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESEMB_CUDA_ARCHS", "all")
    assert setup["choose_archs"](nvcc) == ("80;90;100+PTX", "RESEMB_CUDA_ARCHS=all")
    monkeypatch.setenv("RESEMB_CUDA_ARCHS", "9.0a;10.0+PTX")
    assert setup["arch_flags"](setup["choose_archs"](nvcc)[0]) == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]


@pytest.mark.parametrize("archs", ["", "hopper", "90+ptx"])
def test_what_is_no_architecture_is_refused(setup: dict[str, Any], archs: str) -> None:
    with pytest.raises(SystemExit, match="RESEMB_CUDA_ARCHS"):
        setup["arch_flags"](archs)


def test_spills_are_read_from_the_compilers_report(setup: dict[str, Any]) -> None:
    report = """\
ptxas info    : Compiling entry function 'good' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'bad' for 'sm_90'
    8 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
"""
    (found,) = setup["spills"](report)
    assert found.startswith("bad (sm_90)")


@pytest.mark.parametrize(
    ("commands", "compiles"),
    [("egg_info", False), ("sdist --formats=gztar", False), ("bdist_wheel", True), ("sdist bdist_wheel", True)],
)
def test_what_only_describes_does_not_compile(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, commands: str, compiles: bool
) -> None:
    monkeypatch.setattr(sys, "argv", ["setup.py", *commands.split()])
    assert request.getfixturevalue("setup")["COMPILES"] == compiles


def distribution(folder: Path, version: str) -> str:
    """A folder of packages that holds the metadata of a torch."""
    place = folder / f"torch-{version}.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    return str(folder)


@pytest.mark.parametrize(
    ("version", "fits"),
    [("2.11.0", True), ("2.13.0+cpu", True), ("2.13.1a0+git123", True), ("2.10.2", False), ("2.14.0", False)],
)
def test_a_build_takes_the_environments_torch_where_it_fits(
    setup: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, fits: bool
) -> None:
    environment = distribution(tmp_path / "environment", version)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "isolated")])
    monkeypatch.setattr(sysconfig, "get_path", lambda name: environment)
    needs, folder = setup["torch_here"]()
    assert (needs, folder) == (([], environment) if fits else (["torch>=2.11,<2.14"], None))


def test_a_build_takes_the_torch_that_it_can_import(
    setup: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [distribution(tmp_path / "isolated", "2.12.1")])
    monkeypatch.setattr(sysconfig, "get_path", lambda name: distribution(tmp_path / "environment", "2.13.0"))
    assert setup["torch_here"]() == ([], None)
