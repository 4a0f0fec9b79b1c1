"""A matrix along one mode of a low-rank tensor."""

from __future__ import annotations

from typing import Any

from tensorring._array import Array
from tensorring.contract.unfold import mode_product as dense_mode_product
from tensorring.tensors import CPTensor, CutTensor, LowRankTensor, TRTensor, TTTensor, TuckerTensor


def mode_product(t: LowRankTensor, matrix: Array, mode: int) -> LowRankTensor:
    """T ×_mode M, in the same format and ranks: y[…, j, …] = Σ_i M[j, i]·t[…, i, …]."""
    place, axis = _PLACES[type(t)](t, mode)
    arrays = list(t.arrays)
    arrays[place] = dense_mode_product(arrays[place], matrix, axis)
    return t.with_arrays(arrays)


def _factor(t: Any, mode: int) -> tuple[int, int]:
    return mode + 1, 0


def _core(t: Any, mode: int) -> tuple[int, int]:
    return mode, 1


def _side(t: Any, mode: int) -> tuple[int, int]:
    if mode in t.modes:
        return 0, t.modes.index(mode)
    return 1, 1 + [k for k in range(t.ndim) if k not in t.modes].index(mode)


# Which of the arrays has the mode, and as which axis.
_PLACES = {CPTensor: _factor, TuckerTensor: _factor, TTTensor: _core, TRTensor: _core, CutTensor: _side}
