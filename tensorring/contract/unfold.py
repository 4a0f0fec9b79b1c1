"""Unfoldings and products along one mode."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorring._array import Array, namespace


def around(x: Array, mode: int) -> Array:
    """The tensor as (before, n, after) around a mode: a view of an array in C order."""
    before, after = math.prod(x.shape[:mode]), math.prod(x.shape[mode + 1 :])
    return namespace(x).reshape(x, (before, x.shape[mode], after))


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
