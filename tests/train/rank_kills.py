"""Kills one rank of a training by torchrun again and again, and compares the end with a run that was not killed.

    python tests/train/rank_kills.py --kills 30

Each run is one ``torchrun --max-restarts``, on a tiny log, which saves after every step. A rank, drawn at random, gets
SIGKILL at a random moment; torchrun starts all ranks anew, and they go on from the last checkpoint. Prints one line a
finished run and a JSON line at the end; exit status 1 where a result differs or a run fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.train.kills import results, write_log

OPTIONS = (
    *(
        "--epochs",
        "3",
        "--batch-size",
        "64",
        "--dim",
        "4",
        "--hidden",
        "4",
        "--eval-negatives",
        "5",
        "--save-every",
        "0",
    ),
    *("--dropout", "0.2", "--table-optimizer", "lazy", "--decay", "global", "--quiet"),
)
SAVED = ("*/last.dcp/*/SHA256SUMS", "*/last.safetensors")


def torchrun(log: Path, out: Path, restarts: int, ranks: int = 2) -> subprocess.Popen[bytes]:
    """Begins a run."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)),
        *("--max-restarts", str(restarts), "--monitor-interval", "0.1", "-m", "resemb_ext", "train"),
        *("--data", str(log), "--out", str(out), *OPTIONS),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with open(out.with_suffix(".log"), "wb") as told:
        return subprocess.Popen(command, stdout=told, stderr=told, env=environment)


def ranks_of(agent: int) -> list[int]:
    """Pids of the ranks that run now."""
    found = []
    for task in Path(f"/proc/{agent}/task").glob("*/children"):
        found += [int(pid) for pid in task.read_text().split()]
    return found


def saved(out: Path) -> bool:
    return any(path for pattern in SAVED for path in (out / "arms").glob(pattern))


def killed_run(log: Path, out: Path, kills: int, draw: random.Random, longest: float) -> dict[str, int]:
    """One run to its end; how many kills came before the first checkpoint, and after.

    Raises:
        RuntimeError: the run failed.
    """
    counted = {"before a checkpoint": 0, "after": 0}
    process = torchrun(log, out, kills)
    while sum(counted.values()) < kills and process.poll() is None:
        # Most wait for a checkpoint of this life, since a start takes longer than the training.
        ranks, until = [], time.monotonic() + 120
        while len(ranks) < 2 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
            ranks = ranks_of(process.pid)
        if draw.random() < 0.7:
            newest = _newest(out)
            while _newest(out) == newest and process.poll() is None and ranks_of(process.pid) == ranks:
                time.sleep(0.01)
        time.sleep(draw.uniform(0, longest))
        if process.poll() is None and ranks_of(process.pid) == ranks and len(ranks) == 2:
            counted["after" if saved(out) else "before a checkpoint"] += 1
            os.kill(draw.choice(ranks), signal.SIGKILL)
            while ranks_of(process.pid) == ranks and process.poll() is None:
                time.sleep(0.05)
    if process.wait() != 0:
        raise RuntimeError(f"a run failed: {out.with_suffix('.log').read_text()[-2000:]}")
    return counted


def _newest(out: Path) -> float:
    """When the newest checkpoint was written."""
    times = [0.0]
    for pattern in SAVED:
        for path in (out / "arms").glob(pattern):
            try:
                times.append(path.stat().st_mtime)
            except FileNotFoundError:
                continue
    return max(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument("--each", type=int, default=10, help="most kills a run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--longest", type=float, default=2.0, help="most seconds to a kill (default: %(default)s)")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    total: dict[str, Any] = {"kills": 0, "runs": 0, "different": 0, "before a checkpoint": 0, "after": 0}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_log(place / "log.csv")
        if torchrun(place / "log.csv", place / "whole", 0).wait() != 0:
            print((place / "whole.log").read_text()[-2000:], file=sys.stderr)
            return 1
        whole = results(place / "whole")
        while total["kills"] < arguments.kills:
            most = min(arguments.each, arguments.kills - total["kills"])
            out = place / f"run{total['runs']}"
            counted = killed_run(place / "log.csv", out, most, draw, arguments.longest)
            differs = results(out) != whole
            total["runs"] += 1
            total["different"] += differs
            total["kills"] += sum(counted.values())
            for name, count in counted.items():
                total[name] += count
            print(f"{counted}: {'different' if differs else 'the same'}", flush=True)
    print(json.dumps(total))
    return int(total["different"] > 0)


if __name__ == "__main__":
    sys.exit(main())
