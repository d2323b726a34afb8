"""The command line: ``resemb`` or ``python -m resemb_ext``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

EXAMPLES = """examples:
  resemb train
  resemb train --data events.parquet --model din --category --out runs/first
  resemb graph build --data events.parquet --split leave-last-out --out graph.npz
  resemb doctor

Bad input ends with one line and exit status 2; --debug shows the traceback.
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from . import bench, data, doctor, export, graph, predict, selftest, study, train, tune

    root = Parser(
        prog="resemb",
        description="Res-embedding for CTR models: train, inspect graphs, check the install.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (data, train, tune, predict, export, graph, study, bench, doctor, selftest):
        module.add_parser(commands)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: arguments without the program's name; default ``sys.argv[1:]``.

    Returns:
        0; 1 when the work itself failed (training diverged, a test failed); 2 for bad input;
        130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # --debug may stand before or after the command.
    debug = "--debug" in arguments
    root = parser()
    args, rest = root.parse_known_args([a for a in arguments if a != "--debug"])
    if rest and args.command != "bench":  # which passes on what it does not know
        root.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    try:
        with _plain_warnings(args.command):
            return int(args.run(args))
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"resemb {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (say, head) has gone; keep Python from complaining again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        status = exit_status(error)
        if debug or status is None:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"resemb {args.command}: error: {text}", file=sys.stderr)
        return status


@contextmanager
def _plain_warnings(command: str) -> Iterator[None]:
    """What reading warns of comes as one line, not as a line of code."""
    from resemb_ext.data import DataWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        show = warnings.showwarning

        def line(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if issubclass(category, DataWarning):
                print(f"resemb {command}: warning: {' '.join(str(message).split())}", file=sys.stderr)
            else:
                show(message, category, *place, **options)

        warnings.showwarning = line
        yield


def exit_status(error: Exception) -> int | None:
    """The exit status of an error that the user can mend; None for one of ours."""
    from resemb_ext.train import TrainingDiverged

    if isinstance(error, TrainingDiverged):
        return 1
    if isinstance(error, (ValueError, TypeError, IndexError, OSError, ImportError)):
        return 2
    return None
