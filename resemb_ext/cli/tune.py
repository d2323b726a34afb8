"""``resemb tune``: search learning rates, L2, the start and the residual's scale on validation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from resemb_command import COMMANDS
from resemb_ext.runtime.files import shell_word
from resemb_ext.train import RunConfig, read_config
from resemb_ext.train.tuning import RESIDUAL_SPACE, SPACE, read_search, tune

from .train import add_options, given_options

EXAMPLES = """examples:
  resemb tune --data events.parquet --trials 30 --out tuned
  resemb tune --resume tuned                            continue; --trials 50 for more
  resemb train --config tuned/best-res.json --seed 0 1 2 --out runs/tuned-res

Both arms get the same number of trials over the same ranges; test events are never scored. Needs optuna:
pip install "resemb_ext[tune]".
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``tune``, with the options of ``train``."""
    parser = subparsers.add_parser(
        "tune",
        help=COMMANDS["tune"],
        description="Searches options of the plain and the Res-embedding arm on validation.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, metavar="N", help="trials of each arm (default: 30)")
    parser.add_argument("--tune-seed", type=int, metavar="N", help="of the search (default: 0)")
    parser.add_argument(
        "--range",
        action="append",
        type=_range,
        metavar="OPTION=LOW:HIGH",
        help="other limits of a searched option; defaults: "
        + ", ".join(f"{n}={low:g}:{high:g}" for n, (low, high) in {**SPACE, **RESIDUAL_SPACE}.items()),
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="continue the search in this folder (default: --out), with its own options",
    )
    add_options(parser, without=("log_to",))
    parser.set_defaults(run=_run_tune)


def _range(text: str) -> tuple[str, tuple[float, float]]:
    name, _, limits = text.partition("=")
    low, _, high = limits.partition(":")
    try:
        return name.replace("-", "_"), (float(low), float(high))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected OPTION=LOW:HIGH") from None


def _run_tune(args: argparse.Namespace) -> int:
    """Runs ``resemb tune``."""
    given = given_options(args)
    search: dict[str, Any] = {"trials": args.trials, "tune_seed": args.tune_seed}
    if args.range:
        search["ranges"] = dict(args.range)
    if args.resume is None:
        config = RunConfig.build(args.config, **given)
    else:
        options = {**({} if args.config is None else read_config(args.config)), **given}
        folder = args.resume or options.get("out")
        if folder is None:
            raise ValueError("resume: name the folder, as --resume FOLDER or with --out FOLDER")
        config = _saved(Path(folder), options, search)
    search = {name: value for name, value in search.items() if value is not None}
    done = tune(config, **search, resume=args.resume is not None, progress=False if args.quiet else None)
    print(done.table)
    for arm in done.result["space"]:
        if done.result["best"][arm] is not None:
            print(f"resemb train --config {shell_word(done.folder / f'best-{arm}.json')}")
        else:
            print(f"{arm}: every trial diverged, and there is nothing to train; tune.json says why each did")
    print(f"trials in {done.folder}")
    return 0


def _saved(folder: Path, options: dict[str, Any], search: dict[str, Any]) -> RunConfig:
    """The options of a begun search under those given, and its trials, seed and ranges."""
    saved = read_search(folder)
    try:
        for name, key in (("trials", "trials_per_arm"), ("tune_seed", "tune_seed")):
            if search[name] is None:
                search[name] = saved[key]
        limits = {name: tuple(pair) for arm in saved["space"].values() for name, pair in arm.items()}
        search["ranges"] = {**limits, **search.get("ranges", {})}
        return RunConfig.saved(saved["config"], **{**options, "out": str(folder)})
    except (LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"resume: {folder} holds no search of this package: {error}") from error
