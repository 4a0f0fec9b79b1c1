"""Layer 0: the one policy for threads.

Work the size of a matrix product belongs to the threads of BLAS; independent runs on small tensors go to a pool with
BLAS held to one thread. Parallel kernels run one at a time: some of numba's threading layers abort the process when
two threads enter them at once, so whoever finds the lock taken runs the serial variant.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from os import cpu_count
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")

# Entries of a tensor below which its sweeps are too short for threads inside them to pay.
SMALL = 2**18

_parallel = threading.Lock()


@functools.cache
def _controller() -> ThreadpoolController:
    """Looks the loaded BLAS libraries up once: that costs milliseconds."""
    return ThreadpoolController()


def blas_threads(entries: int) -> Any:
    """A context in which BLAS runs on one thread where a tensor of so many entries is small; else as it is set."""
    return _controller().limit(limits=1, user_api="blas") if entries < SMALL else nullcontext()


@contextmanager
def parallel_allowed(entries: int) -> Iterator[bool]:
    """Whether a kernel may run its parallel variant: enough work, and nobody else inside one."""
    allowed = entries >= SMALL and _parallel.acquire(blocking=False)
    try:
        yield allowed
    finally:
        if allowed:
            _parallel.release()


def in_pool(tasks: Sequence[Callable[[], T]], entries: int) -> tuple[ThreadPoolExecutor | None, list[Future[T]]]:
    """Tasks started on a pool where the tensor is small and there are several; else none are, and the caller runs."""
    workers = min(len(tasks), cpu_count() or 1)
    if entries >= SMALL or workers < 2:
        return None, []
    pool = ThreadPoolExecutor(workers)
    return pool, [pool.submit(task) for task in tasks]
