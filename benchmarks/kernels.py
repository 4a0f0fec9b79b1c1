"""Passes over a tensor by kernels and by BLAS, against reading it, on one thread and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np

import tensorring as tg
from benchmarks.floor import bandwidth
from benchmarks.machine import describe, times_of
from benchmarks.tables import table, write
from tensorring.contract.first_level import buffer, contract_after, contract_before, threads_for, uses_kernels
from tensorring.contract.second_level import contract_last

CASES = ((200, 20), (400, 30))
THREADS = (1, 2)


def measure(n: int, rank: int, dtype: str, threads: int) -> list[object]:
    """In a process whose threads are set: a row of the table, milliseconds."""
    x = np.random.default_rng(0).standard_normal((n, n, n)).astype(dtype)
    v = np.random.default_rng(1).standard_normal((rank, n)).astype(dtype)
    out, flat, tall = buffer(x, rank, n * n), x.reshape(1, n, n * n), x.reshape(n * n, n)
    start = tg.random.cp(x.shape, rank=rank, dtype=dtype, rng=2)
    if not uses_kernels(x):
        raise SystemExit("no AVX-512 here: kernels do not run")
    blas = _milliseconds(lambda: np.matmul(v, flat[0], out=out[:rank]))
    with threads_for(x):
        times = [
            _milliseconds(lambda: contract_before(v, flat, out)),
            _milliseconds(lambda: contract_before(v, x, out)),
            _milliseconds(lambda: contract_after(v, tall, out)),
            _milliseconds(lambda: contract_last(out[:rank], v, n)),
        ]
    sweeps = _milliseconds(lambda: tg.cp_als(x, rank=rank, init=start, stall=0, max_sweeps=10))
    return [f"{n}³, R {rank}, {dtype}", threads, 1e3 * x.nbytes / bandwidth(threads), blas, *times, sweeps]


def _milliseconds(fn: Callable[[], object]) -> float:
    return 1e3 * float(np.median(times_of(fn, 7)))


def main() -> None:
    """Measures in fresh processes, since threads are set before BLAS is loaded, and writes the page."""
    rows: list[list[object]] = []
    for threads in THREADS:
        settings = {f"{name}_NUM_THREADS": str(threads) for name in ("OPENBLAS", "OMP", "MKL")}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.kernels", str(threads)],
            env=os.environ | settings, check=True, capture_output=True, text=True,
        )  # fmt: skip
        rows += json.loads(done.stdout.splitlines()[-1])
    names = (
        "tensor",
        "threads",
        "reading it",
        "BLAS, first mode",
        "kernel, first mode",
        "middle",
        "last",
        "second level",
    )
    text = (
        "# Kernels\n\nWritten by `make bench ARGS='--only kernels'`. "
        "One first-level contraction (a matrix of R rows with the whole tensor) by BLAS and by our kernels, for the "
        "first, a middle and the last mode; reading the tensor on as many threads; one second-level contraction of the "
        "partial result (a batched matrix product, for which there is no kernel: it is a small share of a sweep); and "
        "ten sweeps of `cp_als`. Milliseconds, medians of seven.\n\n"
        f"{describe(('numpy', 'scipy', 'numba'))}\n\n"
    )
    cells = [[row[0], row[1], *(f"{value:.3g}" for value in row[2:])] for row in rows]
    text += table([*names, "ten sweeps"], cells) + "\n"
    write("kernels.md", text)


if __name__ == "__main__":
    count = int(sys.argv[1])
    print(json.dumps([measure(*case, dtype, count) for case in CASES for dtype in ("float64", "float32")]))
