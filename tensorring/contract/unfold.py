"""Unfoldings and products along one mode."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorring._array import Array, namespace


def rotated(x: Array, shift: int) -> Array:
    """The tensor with its modes shifted cyclically, so that mode `shift` comes first."""
    if shift == 0:
        return x
    order = tuple((shift + k) % x.ndim for k in range(x.ndim))
    return namespace(x).permute_dims(x, order)


def mode_product(x: Array, matrix: Array, mode: int) -> Array:
    """y = x ×_mode M: y[…, j, …] = Σ_i M[j, i]·x[…, i, …]. Nothing is unfolded: (a, n, b) -> (a, m, b)."""
    xp = namespace(x, matrix)
    before, after = math.prod(x.shape[:mode]), math.prod(x.shape[mode + 1 :])
    shape = (*x.shape[:mode], matrix.shape[0], *x.shape[mode + 1 :])
    if after == 1:
        product = xp.reshape(x, (before, x.shape[mode])) @ matrix.T
    else:
        product = matrix @ xp.reshape(x, (before, x.shape[mode], after))
    return xp.reshape(product, shape)


def khatri_rao(factors: Sequence[Array]) -> Array:
    """K[(i_1 … i_m), r] = Π_k U_k[i_k, r]: factors (n_k, R) -> (Πn, R)."""
    xp = namespace(*factors)
    product = factors[0]
    for factor in factors[1:]:
        product = xp.expand_dims(product, axis=1) * xp.expand_dims(factor, axis=0)
        product = xp.reshape(product, (-1, factor.shape[1]))
    return product
