"""``python -m benchmarks.gpu`` as far as it goes without a device: arguments, JSON, what is refused."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import stat
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import checks, din, speed, variants
from benchmarks.gpu.cells import draw_graph
from benchmarks.gpu.ratios import ratios
from benchmarks.gpu.variants import GATHER_SUM, SPARSE_ADAM, STEP, STEP_COMPACT, UNIQUE
from resemb_ext import _loader
from tests.processes import ended

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_without_a_device_it_says_so(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments, "--out", str(tmp_path / "gpu.json")])
    assert gpu.main() == 2
    assert capsys.readouterr().err.splitlines() == ["benchmarks.gpu: torch sees no CUDA device; see resemb doctor"]
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_dry_run_goes_through_every_part(tmp_path: Path) -> None:
    """Times mean nothing there; what needs CUDA or FBGEMM is refused by name, and nothing fails."""
    out = tmp_path / "new" / "gpu.json"
    done = command("--dry-run", "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert result["device"] == "cpu, a dry run"
    (cell,) = result["cells"]
    assert [n for n, v in cell["variants"].items() if "failed" in v] == []
    refused = {n: v["refused"] for n, v in cell["variants"].items() if "refused" in v}
    assert all("CUDA" in why or "not installed" in why for why in refused.values())
    assert len(refused) >= 2 and len(cell["variants"]) >= 25
    assert all("samples_per_s" in cell["din"]["variants"][n] for n in (din.OWN, *din.GATHER))
    assert cell["stages"]["update"] > 0 and cell["stages_of_unique_ids"]["forward"] > 0
    found = {ratio["what"]: ratio["found"] for ratio in cell["ratios"]}
    assert found["ours / plain with SparseAdam"] > 0 and found["DIN, ours / gather form, samples a second"] > 0
    assert "best torch step of Res-embedding / ours" in done.stdout


def test_cells_that_do_not_fit_are_named() -> None:
    late = speed.speed([3_000], [100], [4], 3, device="cpu", limit=-1)
    assert [cell["skipped"] for cell in late] == ["no time left"]
    assert "skipped: no time left" in speed.table(late)


def test_a_cell_that_fails_keeps_what_it_has_and_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that has failed every call raises, between the variants too."""

    def run_cell(cell: dict[str, Any], *_: Any) -> None:
        if cell["P"] == 100:
            cell["variants"] = {"a": {"ms": 1.5}}
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(speed, "run_cell", run_cell)
    cells = speed.speed([3_000], [100, 200], [4], 3, device="cpu")
    assert cells[0]["failed"].startswith("RuntimeError: CUDA error") and "failed" not in cells[1]
    text = speed.table(cells)
    assert "failed: RuntimeError" in text and "1.5" in text

    found: dict[str, Any] = {}
    with speed.recorded(found, "a variant"):
        raise IndexError("ids: id 7 at position 3 is out of range")
    assert found["a variant"]["failed"].startswith("IndexError: ids")


def test_a_runtime_newer_than_the_driver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = {"runtime": 13000, "driver": 12040, "devices": [], "error": "driver is insufficient"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_loader, "build_info", lambda: {"cuda": True, "cuda_runtime": runtime})
    why = gpu.refusal()
    assert why is not None and "13000" in why and "driver is insufficient" in why
    runtime["devices"] = [{"name": "H100"}]  # type: ignore[assignment]
    assert gpu.refusal() is None


def test_graph_rows_are_distinct_and_hold_their_own_item() -> None:
    graph = draw_graph(500, 20, "cpu")
    assert bool((graph[:, 1:] > graph[:, :-1]).all())
    assert bool((graph == torch.arange(500)[:, None]).any(1).all())


def test_ratios_tell_what_is_missing() -> None:
    cell: dict[str, Any] = {
        "P": 205_000,
        "compulsory_ms": {"step": 1.0},
        "stages_of_unique_ids": {"forward": 2.0},
        "variants": {
            GATHER_SUM: {"ms": 1.5},
            STEP: {"ms": 5.0},
            STEP_COMPACT: {"ms": 2.0},
            SPARSE_ADAM: {"ms": 10.0},
            "step: res, a": {"ms": 20.0},
            "step: res, b": {"ms": 30.0},
            "step: plain, c": {"failed": "x"},
            UNIQUE: {"ms": 0.6},
        },
        "stages": {"dedupe": 0.2},
        "memory": {"share": 8.0},
    }
    found = {ratio["what"]: ratio for ratio in ratios(cell)}
    assert found["gather-sum over the same list / lookup kernel"]["found"] == 0.75
    assert found["compulsory bytes' time / whole Adam step"]["found"] == 0.2
    best = found["best torch step of Res-embedding / ours"]
    assert (best["found"], best["against"]) == (4.0, "step: res, a")
    plain = found["ours / best plain step"]
    assert (plain["found"], plain["against"]) == (0.5, SPARSE_ADAM)
    assert found["ours / plain with SparseAdam"] == {"what": "ours / plain with SparseAdam", "found": 0.5}
    assert found[f"{UNIQUE} / stage dedupe of ours"]["found"] == 3.0
    assert found["float32 / bfloat16 step"]["found"] is None
    assert found["step with float32 / compact state"]["found"] == 2.5
    memory = "scratch of a step, integers of 4 bytes / (P + min(P, H) K)"
    assert found[memory]["found"] == 8.0
    cell["memory"] = {"failed": "OutOfMemoryError: x"}
    assert {ratio["what"]: ratio for ratio in ratios(cell)}[memory]["found"] is None


# --- checks ----------------------------------------------------------------------------------------

GOOD = {"exit_code": 0, "passed": 2}


