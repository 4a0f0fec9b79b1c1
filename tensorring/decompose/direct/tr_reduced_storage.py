"""Reduced-storage TR-SVD."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from tensorring._array import Array, namespace
from tensorring.contract.first_level import threads_for
from tensorring.decompose._arguments import Problem, checked_ranks, prepare
from tensorring.decompose._sweeps import Control, Run
from tensorring.decompose.direct._search import Cost, Pair, Plan, Search, Start, build, storage
from tensorring.decompose.direct.tr_svd import splits
from tensorring.decompose.direct.tt_svd import tt_svd
from tensorring.decompose.iterative._chain.residual import relative_residual
from tensorring.decompose.iterative._chain.ring_bonds import ranks_of
from tensorring.decompose.iterative._chain.ring_search import RingSearch
from tensorring.linalg.basis import mode_basis
from tensorring.tensors import Decomposition, TRTensor

# Eigenvalues of a matrix of this side take a tenth of a millisecond: nothing to be saved.
_SMALL_SIDE = 64
# A refinement takes so many floating-point operations at most, a second or two, and as many sweeps as they allow; what
# allows only a few, large rings whose normal equations cost more than reading x, is left as it is.
_FLOPS, _MOST_SWEEPS, _FEWEST_SWEEPS = 5e10, 300, 10


def tr_reduced_storage(
    x: Any,
    *,
    tol: float,
    cost: Callable[[tuple[int, ...], tuple[int, ...]], float] | None = None,
    refine: bool = False,
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
    refine
        Whether to go on from the direct result by alternating least squares: bond after bond is lowered as long as a
        few sweeps bring the ring back within `tol`, measured from the residual. Never costs more, usually a tenth less.
        Takes a second or two; rings too large for ten sweeps in that time come back as they are: see `tr_als`.

    Returns
    -------
    Decomposition
        `.tensor` a `TRTensor` whose modes are in the order of x (cores are rotated back): a train that starts at
        another mode is a ring with a bond of 1. `.error` is known exactly, `.candidates` lists what the search
        completed. Where even the best stores more than x, it is returned all the same: see `.ratio`. If the user
        interrupts (KeyboardInterrupt) the refinement, the best so far comes back, with `.stop` interrupted.

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
    vectors. Splits whose unfoldings are much larger than those of a mode are followed with equal shares only. So the
    result never stores more than the published one at the same error, nor more than `tt_svd`.

    Not guaranteed: the least storage of all splits. Of those between the ends and the divisors only the neighbours of
    the best are tried, so that now and then `tr_svd`, which tries every r_0 from mode 0, finds a smaller ring.

    Cost: one factorisation for each mode, shared by all splits, then chains of the size of the first remainder;
    candidates whose storage cannot win, by the ranks known so far and the least ranks of unfoldings, are dropped: most
    before any work, others by singular values alone. Memory beyond x: about twice its first remainder. Refinement adds
    at most 300 sweeps of `tr_als`, and on tensors of more than a million entries as many fewer, ten at least.

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
        return Decomposition(TRTensor(line.tensor.cores), line.error, line.converged, line.stop)
    starts = [Start.at(problem, shift) for shift in range(d)]
    search = Search(problem, cost)
    limit = _affordable(starts)
    _follow_even_splits(search, starts, limit)
    _refine(search, starts, limit)
    plan = search.best.chosen
    cores, error = build(starts[plan.shift], plan)
    ring = TRTensor(tuple(cores)).rotate(-plan.shift)
    direct = problem.result(ring, error, tuple(search.best.tried))
    return _shrunk(problem, ring, direct, cost or storage) if refine else direct


def _shrunk(problem: Problem, ring: TRTensor, direct: Decomposition[TRTensor], cost: Cost) -> Decomposition[TRTensor]:
    """The winner shrunk by proposals and sweeps; the direct result itself where nothing came of them."""
    sweeps = min(_MOST_SWEEPS, int(_FLOPS / _flops_of_a_sweep(ring)))
    if ring.parameter_count == sum(ring.shape) or not direct.converged or sweeps < _FEWEST_SWEEPS:
        return direct
    search = RingSearch(problem, cost, ring.cores, direct.error, tried=list(direct.candidates))
    exact = partial(relative_residual, problem)
    control: Control[tuple[Array, ...]] = Control(problem, stall=0, max_sweeps=sweeps, callback=None, exact=exact)
    run = Run(search.cores)
    with threads_for(problem.x):
        control.drive(itertools.chain(search.shrink(), search.try_random(1, 0)), run, search=True)
    if cost(ring.shape, ranks_of(run.state)) >= cost(ring.shape, ring.ranks):
        return replace(direct, stop=run.stop) if control.ended and run.stop else direct
    return control.result(TRTensor(run.state), run, tuple(search.tried))


def _flops_of_a_sweep(ring: TRTensor) -> float:
    """Two passes over x against half chains, and the Cholesky factor of the normal equations of every core."""
    ranks, entries = ring.ranks, math.prod(ring.shape)
    pairs = [a * b for a, b in zip(ranks, (*ranks[1:], ranks[0]), strict=True)]
    return 4.0 * max(pairs) * entries + sum(
        pair**3 / 3 + 4.0 * n * pair**2 for pair, n in zip(pairs, ring.shape, strict=True)
    )


def _affordable(starts: list[Start]) -> int:
    """Up to which side unfoldings are cheap: those of a mode, of some train, or small ones."""
    return max(_SMALL_SIDE, *starts[0].sizes, min(start.side((1, start.ranks()[-1])) for start in starts))


def _follow_even_splits(search: Search, starts: list[Start], limit: int) -> None:
    """The long modes first, whose remainders are small; at the end what needs unfoldings beyond the limit.

    These cost more than all the others, so that of them only what the published method and `tt_svd` do is followed.
    """
    caps = (None,) * len(starts)
    search.learn(_least_products(search.problem, starts))
    search.follow_trains(starts[0], caps)
    ordered = sorted(starts, key=lambda start: -start.sizes[0])
    for start in ordered:
        search.follow(start, [pair for pair in _even_splits(start) if start.side(pair) <= limit], caps)
    for start in ordered:
        search.follow(start.with_shares(None), _divisors(start.ranks()[-1]), caps)


def _even_splits(start: Start) -> list[Pair]:
    """Every rank that the shares lead to as (1, r) and (r, 1), and the largest, the published one, by its divisors."""
    ranks = start.ranks()
    return [pair for rank in ranks for pair in ((1, rank), (rank, 1))] + _divisors(ranks[-1])


def _divisors(rank: int) -> list[Pair]:
    """The splits of the published method."""
    return [(r0, rank // r0) for r0 in range(1, rank + 1) if rank % r0 == 0]


def _refine(search: Search, starts: list[Start], limit: int) -> None:
    """From the best split on, its neighbours among all splits of all ranks, as long as that helps.

    Storage varies slowly with r_0 along the splits of one rank, so the neighbours of the best are where to look.
    """
    seen: set[Plan] = set()
    while search.best.chosen not in seen:
        plan = search.best.chosen
        seen.add(plan)
        start, (r0, r1) = starts[plan.shift], plan.lead
        near = [
            pair
            for pair in splits(start.ranks(), start.available)
            if (abs(pair[0] - r0) <= 1 or abs(pair[1] - r1) <= 1) and start.side(pair) <= limit
        ]
        search.follow(start, near, (None,) * len(starts))


def _least_products(problem: Problem, starts: list[Start]) -> dict[tuple[int, int], int]:
    """No ring within the error has bonds k and j of a smaller product than this at (k, j) (Eckart & Young).

    It is the rank of the unfolding of the modes between the two, looked at where that is no larger than those of modes.
    """
    shape, d, products = problem.shape, len(starts), {}
    most = problem.allowed + (d - 1) * starts[0].spend.reserve
    for first, last in itertools.combinations(range(d + 1), 2):
        before, n, after = (math.prod(part) for part in (shape[:first], shape[first:last], shape[last:]))
        if last > first + 1 and n > min(max(shape), before * after):
            continue
        basis = starts[first].basis
        if last > first + 1:
            x = namespace(problem.x).reshape(problem.x, (before, n, after))
            basis = mode_basis(x, max_error=math.sqrt(most), norm=problem.norm, vectors=False)
        products[first, last % d] = basis.rank(math.sqrt(most + 2 * basis.slack))
    return products
