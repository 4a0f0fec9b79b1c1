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
    xp = namespace(x)
    before, n, after = around(x, mode).shape
    rank = factors[mode].shape[1]
    if after == 1 and before == 1:
        return xp.broadcast_to(xp.expand_dims(xp.reshape(x, (-1,)), axis=1), (n, rank)) * xp.ones_like(factors[mode])
    if after == 1:
        return xp.reshape(x, (before, n)).T @ conj(khatri_rao(factors[:mode]))
    partial = xp.reshape(x, (before * n, after)) @ conj(khatri_rao(factors[mode + 1 :]))
    if before == 1:
        return partial
    left = xp.expand_dims(conj(khatri_rao(factors[:mode])), axis=1)
    return xp.sum(xp.reshape(partial, (before, n, rank)) * left, axis=0)
