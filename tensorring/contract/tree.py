"""Dimension trees: the MTTKRPs of a whole sweep at two passes over the tensor, or at N/(N−1) of one a mode.

Factors stand rank first, V = Uᵀ (R, n), and so do partial results (R, …): rows are contiguous, the small matrix is on
the left of every product over x, and the tensor is read in the order in which it lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tensorring._array import Array, conj, namespace
from tensorring._threads import SMALL
from tensorring.contract.first_level import buffer, contract_after, contract_before
from tensorring.contract.second_level import contract_first, contract_last

Factors = list[Array]
# mode, V_mode's MTTKRP (R, n) -> the new V_mode
Update = Callable[[int, Array], Array]

# A multi-sweep tree keeps a partial of R/n of x: where that is more, two passes with small partials are cheaper.
_MULTI_SWEEP_SHARE = 0.2


def khatri_rao_rows(factors: Sequence[Array]) -> Array:
    """K[r, (i_1 … i_m)] = Π_k V_k[r, i_k]: (R, n_k) each -> (R, Πn)."""
    xp = namespace(*factors)
    product = factors[0]
    for factor in factors[1:]:
        product = xp.reshape(product[:, :, None] * factor[:, None, :], (factor.shape[0], -1))
    return product


class TwoPassTree:
    """All MTTKRPs of a sweep, each with the newest factors, in two matrix products over x.

    The modes are split in two groups. x times the Khatri–Rao product of one group is a partial result from which the
    MTTKRPs of the other group follow (Phan, Tichavský & Cichocki 2013, arXiv 1204.1586): small second-level products.
    """

    passes = 2.0

    def __init__(self, x: Array, rank: int) -> None:
        self.x = x
        shape = tuple(x.shape)
        self.split = min(range(1, x.ndim), key=lambda s: math.prod(shape[:s]) + math.prod(shape[s:]))
        self.matrix = namespace(x).reshape(x, (1, math.prod(shape[: self.split]), -1))
        self._left, self._right = (buffer(x, rank, size) for size in self.matrix.shape[1:])

    def sweep(self, factors: Factors, update: Update) -> None:
        """Replaces every factor by update(mode, its MTTKRP), modes in their order."""
        s = self.split
        left = contract_after(_conj_rows(factors[s:]), self.matrix[0, :, :], self._left)
        self._group(left, factors, range(s), update)
        right = contract_before(_conj_rows(factors[:s]), self.matrix, self._right)
        self._group(right, factors, range(s, len(factors)), update)

    def _group(self, partial: Array, factors: Factors, modes: range, update: Update) -> None:
        for mode in modes:
            n = factors[mode].shape[1]
            rest = factors[mode + 1 : modes.stop]
            product = contract_last(partial, _conj_rows(rest), n) if rest else partial
            factors[mode] = update(mode, product)
            if rest:
                partial = contract_first(partial, conj(factors[mode]))


class MultiSweepTree:
    """The MTTKRPs of three modes at one pass for two updates: 1.5 passes a sweep, across sweeps.

    x times the factor that was updated last serves the two updates after it (Ma & Solomonik 2020, arXiv 2010.12056).
    The partial is (R, n, n'): for tensors where that is small against x.
    """

    passes = 1.5

    def __init__(self, x: Array, rank: int) -> None:
        self.x = x
        self._buffer = buffer(x, rank, math.prod(x.shape) // min(x.shape))
        self._mode, self._factor, self._partial = -1, None, None

    def sweep(self, factors: Factors, update: Update) -> None:
        """Replaces every factor by update(mode, its MTTKRP), modes in their order."""
        for mode in range(3):
            if self._mode in (-1, mode) or factors[self._mode] is not self._factor:
                self._contract((mode - 1) % 3, factors)
            other = 3 - mode - self._mode
            row = conj(factors[other])
            n = factors[mode].shape[1]
            product = contract_last(self._partial, row, n) if other > mode else contract_first(self._partial, row)
            factors[mode] = update(mode, product)

    def _contract(self, mode: int, factors: Factors) -> None:
        """The partial: x times one factor, with the rank in front."""
        xp, x, factor = namespace(self.x), self.x, factors[mode]
        row, (a, b, c) = conj(factor), x.shape
        if mode == 2:
            partial = contract_after(row, xp.reshape(x, (a * b, c)), self._buffer)
        else:
            partial = contract_before(row, x if mode == 1 else xp.reshape(x, (1, a, b * c)), self._buffer)
        self._mode, self._factor, self._partial = mode, factor, partial


def tree(x: Array, rank: int) -> TwoPassTree | MultiSweepTree:
    """The cheaper of the two for a tensor of at least two modes."""
    share = rank / min(x.shape)
    small = math.prod(x.shape) < SMALL
    return MultiSweepTree(x, rank) if x.ndim == 3 and (share <= _MULTI_SWEEP_SHARE or small) else TwoPassTree(x, rank)


def _conj_rows(factors: Sequence[Array]) -> Array:
    return conj(khatri_rao_rows(factors))
