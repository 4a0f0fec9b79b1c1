"""TT-SVD."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tensorring._array import namespace
from tensorring.decompose._arguments import Ranks, checked_ranks, prepare
from tensorring.decompose.direct._chain import Spend, cores_of, cut_matrix, explore, needs_verifying
from tensorring.decompose.direct._search import Plan, Search
from tensorring.linalg.basis import mode_basis
from tensorring.tensors import Decomposition, TTTensor


def tt_svd(x: Any, *, ranks: Ranks = None, tol: float | None = None) -> Decomposition[TTTensor]:
    """‖x − train‖ ≤ tol·‖x‖: a tensor train by truncated SVDs, one for each cut.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; never written to.
    ranks
        Caps of the d − 1 bonds (no outer ones): an int for all, or a sequence with None for no cap. With both `tol`
        and `ranks` the cap wins.
    tol
        Relative Frobenius error allowed, in [0, 1). At 0: the numerical ranks.

    Returns
    -------
    Decomposition
        `.tensor` a `TTTensor` in the dtype of x (integers: float64; half precision: float32), `.error` the relative
        error that it makes, known exactly from what was discarded, `.converged` whether `tol` is kept, `.candidates`
        the ranks that other ways to spend the error would have led to.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, for neither tol nor ranks, and for either out of range.

    Notes
    -----
    Squared errors of the cuts add up exactly, so what one cut leaves goes to the next; how much each may spend of what
    is left is searched over a family of shares, on one first factorisation, for the train of least storage. Without
    caps the tolerance is always kept; the ranks are within √(d−1) of the best error at those ranks, not the best.

    Cost: one factorisation of the first unfolding (Πn·n_1, as matrix products where tol > 30·√eps, else blocked TSQR)
    and smaller ones after it, for each of up to five members of the family. Memory beyond x: at most about its size
    again for three modes where nothing can be compressed, and about r_1/n_1 of it where something can. Input in another
    order than C is copied once.

    References
    ----------
    I. Oseledets, "Tensor-train decomposition", SIAM J. Sci. Comput. 33 (2011), doi 10.1137/090752286, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> i, j, k = np.indices((20, 20, 20))
    >>> result = tg.tt_svd(1.0 / (1 + i + j + k), tol=1e-6)
    >>> result.tensor.ranks, result.error <= 1e-6
    ((7, 7), True)
    """
    problem = prepare(x, tol=tol)
    shape, cuts = problem.shape, len(problem.shape) - 1
    caps = checked_ranks(ranks, problem.tol, cuts, "the bonds between neighbours")
    chain, spend = namespace(problem.x).reshape(problem.x, (1, -1)), Spend.of(problem, cuts)
    first = None
    if cuts:
        least = min(spend.allow(share, 0.0, cuts) for share in spend.shares)
        first = mode_basis(cut_matrix(chain, shape[0]), max_error=least, norm=problem.norm, max_rank=caps[0])
    search = Search(problem)
    hopeless = search.pruner(0, (1,))
    for found, error in explore(chain, shape, spend, caps=caps, hopeless=hopeless, first=first):
        search.offer(Plan(0, (1,), found, error))
    plan = search.best.chosen
    verify = needs_verifying(plan.spent, len(shape), problem)
    cores, error = cores_of(chain, shape, plan.cuts, norm=problem.norm, verify=verify, owned=False, first=first)
    tried = tuple(replace(candidate, format="tt", ranks=candidate.ranks[1:]) for candidate in search.best.tried)
    return problem.result(TTTensor(tuple(cores)), error, tried)
