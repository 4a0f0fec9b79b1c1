"""What every iterative method asks of the start that it is given."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from tensorring._array import Array, dtype_name, is_complex, namespace
from tensorring.tensors import LowRankTensor


def checked_start(init: Any, x: Array, kind: type[LowRankTensor], names: Sequence[str]) -> Any:
    """The name of a start, or a tensor of that kind with the shape, library and kind of numbers of what is fitted.

    Its ranks are for the method to check; in another precision than x's, it is brought to that.
    """
    known = ", ".join(map(repr, names))
    if isinstance(init, str):
        if init not in names:
            raise ValueError(f"got init={init!r}; starts are {known}, or a {kind.__name__}")
        return init
    if not isinstance(init, kind):
        raise TypeError(f"got init={reprlib.repr(init)}; starts are {known}, or a {kind.__name__}")
    if init.shape != tuple(x.shape):
        raise ValueError(
            f"got an init of shape {init.shape} for a tensor of shape {tuple(x.shape)}; the two must agree"
        )
    xp = namespace(x)
    if namespace(*init.arrays) is not xp:
        raise TypeError("got an init in another library than x: make its arrays with the library of x")
    if "complex" in dtype_name(init.dtype) and not is_complex(x):
        raise ValueError(f"got a complex init for a tensor of dtype {dtype_name(x.dtype)}; make it real first")
    if not all(bool(xp.all(xp.isfinite(array))) for array in init.arrays):
        raise ValueError("got an init that holds NaN or inf; sweeps go nowhere from there: replace such entries first")
    return init
