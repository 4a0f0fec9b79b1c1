"""From tolerances to ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorring.linalg import error_floor, rank_for, tails

SPECTRA = st.lists(st.just(0.0) | st.floats(1e-100, 1e3), min_size=1, max_size=12).map(
    lambda s: np.array(sorted(s, reverse=True))
)


@given(SPECTRA)
def test_tails_are_the_norms_of_what_is_left(values) -> None:
    expected = [np.linalg.norm(values[r:]) for r in range(len(values) + 1)]
    np.testing.assert_allclose(tails(values), expected, rtol=1e-14, atol=1e-300)


def test_tails_keep_small_digits_and_extreme_scales() -> None:
    values = np.array([1.0, 1e-9, 1e-12])
    assert tails(values)[1] == pytest.approx(np.hypot(1e-9, 1e-12), rel=1e-15)
    for scale in (1e-300, 1e300):
        np.testing.assert_allclose(tails(scale * values) / scale, tails(values), rtol=1e-13, atol=1e-16)
    np.testing.assert_array_equal(tails(np.zeros(2)), np.zeros(3))
    np.testing.assert_array_equal(tails(np.zeros(0)), np.zeros(1))


@given(SPECTRA, st.floats(0, 2e3), st.none() | st.integers(1, 12))
def test_the_rank_is_the_smallest_that_keeps_the_error(values, max_error, cap) -> None:
    rank = rank_for(values, max_error=max_error, max_rank=cap)
    left = tails(values)
    assert 1 <= rank <= len(values)
    if cap is not None and rank == cap:
        return
    assert left[rank] <= max_error
    assert rank == 1 or left[rank - 1] > max_error


def test_equal_values_at_the_bound() -> None:
    values = np.ones(4)
    assert rank_for(values, max_error=np.sqrt(2.0)) == 2
    assert rank_for(values, max_error=np.nextafter(np.sqrt(2.0), 0)) == 3
    assert rank_for(np.zeros(3), max_error=0.0) == 1


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("complex64"), "float16"])
def test_the_floor_of_single_precision(dtype) -> None:
    assert error_floor(dtype, 3) == 150 * 2.0**-23


def test_the_floor_of_integers_is_that_of_doubles() -> None:
    assert error_floor("int32", 2) == error_floor(np.float64, 2) == 100 * 2.0**-52
    assert error_floor("float64", 0) == 50 * 2.0**-52


def test_a_shorter_result_adds_its_rounding() -> None:
    assert error_floor("float64", 1, returned="float32") == 50 * 2.0**-52 + 4 * 2.0**-23
    assert error_floor("float32", 1, returned="float64") == error_floor("float32", 1)
