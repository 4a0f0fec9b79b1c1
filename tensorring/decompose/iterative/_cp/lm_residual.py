"""The residual of a CP and its products with the factors, in one pass over the tensor, in double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorring._array import Array, as_dtype, block_length, conj, is_complex, namespace, slices
from tensorring.contract.unfold import khatri_rao


class Residual:
    """E = x − Σ_r ⊗_n u_{n,r}: its squared norm, and its products with all factors but one.

    Held are x alone and a block of a few megabytes: E is made block by block, and each block is used while it is in the
    cache. Since E itself is formed, nothing cancels however small it is. Blocks are in double precision whatever the
    dtype of x, and so are the factors.

    Parameters
    ----------
    x
        The tensor, in C order.
    bases
        Orthonormal (n_k, r_k) where x is a Tucker core of the tensor to be fitted; its squared error is `lost`.
    """

    def __init__(self, x: Array, bases: Sequence[Array] | None = None, lost: float = 0.0) -> None:
        self.x, self.bases, self.lost = x, bases, lost
        self.order, self.dtype = x.ndim, wide_name(x)
        shape = tuple(x.shape)
        self._half = min(range(1, max(2, x.ndim)), key=lambda k: math.prod(shape[:k]) + math.prod(shape[k:]))
        self._matrix = namespace(x).reshape(x, (math.prod(shape[: self._half]), -1))

    def __call__(self, factors: Sequence[Array]) -> tuple[float, list[Array]]:
        """‖E‖² + lost, and M_n = E_(n)·conj(K_n) for every mode: the descent direction of ½‖E‖² is M.

        K_n is the Khatri–Rao product of all factors but the n-th: (n_k, r) for each mode. Cost: 6·Πn·r.
        """
        xp = namespace(*factors)
        left = khatri_rao(factors[: self._half])
        right = khatri_rao(factors[self._half :]) if self._half < self.order else xp.ones_like(left[:1, :])
        conj_left, conj_right = conj(left), conj(right)
        wide = right.shape[0] > left.shape[0]
        length, across = (right.shape[0], left.shape[0]) if wide else (left.shape[0], right.shape[0])
        squares, whole, summed = [], [], None
        # Along the longer side, so that what is summed over blocks is the product with the shorter one.
        for part in slices(length, block_length(left, across)):
            rows, columns = (slice(None), part) if wide else (part, slice(None))
            block = as_dtype(self._matrix[rows, columns], self.dtype) - left[rows, :] @ right[columns, :].T
            squares.append(xp.linalg.vector_norm(block) ** 2)
            over_columns, over_rows = block @ conj_right[columns, :], block.T @ conj_left[rows, :]
            kept, added = (over_rows, over_columns) if wide else (over_columns, over_rows)
            whole.append(kept)
            summed = added if summed is None else summed + added
        together = whole[0] if len(whole) == 1 else xp.concat(whole)
        over_columns, over_rows = (summed, together) if wide else (together, summed)
        products = contracted(over_columns, factors[: self._half]) + contracted(over_rows, factors[self._half :])
        return float(sum(squares[1:], squares[0])) + self.lost, products


def wide_name(x: Array) -> str:
    """The dtype of double precision of the same kind of numbers, by name."""
    return "complex128" if is_complex(x) else "float64"


def contracted(partial: Array, factors: Sequence[Array]) -> list[Array]:
    """For each mode, the sum over all the other modes with their factors conjugated: (Πn, r) -> (n_k, r) each.

    Halves the modes again and again, so that each level passes once over what the level above left.
    """
    if len(factors) < 2:
        return [partial] * len(factors)
    xp, half = namespace(partial), len(factors) // 2
    left, right = khatri_rao(factors[:half]), khatri_rao(factors[half:])
    cube = xp.reshape(partial, (left.shape[0], right.shape[0], partial.shape[1]))
    over_right = xp.sum(cube * conj(right), axis=1)
    over_left = xp.sum(cube * xp.expand_dims(conj(left), axis=1), axis=0)
    return contracted(over_right, factors[:half]) + contracted(over_left, factors[half:])
