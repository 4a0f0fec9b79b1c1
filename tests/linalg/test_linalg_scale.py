"""The one pass that finds finiteness, scale and norm."""

import math

import numpy as np
import pytest
from hypothesis import given

from tensorring import _array
from tensorring.linalg import measure
from tensorring.linalg.scale import scaled
from tensorring.testing import tensors


@given(tensors())
def test_the_norm_is_that_of_the_scaled_tensor(x) -> None:
    norm, exponent = measure(x)
    mantissas = np.ldexp(x.real, -exponent) + 1j * np.ldexp(x.imag, -exponent)
    expected = np.linalg.norm(mantissas.astype("complex128"))
    # Sums of squares within a block in the dtype: rounding grows with the logarithm of its length at worst.
    assert norm == pytest.approx(expected, rel=20 * _array.eps(x.dtype.name))


@given(tensors(scale=1.0, values="gaussian"))
def test_ordinary_tensors_are_not_scaled(x) -> None:
    assert measure(x).exponent == 0
    assert scaled(x, 0) is x


@pytest.mark.parametrize("factor", [1e-300, 1e-150, 1e150, 1e300])
def test_scaling_is_exact_and_goes_back(factor, gaussian) -> None:
    x = factor * gaussian((5, 6))
    norm, exponent = measure(x)
    small = scaled(x, -exponent)
    assert 0.5 <= np.max(np.abs(small)) < 1
    np.testing.assert_array_equal(scaled(small, exponent), x)
    assert norm == pytest.approx(np.linalg.norm(x / factor) * math.ldexp(factor, -exponent), rel=1e-14)


def test_scaling_reaches_across_the_whole_range() -> None:
    x = np.array([2.0**-1022])
    np.testing.assert_array_equal(scaled(scaled(x, 2044), -2044), x)


def test_many_blocks_are_one_norm(xp, dtype) -> None:
    x = np.ones((700, 700), dtype)
    assert measure(xp.asarray(x)) == (700.0, 0)


def test_equal_entries_do_not_round_to_one_side(xp, dtype) -> None:
    """A dot product adds up thousands of them in a row: 100 eps of the norm were lost, and 1000 of a residual."""
    value = np.asarray(0.7182818, dtype)
    exact = float(abs(value.astype("complex128"))) * 1000
    x = xp.asarray(np.full(10**6, value))
    assert measure(x).norm == pytest.approx(exact, rel=5 * _array.eps(dtype))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_parts_near_the_largest_number_do_not_overflow(dtype) -> None:
    largest = float(np.finfo(dtype).max)
    norm, exponent = measure(np.array([complex(largest, largest)], dtype=dtype))
    assert math.ldexp(norm, exponent - 10) == pytest.approx(math.sqrt(2) * math.ldexp(largest, -10), rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_bad_entry_is_named(xp, dtype, bad, gaussian) -> None:
    x = gaussian((4, 5, 6), dtype)
    x[3, 4, 5] = x[2, 1, 3] = bad
    with pytest.raises(ValueError, match=r"data\[2, 1, 3\] is .*(nan|inf).*finite"):
        measure(xp.asarray(x), name="data")


def test_a_bad_imaginary_part_is_found() -> None:
    with pytest.raises(ValueError, match=r"x\[1\] is .*nan"):
        measure(np.array([0j, complex(1.0, np.nan)]))


def test_zero_has_no_scale(xp, dtype) -> None:
    assert measure(xp.asarray(np.zeros((3, 2), dtype))) == (0.0, 0)
