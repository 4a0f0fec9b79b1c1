"""How the scale of a tensor is shared out between its arrays, which the tensor itself does not see."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from tensorring._array import as_dtype, dtype_name, eps, is_complex, namespace
from tensorring.contract.surroundings import ring_norms, tucker_norms
from tensorring.linalg.sizes import Sizes, column_norms, norm
from tensorring.tensors import CPTensor, CutTensor, LowRankTensor, TRTensor, TTTensor, TuckerTensor

T = TypeVar("T", bound=LowRankTensor)


def balance(t: T) -> T:
    """The same tensor, its scale shared out between the arrays so that `sensitivity` is least over such scalings.

    With I_n the mode sizes:

    - CP: over the scalings of columns. ‖u_{n,r}‖² ∝ I_n in each term, all weights 1; phases go to the last factor. Then
      ss = d·(ΠI_n)^{1/d}·Σ_r λ_r^{2(d−1)/d}, λ_r being the norms of the terms.
    - Tucker: over the scalings of the factors' columns, with the slices of the core taking up the inverse. With
      g_{n,j} the norm of slice j of core ×_{m≠n} U_m, and A_n = I_n·(Σ_j ‖u_{n,j}‖·g_{n,j})², then
      ss = (d+1)·(ΠA_n)^{1/(d+1)}.
    - Trains and rings: over the scalings c_n of whole cores, Πc = 1. With S_n the squared norm of all cores but n,
      c_n² ∝ I_n·S_n, and then ss = d·(ΠI_n·S_n)^{1/d}. Bonds are not rotated.
    - Cuts: over the scalings of the bond's indices: CP of the two cores.

    Parameters
    ----------
    t
        A low-rank tensor.

    Returns
    -------
    LowRankTensor
        Of the same format, ranks and dtype, in arrays of its own; the same dense tensor to rounding, and balancing it
        again changes nothing but rounding. A CP term, or a Tucker column with its slice, that adds nothing to the
        tensor becomes zero, and so do all arrays of a tensor whose parts multiply to zero.

    Raises
    ------
    TypeError
        If `t` is no low-rank tensor of these formats.

    Notes
    -----
    Fine-tuning factors by gradient descent is best conditioned from here. Costs as much as `sensitivity`. The formulas
    follow from the inequality of the means; for CP see P. Tichavský, A.-H. Phan, A. Cichocki 2019, doi
    10.1109/LSP.2019.2943060.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> t = tg.balance(tg.CPTensor([8.0], [np.eye(2)[:, :1], np.eye(2)[:, :1], np.eye(16)[:, :1]]))
    >>> [round(float(np.linalg.norm(u)) ** 2, 6) for u in t.factors], t.weights
    ([2.0, 2.0, 16.0], array([1.]))
    """
    balanced = _BALANCED.get(type(t))
    if balanced is None:
        known = ", ".join(kind.__name__ for kind in _BALANCED)
        raise TypeError(f"got {type(t).__name__}; what is balanced is a low-rank tensor: {known}")
    result: T = balanced(t)
    return result


def _cp(t: CPTensor) -> CPTensor:
    xp = namespace(*t.arrays)
    sizes = column_norms(t.weights[None, :])
    scales = _column_scales(t.shape, [column_norms(factor) for factor in t.factors], sizes)
    phases = (Sizes.of(np.ones(t.rank)) / sizes).times(t.weights)
    # Zero weights have no phase, and zero columns need none.
    factors = [*t.factors[:-1], t.factors[-1] * phases]
    precise = dtype_name(t.dtype) in ("float64", "complex128")
    names = {False: "float64" if precise else "float32", True: "complex128" if precise else "complex64"}
    factors = [as_dtype(factor, names[is_complex(factor)]) for factor in factors]
    ones = xp.ones_like(xp.real(t.weights) if is_complex(t.weights) else t.weights)
    return CPTensor(ones, tuple(scale.times(u) for scale, u in zip(scales, factors, strict=True)))


def _column_scales(counts: Sequence[int], norms: Sequence[Sizes], weights: Sizes) -> list[Sizes]:
    """What the columns (R,) of each mode are multiplied by, so that ‖u_{n,r}‖² = I_n·(λ_r²/ΠI)^{1/d}."""
    terms = functools.reduce(operator.mul, norms, weights)
    level = (terms.power(2) / Sizes.of(np.asarray(counts)).product()).root(len(norms))
    return [(level * Sizes.of(float(n))).root(2) / size for n, size in zip(counts, norms, strict=True)]


def _cut(t: CutTensor) -> CutTensor:
    bond = t.ranks[0]
    rows, columns = (math.prod(array.shape) // bond for array in t.arrays)
    xp = namespace(*t.arrays)
    left, right = xp.reshape(t.left, (rows, bond)), xp.reshape(t.right, (bond, columns)).T
    norms = [column_norms(left), column_norms(right)]
    scales = _column_scales((rows, columns), norms, Sizes.of(np.ones(bond)))
    left, right = scales[0].times(left), scales[1].times(right).T
    return t.with_arrays([xp.reshape(left, t.left.shape), xp.reshape(right, t.right.shape)])


def _tucker(t: TuckerTensor) -> TuckerTensor:
    """a_{n,j}² = √(A_n·I_n)·(g_{n,j}/‖u_{n,j}‖)/s for column j of factor n, s^{d+1} = ΠA_n; 1/a for slice j."""
    norms = tucker_norms(t.core, t.factors)
    counts = [Sizes.of(float(n)) for n in t.shape]
    values = [(g * v).root(2).sum() for g, v in zip(norms.slices, norms.columns, strict=True)]
    products = [value.power(2) * count for value, count in zip(values, counts, strict=True)]
    level = functools.reduce(operator.mul, products).root(t.ndim + 1)
    core, factors = Sizes.of(1.0), []
    for n, factor in enumerate(t.factors):
        share = (products[n] * counts[n] * (norms.slices[n] / norms.columns[n])).root(2) / level
        scale = share.root(2)
        factors.append(scale.times(factor))
        index = tuple(slice(None) if m == n else None for m in range(t.ndim))
        core = core * (Sizes.of(np.ones(t.ranks[n])) / scale)[index]
    return TuckerTensor(core.times(t.core), tuple(factors))


def _chain(t: TTTensor | TRTensor) -> TTTensor | TRTensor:
    norms = [norm(core).power(2) for core in t.cores]
    subchains = ring_norms(t.cores).subchains
    parts = []
    for n, count in enumerate(t.shape):
        others = functools.reduce(operator.mul, (*norms[:n], *norms[n + 1 :]), Sizes.of(1.0))
        # Below this a squared norm is rounding, which must not make a tensor zero.
        floor = others * Sizes.of(eps("float64"))
        parts.append(Sizes.of(float(count)) * Sizes.stack([subchains[n], floor]).max())
    level = functools.reduce(operator.mul, parts).root(t.ndim)
    return t.with_arrays([(part / level).root(2).times(core) for part, core in zip(parts, t.cores, strict=True)])


_BALANCED: dict[type, Any] = {
    CPTensor: _cp,
    TuckerTensor: _tucker,
    TTTensor: _chain,
    TRTensor: _chain,
    CutTensor: _cut,
}
