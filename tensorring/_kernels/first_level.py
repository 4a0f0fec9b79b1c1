"""Products of a matrix of few rows with a tensor that is read once: the passes over x of alternating least squares.

BLAS packs the large operand before it multiplies, which for 20 to 30 rows costs as much as the product; here it goes
from memory into registers. On one AVX-512 core twice the speed of OpenBLAS for 200³ to 400³ at ranks 20 to 30
(docs/benchmarks/kernels.md). Kernels release the GIL: callers share the pieces out over threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from llvmlite import binding
from numba import config, njit

from tensorring._kernels.tiles import BYTES, ROWS, VECTORS, dots_tile, rows_tile

# Columns of the long operand that stay in the second-level cache with all rows of the short one.
_BLOCK = 8 * 1024


@functools.cache
def available() -> bool:
    """True on processors with AVX-512, on which the tiles were measured to win, and where numba compiles at all."""
    return bool(binding.get_host_cpu_features().get("avx512f", False)) and not config.DISABLE_JIT


@njit(nogil=True, cache=True)
def _leading(like, addresses, strides, sizes, first, last):  # type: ignore[no-untyped-def]
    (v, x, p), (bytes_, x_group, x_row), (ranks, groups, length, columns) = addresses, strides, sizes
    width = VECTORS * BYTES // bytes_
    tiles = -(-columns // width)
    for piece in range(first, last):
        group, tile = piece // tiles, piece % tiles
        # The last tile is moved back over columns already done rather than cut short.
        column = min(tile * width, columns - width)
        from_x = x + (group * x_group + column) * bytes_
        for row in range(0, ranks, ROWS):
            to_p = p + ((row * groups + group) * columns + column) * bytes_
            rows_tile(like, v + row * length * bytes_, length, from_x, x_row, to_p, groups * columns, length)


@njit(nogil=True, cache=True)
def _trailing(like, addresses, bytes_, sizes, first, last):  # type: ignore[no-untyped-def]
    (k, x, p), (ranks, length, columns) = addresses, sizes
    lanes, block = BYTES // bytes_, _BLOCK // bytes_
    for column in range(0, columns - lanes + 1, block):
        vectors = (min(column + block, columns) - column) // lanes
        for piece in range(first, last):
            a = piece * VECTORS
            from_x = x + (a * columns + column) * bytes_
            for row in range(0, ranks, ROWS):
                from_k = k + (row * columns + column) * bytes_
                dots_tile(like, from_k, columns, from_x, columns, p + (row * length + a) * bytes_, length, vectors)


Kernel = Callable[[int, int], None]  # does the pieces from the first to before the last


def leading(v: np.ndarray, x: np.ndarray, p: np.ndarray) -> tuple[Kernel, int]:
    """p[r, g, c] = Σ_a v[r, a]·x[g, a, c], as a function of a range of pieces, and their number.

    All of one real dtype, v and p in C order, the rows of x too; as many rows in v and p as a multiple of 5, and at
    least 256 bytes in a row of x. The arrays have to outlive the function, which holds their addresses.
    """
    groups, length, columns = x.shape
    pieces = groups * -(-columns // (VECTORS * BYTES // x.itemsize))
    strides = (x.itemsize, x.strides[0] // x.itemsize, x.strides[1] // x.itemsize)
    sizes = (v.shape[0], groups, length, columns)
    return functools.partial(_leading, x.dtype.type(1), _addresses(v, x, p), strides, sizes), pieces


def trailing(k: np.ndarray, x: np.ndarray, p: np.ndarray) -> tuple[Kernel, int]:
    """p[r, a] += Σ_c k[r, c]·x[a, c] over whole vectors of c and whole fours of a, likewise; x in C order, p filled."""
    sizes = (k.shape[0], *x.shape)
    return functools.partial(_trailing, x.dtype.type(1), _addresses(k, x, p), x.itemsize, sizes), x.shape[0] // VECTORS


def _addresses(*arrays: np.ndarray) -> tuple[int, ...]:
    return tuple(array.ctypes.data for array in arrays)
