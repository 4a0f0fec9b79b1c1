"""One blocked pass over a tensor: is it finite, how large is it, what is its norm."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tensorring._array import Array, block_length, dtype_name, is_complex, is_host, namespace, slices, to_host
from tensorring._threads import each

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
    blocks = _blocks(flat)
    found = each(lambda k: (_extremes(blocks[k]), squared_parts(blocks[k])), len(blocks), _host_entries(flat))
    peak = _largest_of([extreme for extremes, _ in found for extreme in extremes])
    if not math.isfinite(peak):
        _raise_not_finite(x, name)
    if peak == 0.0:
        return Scale(0.0, 0)
    exponent = math.frexp(peak)[1]
    if abs(exponent) <= _SAFE_EXPONENT[dtype_name(x.dtype)]:
        return Scale(root_of_sum([square for _, squares in found for square in squares]), 0)
    return Scale(_norm(flat, exponent), exponent)


def scaled(x: Array, exponent: int) -> Array:
    """x · 2**exponent, exactly; x itself where exponent is 0."""
    if exponent == 0:
        return x
    # Two factors, since 2**exponent alone may lie outside the range of the dtype.
    half = exponent // 2
    return (x * 2.0**half) * 2.0 ** (exponent - half)


def _blocks(flat: Array) -> list[Array]:
    length = block_length(flat, 1, megabytes=1.0)
    return [flat[block] for block in slices(flat.shape[0], length)]


def largest_entry(flat: Array) -> float:
    """The largest |entry| of an array of one axis; NaN or inf where there is one (both survive a maximum).

    Complex entries count by their parts: |z| itself may overflow where both parts are finite.
    """
    return _largest_of([extreme for block in _blocks(flat) for extreme in _extremes(block)])


def _extremes(block: Array) -> list[Array]:
    xp = namespace(block)
    parts = [xp.real(block), xp.imag(block)] if is_complex(block) else [block]
    return [extreme for part in parts for extreme in (xp.max(part), -xp.min(part))]


def _largest_of(values: list[Array]) -> float:
    return float(np.max(np.asarray(to_host(namespace(*values).stack(values)), dtype=np.float64)))


def _host_entries(flat: Array) -> int:
    """Entries to share out over threads: none of those that lie elsewhere."""
    return int(flat.shape[0]) if is_host(flat) else 0


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
    # Squares beyond the range are seen by who asked, and taken again after scaling.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
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
