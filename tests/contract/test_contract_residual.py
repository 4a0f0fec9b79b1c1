"""The residual of a product, in blocks: as from the dense residual, however small it is, in any library."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorring._array import eps
from tensorring.contract import residual
from tensorring.contract.residual import product_residual


def problem(m, n, k, dtype, gaussian):
    left, right = gaussian((m, k), dtype), gaussian((k, n), dtype)
    return left, right, (left @ right).astype(dtype)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 5, 2), (64, 64, 3), (65, 63, 1), (130, 40, 4), (3, 4100, 2)])
def test_the_residual_is_the_dense_one(sizes, xp, dtype, gaussian) -> None:
    left, right, product = problem(*sizes, dtype, gaussian)
    x = product + gaussian(product.shape, dtype)
    wide = "complex128" if "complex" in dtype else "float64"
    expected = np.linalg.norm(x.astype(wide) - left.astype(wide) @ right.astype(wide))
    got = product_residual(xp.asarray(x), xp.asarray(left), xp.asarray(right))
    assert got == pytest.approx(expected, rel=100 * eps(dtype))


@pytest.mark.parametrize("share", [1e-3, 1e-6, 1e-9, 1e-12])
def test_small_residuals_keep_their_digits(share, xp, gaussian) -> None:
    """A difference of norms would be noise from 1e-8 on; what is lost here is the rounding of the product alone."""
    left, right, product = problem(90, 110, 3, "float64", gaussian)
    noise = gaussian(product.shape)
    noise *= share * np.linalg.norm(product) / np.linalg.norm(noise)
    got = product_residual(xp.asarray(product + noise), xp.asarray(left), xp.asarray(right))
    assert got == pytest.approx(np.linalg.norm(noise), rel=max(1e-12, 10 * eps("float64") / share))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))
def test_blocks_of_any_size_give_the_same(m, n, tall, wide) -> None:
    rng = np.random.default_rng(m + 100 * n)
    x, left, right = rng.standard_normal((m, n)), rng.standard_normal((m, 2)), rng.standard_normal((2, n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(residual, "_BLOCK", (tall, wide))
        got = product_residual(x, left, right)
    assert got == pytest.approx(np.linalg.norm(x - left @ right), rel=1e-13)


def test_what_is_given_may_be_a_view_and_is_not_written_to(gaussian) -> None:
    left, right, product = problem(70, 30, 2, "float64", gaussian)
    for array in (left, right, product):
        array.flags.writeable = False
    assert product_residual(product[::-1].copy()[::-1], left, np.asfortranarray(right)) < 1e-13 * 70


def test_on_several_threads_as_on_one(gaussian) -> None:
    left, right, product = problem(1500, 1100, 3, "float64", gaussian)
    x = product + gaussian(product.shape)
    assert product_residual(x, left, right) == pytest.approx(np.linalg.norm(x - left @ right), rel=1e-13)
    assert product_residual(x, left, right) == product_residual(x, left, right)
