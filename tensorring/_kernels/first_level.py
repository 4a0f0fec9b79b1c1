"""Products of a matrix of few rows with a tensor that is read once: the passes over x of alternating least squares.

BLAS packs the large operand before it multiplies, which for 20 to 30 rows costs as much as the product; here it goes
from memory into registers. On one AVX-512 core twice the speed of OpenBLAS for 200³ to 400³ at ranks 20 to 30
(docs/benchmarks/peers.md). Kernels release the GIL: callers share the pieces out over threads.
"""

from __future__ import annotations

import functools
from typing import Any

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
def _leading(like, size, v, x, x_group, x_row, p, ranks, groups, length, columns, first, last):  # type: ignore[no-untyped-def]
    width = VECTORS * BYTES // size
    tiles = -(-columns // width)
    for piece in range(first, last):
        group, tile = piece // tiles, piece % tiles
        # The last tile is moved back over columns already done rather than cut short.
        column = min(tile * width, columns - width)
        for row in range(0, ranks, ROWS):
            rows_tile(
                like,
                v + row * length * size, length,
                x + (group * x_group + column) * size, x_row,
                p + ((row * groups + group) * columns + column) * size, groups * columns,
                length,
            )  # fmt: skip


@njit(nogil=True, cache=True)
def _trailing(like, size, k, x, p, ranks, rows, columns, first, last):  # type: ignore[no-untyped-def]
    lanes = BYTES // size
    block = _BLOCK // size
    for column in range(0, columns - lanes + 1, block):
        vectors = (min(column + block, columns) - column) // lanes
        for piece in range(first, last):
            a = piece * VECTORS
            for row in range(0, ranks, ROWS):
                dots_tile(
                    like,
                    k + (row * columns + column) * size, columns,
                    x + (a * columns + column) * size, columns,
                    p + (row * rows + a) * size, rows,
                    vectors,
                )  # fmt: skip


Piece = Any  # fn(first, last): does some of the pieces


def leading(v: np.ndarray, x: np.ndarray, p: np.ndarray) -> tuple[Piece, int]:
    """p[r, g, c] = Σ_a v[r, a]·x[g, a, c], as a function of a range of pieces, and their number.

    All of one real dtype, v and p in C order, the rows of x too; as many rows in v and p as a multiple of 5, and at
    least 256 bytes in a row of x.
    """
    groups, length, columns = x.shape
    pieces = groups * -(-columns // (VECTORS * BYTES // x.itemsize))
    group, row = (stride // x.itemsize for stride in x.strides[:2])
    arguments = (x.dtype.type(1), x.itemsize, v.ctypes.data, x.ctypes.data, group, row, p.ctypes.data)
    return functools.partial(_leading, *arguments, v.shape[0], groups, length, columns), pieces


def trailing(k: np.ndarray, x: np.ndarray, p: np.ndarray) -> tuple[Piece, int]:
    """p[r, a] += Σ_c k[r, c]·x[a, c] over whole vectors of c and whole fours of a, in C order; p comes filled."""
    arguments = (x.dtype.type(1), x.itemsize, k.ctypes.data, x.ctypes.data, p.ctypes.data)
    return functools.partial(_trailing, *arguments, k.shape[0], *x.shape), x.shape[0] // VECTORS
