"""One blocked pass over a tensor: is it finite, how large is it, what is its norm."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tensorring._array import Array, block_length, dtype_name, is_complex, namespace, slices, to_host

# Outside 2**±limit of the largest entry, squares of what matters could over- or underflow.
_SAFE_EXPONENT = {"float32": 20, "complex64": 20, "float64": 300, "complex128": 300}


class Scale(NamedTuple):
    """‖x‖ = norm · 2**exponent, where x · 2**-exponent can be squared safely."""

    norm: float
    exponent: int


def measure(x: Array, *, name: str = "x") -> Scale:
    """‖x‖_F and the power of two to divide by, in one blocked pass; ValueError at the first NaN or inf.

    `exponent` is 0 unless the largest entry lies outside 2**±20 (float32) or 2**±300 (float64), so that ordinary
    tensors are never copied. `norm` is the norm of the scaled tensor.

    Parameters
    ----------
    x
        Any real or complex floating array.
    name
        What the error message calls it.
    """
    flat = namespace(x).reshape(x, (-1,))
    peak = largest_entry(flat)
    if not math.isfinite(peak):
        _raise_not_finite(x, name)
    if peak == 0.0:
        return Scale(0.0, 0)
    exponent = math.frexp(peak)[1]
    if abs(exponent) <= _SAFE_EXPONENT[dtype_name(x.dtype)]:
        exponent = 0
    return Scale(_norm(flat, exponent), exponent)


def scaled(x: Array, exponent: int) -> Array:
    """x · 2**exponent, exactly; x itself where exponent is 0."""
    if exponent == 0:
        return x
    # Two factors, since 2**exponent alone may lie outside the range of the dtype.
    half = exponent // 2
    return (x * 2.0**half) * 2.0 ** (exponent - half)


def _blocks(flat: Array) -> list[Array]:
    length = block_length(flat, 1, megabytes=0.25)
    return [flat[block] for block in slices(flat.shape[0], length)]


def largest_entry(flat: Array) -> float:
    """The largest |entry| of an array of one axis; NaN or inf where there is one (both survive a maximum).

    Complex entries count by their parts: |z| itself may overflow where both parts are finite.
    """
    xp = namespace(flat)
    if is_complex(flat):
        return _largest([largest_entry(xp.real(flat)), largest_entry(xp.imag(flat))])
    extremes = []
    for block in _blocks(flat):
        extremes += [xp.max(block), -xp.min(block)]
    return _largest(to_host(xp.stack(extremes)))


def _largest(values: list[float] | np.ndarray) -> float:
    return float(np.max(np.asarray(values, dtype=np.float64)))


def _norm(flat: Array, exponent: int) -> float:
    squares: list[Array] = []
    for block in _blocks(flat):
        squares += squared_parts(scaled(block, -exponent))
    return root_of_sum(squares)


def squared_parts(flat: Array) -> list[Array]:
    """Σ|x|² over an array of one axis, as terms that stay on its device.

    Sums of squares rather than dot products: those add up thousands of numbers in a row, and equal entries are all
    rounded to the same side (700 eps of the norm were seen), while sums go pairwise.
    """
    xp = namespace(flat)
    parts = [xp.real(flat), xp.imag(flat)] if is_complex(flat) else [flat]
    return [xp.sum(part * part) for part in parts]


def root_of_sum(squares: list[Array]) -> float:
    """√Σ of terms, added up in double precision: their number must not cost digits of a float32 norm."""
    return math.sqrt(float(np.sum(to_host(namespace(*squares).stack(squares)), dtype=np.float64)))


def _raise_not_finite(x: Array, name: str) -> None:
    xp = namespace(x)
    bad = to_host(xp.isfinite(x))
    index = tuple(int(i) for i in np.argwhere(~bad)[0])
    value = to_host(x[index])[()]
    raise ValueError(
        f"{name}{list(index)} is {value}; every entry must be finite: replace or remove such entries first"
    )
