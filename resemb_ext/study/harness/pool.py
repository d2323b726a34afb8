"""Pieces of work side by side in forked processes, each after those that it needs."""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, cast

import torch


def in_turn(needs: Sequence[Sequence[int]], work: Callable[[int], float], jobs: int) -> Iterator[tuple[int, float]]:
    """Calls ``work`` on 0, 1, ..., each as soon as what it needs is done, lower numbers first.

    Args:
        needs: for each number those that must be done before it.
        work: does one; what it returns is yielded. With several jobs it runs in a forked process, so what
            it leaves behind must be on disk.
        jobs: processes; 1 works in this one.

    Yields:
        a number and what ``work`` returned, in the order in which they end.

    Raises:
        RuntimeError: a process died. What ``work`` raises is raised here; with several jobs once the
            others have ended what they are at, and as a RuntimeError with its traceback unless it is a
            ValueError or ImportError.
    """
    left, done = list(range(len(needs))), set[int]()

    def ready() -> int | None:
        found = next((number for number in left if done.issuperset(needs[number])), None)
        if found is not None:
            left.remove(found)
        return found

    if jobs == 1:
        while left:
            number = ready()
            if number is None:
                raise ValueError(f"pieces need each other in a circle: {left}")
            result = work(number)
            done.add(number)
            yield number, result
        return
    with _workers(work, min(jobs, len(needs))) as workers:
        idle, busy = list(workers), dict[Any, int]()
        failure: Exception | None = None
        while True:
            while idle and failure is None:
                number = ready()
                if number is None:
                    break
                worker = idle.pop()
                worker.send(number)
                busy[worker] = number
            if not busy:
                break
            for worker in connection.wait(list(busy)):
                number = busy.pop(worker)
                try:
                    result, error = cast(Any, worker).recv()
                except EOFError:
                    failure = RuntimeError(f"the process of piece {number} died")
                    continue
                idle.append(worker)
                if error is not None:
                    failure = error if failure is None else failure
                    continue
                done.add(number)
                yield number, result
        if failure is not None:
            raise failure
        if left:
            raise ValueError(f"pieces need each other in a circle: {left}")


@contextlib.contextmanager
def _workers(work: Callable[[int], float], count: int) -> Iterator[list[Any]]:
    """Pipes to forked processes that do ``work``; they end with the block, or with this process."""
    context = multiprocessing.get_context("fork")
    ours: list[Any] = []
    processes = []
    threads = torch.get_num_threads()
    try:
        for _ in range(count):
            here, there = context.Pipe()
            ours.append(here)
            # A forked process holds copies of the other pipes' ends, and would keep them open.
            process = context.Process(target=_serve, args=(there, list(ours), work, threads), daemon=True)
            process.start()
            there.close()
            processes.append(process)
        yield ours
    finally:
        for pipe in ours:
            pipe.close()
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()


def _serve(pipe: Any, others: list[Any], work: Callable[[int], float], threads: int) -> None:
    for other in others:
        other.close()
    torch.set_num_threads(threads)
    # Ctrl-C reaches every process of the terminal: this one ends quietly, the first one says so.
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            number = pipe.recv()
            try:
                pipe.send((work(number), None))
            except Exception as error:
                # The traceback does not travel with it.
                what = RuntimeError(traceback.format_exc())
                pipe.send((0.0, error if isinstance(error, (ValueError, ImportError)) else what))
