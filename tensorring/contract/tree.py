"""Dimension trees: the MTTKRPs of a whole sweep at two passes over the tensor, or at N/(N − 1).

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
from tensorring.contract.unfold import around

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
    """The MTTKRPs of N modes at one pass for N − 1 updates: N/(N − 1) passes a sweep, across sweeps.

    x times the factor that was updated last serves the N − 1 updates after it (Ma & Solomonik 2020, arXiv 2010.12056),
    each by second-level products with the factors of the other modes. The partial is (R, all other modes): for tensors
    where that is small against x.
    """

    def __init__(self, x: Array, rank: int) -> None:
        self.x = x
        self._buffer = buffer(x, rank, math.prod(x.shape) // min(x.shape))
        self._mode = -1
        self._factor: Array = None
        self._partial: Array = None

    def sweep(self, factors: Factors, update: Update) -> None:
        """Replaces every factor by update(mode, its MTTKRP), modes in their order."""
        for mode in range(self.x.ndim):
            if self._mode in (-1, mode) or factors[self._mode] is not self._factor:
                self._contract((mode - 1) % self.x.ndim, factors)
            factors[mode] = update(mode, self._product(mode, factors))

    def _product(self, mode: int, factors: Factors) -> Array:
        """The partial with all of its modes contracted but one: those after it first, whose rows are contiguous."""
        others = [k for k in range(self.x.ndim) if k not in (self._mode, mode)]
        before, after = ([factors[k] for k in others if (k > mode) is later] for later in (False, True))
        product = self._partial
        if after:
            product = contract_last(
                product, _conj_rows(after), product.shape[1] // math.prod(v.shape[1] for v in after)
            )
        return contract_first(product, _conj_rows(before)) if before else product

    def _contract(self, mode: int, factors: Factors) -> None:
        """The partial: x times one factor, with the rank in front."""
        row, view = conj(factors[mode]), around(self.x, mode)
        if mode == self.x.ndim - 1:
            partial = contract_after(row, view[:, :, 0], self._buffer)
        else:
            partial = contract_before(row, view, self._buffer)
        self._mode, self._factor, self._partial = mode, factors[mode], partial


def tree(x: Array, rank: int) -> TwoPassTree | MultiSweepTree:
    """The cheaper of the two for a tensor of at least two modes."""
    share = rank / min(x.shape)
    # Each of the N − 1 updates reads the partial, which is a share of x.
    wins = x.ndim / (x.ndim - 1) * (1 + x.ndim * share) < TwoPassTree.passes
    small = x.ndim == 3 and math.prod(x.shape) < SMALL
    fits = x.ndim > 2 and share <= _MULTI_SWEEP_SHARE and wins
    return MultiSweepTree(x, rank) if fits or small else TwoPassTree(x, rank)


def _conj_rows(factors: Sequence[Array]) -> Array:
    return conj(khatri_rao_rows(factors))
