"""The command line: ``resemb`` or ``python -m resemb_ext``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from resemb_command import COMMANDS, command_of, root_parser
from resemb_ext.runtime.stopping import stops_cleanly

# What torch, its dispatcher and other C++ say when an allocation fails, that of a thread's stack among them. A library
# that is loaded then may end without saying why.
_NO_MEMORY = (
    *("not enough memory", "out of memory", "allocate memory", "bad_alloc"),
    "Resource temporarily unavailable",
    "without exception set",
)


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of a command; with None, of all."""
    root = root_parser()
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        if command in (None, name):
            importlib.import_module(f"{__name__}.{name}").add_parser(commands)
        else:
            commands.add_parser(name, help=text)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: arguments without the program's name; default ``sys.argv[1:]``.

    Returns:
        0; 1 when the work itself failed (training diverged, a rank is gone, a test failed); 2 for bad input;
        128 and the signal's number after Ctrl-C (130), SIGTERM (143) or SIGHUP (129).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # --debug may stand before or after the command.
    debug = "--debug" in arguments
    try:
        root = parser(command_of(arguments))
    except (ImportError, MemoryError) as error:  # too little memory to load libraries is either
        if debug:
            raise
        _say(f"resemb: error: cannot be loaded: {_line(error)}")
        return 2
    args, rest = root.parse_known_args([a for a in arguments if a != "--debug"])
    if rest and args.command != "bench":  # which passes on what it does not know
        root.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    _escape_what_stdout_cannot_encode()
    try:
        with stops_cleanly(), _plain_warnings(args.command):
            return int(args.run(args))
    except KeyboardInterrupt as stop:
        if debug:
            raise
        _say(f"resemb {args.command}: {str(stop) or 'interrupted'}")
        return 128 + getattr(stop, "signum", signal.SIGINT)
    except BrokenPipeError:
        # The reader (say, head) has gone; keep Python from complaining again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        status = exit_status(error)
        if debug or status is None:
            raise
        _say(f"resemb {args.command}: error: {_line(error)}")
        return status


def exit_status(error: Exception) -> int | None:
    """The exit status of an error that the user can mend; None for one of ours."""
    from resemb_ext.distributed import RankError
    from resemb_ext.train import TrainingDiverged

    if isinstance(error, (TrainingDiverged, RankError)):
        return 1
    if isinstance(error, (ValueError, TypeError, IndexError, OSError, ImportError)) or out_of_memory(error):
        return 2
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: Python's, NumPy's, Arrow's, torch's or an operator's."""
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, SystemError)) and any(words in str(error) for words in _NO_MEMORY)
    )


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if out_of_memory(error):
        what = f" ({text})" if text else ""
        return (
            f"out of memory{what}; lower what the options ask for (sizes of tables, layers, batches, negatives), or give "
            "it more"
        )
    return text or type(error).__name__


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(line, file=sys.stderr)


def _escape_what_stdout_cannot_encode() -> None:
    """A ± or a name in another script must not end a command whose output is, say, ASCII."""
    if getattr(sys.stdout, "errors", None) == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def _plain_warnings(command: str) -> Iterator[None]:
    """What reading and training warn of comes as one line, not as a line of code."""
    from resemb_ext.data import DataWarning
    from resemb_ext.runtime.digests import UncheckedWarning
    from resemb_ext.runtime.progress import RunWarning

    with warnings.catch_warnings():
        for kind in (DataWarning, RunWarning):
            warnings.simplefilter("always", kind)
        show = warnings.showwarning
        said: set[str] = set()

        def line(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if issubclass(category, (DataWarning, RunWarning, UncheckedWarning)):
                text = " ".join(str(message).split())
                if text not in said:
                    said.add(text)
                    _say(f"resemb {command}: warning: {text}")
            else:
                show(message, category, *place, **options)

        warnings.showwarning = line
        yield
