"""A fit at a given rank whose terms do not cancel: a path of ridges, escapes, a bound on the norm, a correction."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

from tensorring._array import Array, as_dtype, copy, dtype_name, namespace
from tensorring.algebra import relative_error
from tensorring.decompose._arguments import Problem
from tensorring.decompose.iterative._cp.correction import MARGIN, Correction, corrections
from tensorring.decompose.iterative._cp.lm_residual import Residual
from tensorring.decompose.iterative._cp.lm_sweeps import sweeps as steps
from tensorring.decompose.iterative._cp.normal import normalized
from tensorring.decompose.iterative._cp.ridge_path import FIRST, HARMLESS, End, ridge_path
from tensorring.decompose.iterative._cp.space import CPSpace, Fit, sweeps
from tensorring.tensors import Stop

# Where a CP has at least this share of the numbers of x, exact fits are near, and so are borders of the set of CPs: up
# to so many unknowns damped Gauss–Newton steps do the work there, after a few sweeps with a ridge (whole paths, and
# larger ridges, lead to local minima more often: ⟨3,3,2⟩ 12 of 24 starts, against 1 of 16).
_SHARE, _SMALL, _FEW, _DENSE_RIDGE = 0.5, 400, 15, 1e-2
# Up to so many unknowns they finish what a path began: below this error, or where terms outgrew the norm.
_NEAR, _FINISHED = 0.05, 800
# ‖λ‖/‖x‖ from which on steps follow a valley without end; the change of the error at which they end by themselves.
_VALLEY, _STALL = 100.0, 1e-6
# Escapes from valleys: so often, to this share of ‖x‖ (Phan, Tichavský & Cichocki 2019: 0.2 to 0.4) or beyond the best
# error, by so many sweeps.
_ESCAPES, _LOOSE, _BEYOND, _LOOSE_SWEEPS = 5, 0.3, 1.05, 50
# What the correction of terms that are not harmless may cost, as a share of the error.
_SLACK = 0.001
# Sweeps kept for the correction, and for a bounded norm.
RESERVED = 50

Factors = tuple[Array, ...]
States = Generator[tuple[Factors, float], None, Stop]


class Best(NamedTuple):
    """Factor matrices (n, R) of x, the relative error, and ‖λ‖/‖x‖."""

    factors: Factors
    error: float
    size: float


class StableFit:
    """One start of a fit at a given rank. Its states are factor matrices (n, R) whose terms are within the norm.

    Parameters
    ----------
    problem
        The tensor, and the tolerance.
    spaces
        What is swept over: x itself, or first the core of a compression of it, and then x.
    max_norm
        The largest ‖λ‖/‖x‖ allowed.
    max_sweeps
        Some of them are kept for the correction.
    stall
        The change of the error that counts as none, where that is more than each phase has for itself.
    trial
        Whether the tolerance can be kept is all that is asked: no escapes, no bounded norm, no correction.
    """

    def __init__(
        self,
        problem: Problem,
        spaces: Sequence[CPSpace],
        *,
        max_norm: float,
        max_sweeps: int,
        stall: float = 0.0,
        trial: bool = False,
    ) -> None:
        self.problem, self.spaces, self.max_norm, self._trial = problem, spaces, max_norm, trial
        self._stall = stall
        self.rank = spaces[-1].rank
        self.unknowns = self.rank * sum(min(n, self.rank) for n in problem.shape)
        free = self.rank * (sum(problem.shape) - problem.x.ndim + 1)
        self._is_dense = free >= _SHARE * math.prod(problem.shape)
        self._steps_early = self._is_dense and self.unknowns <= _SMALL
        self._enough = problem.floor / 4 if problem.tol is None else problem.tol
        self._reserved = min(RESERVED, max_sweeps // 4)
        self._left = max_sweeps - self._reserved
        self.best = Best((), math.inf, math.inf)
        self._reached: Factors = ()  # in the coordinates of the space swept over

    def run(self, start: Sequence[Array], *, first: float = FIRST) -> States:
        """From factors of the first space, rank first, and a first ridge: a state after each sweep; why it ended."""
        end, rows = End.flat, list(start)
        for space in self.spaces:
            end = yield from self._walked(space, rows, first)
            if end in (End.kept, End.used_up):
                break
            rows, first = self._rows(), space.ridge
        kept = Stop.stall if self.problem.tol is None else Stop.tol
        stop = {End.kept: kept, End.used_up: Stop.max_sweeps, End.large: Stop.border_rank}.get(end, Stop.stall)
        outgrown = end is End.large and self.unknowns <= _FINISHED
        if end is not End.kept and (self._steps_early or outgrown or (end is End.used_up and self._is_near())):
            stop = yield from self._finished()
        if self._trial:
            return stop
        if stop is Stop.border_rank:
            yield from self._bounded()
        yield from corrected(self.problem, self.best, self._reserved)
        return stop

    def _walked(
        self, space: CPSpace, rows: Sequence[Array], first: float
    ) -> Generator[tuple[Factors, float], None, End]:
        """A path. One that steps may finish pauses after each third of the sweeps, to see whether it is near."""
        count = self._left // 3 if self.unknowns <= _FINISHED else self._left
        count = _FEW if self._steps_early else count
        first = min(first, _DENSE_RIDGE) if self._is_dense else first
        end = End.used_up
        while end is End.used_up and self._left > 0:
            count = max(1, min(count, self._left))
            limits = {"enough": self._enough, "largest": self.max_norm, "stall": self._stall}
            path = ridge_path(space, rows, count=count, first=first, **limits)
            end = yield from self._told(path)
            if self._steps_early or self._is_near():
                break
            rows, first = self._reached, space.ridge
        return end

    def _is_near(self) -> bool:
        return self.best.error < _NEAR and self.unknowns <= _FINISHED

    def _rows(self) -> list[Array]:
        name = dtype_name(self.problem.x.dtype)
        return [copy(as_dtype(u, name).T) for u in self.best.factors]

    def _told(self, path: Generator[Fit, None, End]) -> Generator[tuple[Factors, float], None, End]:
        """The sweeps of a path, as states: those of smaller ridges are better, if their terms are within the norm."""
        while True:
            try:
                fit = next(path)
            except StopIteration as end:
                ended: End = end.value
                return ended
            if fit.size <= self.max_norm:
                self.best = Best(tuple(fit.expanded()), fit.error, fit.size)
            elif not self.best.factors:
                *head, last = fit.expanded()
                shorter = (*head, last * (self.max_norm / fit.size))
                self.best = Best(shorter, measured(self.problem, shorter), self.max_norm)
            self._reached = fit.factors
            yield self._state()

    def _state(self) -> tuple[Factors, float]:
        self._left -= 1
        return self.best.factors, self.best.error

    def _finished(self) -> States:
        """Damped Gauss–Newton steps to all digits, with escapes from valleys. A best fit that is not found by them,
        however often they escape, is taken not to exist.
        """
        factors = self.best.factors
        for attempt in range(1 if self._trial else _ESCAPES + 1):
            if attempt:
                factors = self._escaped(factors)
            size = before = math.inf
            for fit, error in self._steps(factors):
                factors = fit
                size = weight_norm(factors) / self.problem.norm
                if size <= self.max_norm and error <= self.best.error:
                    self.best = Best(factors, error, size)
                if self._left <= 0:
                    return Stop.max_sweeps if size <= self.max_norm else Stop.border_rank
                yield self._state()
                if error <= self._enough and size <= self.max_norm:
                    return Stop.stall if self.problem.tol is None else Stop.tol
                if before - error <= max(_STALL, self._stall) * error:
                    break
                before = error
            if size <= self.max_norm:
                return Stop.stall
        return Stop.border_rank

    def _steps(self, factors: Factors) -> Iterator[tuple[Factors, float]]:
        residual = Residual(self.problem.x)
        start = [as_dtype(u, residual.dtype) for u in factors]
        largest, stall = max(_VALLEY, self.max_norm), max(_STALL, self._stall)
        for fit, error in steps(residual, start, self.problem.norm, largest=largest, stall=stall):
            yield tuple(fit.expanded()), error

    def _escaped(self, factors: Factors) -> Factors:
        """The smallest terms within a loose bound: out of the valley, and not far from where it leads."""
        correction = Correction(self.problem.x, self.rank, self.problem.norm, exponent=2.0)
        bound = max(_LOOSE, _BEYOND * self.best.error)
        state = correction.start(factors, 0.0)
        for _ in range(_LOOSE_SWEEPS):
            state = correction.sweep(state, bound)
        return tuple(state.expanded())

    def _bounded(self) -> Iterator[tuple[Factors, float]]:
        """Sweeps of the best fit whose ‖λ‖ is the largest allowed."""
        space = CPSpace(self.problem.x, self.rank, self.problem.norm)
        space.cap = self.max_norm
        before = math.inf
        for fit, error in sweeps(space, self._rows()):
            if error > self.best.error and fit.size > self.max_norm:
                break
            self.best = Best(tuple(fit.expanded()), error, fit.size)
            yield self._state()
            if before - error <= max(_STALL, self._stall) * error or self._left <= 2 - self._reserved:
                break
            before = error


def corrected(problem: Problem, best: Best, count: int) -> Iterator[tuple[Factors, float]]:
    """Ever less sensitive terms, within the tolerance if that is kept, else at an error a little above the one reached.

    Nothing where the terms hardly cancel, or where the fit is exact. Where rounding brought the last ones above the
    tolerance, those at the start are the result.
    """
    if best.size <= HARMLESS or best.error <= problem.floor:
        return
    kept = problem.tol is not None and best.error <= problem.tol
    bound = (1 - MARGIN) * problem.tol if kept and problem.tol is not None else (1 + _SLACK) * best.error
    factors = [as_dtype(u, dtype_name(problem.x.dtype)) for u in best.factors]
    last = None
    for state in corrections(problem, factors, best.error, bound, count=count):
        if state.norm > best.size * problem.norm:
            break  # less sensitive, and yet longer than what was within the norm
        last = tuple(state.expanded())
        yield last, state.error
    if kept and last is not None and not problem.keeps(measured(problem, last)):
        yield best.factors, best.error


def measured(problem: Problem, factors: Sequence[Array]) -> float:
    """The relative error of factor matrices (n, R), from the residual of what is returned."""
    return relative_error(problem.x, normalized(factors).astype(dtype_name(problem.x.dtype)))


def weight_norm(factors: Sequence[Array]) -> float:
    """‖λ‖ of factor matrices (n, R)."""
    xp = namespace(*factors)
    norms = [xp.linalg.vector_norm(u, axis=0) for u in factors]
    return float(xp.linalg.vector_norm(math.prod(norms[1:], start=norms[0])))
