"""Progress of training: a bar on a terminal, one log line an epoch elsewhere."""

from __future__ import annotations

import contextlib
import sys
from types import TracebackType
from typing import Any, TextIO, cast

from tqdm import tqdm


class _Lossy:
    """A text stream that may be gone, say with its terminal: what cannot be written to it is left out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class RunWarning(UserWarning):
    """What a run or a search says beside its results: a report that failed, other versions than at its start."""


class Progress:
    """Shows steps as a bar where ``stream`` is a terminal; lines of text go to both.

    Args:
        show: True or False to force or silence everything; None shows it.
        stream: where it goes, ``sys.stderr`` by default, so that results alone go to stdout. A stream
            that is gone ends nothing.
    """

    def __init__(self, show: bool | None = None, stream: TextIO | None = None) -> None:
        self.stream = cast(TextIO, _Lossy(stream or sys.stderr))
        self.show = show is not False
        self.terminal = self.show and self.stream.isatty()

    def say(self, text: str) -> None:
        """One line of text."""
        if not self.show:
            return
        if self.terminal:
            tqdm.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)

    def bar(self, total: int | None, what: str, done: int = 0, unit: str = "step") -> Bar:
        """A bar of ``total`` steps, ``done`` of them already; silent where there is no terminal."""
        return Bar(total, what, done, unit, self)


class Bar:
    """One progress bar, used as a context manager."""

    def __init__(self, total: int | None, what: str, done: int, unit: str, progress: Progress) -> None:
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=what,
            file=progress.stream,
            leave=False,
            disable=not progress.terminal,
            unit=unit,
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self, loss: float) -> None:
        """One step done."""
        self._bar.update()
        if not self._bar.disable:
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)

    def advance(self, count: int) -> None:
        """``count`` steps done."""
        self._bar.update(count)
