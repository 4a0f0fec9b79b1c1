"""The norm of everything but one array of a low-rank tensor: what a change of that array is multiplied by.

On the host, in double precision, with powers of two taken out: the arrays of a format are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tensorring._array import Array, eps, triangle
from tensorring.linalg.sizes import Sizes, Values, column_norms, unscaled

_MOST_ENTRIES = 2**24


class RingNorms(NamedTuple):
    """Squared norms of the open pieces of a ring.

    `subchains[n]`: of all cores but n, (r_{n+1}, the other modes, r_n). `chains[k]`: of all cores, the ring cut open at
    the bond in front of core k, (r_k, all modes, r_k); what its closing trace sums over.
    """

    subchains: Sizes
    chains: Sizes


def ring_norms(cores: Sequence[Array]) -> RingNorms:
    """The squared norms of all subchains and of all open chains, in one sweep of transfer matrices either way.

    A train is the ring whose closing bond is 1. Cost: d·n·r_0²·r³ for a smallest bond r_0, which is left open; memory
    r_0²·r². Right to eps times the product of the cores' squared norms.
    """
    count = len(cores)
    arrays, shifts, start = _opened(cores)
    lefts, _ = _traces(arrays, shifts)
    # From the other end: the same sweep over the cores turned round.
    rights, _ = _traces([array.transpose(2, 1, 0) for array in reversed(arrays)], shifts[::-1])
    rights = rights[::-1]
    subchains = [_joined(lefts[n], rights[n + 1]) for n in range(count)]
    chains = [_joined(lefts[k], rights[k]) for k in range(count)]
    back = [(k - start) % count for k in range(count)]
    return RingNorms(Sizes.stack(subchains)[back], Sizes.stack(chains)[back])


def ring_norm(cores: Sequence[Array]) -> Sizes:
    """‖ring‖_F, by a chain of QR decompositions that keeps the digits that the closing trace cancels.

    Where those would take more than 2^24 entries, by transfer matrices: then a norm below √eps times that of the open
    chain is not resolved, and comes out as that much. Cost: 2·d·n·(r_0·r)³.
    """
    arrays, shifts, _ = _opened(cores)
    bond = arrays[0].shape[0]
    if max(array.shape[1] * (bond * max(array.shape[0], array.shape[2])) ** 2 for array in arrays) > _MOST_ENTRIES:
        traces, closed = _traces(arrays, shifts)
        chain = _joined(traces[-1], (np.eye(bond).reshape(-1), 0))
        return Sizes.stack([closed, chain * Sizes.of(10 * eps("float64"))]).max().root(2)
    state, exponent = np.eye(bond)[None, :, :], 0
    *first, last = arrays
    for core in first:
        product = np.moveaxis(np.tensordot(state, core, axes=((2,), (0,))), 2, 1)  # K, n, p, t
        product = product.reshape(-1, bond * core.shape[2])
        if product.shape[0] > product.shape[1]:
            product = triangle(product)
        product, taken = unscaled(product)
        state, exponent = product.reshape(-1, bond, core.shape[2]), exponent + taken
    ring = np.tensordot(state, last, axes=((2, 1), (0, 2)))
    return Sizes.of(np.linalg.norm(ring), exponent + sum(shifts))


def _opened(cores: Sequence[Array]) -> tuple[list[Values], list[int], int]:
    """The cores from a smallest bond on, with entries of order 1; their exponents; which core comes first."""
    start = min(range(len(cores)), key=lambda k: cores[k].shape[0])
    parts = [unscaled(core) for core in (*cores[start:], *cores[:start])]
    return [array for array, _ in parts], [shift for _, shift in parts], start


Traces = list[tuple[Values, int]]


def _traces(cores: list[Values], shifts: list[int]) -> tuple[Traces, Sizes]:
    """l_k[(p, p')] = Σ conj(chain[p, …, s])·chain[p', …, s] over the first k cores, for k = 0 … d, with exponents.

    And ‖ring‖², the chain of all cores closed.
    """
    bond = cores[0].shape[0]
    state, exponent = np.eye(bond * bond).reshape(bond * bond, bond, bond), 0
    found = [(np.trace(state, axis1=1, axis2=2), exponent)]
    for core, shift in zip(cores, shifts, strict=True):
        half = np.tensordot(state, core.conj(), axes=((1,), (0,)))  # (p p'), s', n, t
        state, taken = unscaled(np.tensordot(half, core, axes=((1, 2), (0, 1))))  # (p p'), t, t'
        exponent += taken + 2 * shift
        found.append((np.trace(state, axis1=1, axis2=2), exponent))
    closed = float(np.trace(state.reshape(bond * bond, bond * bond)).real)
    return found, Sizes.of(max(0.0, closed), exponent)


def _joined(left: tuple[Values, int], right: tuple[Values, int]) -> Sizes:
    return Sizes.of(max(0.0, float(np.dot(left[0], right[0]).real)), left[1] + right[1])


class TuckerNorms(NamedTuple):
    """Squared norms around a Tucker core: of each factor's columns, of each slice of what a factor is multiplied by.

    `columns[n]` (r_n,): ‖U_n[:, j]‖²; `slices[n]` (r_n,): ‖(core ×_{m≠n} U_m) at j in mode n‖²; `whole`: ‖tensor‖².
    """

    columns: list[Sizes]
    slices: list[Sizes]
    whole: Sizes


def tucker_norms(core: Array, factors: Sequence[Array]) -> TuckerNorms:
    """The squared norms around a Tucker core, with all digits: from the triangles of the factors' QR.

    Cost: n·r² a factor and d²·r^{d+1}; memory that of the core.
    """
    small, exponent = unscaled(core)
    parts = [unscaled(factor) for factor in factors]
    triangles = [triangle(array) for array, _ in parts]
    shifts = [shift for _, shift in parts]
    total = exponent + sum(shifts)
    slices = []
    for n, shift in enumerate(shifts):
        modes = [m for m in range(len(factors)) if m != n]
        others = _multiplied(small, [triangles[m] for m in modes], modes)
        rows = np.moveaxis(others, n, 0).reshape(others.shape[n], -1)
        slices.append((column_norms(rows.T) * Sizes.of(1.0, total - shift)).power(2))
    whole = _multiplied(small, triangles, range(len(factors)))
    size = Sizes.of(np.linalg.norm(whole.reshape(-1)), total)
    return TuckerNorms([column_norms(factor).power(2) for factor in factors], slices, size.power(2))


def _multiplied(x: Values, matrices: Sequence[Values], modes: Sequence[int]) -> Values:
    for matrix, mode in zip(matrices, modes, strict=True):
        x = np.moveaxis(np.tensordot(matrix, x, axes=(1, mode)), 0, mode)
    return x
