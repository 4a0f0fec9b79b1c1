"""First-level contractions: a matrix of few rows with the whole tensor, by matrix products or by kernels."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorring._array import Array, is_host, namespace
from tensorring._threads import SMALL, blas_threads, share_out

# Entries of a tensor below which a matrix product is over before a kernel is called.
_KERNELS_FROM = 2**15
# The kernels of _kernels.first_level take rows by fives, fours of rows of x, and vectors of 64 bytes.
_ROWS, _FOURS, _BYTES = 5, 4, 64


def uses_kernels(x: Array) -> bool:
    """True where passes over a tensor run on kernels: not small, real, on the host, on processors that they win on."""
    suits = (
        is_host(x)
        and x.size >= _KERNELS_FROM
        and x.dtype.char in "fd"
        and x.dtype.isnative
        and x.strides[-1] == x.itemsize
    )
    return bool(suits and _kernels() is not None)


def threads_for(x: Array) -> Any:
    """The context for sweeps over a tensor: BLAS on one thread where it is small, or where kernels read it."""
    return blas_threads(math.prod(x.shape), kernels=uses_kernels(x))


@functools.cache
def _kernels() -> Any:
    """Imported at the first call on a large tensor, since numba takes a second to load; None where they cannot run."""
    try:
        from tensorring._kernels import first_level
    except (ImportError, AttributeError) as error:  # not there, or left half imported by an interrupt
        warnings.warn(
            f"large tensors are read by BLAS, at half the speed: numba cannot be loaded ({error})", stacklevel=2
        )
        return None
    return first_level if first_level.available() else None


def buffer(x: Array, rows: int, entries: int) -> Array | None:
    """Room for a result of so many rows, on NumPy; kernels write whole fives of rows."""
    return np.empty((-(-rows // _ROWS) * _ROWS, entries), dtype=x.dtype) if is_host(x) else None


def contract_before(rows: Array, x: Array, out: Array | None = None) -> Array:
    """P[r, (g, c)] = Σ_a V[r, a]·x[g, a, c]: (R, A), (G, A, C) -> (R, G·C), in `out` from `buffer` where given."""
    xp, rank, (groups, _, columns) = namespace(x), rows.shape[0], x.shape
    if out is None:
        product = rows @ x
        return xp.reshape(product if groups == 1 else xp.permute_dims(product, (1, 0, 2)), (rank, -1))
    if uses_kernels(x) and columns * x.itemsize >= _FOURS * _BYTES:
        padded = _padded(rows)
        whole = _front(out, padded.shape[0], groups * columns)
        kernel, pieces = _kernels().leading(padded, x, whole.reshape(-1, groups, columns))
        _run(kernel, pieces, x.size)
        return whole[:rank]
    result = _front(out, rank, groups * columns)
    np.matmul(rows, x, out=result.reshape(rank, groups, columns).transpose(1, 0, 2))
    return result


def contract_after(rows: Array, x: Array, out: Array | None = None) -> Array:
    """P[r, a] = Σ_c K[r, c]·x[a, c]: (R, C), (A, C) -> (R, A), in `out` from `buffer` where given."""
    if out is None:
        return rows @ x.T
    rank, (length, columns) = rows.shape[0], x.shape
    if not (uses_kernels(x) and x.flags.c_contiguous and length >= _FOURS):
        return np.matmul(rows, x.T, out=_front(out, rank, length))
    whole = _front(out, -(-rank // _ROWS) * _ROWS, length)
    done, tail = length - length % _FOURS, columns - columns % (_BYTES // x.itemsize)
    whole[:rank] = rows[:, tail:] @ x[:, tail:].T if tail < columns else 0.0
    whole[rank:] = 0.0
    padded = _padded(rows)  # kernels hold addresses: the array has to outlive them
    kernel, pieces = _kernels().trailing(padded, x, whole)
    _run(kernel, pieces, x.size)
    if done < length:
        np.matmul(rows, x[done:].T, out=whole[:rank, done:])
    return whole[:rank]


def _run(kernel: Callable[[int, int], object], pieces: int, entries: int) -> None:
    if entries < SMALL:
        kernel(0, pieces)
    else:
        share_out(kernel, pieces)


def _front(out: Array, rows: int, columns: int) -> Array:
    """The first entries of a buffer as a matrix."""
    return out.reshape(-1)[: rows * columns].reshape(rows, columns)


def _padded(rows: Array) -> Array:
    """The rows, and rows of zeros up to a multiple of five, in C order."""
    if rows.shape[0] % _ROWS == 0:
        return np.ascontiguousarray(rows)
    padded = np.zeros((-(-rows.shape[0] // _ROWS) * _ROWS, rows.shape[1]), dtype=rows.dtype)
    padded[: rows.shape[0]] = rows
    return padded
