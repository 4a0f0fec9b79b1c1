"""Ranks estimated from the numbers alone: how much of a matrix is more than noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from tensorring._array import Array, as_dtype, compute_dtype_name, contiguous, is_array
from tensorring.contract.unfold import around
from tensorring.linalg.basis import mode_basis
from tensorring.linalg.rank import Values, error_floor
from tensorring.linalg.scale import measure, scaled
from tensorring.linalg.svd import by_short_side

METHODS = ("vbmf",)
# Variances are tried on a grid of so many, evenly spaced in their logarithm, before the search between neighbours.
_GRID = 50


def vbmf_rank(matrix: Array, *, noise: float | None = None) -> int:
    """#{h: σ_h > noise·√(M·x̄)}: how many singular values noise does not explain, by empirical variational Bayes.

    The matrix is taken for one of low rank plus independent noise of one size in every entry. x̄ depends on the shape
    alone (4.91 for a square matrix, towards 1 for a very wide one), M is the longer side.

    Parameters
    ----------
    matrix
        Array (m, n), real or complex, of NumPy, CuPy or another array API library; never written to.
    noise
        The standard deviation of the noise, √E|entry|², above 0. None: it is found too, as the one that explains the
        matrix best.

    Returns
    -------
    int
        From 0, where all may be noise (as in a matrix of zeros), to min(m, n). With the noise to be found it is less
        than min(m, n)/(1 + min(m, n)/max(m, n)), so at most half of a square matrix: something must be left to tell
        the noise from. A single row or column has rank 0.

    Raises
    ------
    TypeError
        If `matrix` is no array of numbers, or `noise` no number.
    ValueError
        If it is not a matrix, is empty, or holds NaN or inf; if `noise` is not finite and above 0.

    Notes
    -----
    The global solution of fully observed variational Bayesian matrix factorisation with the priors' variances learned,
    in closed form. The noise's variance minimises the free energy over a grid and between the neighbours of its best
    point: that this is the global minimum is not guaranteed. Singular values that are zero to rounding are never
    counted. A component counts where it lowers the free energy, which begins somewhat above the largest singular value
    of noise alone, noise·(√m + √n).

    Cost: the singular values, in double precision, of the triangle of a QR decomposition: 2·max·min² + O(min³).

    References
    ----------
    S. Nakajima, M. Sugiyama, S. D. Babacan, R. Tomioka 2013, "Global analytic solution of fully-observed variational
    Bayesian matrix factorization", Journal of Machine Learning Research 14, 1-37.

    Examples
    --------
    >>> import numpy as np, tensorring as tg
    >>> rng = np.random.default_rng(0)
    >>> signal = rng.standard_normal((50, 4)) @ rng.standard_normal((4, 80))
    >>> x = signal + 0.3 * rng.standard_normal((50, 80))
    >>> tg.vbmf_rank(x), tg.vbmf_rank(x, noise=0.3), tg.vbmf_rank(x, noise=30)
    (4, 4, 0)
    """
    given = _Given.of(matrix, "matrix")
    if matrix.ndim != 2:
        raise ValueError(f"got an array of shape {tuple(matrix.shape)}; ranks are those of a matrix: unfold it first")
    if noise is not None and (isinstance(noise, bool) or not isinstance(noise, Real)):
        raise TypeError(f"got noise={noise!r}; it is a standard deviation, a number, or None to find it")
    if noise is not None and not 0 < noise < math.inf:
        raise ValueError(f"got noise={noise!r}; a standard deviation is finite and above 0: None to find it")
    return given.rank(by_short_side(given.x), None if noise is None else float(noise))


def estimate_ranks(x: Array, *, method: str = "vbmf") -> tuple[int, ...]:
    """(r_1, …, r_d): for each mode the estimated rank of its unfolding, at least 1; `ranks` for a Tucker fit.

    Parameters
    ----------
    x
        Array of d ≥ 1 modes: NumPy, CuPy or another array API library; never written to.
    method
        "vbmf": `vbmf_rank` of each unfolding, the noise found anew for each.

    Returns
    -------
    tuple[int, ...]
        One rank for each mode, from 1 to its size.

    Raises
    ------
    TypeError, ValueError
        If x is no array of finite numbers, is empty or 0-d, or the method is unknown.

    Notes
    -----
    Nothing is unfolded. Cost: 2·n_k·(entries of x) for each mode of size n_k, on one copy of x in double precision.

    References
    ----------
    Y.-D. Kim et al. 2016, "Compression of deep convolutional neural networks for fast and low power mobile
    applications", arXiv 1511.06530: ranks of convolution kernels found so.

    Examples
    --------
    >>> import numpy as np, tensorring as tg
    >>> x = tg.random.tucker((20, 25, 30), ranks=(2, 3, 4), rng=0).to_dense()
    >>> noise = np.random.default_rng(0).standard_normal(x.shape)
    >>> tg.estimate_ranks(x + 0.1 * x.std() * noise)
    (2, 3, 4)
    """
    if method not in METHODS:
        raise ValueError(f"got method={method!r}; known are {', '.join(METHODS)}")
    given = _Given.of(x, "x")
    if x.ndim == 0:
        raise ValueError("got a 0-d array; ranks are those of unfoldings: it needs a mode")
    x = contiguous(given.x)
    return tuple(max(1, given.rank(around(x, mode), None)) for mode in range(x.ndim))


class _Given(NamedTuple):
    """What came in, ‖x‖ = norm·2**exponent, as x·2**-exponent in double precision; and what is zero to its rounding."""

    x: Array
    norm: float
    exponent: int
    floor: float

    @classmethod
    def of(cls, x: Any, name: str) -> _Given:
        """TypeError or ValueError unless it is an array of finite numbers, not empty."""
        if not is_array(x):
            raise TypeError(
                f"got a {type(x).__name__} for {name}; it is an array of NumPy or another array API library"
            )
        own = compute_dtype_name(x.dtype)
        if 0 in x.shape:
            raise ValueError(f"got {name} of shape {tuple(x.shape)}; it must not be empty")
        # Not in the precision of the data: what computing adds must lie below what they bring along.
        x = as_dtype(x, "complex128" if own.startswith("complex") else "float64")
        norm, exponent = measure(x, name=name)
        return cls(scaled(x, -exponent), norm, exponent, error_floor(own, 1))

    def rank(self, x: Array, noise: float | None) -> int:
        """That of the unfolding of the middle axis of x, (before, n, after)."""
        if self.norm == 0.0:
            return 0
        values = mode_basis(x, max_error=0.0, norm=self.norm, vectors=False, route="exact").values
        before, n, after = x.shape
        rows, columns = sorted((n, before * after))
        # A logarithm is taken of each: what is rounding counts as the most that rounding may be.
        floor = self.floor * float(values[0])
        values, threshold = np.maximum(values, floor), _threshold(rows / columns)
        if noise is None:
            most = math.ceil(rows / (1 + rows / columns)) - 1
            variance = _noise_variance((values / values[0]) ** 2, columns, threshold, most)
            values, least = values[:most], float(values[0]) * math.sqrt(columns * variance * threshold)
            return int(np.count_nonzero(values > max(least, floor)))
        # In logarithms nothing is out of range, however far apart the noise and the matrix are.
        least = math.log(noise) - self.exponent * math.log(2) + math.log(columns * threshold) / 2
        return int(np.count_nonzero(np.log(values) > max(least, math.log(floor))))


def _threshold(alpha: float) -> float:
    """x̄: the least squared singular value, over variance times columns, at which a component pays."""

    def phi(z: float) -> float:
        return math.log1p(z) / z - 0.5

    tau = float(brentq(lambda tau: phi(tau) + phi(tau / alpha), alpha, 10.0, xtol=1e-15))
    return (1 + tau) * (1 + alpha / tau)


def _noise_variance(squares: Values, columns: int, threshold: float, most: int) -> float:
    """The variance of the least free energy, of squared singular values of which at most so many are no noise."""
    high = float(squares.mean()) / columns
    low = max(float(squares[most]) / (columns * threshold), float(squares[most:].mean()) / columns)
    energy = _free_energy(squares, columns, threshold)
    # The energy has kinks where a value passes the threshold: a grid finds the valley, a search its bottom.
    grid = np.linspace(math.log(min(low, high)), math.log(high), _GRID)
    at = int(np.argmin([energy(point) for point in grid]))
    ends = (float(grid[max(at - 1, 0)]), float(grid[min(at + 1, _GRID - 1)]))
    if ends[0] == ends[1]:
        return math.exp(ends[0])
    found = minimize_scalar(energy, bounds=ends, method="bounded", options={"xatol": 1e-9})
    return math.exp(found.x if found.fun < energy(float(grid[at])) else float(grid[at]))


def _free_energy(squares: Values, columns: int, threshold: float) -> Callable[[float], float]:
    """Twice the free energy over the longer side, but for a constant, by the logarithm of the variance."""
    alpha = len(squares) / columns

    def energy(log_variance: float) -> float:
        x = squares / (columns * math.exp(log_variance))
        kept, rest = x[x > threshold], x[x <= threshold]
        below = kept - (1 + alpha)
        tau = (below + np.sqrt(np.maximum(below**2 - 4 * alpha, 0.0))) / 2
        gain = kept - tau + np.log((tau + 1) / kept) + alpha * np.log(tau / alpha + 1)
        return float((rest - np.log(rest)).sum() + gain.sum())

    return energy
