"""``python -m benchmarks.din_versions --against FOLDER``: training DIN in this checkout and in another, side by side.

Each checkout has a process of its own, which trains the model of ``resemb train --model din`` as its own code does.
They take turns, so that noise of the machine falls on both alike. At the end each trains epochs with validation from a
fresh model of the same seed: what was made faster must learn the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def serve(data: str, threads: int, arm: str) -> None:
    """The process of one checkout: a line of JSON for each line of standard input, "steps N" or "epochs N"."""
    import torch

    import resemb_ext
    from resemb_ext.train.batches import train_batches
    from resemb_ext.train.config import RunConfig
    from resemb_ext.train.loop import fit, training_loss
    from resemb_ext.train.optimizer import build_optimizer
    from resemb_ext.train.prepare import build_model, prepare, resolved, train_samples

    torch.set_num_threads(threads)
    config = RunConfig.build(data=data, model="din", threads=threads)
    prepared = prepare(config)
    config = resolved(config, prepared)
    samples = train_samples(config, prepared.split, 0)
    model = build_model(config, prepared, arm, 0)
    optimizer = build_optimizer(model, config.fit_config())

    def endless() -> Iterator[Any]:
        epoch = 0
        while True:
            yield from train_batches(samples, config.batch_size, seed=0, epoch=epoch)
            epoch += 1

    batches = endless()
    sizes = {"items": prepared.log.num_items, "samples": len(samples), "batch_size": config.batch_size}
    about = {**sizes, "dim": config.dim, "package": str(Path(resemb_ext.__file__).parents[1])}
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        task, number = line.split()
        started, cpu = time.perf_counter(), time.process_time()
        losses: list[float] = []
        answer: dict[str, Any] = {}
        if task == "steps":
            for _ in range(int(number)):
                loss, value = training_loss(model, next(batches))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                losses.append(value)
        else:
            fresh = build_model(config, prepared, arm, 0)
            done = fit(fresh, samples, prepared.valid, config=config.fit_config(), epochs=int(number), progress=False)
            losses = [entry["loss"] for entry in done.history]
            answer = {metric: done.valid[metric] for metric in ("auc", "gauc", "logloss")}
            answer["samples_per_s"] = done.samples_per_s
        spent = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
        print(json.dumps({**answer, **spent, "loss": float(np.mean(losses))}), flush=True)


class Checkout:
    """A process that trains with the package of one folder."""

    def __init__(self, folder: Path, data: Path, threads: int, arm: str) -> None:
        # The script's own folder comes before PYTHONPATH, and holds no resemb_ext.
        self._process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).resolve()),
                "--serve",
                arm,
                "--data",
                str(data),
                "--threads",
                str(threads),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()
        if Path(self.about["package"]) != folder:
            raise RuntimeError(
                f"{folder}: resemb_ext was imported from {self.about['package']}; is it a built checkout?"
            )

    def ask(self, task: str, number: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(task, number, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of a checkout ended with {self._process.wait()}; see its messages above")
        return json.loads(line)


def compare(
    folders: dict[str, Path], data: Path, *, arm: str, threads: int, rounds: int, steps: int, epochs: int
) -> dict[str, Any]:
    """Both checkouts on one log.

    Returns:
        JSON-able: sizes, and by version samples a second, CPU seconds a sample, and after ``epochs`` loss and
        validation metrics; the quartiles of the ratio of samples a second, "new" over "old", round by round.
    """
    checkouts = {name: Checkout(folder, data, threads, arm) for name, folder in folders.items()}
    try:
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
        order = np.random.default_rng(0)
        for turn in range(rounds + 1):
            for name in order.permutation(list(checkouts)):
                answer = checkouts[name].ask("steps", steps)
                if turn:  # the first warms up
                    rows[name].append(answer)
        about = checkouts["new"].about
        trained = steps * about["batch_size"]
        result: dict[str, Any] = {k: v for k, v in about.items() if k != "package"}
        result |= {"log": data.stem, "arm": arm, "threads": threads, "rounds": rounds, "steps": steps, "epochs": epochs}
        for name, answers in rows.items():
            result[name] = {
                "samples_per_s": round(trained / float(np.median([a["wall_s"] for a in answers]))),
                "cpu_us_per_sample": round(1e6 * float(np.median([a["cpu_s"] for a in answers])) / trained, 2),
                "loss": float(np.mean([a["loss"] for a in answers])),
            }
            if epochs:
                whole = checkouts[name].ask("epochs", epochs)
                result[name]["after_epochs"] = {k: round(v, 7) for k, v in whole.items()}
        ratio = [old["wall_s"] / new["wall_s"] for old, new in zip(rows["old"], rows["new"], strict=True)]
        result["ratio"] = [round(float(q), 3) for q in np.percentile(ratio, [25, 50, 75])]
    finally:
        for checkout in checkouts.values():
            checkout.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.din_versions",
        description="Training DIN in this checkout and in another one, which must be built, in turns.",
    )
    parser.add_argument(
        "--against", type=Path, help="the other checkout (git worktree add FOLDER COMMIT; then build it)"
    )
    parser.add_argument("--data", type=Path, required=True, nargs="+", help="log files")
    parser.add_argument("--arm", choices=("res", "plain"), default="res", help="embedding (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="training steps a round (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=1, help="epochs whose metrics are compared (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(str(args.data[0]), args.threads[0], args.serve)
        return
    if args.against is None:
        parser.error("--against: name the checkout to compare with")
    from benchmarks.machine import machine
    from resemb_ext.runtime.files import write_json

    commit = subprocess.run(
        ["git", "-C", str(args.against), "describe", "--always"], capture_output=True, text=True, check=True
    ).stdout.strip()
    folders = {"old": args.against.resolve(), "new": ROOT}
    result: dict[str, Any] = {"machine": machine(), "against": commit, "cells": []}
    del result["machine"]["threads"]
    for data in args.data:
        for threads in args.threads:
            cell = compare(
                folders,
                data.resolve(),
                arm=args.arm,
                threads=threads,
                rounds=args.rounds,
                steps=args.steps,
                epochs=args.epochs,
            )
            result["cells"].append(cell)
            print(json.dumps(cell, indent=1))
            if args.out:
                write_json(args.out, result)


if __name__ == "__main__":
    main()
