"""Products of order-3 cores along a chain, and the trace that closes a ring."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorring._array import Array, namespace


def chain_product(cores: Sequence[Array]) -> Array:
    """P[a, (i_1 … i_m), b] = (G_1(i_1) ⋯ G_m(i_m))[a, b]: cores (r_k, n_k, r_{k+1}) -> (r_1, Πn, r_{m+1})."""
    xp = namespace(*cores)
    product = cores[0]
    for core in cores[1:]:
        left, entries, bond = product.shape
        product = xp.reshape(product, (left * entries, bond)) @ xp.reshape(core, (bond, -1))
        product = xp.reshape(product, (left, entries * core.shape[1], core.shape[2]))
    return product


def ring_to_dense(cores: Sequence[Array]) -> Array:
    """x[i_1 … i_d] = trace(G_1(i_1) ⋯ G_d(i_d)); a train is the ring whose closing bond is 1.

    Two half products and one matrix product over both bonds between them: O(Πn · r_0 · r_m) in the last step.
    """
    xp = namespace(*cores)
    shape = tuple(core.shape[1] for core in cores)
    if len(cores) == 1:
        core = cores[0]
        return xp.sum(xp.stack([core[a, :, a] for a in range(core.shape[0])]), axis=0)
    middle = _middle(shape)
    left, right = chain_product(cores[:middle]), chain_product(cores[middle:])
    bonds = left.shape[0] * left.shape[2]
    left = xp.reshape(xp.permute_dims(left, (1, 0, 2)), (left.shape[1], bonds))
    right = xp.reshape(xp.permute_dims(right, (2, 0, 1)), (bonds, right.shape[1]))
    return xp.reshape(left @ right, shape)


def _middle(shape: tuple[int, ...]) -> int:
    """The cut that makes the two half products smallest together."""
    return min(range(1, len(shape)), key=lambda k: math.prod(shape[:k]) + math.prod(shape[k:]))
