"""The best of what a search has seen: within the error the cheapest, else the closest."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

from tensorring.decompose._arguments import Problem
from tensorring.tensors.result import Candidate

P = TypeVar("P")


class Best(Generic[P]):
    """Keeps the best plan offered, and says what cannot beat it."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._plan: P | None = None
        self._key: tuple[int, float] = (2, math.inf)
        self.tried: list[Candidate] = []

    @property
    def chosen(self) -> P:
        """The best plan. There is one as soon as anything was tried: nothing beats the first."""
        assert self._plan is not None
        return self._plan

    def offer(self, plan: P, cost: float, spent: float, candidate: Candidate) -> None:
        """Takes note of a completed plan, its cost and its squared error."""
        self.tried.append(candidate)
        key = self._rank(cost, spent)
        if key < self._key:
            self._plan, self._key = plan, key

    def beats(self, cost: float, spent: float) -> bool:
        """True where nothing of at least this cost and this squared error can be better."""
        return self._rank(cost, spent) >= self._key

    def _rank(self, cost: float, spent: float) -> tuple[int, float]:
        """Without a tolerance the caps decide what is stored, and only the error is left to compare."""
        kept = self._problem.tol is not None and self._problem.keeps(self._problem.relative(spent))
        return (0, cost) if kept else (1, spent)
