"""Which rank is to blame where an exchange fails, told in one line on every rank."""

from __future__ import annotations

import contextlib
import sys
import time
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch.distributed as dist

_SECONDS = 5.0  # that ranks wait for each other's accounts of a failure
_EVERY = 0.02
_CLOSED = ("closed by peer", "connection reset", "broken pipe", "connection refused", "socket closed")


class RankError(RuntimeError):
    """An exchange failed; the message names the rank at fault, and the cause as far as it is known.

    Attributes:
        ranks: those at fault, by their numbers in the group; none where that is not known.
    """

    def __init__(self, message: str, ranks: list[int]) -> None:
        super().__init__(message)
        self.ranks = ranks


class Faults:
    """What ranks tell each other of failures, through the store of torch.distributed.

    A rank that raises tells why before it ends. The others, whose exchange with it fails, tell that they wait, and
    look for a rank that has told a cause, or nothing.
    """

    def __init__(self, group: dist.ProcessGroup, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self._told = False
        store = dist.distributed_c10d._get_default_store()
        self._store = dist.PrefixStore(f"resemb_ext/{group.group_name}", store)
        _watch(self)

    def tell(self, error: BaseException) -> None:
        """Lets the other ranks know why this one ends; only the first cause counts."""
        if self._told or self.ranks == 1 or isinstance(error, RankError):
            return
        self._told = True
        with contextlib.suppress(RuntimeError):  # the store's process may be the one that is gone
            self._store.set(f"cause/{self.rank}", _line(error))

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Tells of what the block raises."""
        try:
            yield
        except BaseException as error:
            self.tell(error)
            raise

    @contextlib.contextmanager
    def named(self, what: str) -> Iterator[None]:
        """Turns what torch.distributed raises in the block into a ``RankError``.

        Args:
            what: the exchange, in words.
        """
        try:
            yield
        except RuntimeError as error:
            raise self.of(error, what) from None

    def of(self, error: BaseException, what: str) -> RankError:
        """The error to raise where torch.distributed has raised one.

        Args:
            error: torch's.
            what: the exchange, in words.
        """
        others = [rank for rank in range(self.ranks) if rank != self.rank]
        causes: dict[int, str] = {}
        silent = list(others)
        try:
            self._store.set(f"waits/{self.rank}", what)
            until = time.monotonic() + _SECONDS
            while silent and not causes and time.monotonic() < until:
                time.sleep(_EVERY)
                causes = {
                    r: self._store.get(f"cause/{r}").decode() for r in others if self._store.check([f"cause/{r}"])
                }
                silent = [
                    r for r in others if not self._store.check([f"waits/{r}", f"cause/{r}"]) and not self._spoke(r)
                ]
        except RuntimeError:
            return RankError(
                f"{what}: {_line(error)}; the store of torch.distributed is gone too, and with it rank 0", [0]
            )
        if causes:
            rank = min(causes)
            return RankError(f"rank {rank} ended with {causes[rank]}", sorted(causes))
        if silent:
            ranks = ", ".join(map(str, silent))
            ended = any(sign in str(error).lower() for sign in _CLOSED)
            state = "ended, and closed its connection" if ended else "took no part before the timeout"
            return RankError(f"rank {ranks}: {state}, while rank {self.rank} was in {what}", silent)
        return RankError(f"{what}: {_line(error)}", [])

    def _spoke(self, rank: int) -> bool:
        return any(self._store.check([f"{kind}/{rank}"]) for kind in ("waits", "cause"))


def _line(error: BaseException) -> str:
    """An error's kind and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


_watched: weakref.WeakSet[Faults] = weakref.WeakSet()


def _watch(faults: Faults) -> None:
    """Tells of errors that end the process."""
    if not _watched:
        before = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
            for each in list(_watched):
                each.tell(error)
            return before(kind, error, trace)

        sys.excepthook = hook
    _watched.add(faults)
