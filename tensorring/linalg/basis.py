"""Singular vectors of the short side of a matrix, by three routes behind one signature.

Nothing here forms the long side's singular vectors, or more than a few megabytes beyond the result, except for
the randomized route, which keeps a sketch of the long side.

- exact: R of the transposed matrix by blocked TSQR, then the SVD of R. All digits.
- gram: eigenvalues of A·Aᴴ, in double precision whatever the dtype. The fastest, and half the digits: allowed only
  for errors above 30·√eps of a double, which in single precision is all of them.
- randomized: a range finder for caps far below the dimension (Halko, Martinsson & Tropp 2011, SIAM Review 53(2),
  doi 10.1137/090771806, algorithm 4.4), its error measured exactly afterwards.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from tensorring._array import (
    Array,
    adjoint,
    as_dtype,
    block_length,
    dtype_name,
    eps,
    is_complex,
    namespace,
    svd,
    to_device,
    to_host,
    triangle,
)
from tensorring.linalg.project import project, residual_norm
from tensorring.linalg.rank import Values, rank_for, tails

Route = Literal["auto", "exact", "gram", "randomized"]

# Squared tails by Gram matrices were seen to be off by at most 4·eps·‖A‖² (16 to 512 rows, decays k^-½ to k^-4;
# 14 where all that is left is rounding).
_GRAM_SLACK = 4.0
_DOUBLE_EPS = eps("float64")
_OVERSAMPLING, _POWER_STEPS = 10, 2
_RANDOMIZED_SIDE, _RANDOMIZED_SHARE = 512, 10


class Basis(NamedTuple):
    """Orthonormal `vectors` (short side × k) and `values` (k, descending) of a matrix.

    `missed` is the norm outside the span of the vectors (0 for a complete basis); `slack` says how far a squared
    tail may be off (0 where the values carry all digits).
    """

    vectors: Array
    values: Values
    missed: float = 0.0
    slack: float = 0.0

    def error(self, rank: int) -> float:
        """The error that keeping `rank` vectors makes, as the values tell it."""
        return float(np.hypot(tails(self.values)[rank], self.missed))

    def rank(self, max_error: float, max_rank: int | None = None) -> int:
        """The smallest rank whose error is surely at most `max_error`; a cap wins."""
        allowed = math.sqrt(max(0.0, max_error**2 - self.missed**2 - self.slack))
        return rank_for(self.values, max_error=allowed, max_rank=max_rank)

    def is_sharp(self, rank: int, dtype: str) -> bool:
        """True where `error(rank)` is right to 10·eps of the dtype; else measure the residual."""
        return self.slack <= 20 * eps(dtype) * self.error(rank) * float(self.values[0])


def gram_is_safe(max_error: float, norm: float) -> bool:
    """True where an absolute error is far enough above the digits that squaring loses."""
    return max_error >= 30 * math.sqrt(_DOUBLE_EPS) * norm


def short_side(a: Array, *, max_error: float, norm: float, max_rank: int | None = None, route: Route = "auto") -> Basis:
    """Orthonormal P with a ≈ P·(Pᴴ·a) where a is wide, or a ≈ (a·P̄)·Pᵀ where it is tall.

    Parameters
    ----------
    a
        A matrix (m, n), in a dtype that is computed in.
    max_error
        The smallest absolute error that the caller will ask for; it decides whether squaring is allowed.
    norm
        The norm against which rounding counts: of `a`, or of the tensor that `a` is a part of.
    max_rank
        A cap, where there is one: far below the side, only so many vectors (and some more) are computed.
    route
        Forces one of the three routes.
    """
    wide = a if a.shape[0] <= a.shape[1] else a.T
    if route == "auto":
        route = _route(wide, max_error, norm, max_rank)
    if route == "gram":
        return _by_gram(wide, norm)
    if route == "randomized":
        return _by_sketch(wide, max_rank or wide.shape[0])
    return _by_triangle(wide)


def short_side_values(a: Array, *, max_error: float, norm: float) -> Basis:
    """The singular values of a matrix alone, as a basis without vectors: a third of the work."""
    wide = a if a.shape[0] <= a.shape[1] else a.T
    if gram_is_safe(max_error, norm):
        squares = np.linalg.eigvalsh(to_host(_gram(wide)))[::-1]
        return Basis(None, np.sqrt(np.maximum(squares, 0.0)), slack=_slack(norm))
    return _by_triangle(wide)._replace(vectors=None)


def _route(wide: Array, max_error: float, norm: float, max_rank: int | None) -> Route:
    side = wide.shape[0]
    if max_rank is not None and side >= _RANDOMIZED_SIDE and max_rank <= side // _RANDOMIZED_SHARE:
        return "randomized"
    return "gram" if gram_is_safe(max_error, norm) else "exact"


def _slack(norm: float) -> float:
    return _GRAM_SLACK * _DOUBLE_EPS * norm**2


def _double(a: Array) -> str:
    return "complex128" if is_complex(a) else "float64"


def _gram(wide: Array) -> Array:
    """A·Aᴴ by column blocks, in double precision: single-precision data then keep all their digits."""
    columns = block_length(wide, wide.shape[0])
    total = None
    for start in range(0, wide.shape[1], columns):
        block = as_dtype(wide[:, start : start + columns], _double(wide))
        part = block @ adjoint(block)
        total = part if total is None else total + part
    return total


def _by_gram(wide: Array, norm: float) -> Basis:
    xp = namespace(wide)
    squares, vectors = xp.linalg.eigh(_gram(wide))
    values = np.sqrt(np.maximum(to_host(squares)[::-1], 0.0))
    vectors = as_dtype(xp.flip(vectors, axis=1), dtype_name(wide.dtype))
    return Basis(vectors, values, slack=_slack(norm))


def _triangle_of(wide: Array) -> Array:
    """Rᵀ with wide = Rᵀ·Qᵀ, by TSQR over column blocks of the wide matrix; itself where it is nearly square."""
    side, length = wide.shape
    if length <= 2 * side:
        return wide
    columns = max(4 * side, block_length(wide, side))
    r = None
    for start in range(0, length, columns):
        block = wide[:, start : start + columns].T
        r = triangle(block if r is None else namespace(wide).concat([r, block], axis=0))
    return r.T  # type: ignore[union-attr]


def _by_triangle(wide: Array) -> Basis:
    vectors, values, _ = svd(_triangle_of(wide))
    return Basis(vectors, to_host(values).astype(np.float64))


def _by_sketch(wide: Array, max_rank: int) -> Basis:
    xp = namespace(wide)
    dtype = dtype_name(wide.dtype)
    count = min(wide.shape[0], max_rank + _OVERSAMPLING)
    # A fixed seed: the same matrix gives the same result twice.
    draws = np.random.default_rng(0).standard_normal((wide.shape[1], count), dtype=np.float32)
    q = xp.linalg.qr(wide @ as_dtype(to_device(draws, like=wide), dtype), mode="reduced").Q
    for _ in range(_POWER_STEPS):
        long = xp.linalg.qr(adjoint(wide) @ q, mode="reduced").Q
        q = xp.linalg.qr(wide @ long, mode="reduced").Q
    small = project(wide, q)
    inner = _by_triangle(small)
    return Basis(q @ inner.vectors, inner.values, missed=residual_norm(wide, q, small))
