"""Core consistency: does the tensor that a CP was fitted to want a core that is a diagonal of ones?"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorring._array import (
    Array,
    as_dtype,
    compute_dtype_name,
    contiguous,
    dtype_name,
    eps,
    is_array,
    is_complex,
    namespace,
    svd,
    to_device,
    to_host,
)
from tensorring.contract.unfold import mode_product
from tensorring.diagnostics.terms import terms_of
from tensorring.linalg.scale import measure, scaled
from tensorring.linalg.sizes import Sizes, Values
from tensorring.tensors import CPTensor, LowRankTensor


def core_consistency(x: Any, cp: CPTensor) -> float:
    """100·(1 − ‖G − I‖²/R) per cent, G being the least-squares core of x on the factors of the CP, I the unit diagonal.

    Near 100: the terms explain x by themselves. Around 50 or below: products of columns of different terms would
    explain x as well, a sign of too many terms (or of terms that cancel). It has no lower end. Where it falls off
    steeply from one rank to the next, the last rank before is the one to take; with little noise on a large tensor it
    may fall some terms late.

    Parameters
    ----------
    x
        The tensor that was fitted: an array, or a low-rank tensor.
    cp
        The CP, of the same shape and library. Each term counts with its norm shared out evenly over its modes, however
        the CP holds it, as in the N-way Toolbox (the value depends on that), and weights are absorbed; terms that are
        zero are left out.

    Returns
    -------
    float
        In per cent, at most 100. 100 for a CP without terms, and for one of two modes with independent columns that is
        the least-squares fit.

    Raises
    ------
    TypeError
        If `cp` is no CP tensor.
    ValueError
        If the shapes differ, or x holds NaN or inf.

    Notes
    -----
    G = x ×_1 U_1⁺ ⋯ ×_d U_d⁺: one product along each mode with a pseudo-inverse (R, I_n), those that shrink the tensor
    most first. Their Kronecker product is never formed. Cost: about that of one sweep of HOSVD; memory x·R/I of the
    first mode. Where factors have dependent columns the core is that of least norm, and the value means little.

    References
    ----------
    R. Bro, H. A. L. Kiers 2003, "A new efficient method for determining the number of components in PARAFAC models",
    doi 10.1002/cem.801. E. E. Papalexakis, C. Faloutsos 2015, doi 10.1109/ICASSP.2015.7179011, for the products.

    Examples
    --------
    >>> import tensorring as tg
    >>> t = tg.random.cp((6, 7, 8), rank=3, rng=0)
    >>> round(tg.core_consistency(t.to_dense(), t), 6)
    100.0
    """
    if not isinstance(cp, CPTensor):
        raise TypeError(f"got {type(cp).__name__}; core consistency is that of a CPTensor")
    if not (is_array(x) or isinstance(x, LowRankTensor)):
        raise TypeError(f"got {type(x).__name__} for the tensor that was fitted; it is an array or a low-rank tensor")
    if tuple(x.shape) != cp.shape:
        raise ValueError(f"got x of shape {tuple(x.shape)} and a CP of shape {cp.shape}; the two must agree")
    x = x.to_dense() if isinstance(x, LowRankTensor) else as_dtype(x, compute_dtype_name(x.dtype))
    namespace(x, *cp.arrays)  # a TypeError that names both libraries where they are mixed
    _, exponent = measure(x)
    terms = terms_of(cp)
    if terms.rank == 0:
        return 100.0
    # Both scaled alike, so that neither over- nor underflows.
    sizes = Sizes(terms.sizes.mantissas, terms.sizes.exponents - exponent).root(cp.ndim)
    factors = [sizes.times(units) for units in terms.units]
    factors[-1] = factors[-1] * terms.phases
    core = _core(scaled(x, -exponent), [_pseudo_inverse(factor) for factor in factors])
    diagonal = (np.arange(terms.rank),) * cp.ndim
    core[diagonal] -= 1.0
    return 100.0 * (1.0 - float(np.linalg.norm(core)) ** 2 / terms.rank)


def _core(x: Array, inverses: list[Values]) -> Values:
    """x ×_n P_n over all modes, in the precision of x; on the host at the end, in double."""
    wide = is_complex(x) or any(np.iscomplexobj(inverse) for inverse in inverses)
    name = (("complex64", "complex128") if wide else ("float32", "float64"))[eps(dtype_name(x.dtype)) < 1e-10]
    x = as_dtype(x, name)
    for mode in sorted(range(x.ndim), key=lambda m: inverses[m].shape[0] / inverses[m].shape[1]):
        x = mode_product(contiguous(x), to_device(inverses[mode].astype(name), like=x), mode)
    return to_host(x).astype("complex128" if wide else "float64")


def _pseudo_inverse(matrix: Values) -> Values:
    """A⁺ by the singular value decomposition: (n, r) -> (r, n)."""
    u, values, vh = svd(matrix)
    kept = values > max(matrix.shape) * eps("float64") * values[0]
    return np.asarray((vh[kept].conj().T / values[kept]) @ u[:, kept].conj().T)
