"""The Tucker tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from tensorring._array import Array, namespace
from tensorring.contract.unfold import mode_product
from tensorring.tensors.low_rank import LowRankTensor, check_ndim, checked_array, checked_arrays


@dataclass(frozen=True, eq=False, repr=False)
class TuckerTensor(LowRankTensor):
    """x = core ×_1 U_1 ⋯ ×_d U_d: a small core and one factor for each mode (Tucker 1966).

    Parameters
    ----------
    core
        Array (r_1, …, r_d).
    factors
        d matrices (n_k, r_k) of the same library.

    Raises
    ------
    ValueError
        If their number or their shapes do not fit the core.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> tg.TuckerTensor(np.ones((2, 3)), [np.ones((4, 2)), np.ones((5, 3))])
    TuckerTensor(shape=(4, 5), ranks=(2, 3), parameters=29, dtype=float64)
    """

    format: ClassVar[str] = "tucker"
    core: Array
    factors: tuple[Array, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "core", checked_array(self.core, "core"))
        object.__setattr__(self, "factors", checked_arrays(self.factors, "factors"))
        namespace(*self.arrays)
        check_ndim(self.core, len(self.factors), "core", "one for each factor")
        for k, factor in enumerate(self.factors):
            check_ndim(factor, 2, f"factors[{k}]", "(mode size, rank)")
            if factor.shape[1] != self.core.shape[k]:
                raise ValueError(
                    f"factors[{k}] has {factor.shape[1]} columns but the core has size {self.core.shape[k]} in mode "
                    f"{k}; both are the rank of that mode: make them equal"
                )

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The core, then the factors."""
        return (self.core, *self.factors)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense tensor."""
        return tuple(factor.shape[0] for factor in self.factors)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The d multilinear ranks: the shape of the core."""
        return tuple(self.core.shape)

    def to_dense(self) -> Array:
        """The dense tensor, mode by mode, those that grow least first."""
        x = self.core
        for mode in sorted(range(self.ndim), key=lambda k: self.shape[k] / self.ranks[k]):
            x = mode_product(x, self.factors[mode], mode)
        return x

    def with_arrays(self, arrays: Sequence[Array]) -> Self:
        """A Tucker tensor of another core and other factors."""
        return type(self)(arrays[0], tuple(arrays[1:]))

    def rows(self, start: int, stop: int) -> Self:
        """The Tucker tensor of x[start:stop]."""
        return type(self)(self.core, (self.factors[0][start:stop, :], *self.factors[1:]))
