"""The least time of CP-ALS sweeps here: passes over the tensor, each as fast as reading it or one matmul."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.machine import best_of

# A multi-sweep tree keeps a partial result; beyond this share of the tensor it is no option.
KEPT = 0.2


def bandwidth(threads: int, megabytes: int = 512) -> float:
    """Bytes per second of reading by so many threads at once."""
    parts = [np.ones(megabytes * 2**20 // 8 // threads) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return sum(part.nbytes for part in parts) / best_of(lambda: list(pool.map(np.sum, parts)))


def matmul(x: np.ndarray, columns: int) -> float:
    """Seconds of x @ k, k of so many columns, in its best orientation: k by rows or by columns, the result too."""
    k = np.random.default_rng(0).standard_normal((x.shape[-1], columns)).astype(x.dtype)
    best = math.inf
    for right in (k, np.asfortranarray(k)):
        best = min(best, best_of(lambda right=right: x @ right, 3))
        if x.ndim == 2:
            best = min(best, best_of(lambda right=right: right.T @ x.T, 3))
        else:
            left = np.ascontiguousarray(right.T)
            best = min(best, best_of(lambda left=left: left @ np.swapaxes(x, -1, -2), 3))
    return best


@dataclass(frozen=True)
class Floor:
    """Seconds of one sweep: by two passes, and by the N/(N−1) of a multi-sweep tree where its partials fit."""

    two_passes: float
    multi_sweep: float | None

    @property
    def least(self) -> float:
        """The smaller of the two."""
        return min(self.two_passes, math.inf if self.multi_sweep is None else self.multi_sweep)


def cp_floor(x: np.ndarray, rank: int, threads: int) -> Floor:
    """First-level contractions only: each is max(bytes over bandwidth, one matmul of that shape)."""
    with threadpool_limits(threads):
        reading = x.nbytes / bandwidth(threads)
        splits = []
        for k in range(1, x.ndim):
            rows = x.reshape(math.prod(x.shape[:k]), -1)
            splits.append(max(reading, matmul(rows, rank)) + max(reading, matmul(rows.T, rank)))
        if rank / min(x.shape) > KEPT:
            return Floor(min(splits), None)
        modes = [max(reading, matmul(_columns(x, mode), rank)) for mode in range(x.ndim)]
        return Floor(min(splits), sum(modes) / (x.ndim - 1))


def _columns(x: np.ndarray, mode: int) -> np.ndarray:
    """The tensor with one mode last, as a matrix or a batch of them, where it lies."""
    before, n, after = math.prod(x.shape[:mode]), x.shape[mode], math.prod(x.shape[mode + 1 :])
    if after == 1:
        return x.reshape(before, n)
    return x.reshape(n, after).T if before == 1 else np.swapaxes(x.reshape(before, n, after), 1, 2)
