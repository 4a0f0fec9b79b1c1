"""The tensor that CP sweeps run over: x itself, or the core of a Tucker compression of it."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tensorring._array import (
    Array,
    as_dtype,
    conj,
    dtype_name,
    eps,
    is_complex,
    namespace,
)
from tensorring.contract.residual import product_residual
from tensorring.contract.tree import MultiSweepTree, TwoPassTree, khatri_rao_rows, tree
from tensorring.decompose.iterative._cp.acceleration import Anderson
from tensorring.decompose.iterative._cp.rows import reduced_rows
from tensorring.linalg.ridge import bounded_norm, ridged
from tensorring.linalg.solve import ILL_CONDITIONED, least_squares, solve_unit_gram

# Sweeps before the first extrapolation: starts have to find their valley. Then every second sweep: between them the
# partial results of trees serve on.
_FIRST, _PAUSE = 10, 2
# ‖x‖² + ‖x̂‖² − 2⟨x, x̂⟩ was seen to be off by up to 2.5·eps of its parts; so often that counts as certain.
_CERTAIN = 6.0
# Relative errors below this are measured: as a difference of norms their changes from sweep to sweep are noise.
_MEASURED = 3e-4


class Fit(NamedTuple):
    """Factors, rank first (R, n), of the tensor of a space, and the relative error that they make of all of x.

    `size` is ‖λ‖/‖x‖, and `objective` what its sweeps make small: the error, with a ridge the root of its square and
    the ridge's part.
    """

    space: CPSpace
    factors: tuple[Array, ...]
    error: float
    certain: bool
    size: float = 0.0
    objective: float = math.inf

    def expanded(self) -> list[Array]:
        """The factor matrices of x, (n, R)."""
        if self.space.bases is None:
            return [v.T for v in self.factors]
        return [basis @ v.T for basis, v in zip(self.space.bases, self.factors, strict=True)]


class CPSpace:
    """Alternating least squares on one tensor, with its buffers: for one thread.

    Parameters
    ----------
    x
        The tensor swept over.
    rank
        Of the fits.
    norm
        ‖x‖ of the tensor given: errors are relative to it.
    bases
        Orthonormal (n_k, r_k) where x is a Tucker core of the tensor given; its squared error is `lost`.
    """

    def __init__(
        self, x: Array, rank: int, norm: float, bases: tuple[Array, ...] | None = None, lost: float = 0.0
    ) -> None:
        self.x, self.rank, self.norm, self.bases, self.lost = x, rank, norm, bases, lost
        self._inside = max(0.0, norm**2 - lost)
        self._complex, self._eps = is_complex(x), eps(dtype_name(x.dtype))
        self._double = "complex128" if self._complex else "float64"
        self._limit = ILL_CONDITIONED
        self.ridge, self.cap = 0.0, math.inf
        self._units: list[Array] = []
        self._grams: list[Array] = []
        self._swept: Sequence[Array] | None = None

    @functools.cached_property
    def _tree(self) -> TwoPassTree | MultiSweepTree:
        """Made by who sweeps: it holds the buffers."""
        return tree(self.x, self.rank)

    def fresh(self) -> CPSpace:
        """Another one on the same tensor, for another thread."""
        return CPSpace(self.x, self.rank, self.norm, self.bases, self.lost)

    def sweep(self, start: Sequence[Array]) -> Fit:
        """One update of every factor, each the least-squares solution for the others. The last one holds the scale.

        With a `ridge` ν each pays ν·Σ λ_r² too, which keeps small what cancels; with a `cap` each is the best one with
        ‖λ‖ ≤ cap·‖x‖.
        """
        if start is not self._swept:
            triples = [self._unit(v) for v in start]
            self._units, self._grams = [t[0] for t in triples], [t[1] for t in triples]
        last: tuple[Array, Array, Array] = (start[-1],) * 3  # the last mode's update fills it in

        def update(mode: int, product: Array) -> Array:
            nonlocal last
            gram = self._product_of_grams(mode)
            if self.ridge:
                v = solve_unit_gram(ridged(gram, self.ridge), product)
            elif self.cap < math.inf:
                v = bounded_norm(gram, product, max_norm=self.cap * self.norm).solution
            else:
                v = solve_unit_gram(gram, product, lambda: self._least_squares(mode), limit=self._limit)
            unit, self._grams[mode], squares = self._unit(v)
            last = (v, product, squares)
            return unit

        self._tree.sweep(self._units, update)
        v, product, squares = last
        self._swept = (*self._units[:-1], v)
        return self._judged(self._swept, squares, _real_sum(self._conj(v) * product))

    def _conj(self, x: Array) -> Array:
        return conj(x) if self._complex else x

    def _unit(self, v: Array) -> tuple[Array, Array, Array]:
        """Rows of norm 1 (rows of zeros stay); conj(V)·Vᵀ of them, in double precision; the squared norms they had."""
        xp = namespace(v)
        wide = as_dtype(v, self._double)
        squares = xp.vecdot(wide, wide)
        if self._complex:
            squares = xp.real(squares)
        # In double: the inverse of a small row may be beyond single precision.
        unit = wide * (1 / xp.sqrt(xp.where(squares > 0, squares, 1.0)))[:, None]
        return as_dtype(unit, dtype_name(v.dtype)), self._conj(unit) @ unit.T, squares

    def _product_of_grams(self, mode: int) -> Array:
        others = [gram for m, gram in enumerate(self._grams) if m != mode]
        return functools.reduce(operator.mul, others)

    def _judged(self, factors: tuple[Array, ...], squares: Array, inner: float) -> Fit:
        """The error by ‖x‖² + ‖x̂‖² − 2⟨x, x̂⟩ where that has digits, else by the residual."""
        weights = namespace(squares).sqrt(squares)
        gram = self._product_of_grams(-1)
        squared = self._inside + _real_sum(gram * weights[:, None] * weights) - 2 * inner
        # What the difference cannot see: rounding of its parts, of which terms that cancel are the largest.
        blur = self._eps * (self._inside + _real_sum(squares))
        certain = squared <= max(900 * blur, (_MEASURED * self.norm) ** 2)
        error = self.error(factors) if certain else math.sqrt(squared + self.lost) / self.norm
        certain = certain or blur <= _CERTAIN * self.x.ndim * self._eps * error * self.norm**2
        self._limit = min(ILL_CONDITIONED, (0.03 * error / self._eps) ** 2)
        size = math.sqrt(_real_sum(squares)) / self.norm
        return Fit(self, factors, error, certain, size, math.hypot(error, math.sqrt(self.ridge) * size))

    def error(self, factors: Sequence[Array]) -> float:
        """The relative error from the residual itself, in blocks of a few megabytes."""
        xp, split = namespace(self.x), max(1, self.x.ndim // 2)
        left, right = khatri_rao_rows(factors[:split]), khatri_rao_rows(factors[split:])
        x = xp.reshape(self.x, (left.shape[1], right.shape[1]))
        residual = product_residual(x, left.T, right)
        return math.hypot(residual, math.sqrt(self.lost)) / self.norm

    def _least_squares(self, mode: int) -> Array:
        """The update from the Khatri–Rao product itself: tall factors by their R, the tensor by Qᴴ along with them."""
        matrix, right, _ = reduced_rows(self.x, self._units, mode)
        return least_squares(matrix, right)


def sweeps(space: CPSpace, start: Sequence[Array]) -> Iterator[tuple[Fit, float]]:
    """Sweeps without end, each error (with a ridge: objective) at most the one before.

    After the first ten, and while one takes off less than a tenth of the error, every second one begins at Anderson's
    extrapolation. It counts if it takes off more than the sweep before it did; else it is thrown away, and the next
    attempts come at twice the distance.
    """
    fit = space.sweep(start)
    yield fit, fit.error
    anderson, here = Anderson(), balanced(fit)
    pause, wait, gain = _PAUSE, _FIRST, 0.0
    jump: list[Array] | None = None
    while True:
        swept = space.sweep(fit.factors if jump is None else jump)
        if jump is not None and not swept.objective < fit.objective - gain:
            anderson.clear()
            pause, wait, jump = 2 * pause, 2 * pause, None
            continue
        if jump is not None:
            pause, wait = _PAUSE, _PAUSE
        gain, fit, wait = fit.objective - swept.objective, swept, wait - 1
        yield fit, fit.error
        began, here, jump = here if jump is None else jump, balanced(fit), None
        if gain < 0.1 * (fit.objective + gain):
            proposal = anderson.propose(began, here)
            jump = proposal if wait <= 0 else None


def balanced(fit: Fit) -> list[Array]:
    """The terms of x/‖x‖ with equal norms in all factors: extrapolation sees directions, neither gauges nor scales."""
    *head, last = fit.factors
    xp = namespace(last)
    norms = xp.linalg.vector_norm(last, axis=1, keepdims=True) / fit.space.norm
    share = xp.where(norms > 0, norms, 1.0) ** (1 / len(fit.factors))
    return [*(v * share for v in head), last / fit.space.norm * share ** (1 - len(fit.factors))]


def _real_sum(x: Array) -> float:
    xp = namespace(x)
    return float(xp.sum(xp.real(x) if is_complex(x) else x, dtype=xp.float64))
