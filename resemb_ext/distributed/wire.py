"""All that ranks send each other, in bytes that are counted."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .faults import Faults, RankError, known_to_all

_MESSAGE_BYTES = 512


class Wire:
    """Exchanges over a group of ranks of their own, beside which DistributedDataParallel may talk.

    Attributes:
        group: a group of the same ranks as the one given.
        rank, ranks: number of this rank in the group, and how many there are.
        sent: bytes that this rank has sent to others, by kind: "counts", "ids", "lists", "rows", "gradients".
        exchanges: how many all-to-alls there have been.
        names: of the modules, by number.
    """

    def __init__(
        self, group: dist.ProcessGroup | None, device: torch.device, timeout: datetime.timedelta | None
    ) -> None:
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        self.device = device
        members = dist.get_process_group_ranks(group)
        # A group of its own: its exchanges may then meet those of DistributedDataParallel in any order.
        self.group = dist.new_group(
            members, timeout=timeout, backend=dist.get_backend(group), use_local_synchronization=True
        )
        self.faults = Faults(self.group, self.rank, self.ranks)
        self.sent: Counter[str] = Counter()
        self.exchanges = 0
        self.names: dict[int, str] = {}

    def to_all(
        self, kind: str, data: Tensor, send: Sequence[int], receive: Sequence[int], out: Tensor | None = None
    ) -> Tensor:
        """Gives each rank its part of some rows, and takes the parts that all have for this one.

        Args:
            kind: as in ``sent``.
            data: [N, ...], contiguous; first the rows for rank 0, and so on.
            send: how many rows are for each rank.
            receive: how many rows come from each rank.
            out: contiguous [M, ...] to receive into.

        Returns:
            [M, ...]: first the rows of rank 0, and so on.
        """
        if out is None:
            out = data.new_empty((sum(receive), *data.shape[1:]))
        self.start(kind, data, send, receive, out)()
        return out

    def start(
        self, kind: str, data: Tensor, send: Sequence[int], receive: Sequence[int], out: Tensor
    ) -> Callable[[], None]:
        """Begins what ``to_all`` does; several may be under way, begun in the same order on all ranks.

        Args:
            kind, data, send, receive, out: as of ``to_all``; neither tensor may be written meanwhile, nor ``out`` read.

        Returns:
            A function that waits for the end.
        """
        if self.ranks == 1:
            out.copy_(data)
            return lambda: None
        width = data[:1].nbytes if len(data) else out[:1].nbytes
        self.sent[kind] += width * (sum(send) - send[self.rank])
        self.exchanges += 1
        what = f"exchange {self.exchanges} ({kind})"
        # As bytes: not every backend knows every dtype.
        to, of = _bytes(out), _bytes(data)
        alive = [to, of]
        with self.faults.named(what):
            work = dist.all_to_all_single(to, of, list(receive), list(send), group=self.group, async_op=True)

        def wait() -> None:
            with self.faults.named(what):
                work.wait()  # type: ignore[union-attr]
            alive.clear()

        return wait

    def agree(self, call: int, counts: Tensor) -> Tensor:
        """Tells each rank what this one is about to ask of it.

        Args:
            call: what this exchange is for; the same on all ranks.
            counts: int64 [W, k].

        Returns:
            int64 [W, k]: what each rank is about to ask of this one.

        Raises:
            RankError: on every rank, where one of them has refused its input or makes another call.
        """
        return self._heads(call, counts, None)

    def refuse(self, error: Exception, columns: int) -> None:
        """Raises an error of this rank's own input here, and on the other ranks one that names it.

        Args:
            error: what is raised here.
            columns: k of the counts that the other ranks exchange meanwhile.
        """
        self._heads(0, torch.zeros((self.ranks, columns), dtype=torch.int64), error)

    def _heads(self, call: int, counts: Tensor, error: Exception | None) -> Tensor:
        if self.ranks == 1:
            if error is not None:
                raise error
            return counts
        head = torch.empty((self.ranks, 2 + counts.shape[1]), dtype=torch.int64)
        head[:, 0], head[:, 1], head[:, 2:] = int(error is not None), call, counts
        found = self.to_all("counts", head.to(self.device), [1] * self.ranks, [1] * self.ranks)
        refused, calls = found[:, 0].tolist(), found[:, 1].tolist()
        if any(refused):
            texts = self.gather_text("" if error is None else f"{type(error).__name__}: {error}")
            if error is not None:
                raise known_to_all(error)
            rank = refused.index(1)
            raise RankError(f"rank {rank}: {texts[rank]}", [rank])
        if any(other != calls[0] for other in calls):
            other = next(rank for rank in range(self.ranks) if calls[rank] != calls[0])
            raise RankError(
                f"rank {other}: looks up another table than rank 0, or in another mode ({self.describe(calls[other])}; "
                f"rank 0: {self.describe(calls[0])}); expected the same lookups in the same order on every rank",
                [other],
            )
        return found[:, 2:].cpu()

    def describe(self, call: int) -> str:
        """What a call is for, in words."""
        number, kind = divmod(call, 4)
        gradients = "with" if kind & 1 else "without"
        return f"{self.names.get(number) or 'the model'} {gradients} gradients"

    def gather_text(self, text: str) -> list[str]:
        """A line of every rank, cut at 512 bytes."""
        line = text.splitlines()[0].encode()[:_MESSAGE_BYTES] if text else b""
        own = torch.zeros(_MESSAGE_BYTES, dtype=torch.uint8)
        own[: len(line)] = torch.tensor(list(line), dtype=torch.uint8)
        all_of_them = [torch.empty_like(own, device=self.device) for _ in range(self.ranks)]
        with self.faults.named("an error that a rank tells"):
            dist.all_gather(all_of_them, own.to(self.device), group=self.group)
        return [bytes(t.cpu().numpy()).rstrip(b"\0").decode(errors="replace") for t in all_of_them]

    def gather_objects(self, value: Any) -> list[Any]:
        """A small value of every rank."""
        if self.ranks == 1:
            return [value]
        found: list[Any] = [None] * self.ranks
        with self.faults.named("the comparison of ranks"):
            dist.all_gather_object(found, value, group=self.group)
        return found


def _bytes(rows: Tensor) -> Tensor:
    """[N, ...] as uint8 [N, bytes of a row]."""
    if rows.dim() == 1:
        rows = rows.unsqueeze(1)
    return rows.view(torch.uint8).view(rows.shape[0], -1) if rows.numel() else rows.new_empty((0, 1), dtype=torch.uint8)
