"""Work in several processes or threads, in order and never far ahead of whoever takes the results."""

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from dnexport.errors import WorkerCrashed

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")
_AHEAD = 3


def default_workers() -> int:
    """Processors this process may use, shared with the others that ``torchrun`` started here; at most eight."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def mapped(function: Callable[[_Argument], _Result], arguments: Iterable[_Argument], workers: int) -> Iterator[_Result]:
    """``map`` over ``workers`` processes, results in order; in this process where ``workers`` is 0.

    Raises:
        WorkerCrashed: a process died. What ``function`` raises is raised here.
    """
    if workers == 0:
        yield from map(function, arguments)
        return
    # Spawned, not forked: the parent's threads (PyTorch's, OpenMP's) do not survive a fork.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_follow_parent)
    try:
        yield from _in_order(pool, function, arguments, workers)
    except BrokenProcessPool as exc:
        raise WorkerCrashed("a process that decodes images died", "give it more memory or fewer --workers") from exc


def threaded(
    function: Callable[[_Argument], _Result], arguments: Iterable[_Argument], threads: int
) -> Iterator[_Result]:
    """``map`` over ``threads``, results in order; in this one where ``threads`` is 0.

    For work that leaves Python's lock alone, as Pillow's decoders and filters do: nothing to start, nothing to copy.
    What ``function`` raises is raised here.
    """
    if threads == 0:
        return map(function, arguments)
    return _in_order(ThreadPoolExecutor(threads), function, arguments, threads)


def _in_order(
    pool: Executor, function: Callable[[_Argument], _Result], arguments: Iterable[_Argument], workers: int
) -> Iterator[_Result]:
    pending: collections.deque[Future[_Result]] = collections.deque()
    try:
        for argument in arguments:
            pending.append(pool.submit(function, argument))
            if len(pending) >= workers * _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """Leave interrupts to the parent, and end when it ends, also where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