def fake_sanitizer(folder: Path, body: str) -> None:
    program = folder / "compute-sanitizer"
    program.write_text(f"#!/bin/bash\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of tests that takes the device tests' place, and a folder on PATH."""
    tests = tmp_path / "test_some.py"
    tests.write_text("def test_a(): pass\ndef test_b(): pass\n")
    monkeypatch.setattr(checks, "SANITIZED", (str(tests), "-p", "no:cacheprovider"))
    monkeypatch.setattr(checks, "_ROOT", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.mark.full
def test_runs_are_counted(small: Path) -> None:
    found = checks.run_pytest([], str(small / "test_some.py"), timeout=600)
    assert (found["exit_code"], found["passed"], found["failed"]) == (0, 2, [])
    (small / "test_some.py").write_text("def test_a(): pass\ndef test_b(): assert False\n")
    found = checks.run_pytest([], str(small / "test_some.py"), timeout=600)
    assert (found["exit_code"], found["passed"]) == (1, 1)
    assert [name.rsplit(".", 1)[1] for name in found["failed"]] == ["test_b"]
    (small / "test_some.py").write_text("import time\ndef test_a(): time.sleep(60)\n")
    found = checks.run_pytest([], str(small / "test_some.py"), timeout=4)
    assert found["exit_code"] == -1 and "stopped after 4 s" in found["output"]
    assert not checks.passed({"tests": found})


@pytest.mark.full
def test_a_sanitizers_own_child_is_stopped_with_it(small: Path) -> None:
    fake_sanitizer(small, "sleep 600 & echo $! > child; wait")
    found = checks.sanitize("racecheck", 3)
    assert found["exit_code"] == -1 and "stopped after 3 s" in found["output"]
    assert not checks.passed({"tests": GOOD, "memcheck": found})
    child = int((small / "child").read_text())
    assert ended(child)  # a killed process of a busy machine has yet to see it


def test_sanitizers_see_every_tensors_end(small: Path) -> None:
    fake_sanitizer(small, "echo caching off: $PYTORCH_NO_CUDA_MEMORY_CACHING >&2; exit 3")
    assert checks.sanitize("memcheck", 60) == {"refused": "caching off: 1\n"}


@pytest.mark.full
def test_a_sanitizer_that_refuses_is_recorded(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sanitizer(small, "echo device not supported >&2; exit 3")
    assert checks.sanitize("memcheck", 60) == {"refused": "device not supported\n"}
    fake_sanitizer(small, 'while [[ "$1" == --* ]]; do last=$1; shift; done; shift; exec "$@"')
    assert checks.sanitize("memcheck", 60)["passed"] == 2
    monkeypatch.setattr(checks, "SANITIZED", (*checks.SANITIZED, "-k", "none_of_them"))
    found = checks.sanitize("memcheck", 60)
    assert found["exit_code"] == 5 and not checks.passed({"tests": GOOD, "memcheck": found})
    fake_sanitizer(small, "exit 99")
    found = checks.sanitize("racecheck", 60)
    assert found["exit_code"] == 99
    assert checks.passed({"tests": GOOD, "memcheck": {"refused": "x"}})
    assert not checks.passed({"tests": GOOD, "racecheck": found})
    assert not checks.passed({"tests": {"refused": "x"}})
    assert not checks.passed({"memcheck": {"refused": "x"}, "racecheck": {"refused": "x"}})
    # Where the host lets no sanitizer at the device, the tests under it fail for that.
    (small / "test_some.py").write_text("def test_a(): assert False\n")
    run = 'while [[ "$1" == --* ]]; do last=$1; shift; done; shift; exec "$@"'
    fake_sanitizer(small, f"echo '========= Error: Device not supported.'; {run}")
    assert "Device not supported" in checks.sanitize("racecheck", 60)["refused"]


@pytest.mark.full
def test_parts_are_kept_as_they_come(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sanitizer(small, 'echo "$@" > arguments; exit 3')
    monkeypatch.setattr(checks, "TESTS", (str(small / "test_some.py"),))
    kept: list[list[str]] = []
    found = checks.check(("memcheck", "tests"), lambda parts: kept.append(list(parts)))
    assert kept == [["tests"], ["tests", "memcheck"]]
    assert found["tests"]["exit_code"] == 5 and not checks.passed(found)  # none is marked cuda
    assert "--report-api-errors=no" in (small / "arguments").read_text()
    assert "tests" not in checks.check(("racecheck",))
    assert "--report-api-errors" not in (small / "arguments").read_text()


def test_a_build_without_its_record_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_loader, "build_info", dict)
    assert gpu.refusal() == "resemb_ext has no record of its build (_build.json): install it anew"


def test_what_a_captured_step_uses_lives_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph has addresses alone, so what replays it must hold the module, its state and the gradient."""
    upstreams: list[weakref.ref] = []
    made: list[weakref.ref] = []

    def in_backward(case: Any, **options: Any) -> Any:
        assert options == {"capturable": True}

        def step(ids: torch.Tensor, upstream: torch.Tensor) -> None:
            upstreams.append(weakref.ref(upstream))

        made.append(weakref.ref(step))
        return step

    graph = SimpleNamespace(replay=lambda: None)
    monkeypatch.setattr(variants, "in_backward", in_backward)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
    case: Any = SimpleNamespace(
        central=SimpleNamespace(is_cuda=True), batches=[torch.arange(3)], cell=SimpleNamespace(dim=2)
    )
    replay = variants.captured(case)
    gc.collect()
    assert made[0]() is not None and len(upstreams) == 2
    assert all(upstream() is not None for upstream in upstreams)
    replay(torch.tensor([4, 5, 6]), torch.zeros(3, 2))
