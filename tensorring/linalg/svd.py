"""The truncated SVD of one matrix: an error asked, the error made."""

from __future__ import annotations

import math
from typing import NamedTuple, get_args

from tensorring._array import Array, as_dtype, compute_dtype_name, contiguous, dtype_name, namespace, to_device
from tensorring.linalg.basis import Basis, Route, is_blurred, mode_basis
from tensorring.linalg.project import project, residual_norm
from tensorring.linalg.rank import error_floor
from tensorring.linalg.scale import measure, scaled


class TruncatedSVD(NamedTuple):
    """a ≈ u·diag(s)·vh, with the Frobenius error that this makes."""

    u: Array
    s: Array
    vh: Array
    error: float


def truncated_svd(
    a: Array, *, max_error: float = 0.0, max_rank: int | None = None, route: Route = "auto"
) -> TruncatedSVD:
    """‖a − u·diag(s)·vh‖_F = error ≤ max_error at the smallest rank, or at `max_rank` where that is less.

    Parameters
    ----------
    a
        A matrix (m, n) of finite entries.
    max_error
        Absolute Frobenius error allowed. At 0, only what is zero to rounding is left out.
    max_rank
        A cap, at least 1; it wins over `max_error`.
    route
        `"exact"` (TSQR, then an SVD of the small triangle), `"gram"` (the eigenvalues of the smaller Gram matrix:
        the fastest, singular values below √eps of the largest are noise), `"randomized"` (needs `max_rank`).
        `"auto"` takes the randomized route for a cap of at most a tenth of a side of 512 or more, the Gram route
        where `max_error` is at least 30·√eps·‖a‖, and the exact one otherwise. A route that is forced keeps `max_error`
        only as far as its digits go (the Gram route: to 1e-8·‖a‖ or so); the error returned is right in any case.

    Returns
    -------
    TruncatedSVD
        u (m, r), s (r,) descending, vh (r, n), and the error made: from the discarded values, and by the explicit
        residual where those came from a Gram matrix and are small. The vectors of the shorter side are orthonormal
        to rounding; those of the longer one only to rounding · s[0] / s[-1].

    Raises
    ------
    ValueError
        If `a` is not a matrix or holds NaN or inf, or `route` is unknown, or `"randomized"` has no cap.

    Notes
    -----
    With k = min(m, n) and l = max(m, n), the exact route costs 2·l·k² + O(k³), the Gram route half of that at the
    speed of matrix products, the randomized one 12·l·k·r. Beyond the result, memory is a few megabytes and k².

    Examples
    --------
    >>> import numpy as np
    >>> from tensorring.linalg import truncated_svd
    >>> u, s, vh, error = truncated_svd(np.diag([4.0, 3.0, 2.0, 1.0]), max_error=2.5)
    >>> s, round(error, 6)
    (array([4., 3.]), 2.236068)
    """
    _check(a, max_rank, route)
    a = as_dtype(a, compute_dtype_name(a.dtype))
    norm, exponent = measure(a, name="a")
    a = scaled(a, -exponent)
    allowed = max(math.ldexp(max_error, -exponent), error_floor(a.dtype, 1) / 2 * norm)
    short = by_short_side(a)
    basis = mode_basis(short, max_error=allowed, norm=norm, max_rank=max_rank, route=route)
    u, s, vh, error = _assemble(short, basis, basis.rank(allowed, max_rank), norm)
    return TruncatedSVD(u, scaled(s, exponent), vh, math.ldexp(error, exponent))


def _check(a: Array, max_rank: int | None, route: str) -> None:
    if a.ndim != 2 or 0 in a.shape:
        raise ValueError(f"got an array of shape {tuple(a.shape)}; the SVD is of a matrix that is not empty")
    if route not in get_args(Route):
        raise ValueError(f"got route={route!r}; the routes are {', '.join(get_args(Route))}")
    if max_rank is not None and max_rank < 1:
        raise ValueError(f"got max_rank={max_rank}; a rank is at least 1: leave it out for no cap")
    if route == "randomized" and max_rank is None:
        raise ValueError("got route='randomized' without max_rank; the range finder needs a cap: give max_rank")


def by_short_side(a: Array) -> Array:
    """The matrix as (before, n, after) with its shorter side in the middle: (1, m, n) or (m, n, 1)."""
    rows, columns = a.shape
    shape = (1, rows, columns) if rows <= columns else (rows, columns, 1)
    return namespace(a).reshape(contiguous(a), shape)


def _assemble(x: Array, basis: Basis, rank: int, norm: float) -> TruncatedSVD:
    xp = namespace(x)
    p = basis.vectors[:, :rank]
    s = to_device(basis.values[:rank], like=x)
    s = as_dtype(s, "float32" if dtype_name(x.dtype) in ("float32", "complex64") else "float64")
    divisors = xp.where(s > 0, s, xp.ones_like(s))
    coefficients = project(x, p)
    error = basis.error(rank)
    if basis.slack and is_blurred(error, norm, dtype_name(x.dtype)):
        error = residual_norm(x, p, coefficients)
    if x.shape[0] == 1:
        return TruncatedSVD(p, s, coefficients[0, :, :] / xp.expand_dims(divisors, axis=1), error)
    # The basis is one of aᵀ, so its conjugate spans the rows of a: a ≈ (a·P̄)·Pᵀ.
    return TruncatedSVD(coefficients[:, :, 0] / divisors, s, p.T, error)
