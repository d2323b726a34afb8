"""``python -m benchmarks.gpu``: the operators on a CUDA device, checked (``--check``) or timed against plain PyTorch.

Each takes at most 8 minutes. Without a device it says so and ends with status 2; ``--dry-run`` times tiny cells on
the CPU, to see that every part runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import checks, speed
from benchmarks.machine import machine
from resemb_ext import _loader
from resemb_ext.runtime.files import write_text

DRY = {"items": [3_000], "positions": [2_000], "dims": [16], "rounds": 3}


def device_data() -> dict[str, Any]:
    """The device, its driver and its clocks as found."""
    properties = torch.cuda.get_device_properties(0)
    query = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"
    smi = shutil.which("nvidia-smi")
    found = "nvidia-smi is not on PATH"
    if smi is not None:
        command = [smi, f"--query-gpu={query}", "--format=csv,noheader", "--id=0"]
        found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "runtime": json.loads(_loader._C.cuda_info()),
        "nvidia_smi": {query: found},
    }


def refusal() -> str | None:
    """Why nothing can run on a device here."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    build = _loader.build_info()
    if "cuda" not in build:
        return "resemb_ext has no record of its build (_build.json): install it anew"
    if not build["cuda"]:
        return "resemb_ext was built without CUDA"
    runtime = build["cuda_runtime"]
    if not runtime["devices"]:  # its CUDA runtime is not torch's, and may be newer than the driver
        return f"resemb_ext, built with CUDA {runtime['runtime']}, sees no device: {runtime['error']}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="The operators on a CUDA device, timed against plain PyTorch or, with --check, checked. Each takes at "
        "most 8 minutes. Without a device it ends with status 2.",
        epilog="example: python -m benchmarks.gpu --check --out gpu_check.json",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check",
        nargs="*",
        choices=checks.PARTS,
        metavar="PART",
        help=f"tests and sanitizers instead of times: {', '.join(checks.PARTS)}, or some of them",
    )
    what.add_argument("--dry-run", action="store_true", help="tiny cells on the CPU; their times mean nothing")
    parser.add_argument("--items", type=int, nargs="+", default=[1_000_000, 10_000_000], help="H")
    parser.add_argument("--positions", type=int, nargs="+", default=[205_000, 1_300_000], help="P")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128], help="D")
    parser.add_argument("--rounds", type=int, default=30, help="timed steps of each variant")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/gpu.json"), help="JSON file")
    args = parser.parse_args()
    why = None if args.dry_run else refusal()
    if why is not None:
        print(f"benchmarks.gpu: {why}; see resemb doctor", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    result: dict[str, Any] = {"machine": machine()}
    result["device"] = "cpu, a dry run" if args.dry_run else device_data()
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def keep(name: str, value: Any) -> None:
        result[name] = value
        write_text(args.out, json.dumps(result, indent=1) + "\n")

    if args.check is not None:
        found = checks.check(args.check or checks.PARTS, lambda parts: keep("check", parts))
        failed = not checks.passed(found)
        print(json.dumps(found, indent=1))
    else:
        sizes = (
            DRY
            if args.dry_run
            else {"items": args.items, "positions": args.positions, "dims": args.dims, "rounds": args.rounds}
        )
        device = "cpu" if args.dry_run else "cuda"
        cells = speed.speed(**sizes, device=device, keep=lambda cells: keep("cells", cells))
        keep("cells", cells)
        failed = any("failed" in cell for cell in cells)
        print(speed.table(cells))
    print(f"\nwritten to {args.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
