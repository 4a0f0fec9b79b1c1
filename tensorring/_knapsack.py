"""Layer 1: one item of each group, of the least score, within limits: the multiple-choice knapsack problem."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

Floats = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[np.intp]]

# Scores that differ by less are equal: they are sums of numbers up to 1.
_TIE = 1e-12
# Partial choices kept: at first a few, which find a good choice; what it rules out need not be gone through again.
_WIDTHS = (300, 1_000)
# Limits moved by so much of themselves: their multipliers bound partial choices that have spent more, or less.
_MOVES = (-0.04, -0.01, 0.01, 0.04)
# Boxes of similar costs, in which partial choices are compared.
_BOXES = 2**14
# The integer program: its solver keeps limits and counts scores to 1e-6, so it is given numbers that are large.
_LOOSE, _LARGE, _NODES, _INFEASIBLE = 1e-6, 1e3, 1_000, 2


class _Group(NamedTuple):
    """Items by index, their scores (k,), costs (k, m), and values (k, l): score + price · cost at each of l prices."""

    rows: Integers
    scores: Floats
    costs: Floats
    values: Floats

    def at(self, kept: Integers) -> _Group:
        """Some of the items."""
        return _Group(self.rows[kept], self.scores[kept], self.costs[kept], self.values[kept])


def choose(scores: Sequence[Floats], costs: Sequence[Floats], limits: Floats) -> tuple[list[int] | None, float]:
    """min Σ score with Σ cost ≤ limits: the item of each group, None where nothing is within, and a lower bound.

    Parameters
    ----------
    scores
        Of each group (k,), from 0 to 1: scores that differ by less than 1e-12 count as equal.
    costs
        Of each group (k, m), from 0 to at most the limits.
    limits
        (m,), positive.

    Notes
    -----
    Any prices ≥ 0 give a bound, Σ_groups min (score + price · cost) − price · limits; those of the linear relaxation
    the best one. They bound what partial choices can still become, as the groups are gone through one by one: a branch
    and bound that is wide instead of deep, made of array operations. It proves nearly all cases of one or two limits,
    to rounding. Where a thousand partial choices are too few, HiGHS solves the integer program of the items left.
    """
    prices = _prices(scores, costs, limits)
    paid = prices @ limits * (1 + 1e-13)  # a little more than that, so that rounding rules nothing out
    groups = [
        _Group(np.arange(len(score)), score, cost, score[:, None] + cost @ prices.T)
        for score, cost in zip(scores, costs, strict=True)
    ]
    picks: list[int] | None = None
    best = math.inf
    for width in _WIDTHS:
        found, whole = _sweep(_useful(groups, paid, best), prices, limits, paid, best, width)
        if found is not None:
            picks, best = found, math.fsum(score[pick] for score, pick in zip(scores, found, strict=True))
        if whole:
            return picks, best
    found, bound = _program(_useful(groups, paid, best), limits, best, float((_least(groups) - paid).max()))
    return found or picks, min(bound, best)


def _prices(scores: Sequence[Floats], costs: Sequence[Floats], limits: Floats) -> Floats:
    """(l, m): the multipliers of the linear relaxation at the limits and around them."""
    one_each, ones = _one_each(scores), np.ones(len(scores))
    score, shares = np.concatenate(scores), np.concatenate(costs) / limits
    moved = [np.ones(len(limits))]
    moved += [1 + move * axis for move in _MOVES for axis in (*np.eye(len(limits)), np.ones(len(limits)))]
    found = [np.zeros(len(limits))]
    for limit in moved:
        solved = linprog(score, A_ub=shares.T, b_ub=limit, A_eq=one_each, b_eq=ones)
        if solved.status == 0:
            found.append(np.maximum(-solved.ineqlin.marginals, 0.0) / limits)
    return np.unique(np.array(found), axis=0)


def _one_each(groups: Sequence[Sized]) -> csr_array:
    """One row a group: Σ over its items = 1."""
    sizes = [len(group) for group in groups]
    return csr_array((np.ones(sum(sizes)), (np.repeat(np.arange(len(sizes)), sizes), np.arange(sum(sizes)))))


def _least(groups: Sequence[_Group]) -> Floats:
    least: Floats = np.sum([group.values.min(axis=0) for group in groups], axis=0)
    return least


def _useful(groups: Sequence[_Group], paid: Floats, best: float) -> list[_Group]:
    """The items that a choice below `best` may hold: those that add less than what is between it and the bound."""
    room = best - _TIE - (_least(groups) - paid)
    return [group.at(np.flatnonzero((group.values - group.values.min(axis=0) < room).all(axis=1))) for group in groups]


def _sweep(
    groups: Sequence[_Group], prices: Floats, limits: Floats, paid: Floats, best: float, width: int
) -> tuple[list[int] | None, bool]:
    """A choice below `best`, and whether all were gone through: then it is the best one, or there is none."""
    if not all(len(group.rows) for group in groups):
        return None, True
    # Where most can be spent first: small amounts fill up what is left.
    order = sorted(range(len(groups)), key=lambda k: -float((np.ptp(groups[k].costs, axis=0) / limits).sum()))
    left = _least(groups) - paid
    needed = np.sum([group.costs.min(axis=0) for group in groups], axis=0)
    score, cost = np.zeros(1), np.zeros((1, len(limits)))
    whole, trail = True, []
    for group in (groups[k] for k in order):
        left, needed = left - group.values.min(axis=0), needed - group.costs.min(axis=0)
        parent, item = np.divmod(np.arange(len(score) * len(group.rows)), len(group.rows))
        score, cost = score[parent] + group.scores[item], cost[parent] + group.costs[item]
        bound = (score[:, None] + cost @ prices.T + left).max(axis=1)
        kept = np.flatnonzero((bound < best - _TIE) & (cost + needed <= limits).all(axis=1))
        kept = kept[_front(score[kept], cost[kept])]
        if len(kept) > width:
            whole, kept = False, kept[np.sort(np.argpartition(bound[kept], width)[:width])]
        score, cost = score[kept], cost[kept]
        trail.append((parent[kept], group.rows[item[kept]]))
    return (_traced(order, trail, int(score.argmin())) if len(score) else None), whole


def _program(groups: Sequence[_Group], limits: Floats, best: float, bound: float) -> tuple[list[int] | None, float]:
    """A choice below `best` within the limits, if there is one, and a lower bound of all choices."""
    if not all(len(group.rows) for group in groups):
        return None, best
    scores = np.concatenate([group.scores for group in groups])
    costs = np.concatenate([group.costs for group in groups])
    # In units of what is still open, so that the solver's tolerances are small against it.
    unit = _LARGE / max(best - bound, _TIE) if best < math.inf else _LARGE
    rows = [
        LinearConstraint(_one_each([group.rows for group in groups]), 1, 1),
        LinearConstraint(_LARGE * (costs / limits).T, -np.inf, _LARGE),
    ]
    options = {"mip_rel_gap": 0, "node_limit": _NODES}
    found = milp(
        unit * scores, integrality=np.ones(len(scores)), bounds=Bounds(0, 1), constraints=rows, options=options
    )
    if found.x is None:
        return None, best if found.status == _INFEASIBLE else bound
    bound = max(bound, (found.mip_dual_bound - _LOOSE) / unit)
    ends = np.cumsum([len(group.rows) for group in groups])[:-1]
    places = [int(part.argmax()) for part in np.split(found.x, ends)]
    score, *spent = np.sum([(g.scores[k], *g.costs[k]) for g, k in zip(groups, places, strict=True)], axis=0)
    within = score < best and (spent <= limits).all()
    return [int(g.rows[k]) for g, k in zip(groups, places, strict=True)] if within else None, bound


def _traced(order: Sequence[int], trail: Sequence[tuple[Integers, Integers]], place: int) -> list[int]:
    """The items that led to a place in the last step."""
    picks = [0] * len(order)
    for k, (parent, rows) in zip(reversed(order), reversed(trail), strict=True):
        picks[k], place = int(rows[place]), int(parent[place])
    return picks


def _front(score: Floats, cost: Floats) -> Integers:
    """All but some that another one beats in score and in every cost: compared are whole boxes of similar costs."""
    count, m = cost.shape
    boxes = int(_BOXES ** (1 / m)) if m else 0
    if boxes < 2:
        return np.arange(count)
    # By the place in the order of costs: what lies in a lower box along every axis costs no more.
    place = [np.argsort(np.argsort(column, kind="stable"), kind="stable") for column in cost.T]
    box = tuple(p * boxes // max(count, 1) for p in place)
    least = np.full((boxes + 1,) * m, np.inf)
    np.minimum.at(least, tuple(b + 1 for b in box), score)
    for axis in range(m):
        np.minimum.accumulate(least, axis=axis, out=least)
    return np.flatnonzero(score < least[box])
