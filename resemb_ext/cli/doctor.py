"""``resemb doctor``: what is installed, what runs, and why something does not."""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from resemb_command import COMMANDS
from resemb_ext import _loader
from resemb_ext.integrations.adapters import ADAPTERS, Found, look_at
from resemb_ext.runtime.environment import commit, versions

EXAMPLE = """example:
  resemb doctor
  resemb doctor --json
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``doctor``."""
    parser = subparsers.add_parser(
        "doctor",
        help=COMMANDS["doctor"],
        description=(
            "Shows versions, the instruction-set path in use, whether the CUDA kernels are\n"
            "built and a device is usable, which adapters of frameworks can load, and why\n"
            "something is missing."
        ),
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=_run_doctor)


def _run_doctor(args: argparse.Namespace) -> int:
    """Runs ``resemb doctor``."""
    info = {"versions": versions(), "commit": commit(), "build": _loader.build_info()}
    found = adapters()
    if args.json:
        print(json.dumps({**info, "adapters": {name: asdict(state) for name, state in found.items()}}, indent=2))
    else:
        shown = [*lines(info), *((name, state.text) for name, state in found.items())]
        print("\n".join(f"{name:<14}{text}" for name, text in shown))
    return 0


def adapters() -> dict[str, Found]:
    """What there is of each adapter."""
    with ThreadPoolExecutor(2) as pool:  # each waits for a process
        return dict(zip((adapter.name for adapter in ADAPTERS), pool.map(look_at, ADAPTERS), strict=True))


def lines(info: dict[str, Any]) -> list[tuple[str, str]]:
    """What to print: name and text of each line."""
    build = info["build"]
    found = [(name, version or "not installed") for name, version in info["versions"].items()]
    found.append(("commit", info["commit"] or "not a git checkout"))
    found.append(("built with", f"torch {build.get('torch_built_with')}, runs on torch {build.get('torch_needed')}"))
    paths = build["available_isas"]
    found.append(("CPU path", f"{build['isa']} (available: {', '.join(paths)}; set RESEMB_ISA)"))
    found.append(("threads", str(build["threads"])))
    if build.get("cuda"):
        found.append(("CUDA kernels", f"built for {build.get('cuda_archs')} ({build.get('cuda_archs_why')})"))
    else:
        found.append(("CUDA kernels", f"not built: {build.get('cuda_why_not') or 'unknown'}"))
    found.append(("CUDA device", device(build)))
    return found


def device(build: dict[str, Any]) -> str:
    """The usable CUDA devices, or the first reason why there is none."""
    if not build.get("cuda"):
        return "not usable: the CUDA kernels are not built"
    runtime = build["cuda_runtime"]
    if not runtime.get("devices"):
        if not runtime.get("driver"):
            return "not usable: no NVIDIA driver is loaded"
        return f"not usable: {runtime.get('error') or 'no device found'}"
    if build["torch_cuda"] is None:
        return f"not usable: torch {build['torch']} is a CPU build; install a CUDA build of torch"
    return ", ".join(str(found) for found in runtime["devices"])
