"""The search for rings of less storage under an error bound: propose lower ranks, sweep, verify.

No exact step over two cores exists for rings: the metric of a merged pair is no Kronecker product in any gauge, and
the set of rings of given ranks is not closed (Landsberg, Qi & Ye 2012; Ye & Lim 2018). So every step is a proposal, and
what is not within the bound after a few sweeps, by the residual itself, is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorring._array import Array
from tensorring.contract.unfold import around
from tensorring.decompose._arguments import Problem
from tensorring.decompose.iterative._chain.residual import relative_residual
from tensorring.decompose.iterative._chain.ring_bonds import Bond, bonds, ranks_of
from tensorring.decompose.iterative._chain.ring_starts import balanced, feasible_ranks, random_ring
from tensorring.decompose.iterative._chain.ring_sweep import ring_sweep
from tensorring.linalg.basis import mode_basis
from tensorring.tensors import Candidate, TRTensor

Cores = tuple[Array, ...]
Cost = Callable[[tuple[int, ...], tuple[int, ...]], float]
Sweep = tuple[Cores, float]

# Sweeps that a proposal has to come within the bound, and that a random ring has.
_SWEEPS, _RANDOM_SWEEPS = 10, 40
# The first sweeps of a random ring say nothing about those to come.
_PATIENCE = 6
# Sweeps that win less than this share of the error are not worth their time where nothing has to be reached.
_WORTH = 0.003
_RIDGE = 1e-10
# A proposal may cost this often what is left of the squared error: the sweeps win some of it back.
_HOPE = 4.0


@dataclass
class RingSearch:
    """The cheapest ring accepted so far, and how to look for cheaper ones.

    Its methods are sweeps for `Control.drive(search=True)`: after every sweep, of whatever is being tried, they yield
    the ring accepted and its error. Nothing is accepted that costs more, or is not within the bound.
    """

    problem: Problem
    cost: Cost
    cores: Cores
    error: float
    tried: list[Candidate] = field(default_factory=list)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Of the ring accepted."""
        return ranks_of(self.cores)

    def shrink(self) -> Iterator[Sweep]:
        """Lowers bonds, the one that saves most for its error first, until none can be."""
        yield from self._polish()
        lowered = True
        while lowered:
            lowered = False
            for bond in self._promising():
                lowered = yield from self._lower(bond)
                if lowered:
                    break

    def try_random(self, starts: int, rng: Any) -> Iterator[Sweep]:
        """Random rings of small equal ranks, from the least that the unfoldings allow up to what no longer pays."""
        generator = np.random.default_rng(rng)
        for ranks in self._equal_ranks():
            for _ in range(starts):
                cores = random_ring(self.problem.x, ranks, generator)
                if (yield from self._attempt(cores, _RANDOM_SWEEPS, _still_out_of_reach)):
                    yield from self.shrink()
                    return

    def try_ring(self, cores: Cores) -> Iterator[Sweep]:
        """A ring that somebody proposes."""
        if self.cost(self.problem.shape, ranks_of(cores)) < self.cost(self.problem.shape, self.ranks):
            yield from self._attempt(cores, _SWEEPS, _out_of_reach)

    def accept_if_better(self, cores: Cores, worth: float) -> bool:
        """Accepts a ring within the bound that costs less, or the same at an error lower by that share."""
        error, shape = self._measured(cores), self.problem.shape
        cost, now = self.cost(shape, ranks_of(cores)), self.cost(shape, self.ranks)
        better = self.problem.keeps(error) and (cost < now or (cost == now and error < (1 - worth) * self.error))
        if better:
            self._accept(cores, error)
        return better

    def _polish(self) -> Iterator[Sweep]:
        """Sweeps at the same ranks: a direct ring is not the best of its ranks, and what is won can be spent."""
        cores, last = self.cores, self.error
        for _ in range(_SWEEPS):
            cores, error = self._swept(cores)
            if error < self.error:
                self._accept(cores, error)
            yield self.cores, self.error
            if error > (1 - _WORTH) * last:
                return
            last = error

    def _promising(self) -> list[Bond]:
        """The bonds, by what the next lower rank saves for the squared error that it is expected to add."""
        return sorted(bonds(self.cores), key=lambda bond: -self._saving(bond, 1) / max(bond.errors[-2] ** 2, 1e-300))

    def _saving(self, bond: Bond, step: int) -> float:
        ranks = list(self.ranks)
        now = self.cost(self.problem.shape, tuple(ranks))
        ranks[bond.k] -= step
        return now - self.cost(self.problem.shape, tuple(ranks))

    def _lower(self, bond: Bond) -> Generator[Sweep, None, bool]:
        """Lowers one bond by as much as is hoped for, by half of that, …; whether it could be."""
        rank, budget = self.ranks[bond.k], self._bound() ** 2 - self.error**2
        hoped = int(np.count_nonzero(bond.errors**2 > _HOPE * max(0.0, budget)))
        step = rank - min(max(1, hoped), rank - 1)
        while step:
            if self._saving(bond, step) > 0:
                cores = bond.lowered(self.cores, min(rank - step, bond.left.shape[1]))
                if (yield from self._attempt(cores, _SWEEPS, _out_of_reach)):
                    return True
            step //= 2
        return False

    def _attempt(
        self, cores: Cores, sweeps: int, hopeless: Callable[[Sequence[float], int, float], bool]
    ) -> Generator[Sweep, None, bool]:
        """Sweeps over a proposal until it is within the bound, or there is no hope; whether it was accepted."""
        errors: list[float] = []
        for left in reversed(range(sweeps)):
            cores, error = self._swept(cores)
            errors.append(error)
            kept = self.problem.keeps(error) and self.problem.keeps(self._measured(cores))
            if kept:
                self._accept(cores, self._measured(cores))
            yield self.cores, self.error
            if kept:
                return True
            if hopeless(errors, left, self._bound()):
                return False
        return False

    def _swept(self, cores: Cores) -> Sweep:
        return ring_sweep(self.problem.x, self.problem.norm, cores, ridge=min(_RIDGE, self._bound() ** 2))

    def _measured(self, cores: Cores) -> float:
        return relative_residual(self.problem, cores)

    def _accept(self, cores: Cores, error: float) -> None:
        self.cores, self.error = balanced(cores), error
        self.note(TRTensor(self.cores), error)

    def note(self, ring: TRTensor, error: float) -> None:
        """Lists a ring among the candidates, in the place of another one of its ranks."""
        mine = Candidate("tr", ring.ranks, ring.parameter_count, error)
        self.tried = [candidate for candidate in self.tried if candidate.ranks != mine.ranks] + [mine]

    def _equal_ranks(self) -> list[tuple[int, ...]]:
        """Small equal ranks that cost less than the ring accepted: at first every one, then in steps, and the last."""
        shape, now = self.problem.shape, self.cost(self.problem.shape, self.ranks)
        least = rank = self._least_rank()
        affordable: list[tuple[int, ...]] = []
        while self.cost(shape, ranks := feasible_ranks(shape, [rank] * len(shape))) < now and ranks not in affordable:
            affordable.append(ranks)
            rank += 1
        chosen: list[tuple[int, ...]] = []
        step = 0
        while step < len(affordable):
            chosen.append(affordable[step])
            step += max(1, (least + step) // 4)
        return chosen + affordable[-1:] if affordable[-1:] != chosen[-1:] else chosen

    def _bound(self) -> float:
        return self.problem.tol or 0.0

    def _least_rank(self) -> int:
        """No ring of equal ranks within the bound has smaller ones: r² is at least the rank of every mode."""
        problem, most = self.problem, 1
        allowed = math.sqrt(problem.allowed)
        for mode in range(len(problem.shape)):
            x = around(problem.x, mode)
            basis = mode_basis(x, max_error=allowed, norm=problem.norm, vectors=False)
            most = max(most, basis.rank(math.sqrt(problem.allowed + 2 * basis.slack)))
        return math.isqrt(most - 1) + 1


def _out_of_reach(errors: Sequence[float], left: int, bound: float) -> bool:
    """The gains of sweeps shrink: with the last one for all that are left, the bound would still not be met."""
    return len(errors) > 1 and errors[-1] - left * (errors[-2] - errors[-1]) > bound


def _still_out_of_reach(errors: Sequence[float], left: int, bound: float) -> bool:
    """The same, with patience."""
    return len(errors) > _PATIENCE and _out_of_reach(errors, left, bound)
