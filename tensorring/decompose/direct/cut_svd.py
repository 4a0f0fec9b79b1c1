"""One cut: the truncated SVD of an unfolding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from tensorring._array import Array, adjoint, as_dtype, contiguous, dtype_name, is_complex, namespace
from tensorring._threads import blas_threads
from tensorring.algebra.metric import Group, Metric, checked_metric
from tensorring.contract.unfold import mode_product
from tensorring.decompose._arguments import Problem, Ranks, checked_ranks, prepare
from tensorring.decompose._metric.fit import PLAIN, fit_groups, leg_of
from tensorring.decompose._metric.formats import Cut
from tensorring.decompose._metric.in_metric import by_coordinates, remeasured
from tensorring.decompose.direct._chain import Spend, needs_verifying, split
from tensorring.linalg.basis import mode_basis
from tensorring.linalg.square_root import any_root
from tensorring.linalg.svd import by_short_side
from tensorring.tensors import CutTensor, Decomposition
from tensorring.tensors.low_rank import checked_modes


def cut_svd(
    x: Any,
    *,
    modes: int | Iterable[int],
    ranks: Ranks = None,
    tol: float | None = None,
    metric: Mapping[Any, Array] | None = None,
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
        Relative error allowed, in [0, 1). At 0: the numerical rank.
    metric
        {modes: S}, as for `cp_als`: errors are measured by ‖x‖_S² = ⟨x, S x⟩.

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

    So it is with a metric whose groups lie on one side of the cut each: one SVD of R·x, RᴴR = S. What S does not see
    comes out as the projection of x where one side has a metric, and zero where both have. A group on both sides, as of
    a separable kernel under the moments of its patches, is fitted at a given rank, to a local minimum: the side of the
    mode that stands alone eliminated, the other by up to 500 steps of L-BFGS (`cp_als` tells how).

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> kernel = np.random.default_rng(0).standard_normal((8, 6, 3, 3))
    >>> result = tg.cut_svd(kernel, modes=(0, 3), tol=0.5)
    >>> result.tensor.left.shape, result.tensor.right.shape, result.converged
    ((8, 3, 7), (7, 6, 3), True)

    The least change of the outputs, for inputs of which patches (6 · 3 · 3) were seen:

    >>> patches = np.random.default_rng(1).standard_normal((200, 54)) * np.linspace(0.1, 2, 54)
    >>> metric = {(1, 2, 3): patches.T @ patches / 200}
    >>> result = tg.cut_svd(kernel, modes=0, ranks=4, metric=metric)
    >>> result.error < tg.relative_error(kernel, tg.cut_svd(kernel, modes=0, ranks=4).tensor, metric=metric)
    True
    """
    problem = prepare(x, tol=tol)
    xp, shape = namespace(problem.x), problem.shape
    rows = checked_modes(modes, len(shape))
    (cap,) = checked_ranks(ranks, problem.tol, 1, "the one bond of a cut")
    if len(rows) == len(shape):
        raise ValueError(f"got modes={modes!r}, all modes of the tensor; a cut leaves at least one on the other side")
    if metric is not None:
        with blas_threads(math.prod(shape)):  # what is done with S is much, for a small x
            return _in_metric(problem, checked_metric(metric, problem.x), rows, cap)
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


def _in_metric(problem: Problem, metric: Metric, rows: tuple[int, ...], cap: int | None) -> Decomposition[CutTensor]:
    """One SVD where every group lies on one side of the cut, which makes each side one mode with a metric."""
    xp, x = namespace(problem.x), problem.x
    method: Callable[..., Decomposition[CutTensor]] = partial(cut_svd, modes=rows, ranks=cap, tol=problem.tol)
    if metric.norm(x)[0] == 0.0:  # nothing of it is seen
        return method(xp.zeros_like(x))
    columns = tuple(k for k in range(x.ndim) if k not in rows)
    sides = [[group for group in metric.groups if set(group.modes) <= set(side)] for side in (rows, columns)]
    if sum(map(len, sides)) < len(metric.groups):
        return _across(problem, metric, rows, cap)
    unfolding = xp.reshape(xp.permute_dims(x, (*rows, *columns)), (math.prod(x.shape[k] for k in rows), -1))
    groups = [
        Group((k,), replace(metric, groups=tuple(side)).dense(modes, like=x))
        for k, (modes, side) in enumerate(zip((rows, columns), sides, strict=True))
        if side
    ]
    matrix, own = replace(problem, x=contiguous(unfolding)), Metric(tuple(unfolding.shape), tuple(groups))
    inner = partial(cut_svd, modes=0, ranks=cap, tol=problem.tol)
    fit = (
        partial(_one_sided, matrix, own, inner)
        if len(groups) == 1
        else partial(by_coordinates, matrix, own, inner, _as_it_is)
    )
    found = fit()
    left, right = found.tensor.arrays
    left = xp.reshape(left, (*(x.shape[k] for k in rows), -1))
    right = xp.reshape(right, (-1, *(x.shape[k] for k in columns)))
    return replace(found, tensor=CutTensor(left, right, rows))


def _one_sided(
    problem: Problem, metric: Metric, method: Callable[..., Decomposition[CutTensor]]
) -> Decomposition[CutTensor]:
    """The best subspace of the side without a metric, and x projected onto it: what S does not see comes out plain."""
    ((((side,), s),), xp, name) = metric.groups, namespace(problem.x), dtype_name(problem.x.dtype)
    x = as_dtype(problem.x, "complex128" if is_complex(problem.x) else "float64")
    found = method(as_dtype(mode_product(x, any_root(s), side), name))
    left, right = (as_dtype(array, dtype_name(x.dtype)) for array in found.tensor.arrays)
    if side == 1:
        left, _ = xp.linalg.qr(left, mode="reduced")
        right = adjoint(left) @ x
    else:
        basis, _ = xp.linalg.qr(adjoint(right), mode="reduced")
        left, right = x @ basis, adjoint(basis)
    return remeasured(problem, metric, found, CutTensor(left, right, (0,)).astype(name))


def _across(problem: Problem, metric: Metric, rows: tuple[int, ...], cap: int | None) -> Decomposition[CutTensor]:
    """A group on both sides of the cut: one side is eliminated, the other descended to."""
    method: Callable[..., Decomposition[CutTensor]] = partial(cut_svd, modes=rows, ranks=cap, tol=problem.tol)
    if metric.singles:
        return by_coordinates(problem, metric, method, _as_it_is)
    form = Cut(leg_of(metric), problem.shape, rows)
    if cap is None:
        raise ValueError("got tol and a metric on a group of modes from both sides of the cut; give ranks too")
    plain = partial(cut_svd, problem.x, modes=rows, ranks=cap)
    return fit_groups(problem, metric, form, [plain], _as_it_is, stall=1e-8, max_sweeps=500, callback=None, price=PLAIN)


def _as_it_is(tensor: CutTensor) -> CutTensor:
    return tensor
