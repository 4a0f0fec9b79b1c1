"""Square roots of positive semidefinite matrices: the Hermitian one, with its inverse, and any one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tensorring._array import Array, adjoint, dtype_name, eps, namespace


class SquareRoot(NamedTuple):
    """R = S^{1/2} and its pseudo-inverse R⁺, both Hermitian."""

    root: Array
    inverse: Array


def square_root(s: Array) -> SquareRoot:
    """R and R⁺ with R·R = S, for S Hermitian and positive semidefinite (n, n).

    Eigenvalues below n·eps of the largest are rounding, and count as zero in both. Cost: one eigendecomposition.
    """
    xp = namespace(s)
    values, vectors = xp.linalg.eigh(s)
    there = values > s.shape[0] * eps(dtype_name(s.dtype)) * values[-1]
    roots = xp.where(there, xp.sqrt(xp.where(there, values, 1.0)), 0.0)
    inverses = xp.where(there, 1 / xp.where(there, roots, 1.0), 0.0)
    return SquareRoot((vectors * roots) @ adjoint(vectors), (vectors * inverses) @ adjoint(vectors))


def any_root(s: Array) -> Array:
    """R with RᴴR = S: the triangle of Cholesky, twenty times faster than eigenvalues; S^{1/2} where S is singular."""
    xp = namespace(s)
    try:
        triangle = adjoint(xp.linalg.cholesky(s))
    except np.linalg.LinAlgError:
        return square_root(s).root
    # CuPy does not raise.
    return triangle if bool(xp.all(xp.isfinite(triangle))) else square_root(s).root
