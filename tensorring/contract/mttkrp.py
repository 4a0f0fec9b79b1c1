"""The matricised tensor times Khatri–Rao product, by its definition: the specification of the trees."""

from __future__ import annotations

from collections.abc import Sequence

from tensorring._array import Array, conj, namespace
from tensorring.contract.unfold import around, khatri_rao


def mttkrp(x: Array, factors: Sequence[Array], mode: int) -> Array:
    """G[i, r] = Σ x[… i …]·Π_{k≠mode} conj(U_k[i_k, r]) = X_(mode)·conj(K): factors (n_k, R) -> (n_mode, R).

    The factor of `mode` itself is not read. One matrix product over x where the mode is the first or the last, else one
    for each index before it; memory is a partial result of Πn·R over the longer side.
    """
    xp, rank = namespace(x), factors[mode].shape[1]
    before, n, after = around(x, mode).shape
    left, right = factors[:mode], factors[mode + 1 :]
    if not right:
        matrix = xp.reshape(x, (before, n)).T
        return matrix @ conj(khatri_rao(left)) if left else xp.broadcast_to(matrix, (n, rank))
    partial = xp.reshape(x, (before * n, after)) @ conj(khatri_rao(right))
    if not left:
        return partial
    return xp.sum(xp.reshape(partial, (before, n, rank)) * conj(khatri_rao(left))[:, None, :], axis=0)
