"""The cut: a tensor whose unfolding along some of its modes has low rank."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from tensorring._array import Array, namespace
from tensorring.tensors.low_rank import LowRankTensor, checked_array


@dataclass(frozen=True, eq=False, repr=False)
class CutTensor(LowRankTensor):
    """x[i, j] = Σ_r left[i, r]·right[r, j], with i the indices of `modes` and j all others: two cores, one bond.

    For a convolution kernel (O, I, h, w), `modes=(0,)` cuts at the output channels and `modes=(0, 3)` is the
    spatially separable form: two layers each.

    Parameters
    ----------
    left
        Array (n_k for k in modes …, r).
    right
        Array (r, n_k for the other modes, in their order …).
    modes
        The modes of `left`: ascending, at least one, and not all.

    Raises
    ------
    ValueError
        If the modes are not ascending and within the tensor, or the two do not share the bond.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> tg.CutTensor(np.ones((8, 3, 2)), np.ones((2, 4, 3)), modes=(0, 3))
    CutTensor(shape=(8, 4, 3, 3), ranks=(2,), parameters=72, dtype=float64)
    """

    format: ClassVar[str] = "cut"
    left: Array
    right: Array
    modes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "left", checked_array(self.left, "left"))
        object.__setattr__(self, "right", checked_array(self.right, "right"))
        object.__setattr__(self, "modes", tuple(operator.index(mode) for mode in self.modes))
        namespace(self.left, self.right)
        for name, array in (("left", self.left), ("right", self.right)):
            if array.ndim < 2 or 0 in array.shape:
                raise ValueError(f"{name} has shape {tuple(array.shape)}; it needs a bond and a mode, none empty")
        order = self.left.ndim + self.right.ndim - 2
        if self.left.ndim - 1 != len(self.modes) or not _is_ascending(self.modes, order):
            raise ValueError(
                f"got modes={self.modes} with left of shape {tuple(self.left.shape)}, in a tensor of {order} modes; "
                "modes are ascending, within the tensor, and one for each axis of left but the last"
            )
        if self.left.shape[-1] != self.right.shape[0]:
            raise ValueError(
                f"left ends with bond {self.left.shape[-1]} but right begins with {self.right.shape[0]}: "
                "make them equal"
            )

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Left and right."""
        return (self.left, self.right)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense tensor."""
        sizes = dict(zip(self.modes, self.left.shape[:-1], strict=True))
        others = iter(self.right.shape[1:])
        return tuple(sizes[k] if k in sizes else next(others) for k in range(len(sizes) + self.right.ndim - 1))

    @property
    def ranks(self) -> tuple[int, ...]:
        """The one bond."""
        return (int(self.right.shape[0]),)

    def to_dense(self) -> Array:
        """The dense tensor: one matrix product, and the modes put in order."""
        xp = namespace(self.left, self.right)
        order = (*self.modes, *(k for k in range(self.ndim) if k not in self.modes))
        dense = xp.tensordot(self.left, self.right, axes=1)
        return xp.permute_dims(dense, tuple(order.index(k) for k in range(self.ndim)))

    def with_arrays(self, arrays: Sequence[Array]) -> Self:
        """A cut along the same modes with other arrays."""
        return type(self)(arrays[0], arrays[1], self.modes)

    def rows(self, start: int, stop: int) -> Self:
        """The cut of x[start:stop]."""
        if self.modes[0] == 0:
            return self.with_arrays([self.left[start:stop, ...], self.right])
        return self.with_arrays([self.left, self.right[:, start:stop, ...]])


def _is_ascending(modes: tuple[int, ...], order: int) -> bool:
    steps = all(a < b for a, b in itertools.pairwise(modes))
    return bool(modes) and steps and modes[0] >= 0 and modes[-1] < order
