"""Products of many small tensors at once, each with a matrix of its own: what sums of Tucker terms are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tensorring._array import Array, namespace


def each_mode_product(x: Array, matrices: Array, mode: int) -> Array:
    """y[r] = x[r] ×_mode M[r]: (R, …, n, …), (R, m, n) -> (R, …, m, …). Nothing is unfolded."""
    xp = namespace(x, matrices)
    terms, before, after = x.shape[0], math.prod(x.shape[1 : mode + 1]), math.prod(x.shape[mode + 2 :])
    shape = (*x.shape[: mode + 1], matrices.shape[1], *x.shape[mode + 2 :])
    if after == 1:
        product = xp.reshape(x, (terms, before, x.shape[mode + 1])) @ xp.permute_dims(matrices, (0, 2, 1))
    elif before == 1:
        product = matrices @ xp.reshape(x, (terms, x.shape[mode + 1], after))
    else:
        product = matrices[:, None, :, :] @ xp.reshape(x, (terms, before, x.shape[mode + 1], after))
    return xp.reshape(product, shape)


def known_side(cores: Array, factors: Mapping[int, Array], mode: int) -> Array:
    """K[(r, l), …]: what the factors of a mode are multiplied by, x_(mode) = Σ_r U_r·K_r: (R·L, Π of the others).

    Cores (R, L_0, L_1, …); factors (R, n_k, L_k) for the modes that have one, `mode` among them.
    """
    xp, x = namespace(cores), cores
    for other, factor in factors.items():
        if other != mode:
            x = each_mode_product(x, factor, other)
    x = xp.moveaxis(x, mode + 1, 1)
    return xp.reshape(x, (cores.shape[0] * cores.shape[mode + 1], -1))


def side_by_side(factors: Array) -> Array:
    """[U_1 … U_R]: (R, n, L) -> (n, R·L)."""
    xp = namespace(factors)
    return xp.reshape(xp.permute_dims(factors, (1, 0, 2)), (factors.shape[1], -1))
