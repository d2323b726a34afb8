"""``python -m benchmarks.lazy``: does lazy Adam cost accuracy? Dense against lazy Adam, paired by seed."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.report import lazy_table
from resemb_ext.runtime.files import check_out, write_json
from resemb_ext.train import RunConfig, run
from resemb_ext.train.statistics import paired_difference

LEVEL = 0.90  # of the interval
OPTIMIZERS = ("dense", "lazy")


def compare(data: Path, model: str, seeds: tuple[int, ...], threads: int, **options: Any) -> dict[str, Any]:
    """Trains plain and res with both optimizers at the same options.

    Returns:
        JSON-able: test AUC by arm, optimizer and seed; the paired difference lazy - dense by arm with its
        interval.
    """
    auc: dict[str, dict[str, list[float]]] = {}
    for optimizer in OPTIMIZERS:
        with tempfile.TemporaryDirectory(prefix="lazy-") as folder:
            config = RunConfig.build(
                data=str(data),
                model=model,
                embedding="both",
                seed=seeds,
                threads=threads,
                table_optimizer=optimizer,
                out=folder,
                overwrite=True,
                **options,
            )
            done = run(config)
        for entry in done.result["runs"]:
            values = auc.setdefault(entry["embedding"], {}).setdefault(optimizer, [])
            values.append(entry["test"]["auc"])
    differences = {arm: paired_difference(values["dense"], values["lazy"], LEVEL) for arm, values in auc.items()}
    return {
        "log": data.stem,
        "model": model,
        "seeds": list(seeds),
        "options": options,
        "auc": auc,
        "lazy_minus_dense": differences,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lazy",
        description="Test AUC of lazy Adam (rows of the batch) against dense Adam (whole tables), both "
        "with the same options, paired by seed.",
        epilog="example: python -m benchmarks.lazy --data amazon-beauty.parquet",
    )
    parser.add_argument("--data", type=Path, required=True, help="log file")
    parser.add_argument("--model", default="dnn")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--with-l2", action="store_true", help="compare with the default L2, too")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/lazy.json"), help="JSON file")
    args = parser.parse_args()
    check_out(args.out, [args.data])
    torch.set_num_threads(args.threads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # Without L2 the two differ in the rows a step moves alone; with it also in what decays.
    settings: list[dict[str, Any]] = [{"embedding_l2": 0.0, "residual_l2": 0.0}]
    if args.with_l2:
        settings.append({})
    result: dict[str, Any] = {"machine": machine(), "comparisons": []}
    for options in settings:
        result["comparisons"].append(compare(args.data, args.model, tuple(args.seeds), args.threads, **options))
        write_json(args.out, result)
    print(lazy_table(result))
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
