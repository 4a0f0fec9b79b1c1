"""One cut: the truncated SVD of an unfolding."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from tensorring._array import contiguous, namespace
from tensorring.decompose._arguments import Ranks, checked_modes, checked_ranks, prepare
from tensorring.decompose.direct._chain import Spend, needs_verifying, split
from tensorring.linalg.basis import mode_basis
from tensorring.linalg.svd import by_short_side
from tensorring.tensors import CutTensor, Decomposition


def cut_svd(
    x: Any, *, modes: int | Iterable[int], ranks: Ranks = None, tol: float | None = None
) -> Decomposition[CutTensor]:
    """‖x − left·right‖ ≤ tol·‖x‖ at the least rank of the unfolding with `modes` as rows: two cores, one bond.

    Parameters
    ----------
    x
        Array of d ≥ 2 modes: NumPy, CuPy or another array API library; never written to.
    modes
        The modes of the left core: one, or several, but not all. For a convolution kernel (O, I, h, w): 0 cuts at the
        output channels, 1 at the input channels, (0, 3) and (0, 2) are the two spatially separable forms.
    ranks
        A cap of the one bond. With both `tol` and `ranks` the cap wins.
    tol
        Relative Frobenius error allowed, in [0, 1). At 0: the numerical rank.

    Returns
    -------
    Decomposition
        `.tensor` a `CutTensor` in the dtype of x (integers: float64; half precision: float32), `.error` the relative
        error that it makes, `.converged` whether `tol` is kept.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, for modes outside the tensor, for neither tol nor ranks, and for either
        out of range.

    Notes
    -----
    The error is the least at its rank (Eckart & Young 1936, doi 10.1007/BF02288367). Cost: one factorisation of the
    unfolding, of which one copy is made.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> kernel = np.random.default_rng(0).standard_normal((8, 6, 3, 3))
    >>> result = tg.cut_svd(kernel, modes=(0, 3), tol=0.5)
    >>> result.tensor.left.shape, result.tensor.right.shape, result.converged
    ((8, 3, 7), (7, 6, 3), True)
    """
    problem = prepare(x, tol=tol)
    xp, shape = namespace(problem.x), problem.shape
    rows = checked_modes(modes, len(shape))
    (cap,) = checked_ranks(ranks, problem.tol, 1, "the one bond of a cut")
    if len(rows) == len(shape):
        raise ValueError(f"got modes={modes!r}, all modes of the tensor; a cut leaves at least one on the other side")
    columns = [k for k in range(len(shape)) if k not in rows]
    unfolding = xp.reshape(xp.permute_dims(problem.x, (*rows, *columns)), (math.prod(shape[k] for k in rows), -1))
    matrix = by_short_side(contiguous(unfolding))
    allowed = Spend.of(problem, 1).allow(None, 0.0, 1)
    basis = mode_basis(matrix, max_error=allowed, norm=problem.norm, max_rank=cap)
    rank = basis.rank(allowed, cap)
    verify = needs_verifying(basis.error(rank) ** 2, 1, problem)
    left, right, error = split(matrix, basis, rank, last=True, verify=verify, owned=False)
    left = xp.reshape(left, (*(shape[k] for k in rows), rank))
    right = xp.reshape(right, (rank, *(shape[k] for k in columns)))
    return problem.result(CutTensor(xp.asarray(left, copy=True), xp.asarray(right, copy=True), rows), error)
