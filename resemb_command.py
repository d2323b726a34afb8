"""The command ``resemb``, before torch is loaded: help, the commands' names, and how threads wait.

It stands beside the package, since importing anything of ``resemb_ext`` loads torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

COMMANDS = {
    "data": "validate and convert behaviour logs",
    "train": "train plain and Res-embedding on a log and compare them",
    "tune": "search training options on validation, for both arms alike",
    "predict": "score a file of (history, target) rows with a saved run",
    "export": "write a trained model as torch.export or ONNX, to serve without this package",
    "publish": "publish what changed in a run's item vectors to a served table, or roll it back",
    "grow": "add the items of new events to a saved run, without training",
    "neighbors": "show the items whose vectors are nearest to an item's",
    "graph": "build and inspect interest graphs",
    "study": "test the paper's claims on real logs",
    "bench": "time the operators against plain PyTorch (in the source tree)",
    "doctor": "show versions, instruction sets, CUDA build and devices, and what is missing",
    "selftest": "run the operators' property tests against the installed package",
}

EXAMPLES = """examples:
  resemb train
  resemb train --data events.parquet --model din --category --out runs/first
  resemb graph build --data events.parquet --split leave-last-out --out graph.npz
  resemb doctor

Bad input ends with one line and exit status 2; --debug shows the traceback.
"""

# Any of them is the user's own choice of how OpenMP's threads wait.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
SPINS = 20_000  # turns of a waiting thread before it sleeps; between 50 microseconds and a millisecond

TENSOR_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch's switch: "1" asks for huge pages under large tensors


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def root_parser() -> argparse.ArgumentParser:
    """The parser of what comes before the command."""
    root = Parser(
        prog="resemb",
        description="Res-embedding for CTR models: train, inspect graphs, check the install.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return root


def command_of(arguments: Sequence[str]) -> str | None:
    """The command among the arguments, or None where help or an error of the root parser comes first."""
    rest = [argument for argument in arguments if argument != "--debug"]
    return rest[0] if rest and rest[0] in COMMANDS else None


def wait_briefly() -> None:
    """Lets waiting OpenMP threads sleep after a moment, unless the environment says how they wait.

    GNU OpenMP, which torch's Linux wheels bring, lets them spin for milliseconds. Where more threads are runnable than
    there are cores, a spinning thread holds the core that the thread it waits for needs, and a step can take fifty
    times longer. Threads that sleep at once (``OMP_WAIT_POLICY=PASSIVE``) make small steps slower everywhere;
    ``benchmarks.waiting`` measures all three. The variable is read once, when torch loads OpenMP.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def ask_for_huge_pages() -> None:
    """Lets torch ask for huge pages under tensors of 2 MiB and more, unless the environment says otherwise.

    The backward of a lookup reads the rows of its gradient in the order of the ids, each on another page. On pages of
    4 KiB that costs a page walk a row, which virtual machines make several times dearer. Linux alone knows them; torch
    reads the variable once, when it first allocates.
    """
    os.environ.setdefault(TENSOR_PAGES, "1")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``resemb``; see ``resemb_ext.cli.main``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if command_of(arguments) is None:
        root = root_parser()
        commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
        for name, text in COMMANDS.items():
            commands.add_parser(name, help=text)
        root.parse_args(arguments)
    wait_briefly()
    ask_for_huge_pages()
    from resemb_ext.cli import main as run

    return run(arguments)
