"""Sensitivity: how much noise on the numbers that are stored moves the tensor that they stand for."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorring.contract.surroundings import ring_norms, tucker_norms
from tensorring.linalg.sizes import Sizes, column_norms, norm
from tensorring.tensors import CPTensor, CutTensor, LowRankTensor, TRTensor, TTTensor, TuckerTensor


def sensitivity(t: LowRankTensor) -> float:
    """ss = lim E‖x(θ + s·noise) − x(θ)‖² / s² for s → 0: the squared change that small noise makes, per noise variance.

    θ are the entries of all arrays, the noise is independent, of mean 0 and E|noise|² = 1 for each entry (complex
    entries: in total, not in each part). So ss = ‖∂x/∂θ‖_F². With I_n the mode sizes:

    - CP: Σ_n I_n Σ_r Π_{m≠n} ‖u_{m,r}‖². Weights are no parameters of their own: they count as shared out evenly over
      the columns of their term, |λ_r|^{1/d} each. Where all weights are one, this is the factors as they stand.
    - Tucker: Σ_n I_n ‖core ×_{m≠n} U_m‖² + Π_m ‖U_m‖².
    - Trains and rings: Σ_n I_n ‖subchain_n‖², subchain_n being all cores but n. Cuts: a chain of two cores.

    Parameters
    ----------
    t
        A low-rank tensor.

    Returns
    -------
    float
        Right to rounding for CP, Tucker and cuts, and to eps times the products of the norms of the cores for chains.
        Infinite, or zero, where it lies beyond the range of a double.

    Raises
    ------
    TypeError
        If `t` is no low-rank tensor of these formats.

    Notes
    -----
    It depends on how the scale is shared out between the arrays: `balance` makes it least. Scaling all arrays by c
    multiplies it by c^{2(d−1)} (Tucker: c^{2d}). Cost: a pass over the arrays for CP; d²·r^{d+1} for Tucker; one sweep
    of transfer matrices either way for chains, d·n·r_0²·r³.

    References
    ----------
    P. Tichavský, A.-H. Phan, A. Cichocki 2019, "Sensitivity in tensor decomposition", doi 10.1109/LSP.2019.2943060.
    A.-H. Phan et al. 2020, arXiv 2008.05441, for kernels. A.-H. Phan et al. 2022, arXiv 2203.02617, for rings.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> tg.sensitivity(tg.CPTensor([1.0], [np.ones((2, 1)), np.ones((3, 1)), np.ones((4, 1))]))
    72.0
    >>> t = tg.random.tr((4, 5, 6), ranks=2, rng=0)
    >>> tg.sensitivity(tg.balance(t)) <= tg.sensitivity(t)
    True
    """
    formula = _FORMULAS.get(type(t))
    if formula is None:
        known = ", ".join(kind.__name__ for kind in _FORMULAS)
        raise TypeError(f"got {type(t).__name__}; the sensitivity is that of a low-rank tensor: {known}")
    return float(formula(t))


def _of_cp(t: CPTensor) -> Sizes:
    columns = shared_columns(t)
    return _total(t.shape, [_product([c for m, c in enumerate(columns) if m != n], t.rank) for n in range(t.ndim)])


def shared_columns(t: CPTensor) -> list[Sizes]:
    """‖u_{n,r}‖·|λ_r|^{1/d} for each mode n: the norms (R,) of the columns with the weights shared out evenly."""
    share = column_norms(t.weights[None, :]).root(t.ndim)
    return [column_norms(factor) * share for factor in t.factors]


def _product(columns: list[Sizes], rank: int) -> Sizes:
    """Σ_r Π ‖column r‖² over some modes: R over none."""
    start = Sizes.of(np.ones(rank))
    return functools.reduce(operator.mul, columns, start).power(2).sum()


def _of_tucker(t: TuckerTensor) -> Sizes:
    norms = tucker_norms(t.core, t.factors)
    core = Sizes.stack([columns.sum() for columns in norms.columns]).product()
    return _total((*t.shape, 1), [*(slices.sum() for slices in norms.slices), core])


def _of_chain(t: TTTensor | TRTensor) -> Sizes:
    subchains = ring_norms(t.cores).subchains
    return _total(t.shape, [subchains[n] for n in range(t.ndim)])


def _of_cut(t: CutTensor) -> Sizes:
    bond = t.ranks[0]
    rows, columns = (math.prod(array.shape) // bond for array in t.arrays)
    return _total((rows, columns), [norm(t.right).power(2), norm(t.left).power(2)])


def _total(counts: Sequence[int], sizes: Sequence[Sizes]) -> Sizes:
    """Σ_n I_n·S_n."""
    return (Sizes.of(np.asarray(counts)) * Sizes.stack(sizes)).sum()


_FORMULAS: dict[type, Any] = {
    CPTensor: _of_cp,
    TuckerTensor: _of_tucker,
    TTTensor: _of_chain,
    TRTensor: _of_chain,
    CutTensor: _of_cut,
}
