"""Error-preserving correction of a CP: the smallest terms within a bound on the error."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tensorring._array import Array, as_dtype, conj, dtype_name, is_complex, namespace
from tensorring.contract.tree import MultiSweepTree, TwoPassTree, tree
from tensorring.decompose._arguments import Problem
from tensorring.decompose.iterative._cp.rows import reduced_rows
from tensorring.linalg.ridge import Ridge, least_norm, least_norm_rows

# Below this share of ‖x‖ squared residuals from Gram matrices have fewer than ten digits; where x has more entries
# than this, the rows that keep them cost too much, and what is returned is checked all the same.
_FINE, _ENTRIES = 3e-3, 2**22
# An error that is above the bound by this share of it is so by rounding.
_ROUNDING = 1e-6
# What starts above the bound by more is to be brought below it.
_ROUNDED = 1e-13
# To which sweeps meet the bound, and so by how much they are to aim below what must be kept; that is measured then.
_ACCURACY, MARGIN = 1e-9, 2e-9
# Sweeps end when one takes off less than this share of the measure.
_STALL = 1e-3


class Corrected(NamedTuple):
    """Unit factors, rank first (R, n), the weights (R,) in double precision, and the relative error."""

    factors: tuple[Array, ...]
    weights: Array
    error: float

    def expanded(self) -> list[Array]:
        """Factor matrices (n, R), the weights in the last one."""
        *head, last = self.factors
        name = dtype_name(last.dtype)
        return [*(v.T for v in head), as_dtype(as_dtype(self.weights, name)[:, None] * last, name).T]

    @property
    def norm(self) -> float:
        """‖λ‖."""
        return float(namespace(self.weights).linalg.vector_norm(self.weights))

    def size(self, exponent: float) -> float:
        """Σ λ^p."""
        return float(namespace(self.weights).sum(self.weights**exponent))


class Correction:
    """min Σ_r λ_r^p subject to ‖x − Σ_r λ_r ⊗_k u_k[r, :]‖ ≤ δ, one factor at a time: for one thread.

    p = 2 bounds the norm of the terms. p = 2(N − 1)/N is the least sensitivity over all scalings of the terms, up to a
    factor: as a concave function of λ² it is majorised by Σ w_r·λ_r² with w_r = λ_r^(p−2) of the sweep before, so that
    reweighted sweeps never raise it; they are the sweeps of Phan, Tichavský & Cichocki 2019 (arXiv 1709.08349) with
    the scaling made best after each update.
    """

    def __init__(self, x: Array, rank: int, norm: float, *, exponent: float) -> None:
        self.x, self.norm, self.exponent = x, norm, exponent
        self._complex = is_complex(x)
        self._double = _wide(x)
        self._guesses: list[Ridge | None] = [None] * x.ndim
        self._tree: TwoPassTree | MultiSweepTree = tree(x, rank)

    def start(self, factors: Sequence[Array], error: float) -> Corrected:
        """From factor matrices (n, R)."""
        rows, weights = [], None
        for u in factors:
            v, _, squares = self._unit(u.T)
            rows.append(v)
            norms = namespace(squares).sqrt(squares)
            weights = norms if weights is None else weights * norms
        return Corrected(tuple(rows), weights, error)

    def sweep(self, state: Corrected, bound: float) -> Corrected:
        """One update of every factor within the relative error `bound`.

        Where no update of one factor reaches it: the least-squares solution, or, where only rounding is in the way, the
        error that there is.
        """
        units = list(state.factors)
        grams = [self._unit(v)[1] for v in units]
        weights, error = state.weights, state.error
        bound *= self.norm

        def update(mode: int, product: Array) -> Array:
            nonlocal weights, error
            others = [gram for m, gram in enumerate(grams) if m != mode]
            gram = functools.reduce(operator.mul, others)
            ridge = self._solve(mode, units, gram, product, bound, weights)
            if ridge.multiplier == 0.0 and error * self.norm < (1 + _ROUNDING) * bound < math.inf:
                own = error * self.norm
                ridge = self._solve(mode, units, gram, product, own, weights) if own > bound else ridge
            v, grams[mode], squares = self._unit(ridge.solution)
            weights = namespace(squares).sqrt(squares)
            error = math.sqrt(max(0.0, ridge.squared_error)) / self.norm
            units[mode] = v
            return v

        self._tree.sweep(units, update)
        return Corrected(tuple(units), weights, error)

    def _solve(self, mode: int, units: list[Array], gram: Array, product: Array, bound: float, weights: Array) -> Ridge:
        xp, penalty = namespace(weights), None
        largest = xp.max(weights)
        if self.exponent != 2.0 and float(largest) > 0.0:
            penalty = (xp.maximum(weights, 1e-12 * largest) / largest) ** (self.exponent - 2.0)
        if bound < _FINE * self.norm and self.x.size <= _ENTRIES:
            matrix, right, lost = reduced_rows(self.x, units, mode)
            room = math.sqrt(max(0.0, bound**2 - lost))
            found = least_norm_rows(matrix, right, bound=room, weights=penalty)
            return found._replace(squared_error=found.squared_error + lost)
        limits = {"squared_norm": self.norm**2, "bound": bound, "accuracy": _ACCURACY}
        found = least_norm(gram, product, weights=penalty, guess=self._guesses[mode], **limits)
        self._guesses[mode] = found
        return found

    def _unit(self, v: Array) -> tuple[Array, Array, Array]:
        """Rows of norm 1 (rows of zeros stay); conj(V)·Vᵀ of them, ones on its diagonal; the squared norms they had."""
        xp = namespace(v)
        wide = as_dtype(v, self._double)
        squares = xp.vecdot(wide, wide)
        if self._complex:
            squares = xp.real(squares)
        there = squares > 0
        unit = wide * (1 / xp.sqrt(xp.where(there, squares, 1.0)))[:, None]
        gram = (conj(unit) if self._complex else unit) @ unit.T
        if not bool(xp.all(there)):  # what is not there stays so: its row of the normal equations is v = 0
            gram = gram + as_dtype(
                xp.eye(gram.shape[0], device=gram.device) * as_dtype(~there, "float64"), self._double
            )
        return as_dtype(unit, dtype_name(v.dtype)), gram, squares


def size_of(factors: Sequence[Array], exponent: float) -> float:
    """Σ λ_r^p of factor matrices (n, R)."""
    xp = namespace(*factors)
    norms = (xp.linalg.vector_norm(as_dtype(u, _wide(u)), axis=0) for u in factors)
    return float(xp.sum(functools.reduce(operator.mul, norms) ** exponent))


def _wide(u: Array) -> str:
    return "complex128" if is_complex(u) else "float64"


def exponent_of(measure: str, order: int) -> float:
    """p of Σ λ_r^p: 2 for the norm of the terms, 2(N − 1)/N for their sensitivity."""
    return 2.0 if measure == "norm" else 2 * (order - 1) / order


def corrections(
    problem: Problem,
    factors: Sequence[Array],
    error: float,
    bound: float,
    *,
    measure: str = "sensitivity",
    count: int,
    stall: float = _STALL,
) -> Iterator[Corrected]:
    """Sweeps from factor matrices (n, R) that make a relative error, each of a smaller measure, within the bound.

    They end when one takes off less than `stall` of the measure, or adds to it by rounding. From above the bound the
    first one leads below it, whatever that does to the measure. Of one mode there is nothing to correct.
    """
    if problem.x.ndim == 1:
        return
    exponent = exponent_of(measure, problem.x.ndim)
    correction = Correction(problem.x, factors[0].shape[1], problem.norm, exponent=exponent)
    state = correction.start(factors, error)
    for _ in range(count):
        swept = correction.sweep(state, bound)
        before, after = state.size(exponent), swept.size(exponent)
        repaired = state.error > bound * (1 + _ROUNDED)
        if not (after < before or repaired):
            return
        yield swept
        if after > (1 - stall) * before and not repaired:
            return
        state = swept
