"""Projections of a matrix onto a basis of one of its sides, in place where the matrix is the caller's to lose."""

from __future__ import annotations

import math

import numpy as np

from tensorring._array import Array, adjoint, block_length, conj, is_complex, is_host, namespace, to_host

# Below this share of the matrix a new array is cheaper than working in place, and lets the old one go.
_IN_PLACE_SHARE = 0.25


def project(a: Array, basis: Array, *, overwrite: bool = False) -> Array:
    """Pᴴ·a: (m, n), (m, r) -> (r, n).

    With `overwrite` the result may lie in the memory of `a`, so that a large remainder is never held twice.
    """
    if not _in_place(a, basis, overwrite):
        return adjoint(basis) @ a
    rank, width = basis.shape[1], block_length(a, a.shape[0])
    left = adjoint(basis)
    for start in range(0, a.shape[1], width):
        a[:rank, start : start + width] = left @ a[:, start : start + width]
    return a[:rank, :]


def project_right(a: Array, basis: Array, *, overwrite: bool = False) -> Array:
    """a·P̄: (m, n), (n, r) -> (m, r), the coefficients of a in a ≈ (a·P̄)·Pᵀ.

    With `overwrite` the result may lie in the memory of `a`.
    """
    if not _in_place(a, basis, overwrite):
        return a @ conj(basis)
    rows, rank, height = a.shape[0], basis.shape[1], block_length(a, a.shape[1])
    flat, right = a.reshape(-1), conj(basis)
    for start in range(0, rows, height):
        block = a[start : start + height] @ right
        # Rows become shorter, so what is written lies in front of all that is still to be read.
        flat[start * rank : start * rank + block.size] = block.reshape(-1)
    return flat[: rows * rank].reshape(rows, rank)


def residual_norm(a: Array, basis: Array, coefficients: Array) -> float:
    """‖a − P·C‖_F by column blocks, the residual itself: a difference of norms would lose half the digits."""
    xp = namespace(a)
    width = block_length(a, a.shape[0])
    squares = []
    for start in range(0, a.shape[1], width):
        block = a[:, start : start + width] - basis @ coefficients[:, start : start + width]
        flat = xp.reshape(block, (-1,))
        squares.append(xp.real(xp.vecdot(flat, flat)) if is_complex(flat) else flat @ flat)
    return math.sqrt(float(np.sum(to_host(xp.stack(squares)), dtype=np.float64)))


def _in_place(a: Array, basis: Array, overwrite: bool) -> bool:
    if not (overwrite and is_host(a) and a.flags.c_contiguous and a.flags.writeable):
        return False
    return bool(basis.shape[1] >= _IN_PLACE_SHARE * basis.shape[0])
