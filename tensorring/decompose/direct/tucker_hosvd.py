"""Sequentially truncated HOSVD."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tensorring._array import Array, copy, namespace
from tensorring.contract.unfold import around
from tensorring.decompose._arguments import Caps, Problem, Ranks, checked_ranks, identity, prepare
from tensorring.decompose.direct._best import Best
from tensorring.decompose.direct._chain import Cut, Cuts, Spend, compact, needs_verifying
from tensorring.linalg.basis import Basis, mode_basis
from tensorring.linalg.project import project
from tensorring.linalg.scale import root_of_sum
from tensorring.tensors import Candidate, Decomposition, TuckerTensor
from tensorring.tensors.low_rank import checked_modes


def tucker_hosvd(
    x: Any, *, ranks: Ranks = None, tol: float | None = None, modes: int | Iterable[int] | None = None
) -> Decomposition[TuckerTensor]:
    """‖x − core ×_1 U_1 ⋯ ×_d U_d‖ ≤ tol·‖x‖ with orthonormal U_k: one truncated SVD a mode, each on the core so far.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; never written to.
    ranks
        Caps of the multilinear ranks, one for each of `modes`: an int for all, or a sequence with None for no cap. With
        both `tol` and `ranks` the cap wins.
    tol
        Relative Frobenius error allowed, in [0, 1). At 0: the numerical ranks.
    modes
        Those to truncate, ascending; the others keep their size, with the identity as factor. Default: all. For a
        convolution kernel (O, I, h, w), (0, 1) is the Tucker-2 form.

    Returns
    -------
    Decomposition
        `.tensor` a `TuckerTensor` in the dtype of x (integers: float64; half precision: float32), `.error` the
        relative error that it makes, known exactly from what was discarded, `.converged` whether `tol` is kept,
        `.candidates` the ranks that other ways to spend the error would have led to.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, for neither tol nor ranks, for either out of range, and for modes
        outside the tensor.

    Notes
    -----
    Squared errors of the modes add up exactly, so what one leaves goes to the next; how much each may spend of what is
    left is searched over a family of shares, for the least storage. Without caps the tolerance is always kept; the
    error is within √d of the best at the same ranks, not the best.

    Modes are taken in their order, those longer than all others together last. No unfolding is copied. Cost: Πn·n_1 for
    the first mode (matrix products where tol > 30·√eps, else blocked TSQR), less for those after it, for each of up to
    five members of the family. Memory beyond x: up to twice its size where little can be compressed, r_1/n_1 of it
    where something can. Input in another order than C is copied once.

    References
    ----------
    N. Vannieuwenhoven, R. Vandebril, K. Meerbergen, "A new truncation strategy for the higher-order singular value
    decomposition", SIAM J. Sci. Comput. 34 (2012), doi 10.1137/110836067, algorithm 1.

    Examples
    --------
    >>> import tensorring as tg
    >>> x = tg.random.tucker((10, 11, 12), ranks=(2, 3, 4), rng=0).to_dense()
    >>> result = tg.tucker_hosvd(x, tol=1e-10)
    >>> result.tensor.ranks, result.converged
    ((2, 3, 4), True)
    """
    problem = prepare(x, tol=tol)
    shape, d = problem.shape, len(problem.shape)
    chosen = tuple(range(d)) if modes is None else checked_modes(modes, d)
    given = checked_ranks(ranks, problem.tol, len(chosen), "the multilinear ranks, one for each mode truncated")
    caps = tuple(dict(zip(chosen, given, strict=True)).get(mode) for mode in range(d))
    order = sorted(chosen, key=lambda k: shape[k] ** 2 > math.prod(shape))
    spend = Spend.of(problem, len(order))
    best: Best[_Plan] = Best(problem)
    first = _basis(problem.x, order[0], spend, 0.0, len(order), caps)
    for plan in _explore(problem.x, order, spend, caps, best, _Plan((), 0.0), shape, first):
        ranks_ = _in_order(plan.cuts, order, shape)
        parameters = _storage(shape, ranks_)
        candidate = Candidate("tucker", ranks_, parameters, problem.relative(plan.spent))
        best.offer(plan, parameters, plan.spent, candidate)
    tensor, error = _build(problem, order, best.chosen, first)
    return problem.result(tensor, error, tuple(best.tried))


class _Plan(NamedTuple):
    """The cuts of the modes so far, and the squared error that they make."""

    cuts: Cuts
    spent: float


def _storage(shape: tuple[int, ...], ranks: tuple[int, ...]) -> int:
    return math.prod(ranks) + sum(n * r for n, r in zip(shape, ranks, strict=False))


def _in_order(cuts: Cuts, modes: list[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The ranks in the natural order of the modes: 1, the least there is, where not yet cut; whole where never."""
    ranks = dict.fromkeys(modes, 1) | dict(zip(modes, (cut.rank for cut in cuts), strict=False))
    return tuple(ranks.get(mode, n) for mode, n in enumerate(shape))


