"""Kills a training again and again with SIGKILL, resumes it, and compares the end with a whole run's.

    python tests/train/kills.py --kills 200

Each life is a fork of a process that has everything imported, on a tiny log, saving after every
step. It dies at a random moment of its life, or of its n-th save; when a run gets to its end, its results must be those of the run
that was never killed, to the last bit, and the next run begins. Prints one line a finished run and
a JSON line at the end; exit status 1 where anything differed or a life failed by itself.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401  (every life would import it anew)
import pandas as pd
import torch

import resemb_ext as rx
from resemb_ext.train import RunConfig, loop, run, saving
from resemb_ext.train.folder import CONFIG, RESULT, SCORES

VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "lazy": {"table_optimizer": "lazy", "embedding_l2": 1e-2},
    "global in backward": {"table_optimizer": "lazy", "decay": "global", "in_backward": True},
    "cross-fit, global": {"table_optimizer": "lazy", "decay": "global", "cross_fit": 3},
    "din, dropout, dice": {"model": "din", "dropout": 0.2, "activation": "dice", "embedding": "res"},
}
PHASES = ("preparing and reporting", "training", "saving")
TIMES = {"samples_per_s", "peak_memory_mb", "peak_memory_before_mb", "wall_s", "seconds_per_epoch"}


def write_log(path: Path) -> None:
    """A tiny simulated log."""
    log, _ = rx.data.simulate(users=60, items=50, domains=3, events_per_user=(5, 8), seed=4)
    columns = {"user_id": log.user, "item_id": log.item, "timestamp": log.time}
    pd.DataFrame(columns).to_csv(path, index=False)


def options(log: Path, variant: str) -> dict[str, Any]:
    return {
        "data": str(log),
        "epochs": 3,
        "batch_size": 64,
        "dim": 4,
        "hidden": (4,),
        "threads": 1,
        "seed": (0, 1),
        "save_every": 0.0,
        "eval_negatives": 5,
        **VARIANTS[variant],
    }


def results(folder: Path) -> dict[str, Any]:
    """What must not depend on kills."""
    result = json.loads((folder / RESULT).read_text())
    for entry in result["runs"]:
        for key in TIMES:
            del entry[key]
        entry["history"] = [(e["epoch"], e["loss"], e["valid"]) for e in entry["history"]]
    scores = pd.read_parquet(folder / SCORES)
    return {
        "runs": result["runs"],
        "hashes": result["hashes"],
        "scores": {name: scores[name].tolist() for name in scores},
    }


def live(config: dict[str, Any], folder: Path, phase: mmap.mmap) -> None:
    """One life, in a child: begins or resumes the run; tells its phase and saves in shared memory."""

    def within(number: int, inner: Any) -> Any:
        def call(*arguments: Any) -> Any:
            before, phase[0] = phase[0], number
            phase[1] += number == 2 and phase[1] < 255
            try:
                return inner(*arguments)
            finally:
                phase[0] = before

        return call

    loop._Training.run = within(1, loop._Training.run)  # type: ignore[method-assign]
    saving.save_checkpoint = within(2, saving.save_checkpoint)
    resume = (folder / CONFIG).exists()
    run(RunConfig(**config, out=str(folder)), resume=resume, progress=False)


def fork(config: dict[str, Any], folder: Path, phase: mmap.mmap) -> int:
    phase[0] = phase[1] = 0
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        live(config, folder, phase)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def killed_run(
    config: dict[str, Any], folder: Path, draw: random.Random, longest: float, phase: mmap.mmap
) -> list[str]:
    """One run to its end; the phases in which it was killed."""
    phases = []
    while True:
        save = draw.choice([0, draw.randint(1, 9)])  # 0: any moment
        wait = draw.uniform(0, 0.006 if save else longest)
        child = fork(config, folder, phase)
        deadline = None if save else time.monotonic() + wait
        done, status = 0, 0
        while not done and (deadline is None or time.monotonic() < deadline):
            time.sleep(0.0002)
            done, status = os.waitpid(child, os.WNOHANG)
            if deadline is None and phase[1] >= save:
                deadline = time.monotonic() + wait
        if not done:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            phases.append(PHASES[phase[0]])
        elif os.WEXITSTATUS(status):
            raise RuntimeError(f"a life failed by itself after {len(phases)} kills in {folder}")
        else:
            return phases


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw, phase = random.Random(arguments.seed), mmap.mmap(-1, 2)
    counts = dict.fromkeys(PHASES, 0)
    runs = kills = different = 0
    with tempfile.TemporaryDirectory() as place:
        log, whole, longest = Path(place) / "log.csv", {}, {}
        write_log(log)
        while kills < arguments.kills:
            variant = list(VARIANTS)[runs % len(VARIANTS)]
            config = options(log, variant)
            if variant not in whole:
                started = time.monotonic()
                folder = Path(place) / "whole"
                os.waitpid(fork(config, folder, phase), 0)
                longest[variant] = 0.75 * (time.monotonic() - started)
                whole[variant] = results(folder)
                shutil.rmtree(folder)
            folder = Path(place) / f"run{runs}"
            phases = killed_run(config, folder, draw, longest[variant], phase)
            same = results(folder) == whole[variant]
            left = [str(file) for file in folder.rglob(".*") if "tmp" in file.name]
            runs, kills = runs + 1, kills + len(phases)
            different += not same or bool(left)
            for name in phases:
                counts[name] += 1
            word = "same results" if same else "DIFFERENT RESULTS"
            print(f"{variant}: {len(phases)} kills, {word}{' and left ' * bool(left)}{', '.join(left)}", flush=True)
            shutil.rmtree(folder)
    print(json.dumps({"kills": kills, "runs": runs, "different": different, "during": counts}))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
