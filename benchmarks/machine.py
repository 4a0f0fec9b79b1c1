"""What the machine can do, and what is installed on it: the yardstick beside every table."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np


def best_of(fn: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of several calls, after one that is not counted."""
    return min(times_of(fn, repeats))


def times_of(fn: Callable[[], object], repeats: int = 5) -> list[float]:
    """Seconds of several calls, after one that is not counted."""
    fn()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        fn()
        times.append(time.perf_counter() - start)
    return times


def gemm_rate(dtype: str, n: int = 2048) -> float:
    """GFLOP/s of a square matrix product."""
    a = np.random.default_rng(0).standard_normal((n, n)).astype(dtype)
    return 2 * n**3 / best_of(lambda: a @ a) / 1e9


def bandwidth(megabytes: int = 512) -> float:
    """GB/s of reading an array (its sum)."""
    a = np.ones(megabytes * 2**20 // 8)
    return a.nbytes / best_of(a.sum) / 1e9


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe(packages: tuple[str, ...] = ("numpy", "scipy")) -> str:
    """One line: processor, cores, rates, versions, date."""
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{cpu_name()}, {cores} cores; matrix products {gemm_rate('float32'):.0f} GFLOP/s in single and "
        f"{gemm_rate('float64'):.0f} in double precision; reading {bandwidth():.0f} GB/s; "
        f"{', '.join([f'Python {platform.python_version()}', *versions])}; {datetime.date.today().isoformat()}."
    )
