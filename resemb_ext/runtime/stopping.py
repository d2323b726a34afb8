"""Signals that ask a process to stop: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is gone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: In the order of their numbers' names: of the keyboard, of the system, of the terminal.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal came.

    Attributes:
        signum: its number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@contextmanager
def handled(handler: Callable[[int, FrameType | None], Any], signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Calls ``handler`` on signals, but those that are ignored, as by nohup, or handled outside Python.

    Outside the main thread, where Python takes no signals, it does nothing.
    """
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for signum in signals:
            if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                before[signum] = signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, former in before.items():
            signal.signal(signum, former)


@contextmanager
def stops_cleanly() -> Iterator[None]:
    """Raises ``Stopped`` on SIGTERM and SIGHUP, so that what is half done is cleaned up; a second one kills."""

    def stop(signum: int, frame: FrameType | None) -> None:
        for other in SIGNALS[1:]:
            signal.signal(other, signal.SIG_DFL)
        raise Stopped(signum)

    with handled(stop, SIGNALS[1:]):
        yield
