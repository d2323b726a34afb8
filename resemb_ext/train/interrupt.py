"""Ctrl-C, SIGTERM and SIGHUP: finish the step, save, and say how to go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from resemb_ext.runtime.stopping import SIGNALS, handled


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped and saved; the message says where it stands and how to go on.

    Attributes:
        signum: the signal that stopped it.
    """

    def __init__(self, message: str, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum


class Interrupts:
    """Notes the first SIGINT, SIGTERM or SIGHUP instead of raising; a second one raises KeyboardInterrupt at once.

    Args:
        once: only note the second one too. torchrun passes on a signal that its processes have got already, and
            kills those that do not end.

    Attributes:
        caught: number of the signal that came, or None.
    """

    caught: int | None = None

    def __init__(self, once: bool = False) -> None:
        self._once = once

    @contextmanager
    def noted(self) -> Iterator[None]:
        """While this lasts, signals are noted; see ``runtime.stopping.handled`` for those that are not."""
        with handled(self._note, SIGNALS):
            yield

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.caught is not None and not self._once:
            raise KeyboardInterrupt
        self.caught = signum
