"""Layer 6: one point on each of many error-cost curves, under several budgets at once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import numpy as np

from tensorring._array import is_array, to_host
from tensorring._knapsack import Floats, Integers, choose

Choices = TypeVar("Choices")
Key = TypeVar("Key", bound=Hashable)

# Sums of costs are rounded: they may pass a budget by so much of it.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Allocation(Generic[Choices]):
    """One point of each curve, and what they come to.

    Parameters
    ----------
    choices
        The index of the point in each curve: a tuple, or a dict with the keys of the curves.
    score, costs
        The sums over all curves; one cost for each budget.
    bound
        No choice within the budgets has a score below this. Where it is `score`, to 1e-8 of the largest difference
        within a curve, the choice is proven to be best.

    Examples
    --------
    >>> import tensorring as tg
    >>> tg.allocate([[(1.0, 10), (0.2, 50)], [(3.0, 10), (0.1, 50)]], 60)
    Allocation(choices=(0, 1), score=1.1, costs=(60.0,), bound=1.1)
    """

    choices: Choices
    score: float
    costs: tuple[float, ...]
    bound: float


class BudgetError(ValueError):
    """No choice is within the budgets; `closest` is the Allocation of the smallest costs, as shares of the budgets.

    Examples
    --------
    >>> import tensorring as tg
    >>> try:
    ...     tg.allocate([[(1.0, 10), (0.2, 50)], [(3.0, 10), (0.1, 50)]], 15)
    ... except tg.BudgetError as error:
    ...     error.closest.costs
    (20.0,)
    """

    closest: Allocation[Any]

    def __init__(self, message: str, closest: Allocation[Any]) -> None:
        super().__init__(message)
        self.closest = closest


@overload
def allocate(curves: Mapping[Key, Any], budget: Any) -> Allocation[dict[Key, int]]: ...
@overload
def allocate(curves: Iterable[Any], budget: Any) -> Allocation[tuple[int, ...]]: ...
def allocate(curves: Any, budget: Any) -> Allocation[Any]:
    """min Σ score subject to Σ cost ≤ budget, by one point of each curve.

    Parameters
    ----------
    curves
        A sequence or a mapping of curves. A curve is a sequence of points (score, cost), or (score, (cost₁, …, cost_m))
        for m budgets, in any order: or an array of shape (k, 1 + m). Scores may be of either sign; an infinite one is a
        point that must not be taken. Costs are finite and not negative.
    budget
        A number, or a sequence of m; inf where a cost is to be told but not bounded.

    Returns
    -------
    Allocation
        The index of a point in each curve, the sums, and a lower bound of what any choice could score. A point that
        another one of its curve beats in score and in all costs is never taken; of equal points, the first.

    Raises
    ------
    BudgetError
        A ValueError: if no choice is within all budgets. It says how far the cheapest one gets, and holds it.
    TypeError, ValueError
        For curves without points, or without one of finite score; for NaN, negative costs, or costs that are not as
        many as the budgets.

    Notes
    -----
    Scores are compared up to 1e-12 of the largest difference within a curve; costs may pass a budget by 1e-13 of it,
    which is the rounding of their sums.

    Lagrange multipliers of the linear relaxation (and of a few budgets near these) bound what a partial choice can
    still become. Curves are gone through one by one; partial choices are dropped that cost too much, whose bound is
    above the best choice known, or that others beat in score and costs: first with a few hundred of them, then, on the
    points that the choice so found has not ruled out, with more. That proves most cases of one or two budgets; what is
    left is an integer program for HiGHS (some versions of which print a line of their own), stopped after 1,000 nodes:
    then `bound` < `score`. 54 curves of 30 points take 0.1 s with one budget, 0.2 to 0.7 s with two, 0.3 to 4 s with
    three.

    References
    ----------
    Kellerer, Pferschy, Pisinger 2004, Knapsack Problems, chapter 11 (the multiple-choice knapsack problem),
    doi:10.1007/978-3-540-24777-7. Everett 1963, Generalized Lagrange multiplier method, doi:10.1287/opre.11.3.399.

    Examples
    --------
    Errors of two layers at three ranks each, with parameters and seconds; 100 parameters and 3 seconds are allowed:

    >>> import tensorring as tg
    >>> curves = {
    ...     "conv1": [(0.9, (10, 1.0)), (0.3, (40, 1.5)), (0.0, (90, 2.0))],
    ...     "conv2": [(0.8, (10, 1.0)), (0.4, (40, 1.5)), (0.0, (90, 2.0))],
    ... }
    >>> result = tg.allocate(curves, (100, 3.0))
    >>> result.choices, result.costs
    ({'conv1': 1, 'conv2': 1}, (80.0, 3.0))
    >>> result.score == result.bound
    True
    """
    limits = _limits(budget)
    named = _named(curves)
    tables = [_table(curve, name, len(limits)) for name, curve in named.items()]

    def allocation(picks: Iterable[int], bound: float) -> Allocation[Any]:
        picks = tuple(picks)
        score, *costs = _sums([table[pick] for table, pick in zip(tables, picks, strict=True)]).tolist()
        choices = dict(zip(named, picks, strict=True)) if isinstance(curves, Mapping) else picks
        return Allocation(choices, score, tuple(costs), min(bound, score))

    kept = [_unbeaten(table) for table in tables]
    points = [table[rows] for table, rows in zip(tables, kept, strict=True)]
    picks, bound = _best(points, limits)
    if picks is None:
        closest = allocation(_chosen(kept, _cheapest(points, limits)), -math.inf)
        raise BudgetError(_missed(limits, closest.costs), closest)
    return allocation(_chosen(kept, picks), bound)


def _best(points: Sequence[Floats], limits: Floats) -> tuple[Sequence[int] | None, float]:
    """The best choice, None where there is none, and a lower bound of all scores."""
    # Counted from the least of each curve, numbers are small where choices differ, and whole ones stay whole.
    least = [table.min(axis=0) for table in points]
    floor = _sums(least)
    spare = limits * (1 + _ROUNDING) - floor[1:]
    above = [table - low for table, low in zip(points, least, strict=True)]
    within = [np.flatnonzero((table[:, 1:] <= spare).all(axis=1)) for table in above]
    if not all(len(rows) for rows in within):
        return None, math.inf
    above = [table[rows] for table, rows in zip(above, within, strict=True)]
    scarce = 1 + np.flatnonzero(_sums([table.max(axis=0) for table in above])[1:] > spare)
    largest = max(float(table[:, 0].max()) for table in above) or 1.0
    scores, costs = [table[:, 0] / largest for table in above], [table[:, scarce] for table in above]
    picks, bound = choose(scores, costs, spare[scarce - 1])
    return picks and _chosen(within, picks), float(floor[0]) + largest * bound


def _cheapest(points: Sequence[Floats], limits: Floats) -> list[int]:
    """The smallest sum of the shares of the budgets; where one is zero, its cost comes first."""
    most = np.max([table[:, 1:].max(axis=0) for table in points], axis=0)
    units = np.maximum(limits, 1e-6 * most)
    units[units == 0] = 1.0
    return [int((table[:, 1:] / units).sum(axis=1).argmin()) for table in points]


def _chosen(rows: Sequence[Integers], picks: Sequence[int]) -> list[int]:
    return [int(of[pick]) for of, pick in zip(rows, picks, strict=True)]


def _unbeaten(table: Floats) -> Integers:
    """The points of finite score that no other point of the curve beats, or equals and stands before."""
    rows = np.flatnonzero(np.isfinite(table[:, 0]))
    below = (table[rows, None] <= table[rows]).all(axis=2)
    first = np.tri(len(rows), k=-1, dtype=bool).T
    return rows[~(below & (~below.T | first)).any(axis=0)]


def _sums(rows: Sequence[Floats]) -> Floats:
    """Σ rows, each column rounded once."""
    return np.array([math.fsum(column) for column in zip(*rows, strict=True)])


def _named(curves: Any) -> dict[Any, Any]:
    if isinstance(curves, str) or not isinstance(curves, Iterable):
        raise TypeError(f"got curves={curves!r}; give a sequence or a mapping of curves of points (score, cost)")
    named = dict(curves) if isinstance(curves, Mapping) else dict(enumerate(curves))
    if not named:
        raise ValueError("got no curves; give one or more")
    return named


def _limits(budget: Any) -> Floats:
    """(m,) budgets."""
    try:
        limits = np.atleast_1d(np.asarray(budget, dtype=float))
    except (TypeError, ValueError) as error:
        raise TypeError(f"got budget={budget!r}; give a number, or a sequence of numbers") from error
    if limits.ndim > 1 or limits.size == 0 or not (limits >= 0).all():
        raise ValueError(f"got budget={budget!r}; give a number that is not negative, or a sequence of such")
    return limits


def _table(curve: Any, name: Any, budgets: int) -> Floats:
    """(k, 1 + m): scores and costs of a curve."""
    rule = f"give points (score, {'cost' if budgets == 1 else f'({budgets} costs)'}) in curve {name!r}"
    points = to_host(curve) if is_array(curve) else curve
    try:
        rows = [[float(score), *map(float, np.ravel(costs))] for score, *costs in points]
    except (TypeError, ValueError) as error:
        raise TypeError(f"got {curve!r}; {rule}") from error
    for row in rows:
        if len(row) != 1 + budgets:
            raise ValueError(f"got a point with {len(row) - 1} costs, {row}, for {budgets} budgets; {rule}")
        score, *costs = row
        if math.isnan(score) or score == -math.inf or not all(0 <= cost < math.inf for cost in costs):
            raise ValueError(f"got the point {row}: a score is a number or inf, a cost finite and not negative; {rule}")
    if not any(score < math.inf for score, *_ in rows):
        raise ValueError(f"got {len(rows)} points, none of a finite score; {rule}")
    return np.array(rows)


def _missed(limits: Floats, costs: Sequence[float]) -> str:
    """What the cheapest choice costs, against what it may."""
    asked = ", ".join(f"{limit:g}" for limit in limits)
    least = ", ".join(f"{cost:g}" for cost in costs)
    return (
        f"got a budget of {asked}, but the cheapest choice costs {least}; allow that much, or give cheaper points "
        "(`error.closest` is that choice)"
    )
