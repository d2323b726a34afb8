"""Which rank is to blame where an exchange fails, told in one line on every rank."""

from __future__ import annotations

import contextlib
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import torch.distributed as dist

_SECONDS = 2.0  # that ranks wait for each other's accounts of a failure
_EVERY = 0.02
_CLOSED = ("closed by peer", "connection reset", "broken pipe", "connection refused", "socket closed")
_OF_EXCHANGES = (*_CLOSED, "timed out", "timeout", "gloo", "nccl", "process group")


# Set in an error that every rank has heard of, and has raised too.
_KNOWN = "_known_to_all_ranks"


class RankError(RuntimeError):
    """Another rank has refused its input, or an exchange failed; the message names the rank at fault, and the cause.

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
        if self._told or self.ranks == 1 or of_exchange(error) or getattr(error, _KNOWN, False):
            return
        self._told = True
        with contextlib.suppress(RuntimeError):  # the store's process may be the one that is gone
            self._store.set(f"cause/{self.rank}", _line(error))

    @contextlib.contextmanager
    def telling(self, what: str) -> Iterator[None]:
        """Tells of what the block raises, and names the rank at fault where an exchange in it fails.

        Args:
            what: the block, in words.
        """
        try:
            yield
        except BaseException as error:
            if of_exchange(error) and not isinstance(error, RankError):
                raise self.of(error, what) from None
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
            if not of_exchange(error):
                raise
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
                causes = {r: self._store.get(f"cause/{r}").decode() for r in others if self._has(f"cause/{r}")}
                silent = [r for r in others if not (self._has(f"waits/{r}") or self._has(f"cause/{r}"))]
            self._store.set(f"done/{self.rank}", "")
            self.linger(silent)
        except RuntimeError:
            return RankError(
                f"rank 0: ended, and with it the store of torch.distributed, while rank {self.rank} was in {what}", [0]
            )
        if causes:
            rank = min(causes)
            return RankError(f"rank {rank} ended with {causes[rank]}", sorted(causes))
        if silent:
            ranks = ", ".join(map(str, silent))
            ended = any(sign in str(error).lower() for sign in _CLOSED)
            state = "ended, and closed its connection" if ended else "took no part before the timeout"
            return RankError(f"rank {ranks}: {state}, while rank {self.rank} was in {what}", silent)
        return RankError(f"{what}: the other ranks have ended, after they had waited for rank {self.rank}", [self.rank])

    def linger(self, silent: Sequence[int] = ()) -> None:
        """Keeps the store, which may be rank 0's, until the others have read it.

        Args:
            silent: ranks that will not.
        """
        if self.rank:
            return
        until = time.monotonic() + _SECONDS
        reads = [rank for rank in range(1, self.ranks) if rank not in silent and not self._has(f"cause/{rank}")]
        while time.monotonic() < until and not all(self._has(f"done/{rank}") for rank in reads):
            time.sleep(_EVERY)

    def _has(self, key: str) -> bool:
        return self._store.check([key])


def known_to_all(error: BaseException) -> BaseException:
    """The error, which need not be told to other ranks any more."""
    setattr(error, _KNOWN, True)
    return error


def of_exchange(error: BaseException) -> bool:
    """Whether an error is that of an exchange, for which another rank may be to blame."""
    if isinstance(error, (RankError, dist.DistError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _OF_EXCHANGES)


def _line(error: BaseException) -> str:
    """An error's kind and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


_watched: weakref.WeakSet[Faults] = weakref.WeakSet()
_hooked = False


def _watch(faults: Faults) -> None:
    """Tells of errors that end the process."""
    global _hooked
    if not _hooked:
        _hooked = True
        before = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
            for each in list(_watched):
                each.tell(error)
                with contextlib.suppress(RuntimeError):
                    if each._told:
                        each.linger()
            found = before(kind, error, trace)
            if of_exchange(error) and not isinstance(error, RankError) and _watched:
                # Of DistributedDataParallel, which does not know the rank.
                print(next(iter(_watched)).of(error, "an exchange of gradients"), file=sys.stderr)
            return found

        sys.excepthook = hook
    _watched.add(faults)
