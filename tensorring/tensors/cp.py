"""The CP tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tensorring._array import Array, as_dtype, dtype_name, namespace
from tensorring.contract.unfold import khatri_rao
from tensorring.tensors.low_rank import LowRankTensor, check_ndim, checked_array, checked_arrays


@dataclass(frozen=True, eq=False, repr=False)
class CPTensor(LowRankTensor):
    """x[i_1 … i_d] = Σ_r λ_r · Π_k U_k[i_k, r]: a sum of rank-one terms (Hitchcock 1927).

    Parameters
    ----------
    weights
        λ: array (R,).
    factors
        d matrices (n_k, R) of the same library.

    Raises
    ------
    ValueError
        If the number of columns differs between the factors, or from the number of weights.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> tg.CPTensor(np.ones(2), [np.ones((4, 2)), np.ones((5, 2)), np.ones((6, 2))])
    CPTensor(shape=(4, 5, 6), ranks=(2,), parameters=32, dtype=float64)
    """

    format: ClassVar[str] = "cp"
    carrier: ClassVar[int] = 0
    weights: Array
    factors: tuple[Array, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", checked_array(self.weights, "weights"))
        object.__setattr__(self, "factors", checked_arrays(self.factors, "factors"))
        namespace(*self.arrays)
        check_ndim(self.weights, 1, "weights", "(rank,)")
        for k, factor in enumerate(self.factors):
            check_ndim(factor, 2, f"factors[{k}]", "(mode size, rank)")
            if factor.shape[1] != self.weights.shape[0]:
                raise ValueError(
                    f"factors[{k}] has {factor.shape[1]} columns but there are {self.weights.shape[0]} weights; "
                    "each is the rank: make them equal"
                )

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The weights, then the factors."""
        return (self.weights, *self.factors)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense tensor."""
        return tuple(factor.shape[0] for factor in self.factors)

    @property
    def rank(self) -> int:
        """The number of rank-one terms."""
        return int(self.weights.shape[0])

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank, as the tuple that every format has."""
        return (self.rank,)

    def astype(self, dtype: Any) -> Self:
        """The same tensor in another floating dtype; real weights stay real."""
        cast = super().astype(dtype)
        if "complex" in dtype_name(cast.dtype) and "complex" not in dtype_name(self.weights.dtype):
            real = "float32" if dtype_name(cast.dtype) == "complex64" else "float64"
            return type(self)(as_dtype(self.weights, real), cast.factors)
        return cast

    def to_dense(self) -> Array:
        """The dense tensor: two Khatri–Rao products and one matrix product."""
        xp = namespace(*self.arrays)
        first = as_dtype(self.factors[0] * self.weights, dtype_name(self.dtype))
        if self.ndim == 1:
            return xp.sum(first, axis=1)
        half = self.ndim // 2
        left, right = khatri_rao((first, *self.factors[1:half])), khatri_rao(self.factors[half:])
        return xp.reshape(left @ right.T, self.shape)

    def with_arrays(self, arrays: Sequence[Array]) -> Self:
        """A CP tensor of other weights and factors."""
        return type(self)(arrays[0], tuple(arrays[1:]))

    def rows(self, start: int, stop: int) -> Self:
        """The CP tensor of x[start:stop]."""
        return type(self)(self.weights, (self.factors[0][start:stop, :], *self.factors[1:]))
