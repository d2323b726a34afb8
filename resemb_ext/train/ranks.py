"""Processes that train one model together: who reads which samples, and what they agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from resemb_ext.distributed.whole import wire_of
from resemb_ext.distributed.wire import Wire

_STREAM = 9  # beside those of samples, folds, swaps and fresh tables
_Value = TypeVar("_Value")

# What one rank raises and the others repeat; of other kinds the nearest of these is repeated.
_KINDS: tuple[type[Exception], ...] = (FileNotFoundError, OSError, ImportError, IndexError, TypeError, ValueError)


class Ranks:
    """The ranks of a training, or the one process that trains alone.

    Args:
        wire: between them; None for one process.

    Attributes:
        wire: as given.
        rank, count: this one's number, and how many there are.
    """

    def __init__(self, wire: Wire | None = None) -> None:
        self.wire = wire
        self.rank, self.count = (0, 1) if wire is None else (wire.rank, wire.ranks)

    @classmethod
    def of(cls, model: nn.Module) -> Ranks:
        """Those that hold a model's tables."""
        return cls(wire_of(model))

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.wire is None

    @property
    def first(self) -> bool:
        """Whether this one writes and shows what all of them do."""
        return self.rank == 0

    def cut(self, rows: int, rank: int | None = None) -> slice:
        """A rank's share of the rows of a batch, by default this one's: consecutive, equal up to one row."""
        rank = self.rank if rank is None else rank
        return slice(rows * rank // self.count, rows * (rank + 1) // self.count)

    def seed(self, seed: int) -> int:
        """Of this rank's own draws; rank 0 has that of one process."""
        return seed if self.first else int(np.random.SeedSequence([_STREAM, seed, self.rank]).generate_state(1)[0])

    # What they do together.

    def first_does(self, work: Callable[[], _Value]) -> _Value:
        """What ``work`` gives on rank 0, on every rank; what it raises there is raised on every rank."""
        if self.wire is None:
            return work()
        return self._agreed(work if self.first else None)[0]

    def all_do(self, work: Callable[[], _Value]) -> _Value:
        """What ``work``, which exchanges nothing, gives on this rank; every rank raises where one of them does."""
        if self.wire is None:
            return work()
        value: list[_Value] = []
        self._agreed(lambda: value.append(work()))
        return value[0]

    def _agreed(self, work: Callable[[], Any] | None) -> list[Any]:
        assert self.wire is not None
        error: Exception | None = None
        value = None
        try:
            value = None if work is None else work()
        except Exception as caught:
            error = caught
        found = self.wire.gather_objects((value, None if error is None else (_kind(error), str(error))))
        if error is not None:
            raise error
        for rank, (_, told) in enumerate(found):
            if told is not None:
                raise _KINDS[told[0]](told[1] if work is None else f"rank {rank}: {told[1]}")
        return [value for value, _ in found]

    def gather(self, tensor: Tensor) -> Tensor:
        """A small tensor of every rank, [ranks, ...]; alone it stays as it is."""
        return tensor if self.wire is None else torch.stack(self.wire.gather_objects(tensor))

    def compare(self, what: str, own: Mapping[str, Any]) -> None:
        """Refuses ranks that were given different things.

        Args:
            what: in words.
            own: small values by name.

        Raises:
            ValueError: on every rank; it names what differs and where.
        """
        if self.wire is None:
            return
        found = self.wire.gather_objects(dict(own))
        for rank, other in enumerate(found):
            for name in sorted({*found[0], *other}):
                if other.get(name) != found[0].get(name):
                    raise ValueError(
                        f"rank {rank}: {what}: {name} is {other.get(name)!r}; rank 0 has {found[0].get(name)!r}; expected "
                        "the same on every rank"
                    )

    def first_text(self, text: str) -> str:
        """Rank 0's text where it has one, else the first that a rank has."""
        found = [text] if self.wire is None else self.wire.gather_objects(text)
        return next((line for line in found if line), "")

    @contextmanager
    def first_holds(self, hold: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
        """Rank 0 enters a context, all do the block, and rank 0 leaves the context."""
        with ExitStack() as stack:

            def enter() -> None:
                stack.enter_context(hold())

            self.first_does(enter)
            yield

    def step(self, value: float, signum: int | None, due: bool) -> tuple[float, int | None, bool]:
        """The sum of what ranks bring to a step, the signal that one of them got, and whether rank 0 finds a save due.

        Alone it gives back the value, no signal, and ``due``.
        """
        if self.wire is None:
            return value, None, due
        told = torch.tensor([value, float(due and self.first), *([0.0] * self.count)], dtype=torch.float64)
        told[2 + self.rank] = float(signum or 0)
        told = told.to(self.wire.device)
        with self.wire.faults.named("the loss of a step"):
            dist.all_reduce(told, group=self.wire.group)
        total, saves, *signals = told.tolist()
        return total, next((int(s) for s in signals if s), None), bool(saves)

    def signal(self, caught: int | None) -> int | None:
        """The signal that one of the ranks got."""
        return caught if self.wire is None else self.step(0.0, caught, False)[1]

    def together(self, own: np.ndarray, batches: list[int]) -> np.ndarray:
        """Scores of all rows from each rank's shares of some batches.

        Args:
            own: float32, this rank's, batch after batch.
            batches: rows of each batch.

        Returns:
            float32 [N], the same on every rank.
        """
        if self.wire is None:
            return own
        counts = [sum(cut.stop - cut.start for cut in self._cuts(batches, rank)) for rank in range(self.count)]
        sent = torch.from_numpy(own).to(self.wire.device).repeat(self.count)
        found = self.wire.to_all("scores", sent, [len(own)] * self.count, counts).cpu().numpy()
        whole = np.empty(sum(batches), dtype=np.float32)
        at = 0
        for rank in range(self.count):
            low = 0
            for rows, cut in zip(batches, self._cuts(batches, rank), strict=True):
                size = cut.stop - cut.start
                whole[low + cut.start : low + cut.stop] = found[at : at + size]
                at, low = at + size, low + rows
        return whole

    def _cuts(self, batches: list[int], rank: int) -> list[slice]:
        return [self.cut(rows, rank) for rows in batches]


def _kind(error: Exception) -> int:
    return next((place for place, kind in enumerate(_KINDS) if isinstance(error, kind)), len(_KINDS) - 1)


ALONE = Ranks()
