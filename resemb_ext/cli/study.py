"""``resemb study``: test the paper's claims; run studies piece by piece and report them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from resemb_command import COMMANDS
from resemb_ext.study import STUDIES, run_study, tables_text, write_report

EXAMPLES = """examples:
  resemb study delay --quick --out study
  resemb study all --data amazon-beauty.parquet --data taobao.parquet --out study
  resemb study compare --data amazon-beauty.parquet --data amazon-toys.parquet --out study --jobs 2
  resemb study compare --data amazon-beauty.parquet --out study --only 'tune-*-dnn-*'
  resemb study compare --data ml-1m.parquet --setting ml-1m=time-sample --out study
  resemb study untuned --data ml-1m.parquet --setting ml-1m=dense --out study
  resemb study compact --data amazon-beauty.parquet --out study --only 'trade-*'
  resemb study coldstart --data amazon-beauty.parquet --data ml-1m.parquet --setting ml-1m=sample --out study
  resemb study quantised --data amazon-beauty.parquet --out study --only 'din-*'
  resemb study gain --data amazon-beauty.parquet --data ml-1m.parquet --setting ml-1m=both --out study --jobs 2
  resemb study report --out benchmarks/results/study --into docs/study

A stopped study continues when the same command is given again.
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``study``."""
    parser = subparsers.add_parser(
        "study",
        help=COMMANDS["study"],
        description="Runs studies of the paper's claims in small pieces, and reports them from JSON.\n\n"
        + "\n".join(f"  {name:<9} {study.question}" for name, study in STUDIES.items()),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=(*STUDIES, "all", "report"), help="a study, all of them, or report")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of results")
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="log file, may be given more than once (default: simulated logs)",
    )
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="LOG=NAME",
        help="how the log of that file name is set up, may be given more than once; with all, for the studies that "
        "know the name ("
        + "; ".join(f"{name}: {', '.join(study.settings)}" for name, study in STUDIES.items() if study.settings)
        + "; default: the first)",
    )
    parser.add_argument("--quick", action="store_true", help="small data, few seeds: minutes")
    parser.add_argument("--into", type=Path, metavar="DIR", help="with report: where pages go (default: OUT/report)")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the tables")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="CPU threads of training (default: 1; the models are small)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="pieces side by side, each in a process of --threads threads (default: 1)",
    )
    parser.add_argument(
        "--only",
        metavar="GLOB",
        help="only pieces named like this, as in a shell, and those that they need (default: all)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``resemb study``."""
    if args.study == "report":
        if args.data or args.setting or args.quick:
            raise ValueError("report: reads what is in --out; leave out --data, --setting and --quick")
        if args.jobs != 1 or args.only is not None:
            raise ValueError("report: does no pieces; leave out --jobs and --only")
        for path in write_report(args.out, into=args.into):
            print(path)
        return 0
    if args.into is not None:
        raise ValueError("--into: goes with report only")
    for name in ("threads", "jobs"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, found {getattr(args, name)}")
    if args.only is not None and args.study == "all":
        raise ValueError("--only: names pieces of one study; name the study instead of all")
    settings = _settings(args.setting)
    if args.study == "all":
        for log, setting in settings.items():
            if all(setting not in study.settings for study in STUDIES.values()):
                raise ValueError(f"--setting: no study knows {setting!r}, given for {log}")
    torch.set_num_threads(args.threads)
    for name in STUDIES if args.study == "all" else (args.study,):
        known = STUDIES[name].settings
        page = run_study(
            name,
            args.out,
            data=args.data,
            settings={log: s for log, s in settings.items() if args.study == name or s in known},
            quick=args.quick,
            jobs=args.jobs,
            only=args.only,
            progress=False if args.quiet else None,
        )
        print(tables_text(args.out, name) + "\n")
        print(page)
    return 0


def _settings(given: list[str]) -> dict[str, str]:
    """Settings by log, from LOG=NAME."""
    found: dict[str, str] = {}
    for text in given:
        log, equals, name = text.rpartition("=")
        if not equals or not log or not name:
            raise ValueError(f"--setting must be LOG=NAME, found {text!r}")
        if log in found:
            raise ValueError(f"--setting: {log} is given more than once")
        found[log] = name
    return found