def _basis(core: Array, mode: int, spend: Spend, spent: float, modes_left: int, caps: Caps) -> Basis:
    least = min(spend.allow(share, spent, modes_left) for share in spend.shares)
    return mode_basis(around(core, mode), max_error=least, norm=spend.norm, max_rank=caps[mode], vectors=True)


def _explore(
    core: Array,
    modes: list[int],
    spend: Spend,
    caps: Caps,
    best: Best[_Plan],
    plan: _Plan,
    shape: tuple[int, ...],
    first: Basis | None,
) -> Iterator[_Plan]:
    """The plans that the shares lead to; those that agree so far share the work."""
    done = len(plan.cuts)
    if done == len(modes):
        yield plan
        return
    mode, left = modes[done], len(modes) - done
    basis = first or _basis(core, mode, spend, plan.spent, left, caps)
    allowed = {share: spend.allow(share, plan.spent, left) for share in spend.shares}
    groups: dict[int, list[float | None]] = {}
    for share, error in allowed.items():
        groups.setdefault(basis.rank(error, caps[mode]), []).append(share)
    for rank, shares in sorted(groups.items()):
        cut = Cut(rank, min(allowed.values()))
        reached = _Plan((*plan.cuts, cut), plan.spent + basis.spends(rank))
        if best.beats(_storage(shape, _in_order(reached.cuts, modes, shape)), reached.spent):
            continue
        whole = left == 1 or rank == core.shape[mode]
        yield from _explore(
            # Not bound to a name: it would live on while the next one is made.
            core if whole else _projected(core, basis, rank, mode),
            modes,
            spend._replace(shares=tuple(shares)),
            caps,
            best,
            reached,
            shape,
            None,
        )


def _projected(
    core: Array, basis: Basis, rank: int, mode: int, *, owned: bool = False, squares: list[Array] | None = None
) -> Array:
    shape = (*core.shape[:mode], rank, *core.shape[mode + 1 :])
    projected = project(around(core, mode), basis.vectors[:, :rank], overwrite=owned, squares=squares)
    return namespace(core).reshape(projected, shape)


def _build(problem: Problem, modes: list[int], plan: _Plan, first: Basis) -> tuple[TuckerTensor, float]:
    """The Tucker tensor of a plan, and the squared error that it makes. A mode at full rank is left as it is."""
    core, owned, total = problem.x, False, 0.0
    verify = needs_verifying(plan.spent, len(modes), problem)
    factors = {mode: identity(n, like=core) for mode, n in enumerate(core.shape) if mode not in modes}
    for mode, cut in zip(modes, plan.cuts, strict=True):
        n = core.shape[mode]
        if cut.rank == n:
            factors[mode] = identity(n, like=core)
            continue
        basis = (
            first
            if mode == modes[0]
            else mode_basis(around(core, mode), max_error=cut.allowed, norm=problem.norm, max_rank=cut.rank)
        )
        factors[mode] = compact(basis.vectors[:, : cut.rank])
        squares: list[Array] | None = [] if verify and basis.slack > 0 else None
        core, owned = _projected(core, basis, cut.rank, mode, owned=owned, squares=squares), True
        total += basis.error(cut.rank) ** 2 if squares is None else root_of_sum(squares) ** 2
    core = compact(core) if owned else copy(core)
    return TuckerTensor(core, tuple(factors[mode] for mode in range(core.ndim))), total
