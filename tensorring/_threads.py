"""Layer 0: the one policy for threads.

Three kinds of work, and never two of them at once. Matrix products of BLAS use its own threads. Kernels release the
GIL and are shared out over one pool, while BLAS is held to one thread: its idle threads spin. Independent starts on
small tensors go to a pool of their own, BLAS held to one thread.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")

# Entries of a tensor below which its sweeps are too short for threads inside them to pay.
SMALL = 2**18
# Pieces for each thread: some more than one, so that a thread that is held up does not hold up all.
_PIECES = 4


@functools.cache
def _controller() -> ThreadpoolController:
    """Looks the loaded BLAS libraries up once: that costs milliseconds."""
    return ThreadpoolController()


@functools.cache
def thread_count() -> int:
    """As many as BLAS was set to use when first asked, and not more than there are processors for this process."""
    set_for_blas = [int(info["num_threads"]) for info in _controller().info() if info["user_api"] == "blas"]
    return max(1, min([_processors(), *set_for_blas]))


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blas_threads(entries: int, *, kernels: bool = False) -> AbstractContextManager[None]:
    """A context in which BLAS runs on one thread for a small tensor, or where kernels do the large products.

    Else NumPy's BLAS runs as it is set, and SciPy's on one thread: wheels bring one each, and after a large product the
    threads of the first still spin while the second solves small systems.
    """
    thread_count()
    return _limits.wanting("one" if kernels or entries < SMALL else "numpy")


def all_blas_threads() -> AbstractContextManager[None]:
    """A context in which BLAS has its threads back: for a stretch of large products among kernels."""
    return _limits.wanting("all")


class _Limits:
    """What the threads of a process want of BLAS, which has one setting for all: the first in notes it, the last out
    puts it back, whatever overlaps in between.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = dict.fromkeys(("one", "numpy", "all"), 0)
        self._original: list[int] = []

    @contextmanager
    def wanting(self, what: str) -> Iterator[None]:
        self._change(what, 1)
        try:
            yield
        finally:
            self._change(what, -1)

    def _change(self, what: str, by: int) -> None:
        libraries = [library for library in _controller().lib_controllers if library.user_api == "blas"]
        with self._lock:
            if not any(self._wanted.values()):
                self._original = [library.get_num_threads() for library in libraries]
            self._wanted[what] += by
            held = self._wanted["one"] and not self._wanted["all"]
            for library, original in zip(libraries, self._original, strict=True):
                scipys = "scipy.libs" in library.filepath and any(self._wanted.values())
                library.set_num_threads(1 if held or (scipys and not self._wanted["all"]) else original)


_limits = _Limits()


def share_out(work: Callable[[int, int], object], pieces: int) -> None:
    """work(first, last) for ranges that cover all pieces, on several threads; returns when none is at work any more.

    Whoever is free takes the next range, the caller too. Interrupts and errors wait until all have left: pieces may
    write to memory that is let go of afterwards. Without locks, which an interrupt could leave closed.
    """
    count = min(pieces, _PIECES * thread_count()) if thread_count() > 1 else min(pieces, 1)
    bounds = [(pieces * k // count, pieces * (k + 1) // count) for k in range(count)]
    turn, stop = itertools.count(), [False]
    busy = [False] * thread_count()
    errors: list[BaseException] = []

    def take(who: int) -> None:
        busy[who] = True
        try:
            while not stop[0] and (k := next(turn)) < count:
                work(*bounds[k])
        except BaseException as error:
            stop[0] = True
            errors.append(error)
        finally:
            busy[who] = False

    try:
        for who in range(1, min(count, thread_count())):
            _pool().submit(take, who)
        take(0)
    except KeyboardInterrupt as interrupt:
        errors.append(interrupt)
    errors += _left(busy, stop)
    if errors:
        raise errors[0]


def _left(busy: list[bool], stop: list[bool]) -> list[BaseException]:
    """Waits until nobody is busy; the interrupts that came meanwhile."""
    interrupts: list[BaseException] = []
    while True:
        try:
            stop[0] = True
            while any(busy):
                time.sleep(2e-5)
            return interrupts
        except KeyboardInterrupt as interrupt:
            interrupts.append(interrupt)


def each(work: Callable[[int], T], count: int, entries: int) -> list[T]:
    """[work(0), work(1), …], on several threads where so many entries are worth it; NumPy lets go of the GIL."""
    results: list[Any] = [None] * count

    def some(first: int, last: int) -> None:
        for k in range(first, last):
            results[k] = work(k)

    if entries >= SMALL:
        share_out(some, count)
    else:
        some(0, count)
    return results


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_count(), thread_name_prefix="tensorring")


if hasattr(os, "register_at_fork"):  # the child of a fork has the pool, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def close_pool(pool: ThreadPoolExecutor) -> bool:
    """Waits for the tasks at work, through interrupts; whether there was one."""
    interrupted = False
    while True:
        try:
            pool.shutdown(wait=True, cancel_futures=True)
            return interrupted
        except KeyboardInterrupt:
            interrupted = True


def pool_for(tasks: int, entries: int) -> ThreadPoolExecutor | None:
    """A pool for independent tasks on a small tensor, where there are several; else the caller does them in turn."""
    workers = min(tasks, _processors())
    return ThreadPoolExecutor(workers) if entries < SMALL and workers > 1 else None
