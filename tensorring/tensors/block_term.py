"""The sum of Tucker terms."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from tensorring._array import Array, namespace
from tensorring.contract.block_terms import known_side, side_by_side
from tensorring.tensors.low_rank import LowRankTensor, check_ndim, checked_array, checked_arrays


@dataclass(frozen=True, eq=False, repr=False)
class BlockTermTensor(LowRankTensor):
    """x = Σ_r core_r ×_k U_{r,k}: R Tucker terms of one size: CP where that is 1, Tucker where R is.

    Parameters
    ----------
    cores
        Array (R, L_1, …, L_d): the cores of the terms.
    factors
        An array (R, n_k, L_k) of the same library for each of `modes`.
    modes
        The modes that have factors, ascending. The others are whole in the cores, as the pixels of a convolution
        kernel (O, I, h, w) are with `modes=(0, 1)`. Default: the first ones, as many as there are factors.

    Raises
    ------
    ValueError
        If the modes are not ascending and within the tensor, or the factors do not fit the cores.

    References
    ----------
    L. De Lathauwer 2008, "Decompositions of a higher-order tensor in block terms, part II", doi 10.1137/070690729.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> tg.BlockTermTensor(np.ones((2, 3, 1, 9)), [np.ones((2, 8, 3)), np.ones((2, 7, 1))], modes=(0, 1))
    BlockTermTensor(shape=(8, 7, 9), ranks=(2, 3, 1, 9), parameters=116, dtype=float64)
    """

    format: ClassVar[str] = "btd"
    carrier: ClassVar[int] = 0
    cores: Array
    factors: tuple[Array, ...]
    modes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "cores", checked_array(self.cores, "cores"))
        object.__setattr__(self, "factors", checked_arrays(self.factors, "factors"))
        namespace(*self.arrays)
        modes = tuple(operator.index(mode) for mode in self.modes) or tuple(range(len(self.factors)))
        object.__setattr__(self, "modes", modes)
        if len(modes) != len(self.factors) or list(modes) != sorted(set(modes)) or modes[0] < 0:
            raise ValueError(
                f"got modes={modes} for {len(self.factors)} factors; modes are ascending, one for each factor"
            )
        check_ndim(self.cores, max(self.cores.ndim, modes[-1] + 2), "cores", "the terms, then one for each mode")
        for mode, factor in zip(modes, self.factors, strict=True):
            check_ndim(factor, 3, f"the factor of mode {mode}", "(terms, mode size, rank)")
            wanted = (self.cores.shape[0], self.cores.shape[mode + 1])
            if (factor.shape[0], factor.shape[2]) != wanted:
                raise ValueError(
                    f"the factor of mode {mode} has shape {tuple(factor.shape)} and the cores have shape "
                    f"{tuple(self.cores.shape)}; it needs {wanted[0]} terms and rank {wanted[1]}"
                )

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The cores, then the factors."""
        return (self.cores, *self.factors)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense tensor."""
        sizes = list(self.cores.shape[1:])
        for mode, factor in zip(self.modes, self.factors, strict=True):
            sizes[mode] = factor.shape[1]
        return tuple(sizes)

    @property
    def ranks(self) -> tuple[int, ...]:
        """(R, L_1, …, L_d): how many terms, and their multilinear ranks; a mode that is whole has its size."""
        return tuple(self.cores.shape)

    def to_dense(self) -> Array:
        """The dense tensor: one matrix product over all terms, after all modes but one."""
        xp, factors = namespace(*self.arrays), dict(zip(self.modes, self.factors, strict=True))
        mode = self.modes[0]
        shape = [n for k, n in enumerate(self.shape) if k != mode]
        product = side_by_side(factors[mode]) @ known_side(self.cores, factors, mode)
        return xp.moveaxis(xp.reshape(product, (factors[mode].shape[1], *shape)), 0, mode)

    def with_arrays(self, arrays: Sequence[Array]) -> Self:
        """A tensor of other cores and factors, of the same modes."""
        return type(self)(arrays[0], tuple(arrays[1:]), self.modes)

    def rows(self, start: int, stop: int) -> Self:
        """The block-term tensor of x[start:stop]."""
        if self.modes[0] != 0:
            return type(self)(self.cores[:, start:stop, ...], self.factors, self.modes)
        return type(self)(self.cores, (self.factors[0][:, start:stop, :], *self.factors[1:]), self.modes)
