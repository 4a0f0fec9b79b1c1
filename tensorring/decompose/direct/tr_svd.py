"""TR-SVD."""

from __future__ import annotations

from typing import Any

from tensorring.decompose._arguments import Ranks, checked_ranks, prepare
from tensorring.decompose.direct._search import Pair, Search, Start, build
from tensorring.decompose.direct.tt_svd import tt_svd
from tensorring.tensors import Decomposition, TRTensor


def tr_svd(x: Any, *, ranks: Ranks = None, tol: float | None = None) -> Decomposition[TRTensor]:
    """‖x − ring‖ ≤ tol·‖x‖: a tensor ring by truncated SVDs, the rank of the first cut split over two bonds.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; never written to.
    ranks
        Caps of the d bonds, `ranks[k]` the left rank of core k: an int for all, or a sequence with None for no cap.
        With both `tol` and `ranks` the cap wins.
    tol
        Relative Frobenius error allowed, in [0, 1). At 0: the numerical ranks.

    Returns
    -------
    Decomposition
        `.tensor` a `TRTensor` in the dtype of x (integers: float64; half precision: float32), `.error` the relative
        error that it makes, known exactly from what was discarded, `.converged` whether `tol` is kept, `.candidates`
        what the search completed.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, for neither tol nor ranks, and for either out of range.

    Notes
    -----
    With `tol`, every r_0 is tried on one shared first factorisation, (1, r) and (r, 1) among them, products r_0·r_1
    above r by keeping further singular vectors; the ring of least storage is returned, never larger than the train of
    `tt_svd`. Without caps the tolerance is always kept. With `ranks` alone, of the splits with r_0 ≤ ranks[0] and
    r_1 ≤ ranks[1] that cannot be enlarged, the one of least error.

    Not guaranteed: a ring of known small ranks is not recovered under these ranks as caps (that is work for alternating
    least squares), and the modes keep their order (see `tr_reduced_storage`).

    Cost: that of `tt_svd` once, and a smaller chain for each split that cannot be ruled out by its storage.

    References
    ----------
    Q. Zhao, G. Zhou, S. Xie, L. Zhang, A. Cichocki, "Tensor ring decomposition", 2016, arXiv 1606.05535, algorithm 1.

    Examples
    --------
    >>> import tensorring as tg
    >>> x = tg.random.tt((8, 9, 10), ranks=(3, 2), rng=0).to_dense()
    >>> result = tg.tr_svd(x, tol=1e-10)
    >>> result.tensor.ranks, result.converged
    ((1, 3, 2), True)
    """
    problem = prepare(x, tol=tol)
    d = len(problem.shape)
    caps = checked_ranks(ranks, problem.tol, d, "the bonds of the ring, one for each mode")
    if d == 1:
        line = tt_svd(x, tol=0.0)
        return Decomposition(TRTensor(line.tensor.cores), line.error, line.converged, line.stop)
    search = Search(problem)
    both = caps[0] * caps[1] if caps[0] and caps[1] else None
    start = Start.at(problem, 0, max_rank=both)
    pairs = _largest_pairs(start.available, caps[0], caps[1]) if ranks is not None else []
    if problem.tol is not None:
        pairs += splits(start.ranks(), start.available, caps[0], caps[1])
    search.follow_trains(start, caps)
    search.follow(start, pairs, caps)
    cores, error = build(start, search.best.chosen)
    return problem.result(TRTensor(tuple(cores)), error, tuple(search.best.tried))


def splits(ranks: list[int], available: int, cap_0: int | None = None, cap_1: int | None = None) -> list[Pair]:
    """All (r_0, r_1) whose product just reaches one of the ranks, within the caps and the vectors available."""
    pairs = []
    for rank in ranks:
        for r0 in range(1, min(rank, cap_0 or rank) + 1):
            r1 = -(-rank // r0)
            if r0 * r1 <= available and r1 <= (cap_1 or r1):
                pairs.append((r0, r1))
    return pairs


def _largest_pairs(available: int, cap_0: int | None, cap_1: int | None) -> list[Pair]:
    """All (r_0, r_1) within the caps and the vectors available that cannot be enlarged."""
    pairs: list[Pair] = []
    for r0 in range(min(available, cap_0 or available), 0, -1):
        r1 = min(available // r0, cap_1 or available)
        if not pairs or r1 > pairs[-1][1]:
            pairs.append((r0, r1))
    return pairs
