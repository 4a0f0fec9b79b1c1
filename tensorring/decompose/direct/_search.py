"""The search for the cheapest ring at a prescribed error: what is tried, what is pruned, what is kept.

A plan is a ring in the making: the mode at which it starts, its leading bonds, and the cuts after them. The first cut
of a ring splits its rank over the two bonds (r_0, r_1) of the first core; a train is a ring that leads with the bond 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tensorring._array import Array, namespace
from tensorring.contract.unfold import around
from tensorring.decompose._arguments import Caps, Problem
from tensorring.decompose.direct._best import Best
from tensorring.decompose.direct._chain import (
    FAMILY,
    RING_FAMILY,
    Cuts,
    Hopeless,
    Spend,
    cores_of,
    explore,
    needs_verifying,
)
from tensorring.linalg.basis import Basis, mode_basis
from tensorring.linalg.project import project, residual_norm
from tensorring.tensors.result import Candidate

Cost = Callable[[tuple[int, ...], tuple[int, ...]], float]
Pair = tuple[int, int]


def storage(shape: Sequence[int], ranks: Sequence[int]) -> int:
    """Σ_k r_k·n_k·r_{k+1}: the numbers that a ring stores."""
    return sum(r * n * s for r, n, s in zip(ranks, shape, (*ranks[1:], ranks[0]), strict=True))


class Plan(NamedTuple):
    """A ring in the making, in the order of modes that starts at `shift`, and the squared error that it makes."""

    shift: int
    lead: tuple[int, ...]
    cuts: Cuts
    spent: float

    def ranks(self) -> tuple[int, ...]:
        """The ranks in the natural order of the modes."""
        bonds = (*self.lead, *(cut.rank for cut in self.cuts))
        turn = len(bonds) - self.shift
        return bonds[turn:] + bonds[:turn]


@dataclass(frozen=True)
class Start:
    """The first cut of one order of modes, shared by all that begins at mode `shift`."""

    problem: Problem
    shift: int
    spend: Spend
    basis: Basis

    @classmethod
    def at(cls, problem: Problem, shift: int, *, max_rank: int | None = None) -> Start:
        """The start at a mode, its unfolding decomposed where it lies."""
        order = len(problem.shape)
        # With one cut after the first, the first alone decides how the error is shared.
        spend = Spend.of(problem, order - 1, FAMILY if order == 3 else RING_FAMILY)
        least = min(_first_errors(spend, order))
        x = around(problem.x, shift)
        return cls(problem, shift, spend, mode_basis(x, max_error=least, norm=problem.norm, max_rank=max_rank))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The mode sizes in the order of this start."""
        return self.problem.shape[self.shift :] + self.problem.shape[: self.shift]

    @property
    def available(self) -> int:
        """How many singular vectors there are that carry anything."""
        values = self.basis.values
        return max(1, int((values > values[0] * 1e-15).sum()))

    def ranks(self, cap: int | None = None) -> list[int]:
        """The ranks of the first cut that the shares lead to, ascending."""
        return sorted({self.basis.rank(error, cap) for error in _first_errors(self.spend, len(self.sizes))})

    def with_shares(self, *shares: float | None) -> Start:
        """The same start with other shares for the cuts to come."""
        return replace(self, spend=self.spend._replace(shares=shares))

    def side(self, pair: Pair) -> int:
        """The shorter side of the largest unfolding that this split leads to."""
        rows, rest, largest = pair[1], pair[0] * math.prod(self.sizes[1:]), 1
        for n in self.sizes[1:-1]:
            rows, rest = rows * n, rest // n
            rows = min(rows, rest)
            largest = max(largest, rows)
        return largest

    def rows(self, rank: int) -> tuple[Array, Array]:
        """The projection Pᴴ·x where it lies, and as (rank, rest) with the modes in the order of this start."""
        xp = namespace(self.problem.x)
        projected = project(around(self.problem.x, self.shift), self.basis.vectors[:, :rank])
        return projected, xp.reshape(xp.permute_dims(projected, (1, 2, 0)), (rank, -1))


def _first_errors(spend: Spend, order: int) -> list[float]:
    """What the first cut may make, by each share, and by a ring's equal share, 2/d, for a rank that splits in two."""
    return [spend.allow(share, 0.0, order - 1) for share in (*spend.shares, 2 / order)]


