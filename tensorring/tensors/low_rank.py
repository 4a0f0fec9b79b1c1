"""What every format has: arrays, a shape, ranks, and the dense tensor they stand for."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from tensorring._array import Array, as_dtype, compute_dtype_name, dtype_name, is_array, namespace


class LowRankTensor(ABC):
    """A dense tensor held as a few small arrays. Frozen: its parts are never reassigned.

    The formats differ in which arrays they hold and how `to_dense` contracts them; all else follows.

    Examples
    --------
    >>> import tensorring as tg
    >>> t = tg.random.tt((4, 5, 6), ranks=2, rng=0)
    >>> isinstance(t, tg.LowRankTensor), t.format, t.shape, t.ranks, t.parameter_count
    (True, 'tt', (4, 5, 6), (2, 2), 40)
    """

    format: ClassVar[str]
    carrier: ClassVar[int] = -1
    """Which of the arrays carries the scale of the tensor."""

    @property
    @abstractmethod
    def arrays(self) -> tuple[Array, ...]:
        """The arrays that are stored, in the order of the constructor."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense tensor."""

    @property
    @abstractmethod
    def ranks(self) -> tuple[int, ...]:
        """The ranks, without redundant entries."""

    @abstractmethod
    def to_dense(self) -> Array:
        """The dense tensor: an array of this tensor's shape, dtype and device."""

    @abstractmethod
    def with_arrays(self, arrays: Sequence[Array]) -> Self:
        """The same format with other arrays, in the order of `arrays`."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Self:
        """The low-rank tensor of x[start:stop], sliced along the first mode."""

    @property
    def ndim(self) -> int:
        """The number of modes."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """The dtype of the dense tensor."""
        return namespace(*self.arrays).result_type(*self.arrays)

    @property
    def parameter_count(self) -> int:
        """How many numbers are stored."""
        return sum(math.prod(array.shape) for array in self.arrays)

    def astype(self, dtype: Any) -> Self:
        """The same tensor in another floating dtype (of the arrays' library, or its name).

        Raises
        ------
        TypeError
            If the dtype is not one that tensors hold, or would drop an imaginary part.
        """
        name = compute_dtype_name(dtype)
        if "complex" not in name and "complex" in dtype_name(self.dtype):
            raise TypeError(
                f"got astype({name}) for a tensor of {dtype_name(self.dtype)}; imaginary parts are not dropped "
                "silently: take the real part of the dense tensor and decompose that"
            )
        return self.with_arrays([as_dtype(array, name) for array in self.arrays])

    def __repr__(self) -> str:
        """One line: format, shape, ranks, parameters, dtype."""
        return (
            f"{type(self).__name__}(shape={self.shape}, ranks={self.ranks}, "
            f"parameters={self.parameter_count}, dtype={dtype_name(self.dtype)})"
        )


def checked_arrays(arrays: Any, name: str) -> tuple[Array, ...]:
    """The parts of a format as a tuple of arrays of one library; integers become float64.

    Raises
    ------
    TypeError, ValueError
        If there are none, or one is no array of numbers.
    """
    if is_array(arrays):
        raise TypeError(f"got {name} as one array; {name} is a sequence of arrays, one for each mode: put it in a list")
    parts = tuple(checked_array(array, f"{name}[{k}]") for k, array in enumerate(arrays))
    if not parts:
        raise ValueError(f"got no {name}; a tensor has at least one mode")
    namespace(*parts)  # a TypeError that names both libraries where they are mixed
    return parts


def checked_array(array: Any, name: str) -> Array:
    """One part of a format as an array in a dtype that tensors hold."""
    array = array if is_array(array) else np.asarray(array)
    try:
        return as_dtype(array, compute_dtype_name(array.dtype))
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def check_ndim(array: Array, ndim: int, name: str, meaning: str) -> None:
    """ValueError unless the array has `ndim` axes, none of them empty."""
    if array.ndim != ndim or 0 in array.shape:
        raise ValueError(f"{name} has shape {tuple(array.shape)}; it needs {ndim} axes, {meaning}, none of length 0")


def checked_modes(modes: Any, order: int) -> tuple[int, ...]:
    """One mode or several, ascending, all different and within a tensor of so many."""
    entries = list(modes) if isinstance(modes, Iterable) else [modes]
    try:
        chosen = sorted(operator.index(mode) for mode in entries)
    except TypeError:
        raise TypeError(f"got modes={modes!r}; modes are ints, one or several") from None
    distinct = len(set(chosen)) == len(chosen)
    if not (distinct and chosen and chosen[0] >= 0 and chosen[-1] < order):
        raise ValueError(
            f"got modes={modes!r} for a tensor of {order} modes; give one mode or several different ones, between 0 "
            f"and {order - 1}"
        )
    return tuple(chosen)
