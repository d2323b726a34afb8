"""``resemb train``: train arms side by side on a log and compare them."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection
from typing import Any

from resemb_command import COMMANDS
from resemb_ext.train import RunConfig, read_config, run, saved_config
from resemb_ext.train.launch import shows
from resemb_ext.train.options import type_of
from resemb_ext.train.report import closing

EXAMPLES = """examples:
  resemb train                                  simulated log, plain and res, about two minutes
  resemb train --data simulated-null            the same popularity without domains
  resemb train --data events.parquet --model din --category --seed 0 1 2 --out runs/din
  resemb train --config run.toml --epochs 5     options from a file; flags come first
  resemb train --resume runs/din                continue a run that was stopped or killed
  torchrun --nproc-per-node 2 -m resemb_ext train --data events.parquet --out runs/two    tables over two processes
"""

# Every option of RunConfig, in the order of --help.
GROUPS: dict[str, tuple[str, ...]] = {
    "log and samples": (
        "data",
        "user_column",
        "item_column",
        "time_column",
        "category_column",
        "label_column",
        "session_column",
        "history_separator",
        "delimiter",
        "drop_null",
        "split",
        "max_history",
        "train_negatives",
        "eval_negatives",
        "negative_power",
        "eval_seed",
        "sim_seed",
    ),
    "interest graph": (
        "graph",
        "allow_future_edges",
        "cross_fit",
        "window",
        "max_gap",
        "session_gap",
        "top_k",
        "min_count",
        "weighting",
        "damping",
        "keep_counts",
        "link",
        "graph_weights",
        "hops",
        "heads",
        "edge_dropout",
        "smooth",
        "swap",
    ),
    "model": (
        "model",
        "model_options",
        "embedding",
        "category",
        "dim",
        "table_dtype",
        "hidden",
        "attention_hidden",
        "activation",
        "dropout",
        "init_std",
        "residual_scale",
    ),
    "training": (
        "epochs",
        "patience",
        "metric",
        "batch_size",
        "eval_batch_size",
        "lr",
        "l2",
        "embedding_lr",
        "embedding_l2",
        "central_lr",
        "central_l2",
        "residual_lr",
        "residual_l2",
        "table_optimizer",
        "decay",
        "in_backward",
        "state",
        "save_every",
        "fresh_embeddings",
    ),
    "run": ("seed", "threads", "out", "overwrite", "log_to"),
}


def add_parser(subparsers: Any) -> None:
    """Adds ``train``, with a flag for every option of ``RunConfig``."""
    parser = subparsers.add_parser(
        "train",
        help=COMMANDS["train"],
        description=(
            "Trains a CTR model with a plain embedding, with Res-embedding, or with both, on\n"
            "a behaviour log, and prints validation and test metrics side by side. Early\n"
            "stopping looks at validation only."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="continue the run in this folder (default: --out) from its last checkpoints, with its own "
        "options; others are refused",
    )
    parser.add_argument(
        "--distributed",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="train with the other processes that torchrun started, each with a part of every table and batch "
        "(default: where torchrun started this one)",
    )
    add_options(parser)
    parser.set_defaults(run=_run_train)


def add_options(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Adds ``--config``, ``--quiet`` and a flag for every option of ``RunConfig`` but those in ``without``."""
    parser.add_argument("--config", metavar="FILE", help="TOML or JSON file of options; flags override it")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the table")
    fields = {field.name: field for field in dataclasses.fields(RunConfig)}
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in (name for name in names if name not in without):
            _add_option(group, fields[name])


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of ``RunConfig`` that were given as flags."""
    names = {name for group in GROUPS.values() for name in group}
    return {name: value for name, value in vars(args).items() if name in names}


def _add_option(group: Any, field: dataclasses.Field[Any]) -> None:
    element, many, _ = type_of(RunConfig, field.name)
    flag = "--" + field.name.replace("_", "-")
    text = field.metadata["help"].replace("%", "%%")
    default: Any = field.default
    if default is not None and "default" not in text:
        if many:
            default = " ".join(map(str, default)) or "none"
        elif element is bool:
            default = "on" if default else "off"
        text += f" (default: {default})"
    # A flag that is not given must not hide what the configuration file says.
    common: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
    if element is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        return
    common["type"] = element
    if field.metadata["choices"]:
        common["choices"] = field.metadata["choices"]
    else:
        common["metavar"] = {int: "N", float: "X"}.get(element, "TEXT")
    if many:
        common["nargs"] = "+"
    group.add_argument(flag, **common)


def resolve(args: argparse.Namespace) -> RunConfig:
    """The options that flags, file and, for ``--resume``, the begun run give.

    Raises:
        FileNotFoundError, ValueError, TypeError: as ``RunConfig.build``; a run to resume that is
            not there.
    """
    given = given_options(args)
    if args.resume is None:
        return RunConfig.build(args.config, **given)
    options = {**({} if args.config is None else read_config(args.config)), **given}
    folder = args.resume or options.get("out")
    if folder is None:
        raise ValueError("resume: name the run folder, as --resume RUN or with --out RUN")
    return RunConfig(**{**saved_config(folder).to_dict(), **options, "out": str(folder)})


def _run_train(args: argparse.Namespace) -> int:
    """Runs ``resemb train``."""
    done = run(
        resolve(args),
        resume=args.resume is not None,
        progress=False if args.quiet else None,
        distributed=args.distributed,
    )
    if shows(args.distributed):
        print(closing(done.result, done.folder))
    return 0
