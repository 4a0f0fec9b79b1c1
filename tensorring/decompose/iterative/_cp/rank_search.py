"""The smallest rank of a CP that keeps a tolerance."""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np

from tensorring._array import Array, as_dtype, copy, dtype_name, namespace
from tensorring.contract.unfold import around
from tensorring.decompose._arguments import Problem
from tensorring.decompose.iterative._cp.normal import normalized
from tensorring.decompose.iterative._cp.ridge_path import FIRST
from tensorring.decompose.iterative._cp.space import CPSpace
from tensorring.decompose.iterative._cp.stable_fit import RESERVED, Best, Factors, StableFit, corrected, measured
from tensorring.decompose.iterative._cp.starts import exact_terms, gaussian, starts
from tensorring.linalg.basis import mode_basis
from tensorring.tensors import Candidate, Stop

# Ranks grow by this factor until one keeps the tolerance.
_GROWTH = 1.5
# Sweeps of one trial, and the first ridge of a trial that begins at the fit of a higher rank.
_SWEEPS, _KEPT_RIDGE = 150, 1e-3

States = Generator[tuple[Factors, float], None, Stop]


class RankSearch:
    """Growing ranks until the tolerance is kept, then bisection; each trial begins where the one before ended.

    Parameters
    ----------
    problem
        The tensor, and the tolerance.
    max_norm
        The largest ‖λ‖/‖x‖ allowed.
    most
        The highest rank tried; at Πn / max n every tensor is reached, exactly.
    rng
        Of the columns that starts are filled up with.
    downwards
        Begins with the highest rank, and ends where that does not keep the tolerance.
    stall, max_sweeps
        Of each trial; sweeps beyond 150 would be spent on ranks that cannot keep the tolerance.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        max_norm: float,
        most: int,
        rng: np.random.Generator,
        downwards: bool = False,
        stall: float = 0.0,
        max_sweeps: int = _SWEEPS,
    ) -> None:
        self.problem, self.max_norm, self.most, self._rng, self._downwards = problem, max_norm, most, rng, downwards
        self._stall, self._sweeps = stall, min(_SWEEPS, max_sweeps)
        self.tried: list[Candidate] = []
        self.best: Best | None = None
        self._last: Best | None = None

    @property
    def reachable(self) -> bool:
        """False where even the highest rank is below that of an unfolding."""
        return self._least() <= self.most

    def run(self) -> States:
        """States of the best fit so far; the last is the one of the smallest rank found, corrected."""
        shape, failed = self.problem.shape, min(self._least(), self.most) - 1
        rank = self.most if self._downwards else failed + 1
        while self.best is None:
            if rank >= math.prod(shape) // max(shape):
                self._note(Best(tuple(exact_terms(self.problem.x)), 0.0, 1.0))
                break
            yield from self._trial(rank, self._last, FIRST)
            if self.best is None and rank == self.most:
                return Stop.stall
            if self.best is None:
                failed, rank = rank, min(max(rank + 1, math.ceil(_GROWTH * rank)), self.most)
        while self.best is not None and (kept := self.best.factors[0].shape[1]) - failed > 1:
            rank = (failed + kept) // 2
            yield from self._trial(rank, self.best, _KEPT_RIDGE)
            failed = failed if self.best.factors[0].shape[1] == rank else rank
        assert self.best is not None
        yield self.best.factors, self.best.error
        yield from corrected(self.problem, self.best, RESERVED)
        return Stop.tol

    def _least(self) -> int:
        """No CP of a lower rank keeps the tolerance: its unfoldings have at most that rank."""
        problem, allowed = self.problem, math.sqrt(self.problem.allowed)
        bases = [
            mode_basis(around(problem.x, mode), max_error=allowed, norm=problem.norm, vectors=False)
            for mode in range(problem.x.ndim)
        ]
        return max(basis.rank(math.sqrt(allowed**2 + basis.slack)) for basis in bases)

    def _trial(self, rank: int, start: Best | None, first: float) -> Generator[tuple[Factors, float], None, None]:
        """One fit; it becomes the best one if it keeps the tolerance."""
        space = CPSpace(self.problem.x, rank, self.problem.norm)
        fit = StableFit(
            self.problem, [space], max_norm=self.max_norm, max_sweeps=self._sweeps, stall=self._stall, trial=True
        )
        for _ in fit.run(self._resized(start, rank), first=first):
            told = self.best or fit.best
            yield told.factors, told.error
        self._last = fit.best
        if fit.best.error <= (self.problem.tol or 0.0) + self.problem.floor and fit.best.size <= self.max_norm:
            self._note(fit.best)

    def _note(self, best: Best) -> None:
        """The best from now on, if its error, measured, is within the tolerance too."""
        error = measured(self.problem, best.factors)
        if self.problem.keeps(error):
            rank = best.factors[0].shape[1]
            self.best = best._replace(error=error)
            self.tried.append(Candidate("cp", (rank,), rank * (1 + sum(self.problem.shape)), error))

    def _resized(self, start: Best | None, rank: int) -> list[Array]:
        """The start with its largest terms, or with random ones in addition, rank first."""
        x = self.problem.x
        xp, name = namespace(x), dtype_name(x.dtype)
        if start is None:
            return [copy(u.T) for u in starts(x, rank, "hosvd", 1, self._rng)[0]()]
        factors = [as_dtype(u, name) for u in normalized(start.factors).factors]
        if factors[0].shape[1] < rank:
            more = [gaussian(x, u.shape[0], rank - u.shape[1], self._rng) for u in factors]
            factors = [xp.concat(pair, axis=1) for pair in zip(factors, more, strict=True)]
        return [copy(u[:, :rank].T) for u in factors]
