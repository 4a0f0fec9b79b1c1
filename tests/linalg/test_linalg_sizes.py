"""Numbers beyond the range of a double, against exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorring.linalg.sizes import Sizes, column_norms, norm, unscaled

NUMBERS = st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(-9000, 9000)), min_size=1, max_size=5)
EPS = 2.0**-52


def exact(s: Sizes) -> list[Fraction]:
    pairs = zip(np.atleast_1d(s.mantissas), np.atleast_1d(s.exponents), strict=True)
    return [Fraction(float(m)) * Fraction(2) ** int(e) for m, e in pairs]


def sizes(pairs) -> Sizes:
    return Sizes.of([m for m, _ in pairs], np.array([e for _, e in pairs]))


def close(found: Fraction, expected: Fraction, steps: float = 4.0) -> bool:
    return abs(found - expected) <= Fraction(steps * EPS) * expected


@given(NUMBERS)
def test_products_powers_roots_and_sums_are_right_to_rounding(pairs) -> None:
    s, numbers = sizes(pairs), [Fraction(m) * Fraction(2) ** e for m, e in pairs]
    assert exact(s) == numbers
    assert all(close(a, b * b) for a, b in zip(exact(s * s), numbers, strict=True))
    assert all(close(a, b**3, 8) for a, b in zip(exact(s.power(3)), numbers, strict=True))
    assert all(close(a**3, b, 16) for a, b in zip(exact(s.root(3)), numbers, strict=True))
    assert close(exact(s.sum())[0], sum(numbers), 8)
    assert close(exact(s.product())[0], math.prod(numbers), 8)
    assert exact(s.max())[0] == max(numbers)
    assert all(a == (b > 0) for a, b in zip(exact(s / s), numbers, strict=True))


def test_sums_over_one_axis() -> None:
    s = Sizes.of(np.arange(6.0).reshape(2, 3), 5000)
    np.testing.assert_array_equal((s.sum(axis=0) / Sizes.of(1.0, 5000)).values(), [3, 5, 7])
    np.testing.assert_array_equal((s.sum(axis=1) / Sizes.of(1.0, 5000)).values(), [3, 12])


def test_beyond_a_double() -> None:
    assert float(Sizes.of(1.0, 2000)) == math.inf
    assert float(Sizes.of(1.0, -2000)) == 0.0
    assert float(Sizes.of(1.0, 10**9)) == math.inf
    assert float(Sizes.of(1.0, 10**9) * Sizes.of(3.0, -(10**9))) == 3.0


@pytest.mark.parametrize("power", [-300, -150, 0, 150, 300])
def test_norms_of_columns_far_apart(power, xp, dtype, gaussian) -> None:
    u = gaussian((7, 3), dtype)
    extreme = power if dtype in ("float64", "complex128") else power / 10
    scales = np.array([1.0, 10.0**extreme, 0.0])
    scaled = (u * scales).astype(dtype)
    found = column_norms(xp.asarray(scaled)).values()
    np.testing.assert_allclose(found, np.linalg.norm(u.astype("complex128"), axis=0) * scales, rtol=1e-6)
    assert float(norm(xp.asarray(scaled[:, :1]))) == pytest.approx(
        np.linalg.norm(u[:, 0].astype("complex128")), rel=1e-6
    )


def test_scaling_an_array_keeps_its_dtype_and_range(xp, dtype) -> None:
    array = np.array([[1e-30, 1e30]], dtype=dtype)
    found = xp.to_numpy(Sizes.of([1e30, 1e-30]).times(xp.asarray(array)))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, [[1, 1]], rtol=1e-6)
    # Powers beyond the range of the dtype leave zeros what they are, and digits of subnormal numbers.
    extreme = 240 if dtype in ("float32", "complex64") else 2000
    edge = np.array([2.0 ** (-extreme // 2), 0.0], dtype=dtype)
    found = xp.to_numpy(Sizes.of([1.25, 1.25], extreme).times(xp.asarray(edge)))
    assert found[1] == 0
    assert found[0] == 1.25 * 2.0 ** (extreme // 2)
    assert (xp.to_numpy(Sizes.of([1.0, 1.0], 10**5).times(xp.asarray(0 * edge))) == 0).all()


def test_entries_of_order_one() -> None:
    host, exponent = unscaled(np.array([3e-310, 1e-320]))
    assert 0.5 <= host[0] < 1
    assert host[0] * 2.0**-1000 * 2.0 ** (exponent + 1000) == 3e-310
    assert unscaled(np.zeros(3))[1] == 0
