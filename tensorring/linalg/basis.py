"""Singular vectors of one mode, by three routes behind one signature.

A mode is the middle axis of an array (before, n, after), so that the unfolding of any mode of any tensor, in C order,
is handled where it lies: (1, m, n) is a wide matrix, (m, n, 1) a tall one taken by its columns. Nothing here forms the
singular vectors of the long side, or more than a few megabytes beyond the result, except for the randomized route,
which keeps a sketch of the long side.

- exact: R of the transposed unfolding by blocked TSQR, then the SVD of R. All digits.
- gram: eigenvalues of M·Mᴴ, in double precision whatever the dtype. The fastest, and half the digits: allowed only
  for errors above 30·√eps of a double, which in single precision is all of them. Values without vectors may come from
  products in single precision, for errors above 30·√eps of that; `slack` says so.
- randomized: a range finder for caps far below the dimension (Halko, Martinsson & Tropp 2011, SIAM Review 53(2),
  doi 10.1137/090771806, algorithm 4.4), its error measured exactly afterwards.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

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
    slices,
    svd,
    to_device,
    to_host,
    triangle,
)
from tensorring.linalg.project import project, residual_norm
from tensorring.linalg.rank import Values, first_within, tails

Route = Literal["auto", "exact", "gram", "randomized"]

# Squared tails by Gram matrices were seen to be off by 4·eps·‖A‖² for decays k^-½ to k^-4 and 512 rows, and by 40 for
# flat tails of 600 values, whose rounding errors add up: (4 + n/8)·eps·‖A‖² is twice what was seen.
_GRAM_SLACK = (4.0, 1 / 8)
_BLUR = 10.0
_DOUBLE_EPS = eps("float64")
_OVERSAMPLING, _POWER_STEPS = 10, 2
_RANDOMIZED_SIDE, _RANDOMIZED_SHARE = 512, 10


@dataclass(frozen=True)
class Basis:
    """Orthonormal `vectors` (n, k) of a mode and its singular `values` (k, descending, on the host).

    `missed` is the norm outside the span of the vectors (0 for a complete basis); `slack` says how far a squared
    tail may be off (0 where the values carry all digits).
    """

    vectors: Array
    values: Values
    missed: float = 0.0
    slack: float = 0.0

    @functools.cached_property
    def errors(self) -> Values:
        """The error of every rank from 0 up, as the values tell it."""
        return np.hypot(tails(self.values), self.missed)

    def error(self, rank: int) -> float:
        """The error that keeping `rank` vectors makes."""
        return float(self.errors[rank])

    def spends(self, rank: int) -> float:
        """The squared error that keeping `rank` vectors may make at most: what a search has to reckon with."""
        return float(self.errors[rank]) ** 2 + self.slack

    def rank(self, max_error: float, max_rank: int | None = None) -> int:
        """The smallest rank whose error is surely at most `max_error`; a cap wins."""
        allowed = math.sqrt(max(0.0, max_error**2 - self.slack))
        return first_within(self.errors, allowed, max_rank)


def is_blurred(error: float, norm: float, dtype: str, cuts: int = 1) -> bool:
    """True where errors told by Gram eigenvalues may be off by more than 10·eps of the dtype: measure the residual."""
    return cuts * _BLUR * _DOUBLE_EPS * norm > 20 * eps(dtype) * error


def mode_basis(
    x: Array,
    *,
    max_error: float,
    norm: float,
    max_rank: int | None = None,
    route: Route = "auto",
    vectors: bool = True,
) -> Basis:
    """Orthonormal P with x ≈ P·(Pᴴ·x) along the middle axis of x, and the error of every rank.

    Parameters
    ----------
    x
        Array (before, n, after), in C order and in a dtype that is computed in.
    max_error
        The smallest absolute error that the caller will ask for; it decides whether squaring is allowed.
    norm
        The norm against which rounding counts: of `x`, or of the tensor that `x` is a part of.
    max_rank
        A cap, where there is one: far below n, only so many vectors (and some more) are computed.
    route
        Forces one of the three routes.
    vectors
        False asks for the values alone, at a third of the work; `vectors` is None then.
    """
    if route == "auto":
        route = _route(x, max_error, norm, max_rank)
    if route == "gram":
        dtype = _product_dtype(x, max_error, norm, vectors)
        return _by_gram(x, dtype, _slack(x.shape[1], dtype) * norm**2, vectors)
    if route == "randomized":
        return _by_sketch(_unfolded(x), max_rank or x.shape[1])
    left, values, _ = svd(_triangle_of(x))
    return Basis(left, to_host(values).astype(np.float64))


def _route(x: Array, max_error: float, norm: float, max_rank: int | None) -> Route:
    before, n, after = x.shape
    if max_rank is not None and n >= _RANDOMIZED_SIDE and max_rank <= min(n, before * after) // _RANDOMIZED_SHARE:
        return "randomized"
    # A tall unfolding has a small SVD but a large Gram matrix.
    return "gram" if _is_safe(max_error, norm, n, "float64") and n <= before * after else "exact"


def _slack(n: int, dtype: str) -> float:
    """How far squared tails of n Gram eigenvalues may be off, relative to the squared norm."""
    return (_GRAM_SLACK[0] + _GRAM_SLACK[1] * n) * eps(dtype)


def _is_safe(max_error: float, norm: float, n: int, dtype: str) -> bool:
    """True where an error is so far above the digits that squaring loses, that the slack costs little of it."""
    return max_error**2 >= max(900 * eps(dtype), 4 * _slack(n, dtype)) * norm**2


def _product_dtype(x: Array, max_error: float, norm: float, vectors: bool) -> str:
    """Values alone only choose ranks, whose errors are measured later: the array's own precision may do for them."""
    own = dtype_name(x.dtype)
    if not vectors and _is_safe(max_error, norm, x.shape[1], own):
        return own
    return "complex128" if is_complex(x) else "float64"


