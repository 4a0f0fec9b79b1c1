"""Layer 0: the one policy for threads.

Three kinds of work, and never two of them at once. Matrix products of BLAS use its own threads. Kernels release the
GIL and are shared out over one pool, while BLAS is held to one thread: its idle threads spin. Independent starts on
small tensors go to a pool of their own, BLAS held to one thread.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
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
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    set_for_blas = [int(info["num_threads"]) for info in _controller().info() if info["user_api"] == "blas"]
    return max(1, min([processors, *set_for_blas]))


def blas_threads(entries: int, *, kernels: bool = False) -> Any:
    """A context in which BLAS runs on one thread for a small tensor, or where kernels do the large products.

    Else NumPy's BLAS runs as it is set, and SciPy's on one thread: wheels bring one each, and after a large product the
    threads of the first still spin while the second solves small systems.
    """
    thread_count()
    everything = kernels or entries < SMALL
    return (_controller() if everything else _scipys_own()).limit(limits=1, user_api="blas")


def all_blas_threads() -> Any:
    """A context in which BLAS has its threads back: for a stretch of large products among kernels."""
    return _controller().limit(limits=thread_count(), user_api="blas")


@functools.cache
def _scipys_own() -> ThreadpoolController:
    paths = [info["filepath"] for info in _controller().info() if "scipy.libs" in info["filepath"]]
    return _controller().select(filepath=paths)


def share_out(work: Callable[[int, int], object], pieces: int) -> None:
    """work(first, last) for ranges that cover all pieces, on several threads; returns when all are done."""
    count = min(pieces, _PIECES * thread_count()) if thread_count() > 1 else 1
    # Whoever is free takes the next range, the caller too.
    ranges = pairwise(pieces * k // count for k in range(count + 1))
    lock = threading.Lock()

    def take() -> None:
        while True:
            with lock:
                bounds = next(ranges, None)
            if bounds is None:
                return
            work(*bounds)

    helpers = [_pool().submit(take) for _ in range(min(count, thread_count()) - 1)]
    try:
        take()
    finally:
        for helper in helpers:
            helper.result()


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


def in_pool(tasks: Sequence[Callable[[], T]], entries: int) -> tuple[ThreadPoolExecutor | None, list[Future[T]]]:
    """Tasks started on a pool where the tensor is small and there are several; else none are, and the caller runs."""
    workers = min(len(tasks), os.cpu_count() or 1)
    if entries >= SMALL or workers < 2:
        return None, []
    pool = ThreadPoolExecutor(workers)
    return pool, [pool.submit(task) for task in tasks]