@dataclass
class Search:
    """The best plan so far, and the bounds that let others be dropped early.

    Parameters
    ----------
    problem
        The tensor and the error allowed.
    cost
        Of shape and ranks, not falling in any rank; None is storage, for which sharper bounds are known.
    """

    problem: Problem
    cost: Cost | None = None
    best: Best[Plan] = field(init=False)
    _followed: set[tuple[int, Pair]] = field(default_factory=set)
    _products: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.best = Best(self.problem)
        self._products = [[1] * len(self.problem.shape) for _ in self.problem.shape]

    def learn(self, products: dict[tuple[int, int], int]) -> None:
        """Takes note that the bonds (k, j) of every ring within the error have at least this product.

        The unfolding of the modes between two bonds of a ring has at most their product as its rank.
        """
        for (k, j), least in products.items():
            self._products[k][j] = self._products[j][k] = max(least, self._products[k][j])

    def offer(self, plan: Plan) -> None:
        """Lets a plan compete with the best so far."""
        shape, ranks = self.problem.shape, plan.ranks()
        parameters = storage(shape, ranks)
        cost = float(self.cost(shape, ranks)) if self.cost else parameters
        self.best.offer(plan, cost, plan.spent, Candidate("tr", ranks, parameters, self.problem.relative(plan.spent)))

    def is_hopeless(self, shift: int, bonds: tuple[int, ...], spent: float, floors: Sequence[int] = ()) -> bool:
        """True where no plan that begins with these bonds, in the shifted order, can beat the best."""
        return self.best.beats(self.bound(shift, bonds, floors), spent)

    def pruner(self, shift: int, lead: tuple[int, ...]) -> Hopeless:
        """`is_hopeless` for the cuts that follow the leading bonds."""
        return lambda cuts, spent, floors: self.is_hopeless(shift, (*lead, *(cut.rank for cut in cuts)), spent, floors)

    def bound(self, shift: int, bonds: tuple[int, ...], floors: Sequence[int] = ()) -> float:
        """A cost that every plan with these first bonds, in the shifted order, has; `floors` bound those after them."""
        shape, order, products = self.problem.shape, len(self.problem.shape), self._products
        low = [*bonds, *floors, *(1,) * (order - len(bonds) - len(floors))]
        for k in range(len(bonds), order):
            least = products[(shift + k) % order]
            low[k] = max(low[k], *(-(-least[(shift + j) % order] // bond) for j, bond in enumerate(bonds)))
        low = low[order - shift :] + low[: order - shift]
        if self.cost is not None:
            return float(self.cost(shape, tuple(low)))
        # A core between two bonds that are free to grow is as large as their product has to be.
        bonds_of = zip(shape, range(order), (*range(1, order), 0), strict=True)
        total: int = sum(n * max(low[k] * low[j], products[k][j]) for n, k, j in bonds_of)
        return total

    def follow_trains(self, start: Start, caps: Caps) -> None:
        """Tries what `tt_svd` tries, so that no ring is ever larger than its train."""
        whole = start.with_shares(*Spend.of(self.problem, len(start.sizes) - 1).shares)
        self.follow(whole, [(1, rank) for rank in whole.ranks(caps[1])], caps)

    def follow(self, start: Start, pairs: Iterable[Pair], caps: Caps) -> None:
        """Tries every split (r_0, r_1) of a start, the most promising first; `caps` are those of all bonds."""
        new = {pair for pair in pairs if (start.shift, pair) not in self._followed}
        order = sorted((self.bound(start.shift, pair), pair) for pair in new)
        rows = None
        for _, pair in order:
            self._followed.add((start.shift, pair))
            spent = start.basis.spends(pair[0] * pair[1])
            if self.is_hopeless(start.shift, pair, spent):
                continue
            if rows is None:
                rows = start.rows(max(r0 * r1 for _, (r0, r1) in order))[1]
            chain, sizes = closing(rows, start.sizes, pair)
            found = explore(
                chain,
                sizes,
                start.spend,
                caps=caps[2:],
                hopeless=self.pruner(start.shift, pair),
                spent=spent,
                look_ahead=not any(caps[2:]),
            )
            for cuts, error in found:
                self.offer(Plan(start.shift, pair, cuts, error))


def closing(rows: Array, sizes: Sequence[int], pair: Pair) -> tuple[Array, list[int]]:
    """The chain left after the first cut: row a·r_1 + b goes to bond b on the left, and a closes on the right."""
    xp, (r0, r1) = namespace(rows), pair
    chain = rows[: r0 * r1, :]
    if r0 > 1:
        chain = xp.permute_dims(xp.reshape(chain, (r0, r1, -1)), (1, 2, 0))
        chain = xp.reshape(chain, (r1, -1))
    return chain, [*sizes[1:-1], sizes[-1] * r0]


def build(start: Start, plan: Plan) -> tuple[list[Array], float]:
    """The cores of a plan, in its own order of modes, and the squared error that they make."""
    xp, (r0, r1), problem = namespace(start.problem.x), plan.lead, start.problem
    verify = needs_verifying(plan.spent, len(start.sizes), problem)
    projected, rows = start.rows(r0 * r1)
    vectors = start.basis.vectors[:, : r0 * r1]
    error = start.basis.error(r0 * r1) ** 2
    if verify and start.basis.slack > 0:
        error = residual_norm(around(problem.x, plan.shift), vectors, projected) ** 2
    first = xp.permute_dims(xp.reshape(vectors, (start.sizes[0], r0, r1)), (1, 0, 2))
    chain, sizes = closing(rows, start.sizes, (r0, r1))
    cores, made = cores_of(chain, sizes, plan.cuts, norm=problem.norm, verify=verify, owned=True)
    last = xp.reshape(cores[-1], (cores[-1].shape[0], start.sizes[-1], r0))
    return [xp.asarray(first, copy=True), *cores[:-1], last], error + made