def _column_blocks(x: Array, columns: int) -> Iterator[Array]:
    """The unfolding of the middle axis in blocks (n, about `columns`): views, or copies of one block."""
    before, _, after = x.shape
    if before == 1:
        for block in slices(after, columns):
            yield x[0, :, block]
        return
    for block in slices(before, max(1, columns // after)):
        yield _unfolded(x[block, :, :])


def _unfolded(x: Array) -> Array:
    """The unfolding (n, before·after): a view where one of the two is 1."""
    before, n, after = x.shape
    if before == 1:
        return x[0, :, :]
    if after == 1:
        return x[:, :, 0].T
    xp = namespace(x)
    return xp.reshape(xp.permute_dims(x, (1, 0, 2)), (n, before * after))


def _by_gram(x: Array, dtype: str, slack: float, vectors: bool) -> Basis:
    gram = _gram(x, dtype)
    if not vectors:
        squares = np.linalg.eigvalsh(to_host(gram))
        return Basis(None, np.sqrt(np.maximum(squares[::-1], 0.0)), slack=slack)
    xp = namespace(x)
    squares, columns = xp.linalg.eigh(gram)
    values = np.sqrt(np.maximum(to_host(squares)[::-1], 0.0))
    return Basis(as_dtype(xp.flip(columns, axis=1), dtype_name(x.dtype)), values, slack=slack)


def _gram(x: Array, dtype: str) -> Array:
    """M·Mᴴ of the unfolding by blocks multiplied in a dtype: in double, single-precision data keep all their digits."""
    double = "complex128" if is_complex(x) else "float64"
    total = None
    for block in _column_blocks(x, block_length(x, x.shape[1])):
        part = as_dtype(block, dtype)
        part = as_dtype(part @ adjoint(part), double)
        total = part if total is None else total + part
    return total


def _triangle_of(x: Array) -> Array:
    """Rᵀ with M = Rᵀ·Qᵀ, by TSQR over blocks of the unfolding M; M itself where it is nearly square or tall."""
    before, n, after = x.shape
    if before * after <= 2 * n:
        return _unfolded(x)
    r = None
    for block in _column_blocks(x, max(4 * n, block_length(x, n))):
        r = triangle(block.T if r is None else namespace(x).concat([r, block.T], axis=0))
    return r.T  # type: ignore[union-attr]


def _by_sketch(wide: Array, max_rank: int) -> Basis:
    xp = namespace(wide)
    dtype = dtype_name(wide.dtype)
    count = min(*wide.shape, max_rank + _OVERSAMPLING)
    # A fixed seed: the same matrix gives the same result twice.
    draws = np.random.default_rng(0).standard_normal((wide.shape[1], count), dtype=np.float32)
    q = xp.linalg.qr(wide @ as_dtype(to_device(draws, like=wide), dtype), mode="reduced").Q
    for _ in range(_POWER_STEPS):
        long = xp.linalg.qr(adjoint(wide) @ q, mode="reduced").Q
        q = xp.linalg.qr(wide @ long, mode="reduced").Q
    x = xp.reshape(wide, (1, *wide.shape))
    small = project(x, q)
    left, values, _ = svd(_triangle_of(small))
    return Basis(q @ left, to_host(values).astype(np.float64), missed=residual_norm(x, q, small))
