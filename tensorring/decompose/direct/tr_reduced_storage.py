"""Reduced-storage TR-SVD."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tensorring.decompose._arguments import Problem, checked_ranks, prepare
from tensorring.decompose.direct._search import Pair, Plan, Search, Start, build
from tensorring.decompose.direct.tr_svd import splits
from tensorring.decompose.direct.tt_svd import tt_svd
from tensorring.tensors import Decomposition, TRTensor


def tr_reduced_storage(
    x: Any, *, tol: float, cost: Callable[[tuple[int, ...], tuple[int, ...]], float] | None = None
) -> Decomposition[TRTensor]:
    """‖x − ring‖ ≤ tol·‖x‖ at the least cost: TR-SVD from every mode and with every split of the first rank.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; never written to.
    tol
        Relative Frobenius error allowed, in [0, 1).
    cost
        `cost(shape, ranks) -> float`, the quantity to make small, where `ranks[k]` is the left rank of core k. It must
        not fall when a rank grows: partial results are pruned by it. Default: the numbers stored.

    Returns
    -------
    Decomposition
        `.tensor` a `TRTensor` whose modes are in the order of x (cores are rotated back): a train that starts at
        another mode is a ring with a bond of 1. `.error` is known exactly, `.candidates` lists what the search
        completed. Where even the best stores more than x, it is returned all the same: see `.ratio`.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, and for a tol that is missing or out of range.

    Notes
    -----
    The published method (Mickelin & Karaman; for convolutions Gabor & Zdunek) tries the d cyclic shifts and the
    divisors of the first rank, and thresholds each SVD against the shrinking norm of what is left. Its candidates are
    among those here, with the error accounted exactly: the budget is spent in full, what a cut leaves goes to the next,
    several shares are searched (see `tt_svd`), and ranks that split badly are raised by keeping further singular
    vectors. So the result never stores more than the published one at the same error.

    Cost: one factorisation for each mode, shared by all splits, then chains of the size of the first remainder;
    candidates whose storage cannot win, by the ranks known so far and the least rank of every mode's unfolding, are
    dropped before any work. Memory beyond x: about twice its first remainder.

    References
    ----------
    O. Mickelin, S. Karaman, "On algorithms for and computing with the tensor ring decomposition", Numer. Linear Algebra
    Appl. 27 (2020), doi 10.1002/nla.2289, arXiv 1807.02513, algorithm 3. M. Gabor, R. Zdunek, "Reduced storage direct
    tensor ring decomposition for convolutional neural networks compression", 2024, arXiv 2405.10802.

    Examples
    --------
    A train that starts at mode 1 is found, and is smaller than any that starts at mode 0:

    >>> import tensorring as tg
    >>> x = tg.random.tt((9, 10, 8), ranks=(3, 2), rng=0).to_dense().transpose(2, 0, 1)
    >>> tg.tr_reduced_storage(x, tol=1e-10).tensor.ranks, tg.tt_svd(x, tol=1e-10).tensor.ranks
    ((2, 1, 3), (2, 6))
    """
    problem = prepare(x, tol=tol)
    d = len(problem.shape)
    checked_ranks(None, problem.tol, d, "the bonds of the ring")
    if cost is not None and not callable(cost):
        raise TypeError(f"got cost={cost!r}; cost is a function of (shape, ranks), or None for the numbers stored")
    if d == 1:
        line = tt_svd(x, tol=tol)
        return replace(line, tensor=TRTensor(line.tensor.cores), candidates=())
    starts = [Start.at(problem, shift) for shift in range(d)]
    search = Search(problem, cost, [_least_rank(problem, start) for start in starts])
    for start in starts:
        search.follow(start, _even_splits(start), (None,) * (d - 2))
    _refine(search, starts)
    plan = search.best.chosen
    cores, error = build(starts[plan.shift], plan)
    ring = TRTensor(tuple(cores)).rotate(-plan.shift)
    return problem.result(ring, error, tuple(search.best.tried))


def _even_splits(start: Start) -> list[Pair]:
    """Every rank that the shares lead to as (1, r) and (r, 1), and the largest, the published one, by its divisors."""
    ranks = start.ranks()
    ends = [pair for rank in ranks for pair in ((1, rank), (rank, 1))]
    return ends + [(r0, ranks[-1] // r0) for r0 in range(2, ranks[-1]) if ranks[-1] % r0 == 0]


def _refine(search: Search, starts: list[Start]) -> None:
    """From the best split on, its neighbours among all splits of all ranks, as long as that helps.

    Storage varies slowly with r_0 along the splits of one rank, so the neighbours of the best are where to look.
    """
    seen: set[Plan] = set()
    while search.best.chosen not in seen:
        plan = search.best.chosen
        seen.add(plan)
        start, (r0, r1) = starts[plan.shift], plan.lead
        near = [
            pair for pair in splits(start.ranks(), start.available) if abs(pair[0] - r0) <= 1 or abs(pair[1] - r1) <= 1
        ]
        search.follow(start, near, (None,) * (len(starts) - 2))


def _least_rank(problem: Problem, start: Start) -> int:
    """No ring within the error has an unfolding of this mode of smaller rank (Eckart & Young)."""
    cuts = len(problem.shape) - 1
    most = problem.allowed + cuts * start.spend.reserve + 2 * start.basis.slack
    return start.basis.rank(math.sqrt(most))
