"""Rows of concurrent requests, scored in batches.

While one batch is scored, requests wait; together they are the next one. So nothing waits on an idle machine, and a
busy one scores large batches. The number of rows that wait is bounded: beyond it a request is refused at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Scores(Protocol):
    """What a call of ``score`` gives: see ``Scores`` of a bundle."""

    logit: np.ndarray
    version: int


Score = Callable[[Sequence[Any], Sequence[Sequence[Any]]], Scores]


class Full(Exception):
    """Too many rows wait."""


class Stopping(Exception):
    """No further requests are taken."""


@dataclass(frozen=True)
class Answer:
    """The scores of one request.

    Attributes:
        logit: float32, one a row.
        version: of the table that all of its rows were scored with.
    """

    logit: np.ndarray
    version: int


@dataclass(frozen=True, eq=False)
class _Request:
    targets: Sequence[Any]
    histories: Sequence[Sequence[Any]]
    answer: asyncio.Future[Answer]


class Batcher:
    """Scores requests in batches, in a thread of its own.

    Args:
        score: of targets and histories; called by one thread.
        max_batch: rows of a batch; a larger request is one alone.
        max_waiting: rows that may wait.

    Attributes:
        waiting: rows that wait now.
        batches, rows: what was scored.
    """

    def __init__(self, score: Score, *, max_batch: int, max_waiting: int) -> None:
        self._score, self._max_batch, self._max_waiting = score, max_batch, max_waiting
        self._queue: deque[_Request] = deque()
        self._thread = ThreadPoolExecutor(1, "scoring")
        self._work: asyncio.Task[None] | None = None
        self._filled = asyncio.Event()
        self._stopping = False
        self.waiting = self.batches = self.rows = 0

    def start(self) -> None:
        """Begins to score; call it inside the event loop."""
        self._work = asyncio.get_running_loop().create_task(self._run())

    @property
    def running(self) -> bool:
        """Whether requests are taken and scored."""
        return self._work is not None and not self._work.done() and not self._stopping

    async def stop(self) -> None:
        """Takes no further requests, and ends when those that wait are scored."""
        self._stopping = True
        self._filled.set()
        if self._work is not None:
            await self._work
        self._thread.shutdown()

    async def submit(self, targets: Sequence[Any], histories: Sequence[Sequence[Any]]) -> Answer:
        """Scores the rows of a request.

        Raises:
            Full: as many rows wait as may.
            Stopping: after ``stop``.
        """
        if self._stopping:
            raise Stopping("the service is stopping")
        if self.waiting and self.waiting + len(targets) > self._max_waiting:
            raise Full(f"{self.waiting} rows wait, of at most {self._max_waiting}")
        request = _Request(targets, histories, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self.waiting += len(targets)
        self._filled.set()
        return await request.answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue or not self._stopping:
            if not self._queue:
                self._filled.clear()
                await self._filled.wait()
                continue
            batch = self._take()
            for request, answer in zip(
                batch, await loop.run_in_executor(self._thread, self._answers, batch), strict=True
            ):
                if request.answer.done():  # its client has gone
                    continue
                if isinstance(answer, Answer):
                    request.answer.set_result(answer)
                else:
                    request.answer.set_exception(answer)

    def _take(self) -> list[_Request]:
        batch, rows = [], 0
        while self._queue and (not batch or rows + len(self._queue[0].targets) <= self._max_batch):
            request = self._queue.popleft()
            self.waiting -= len(request.targets)
            if not request.answer.done():
                batch.append(request)
                rows += len(request.targets)
        self.batches += 1
        self.rows += rows
        return batch

    def _answers(self, batch: list[_Request]) -> list[Answer | Exception]:
        """Runs in the thread. What is wrong with one request must not fail the others of its batch."""
        try:
            found = self._score(
                [raw for request in batch for raw in request.targets],
                [history for request in batch for history in request.histories],
            )
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [answer for request in batch for answer in self._answers([request])]
        ends = np.cumsum([len(request.targets) for request in batch])
        return [Answer(part, found.version) for part in np.split(found.logit, ends[:-1])]
