"""Numbers that are not negative, in a range without end: products of many norms stay finite and keep their digits."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorring._array import Array, as_dtype, dtype_name, is_complex, to_device, to_host
from tensorring.linalg.scale import largest_entry

Values = np.ndarray[Any, Any]

# Beyond it doubles are zero or infinite; NumPy's ldexp takes 32-bit exponents.
_RANGE = 5000


@dataclass(frozen=True, eq=False)
class Sizes:
    """mantissas · 2**exponents: an array of numbers ≥ 0, on the host. Mantissas lie in [½, 1), or are 0.

    Products, roots and sums are right to rounding, whatever the exponents: logarithms would lose digits there.
    """

    mantissas: Values
    exponents: Values

    @classmethod
    def of(cls, values: Any, exponents: Any = 0) -> Sizes:
        """values · 2**exponents, for finite values ≥ 0."""
        mantissas, powers = np.frexp(np.asarray(values, dtype=np.float64))
        return cls(mantissas, np.where(mantissas > 0, powers.astype(np.int64) + exponents, 0))

    @classmethod
    def stack(cls, sizes: Sequence[Sizes]) -> Sizes:
        """Several of one shape, along a new first axis."""
        return cls(np.stack([s.mantissas for s in sizes]), np.stack([s.exponents for s in sizes]))

    def __getitem__(self, index: Any) -> Sizes:
        """Some of them."""
        return Sizes(self.mantissas[index], self.exponents[index])

    def __mul__(self, other: Sizes) -> Sizes:
        """Products, entry by entry."""
        return Sizes.of(self.mantissas * other.mantissas, self.exponents + other.exponents)

    def __truediv__(self, other: Sizes) -> Sizes:
        """Quotients, and 0 where the divisor is 0: what is not there needs no scaling."""
        there = other.mantissas > 0
        quotients = self.mantissas / np.where(there, other.mantissas, 1.0)
        return Sizes.of(np.where(there, quotients, 0.0), self.exponents - other.exponents)

    def power(self, k: int) -> Sizes:
        """The k-th powers, k ≥ 0; 0 to the power of 0 is 1."""
        one = Sizes.of(np.ones(self.mantissas.shape))
        return functools.reduce(operator.mul, [self] * k, one)

    def root(self, k: int) -> Sizes:
        """The k-th roots, k ≥ 1."""
        quotients, rests = np.divmod(self.exponents, k)
        return Sizes.of(np.ldexp(self.mantissas, rests.astype(np.int32)) ** (1 / k), quotients)

    def sum(self, axis: int | None = None) -> Sizes:
        """The sum over one axis, or over all."""
        exponents = np.where(self.mantissas > 0, self.exponents, np.iinfo(np.int32).min)
        top = np.max(exponents, axis=axis, keepdims=True)
        total = np.sum(_ldexp(self.mantissas, exponents - top), axis=axis)
        return Sizes.of(total, np.reshape(top, np.shape(total)))

    def max(self) -> Sizes:
        """The largest of an array of one axis."""
        there = self.mantissas > 0
        order = np.lexsort((self.mantissas, np.where(there, self.exponents, np.iinfo(np.int64).min)))
        return self[order[-1]]

    def product(self) -> Sizes:
        """The product over the first axis."""
        return functools.reduce(operator.mul, (self[k] for k in range(self.mantissas.shape[0])))

    def values(self) -> Values:
        """As doubles: infinite, or zero, beyond their range."""
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(_ldexp(self.mantissas, self.exponents))

    def __float__(self) -> float:
        """One number, as a double."""
        return float(self.values())

    def times(self, array: Array) -> Array:
        """array · sizes, in the array's own precision and library; broadcast as usual. Finite where the product is."""
        real, limit = ("float32", 100) if dtype_name(array.dtype) in ("float32", "complex64") else ("float64", 1000)
        left = self.exponents - 1
        # Each power is finite in the array's precision, so that zeros stay zeros, whatever the size.
        while np.any(left):
            step = np.clip(left, -limit, limit)
            array = array * to_device(np.asarray(_ldexp(np.ones(step.shape), step)).astype(real), like=array)
            left = left - step
        return array * to_device(np.asarray(2 * self.mantissas).astype(real), like=array)


def norm(array: Array) -> Sizes:
    """‖array‖_F in double precision."""
    host, exponent = unscaled(array)
    return Sizes.of(np.linalg.norm(np.reshape(host, (-1,))), exponent)


def column_norms(matrix: Array) -> Sizes:
    """The norms of the columns, each scaled by its own power of two: (n, r) -> (r,)."""
    host = to_host(as_dtype(matrix, "complex128" if is_complex(matrix) else "float64"))
    peaks = np.maximum(np.max(np.abs(host.real), axis=0), np.max(np.abs(host.imag), axis=0))
    exponents = np.frexp(peaks)[1].astype(np.int64)
    return Sizes.of(np.linalg.norm(shifted(host, -exponents), axis=0), exponents)


def unscaled(array: Array) -> tuple[Values, int]:
    """The array on the host in double precision, with entries of order 1, and the power of two taken out of it."""
    host = to_host(as_dtype(array, "complex128" if is_complex(array) else "float64"))
    exponent = int(np.frexp(largest_entry(np.reshape(host, (-1,))))[1])
    return shifted(host, -exponent), exponent


def shifted(array: Values, exponents: Any) -> Values:
    """array · 2**exponents, exactly; in two steps, since a power alone may lie outside the range of a double."""
    half = np.asarray(exponents) // 2
    return np.asarray(array * np.ldexp(1.0, half) * np.ldexp(1.0, exponents - half))


def _ldexp(mantissas: Values, exponents: Values) -> Values:
    return np.ldexp(mantissas, np.clip(exponents, -_RANGE, _RANGE).astype(np.int32))
