"""Solutions of normal equations: right where Γ is good, from K where it is not, finite always."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorring.linalg.solve import least_squares, solve_gram, solve_unit_gram


def problem(gaussian, dtype, rows=40, rank=6, columns=5):
    k, b = gaussian((rows, rank), dtype), gaussian((rows, columns), dtype)
    wide = "complex128" if "complex" in dtype else "float64"
    return k, b, (k.conj().T.astype(wide) @ k.astype(wide)), k.conj().T @ b


def test_well_conditioned_systems(dtype, xp, gaussian) -> None:
    k, b, gram, right = problem(gaussian, dtype)
    expected = np.linalg.lstsq(k, b, rcond=None)[0]
    got = xp.to_numpy(solve_gram(xp.asarray(gram), xp.asarray(right)))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, atol=100 * np.finfo(dtype).eps)
    exact = xp.to_numpy(least_squares(xp.asarray(k), xp.asarray(b)))
    np.testing.assert_allclose(exact, expected, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_ill_conditioned_systems_go_to_least_squares(dtype, xp, gaussian) -> None:
    """Two columns at 1e-7: Γ has lost every digit of their difference, K has not."""
    k, _, _, _ = problem(gaussian, dtype)
    k[:, 3] = k[:, 2] + 1e-7 * gaussian((40,), dtype)
    truth = gaussian((6, 5), dtype)
    b = k @ truth
    gram, right = k.conj().T @ k, k.conj().T @ b
    calls = []

    def exact():
        calls.append(1)
        return least_squares(xp.asarray(k), xp.asarray(b))

    got = xp.to_numpy(solve_gram(xp.asarray(gram), xp.asarray(right), exact))
    assert calls
    np.testing.assert_allclose(got, truth, atol=1e-7 * np.abs(truth).max())


def test_deficient_systems_give_a_least_squares_solution(xp, gaussian) -> None:
    k, b, _, _ = problem(gaussian, "float64")
    k[:, 3] = k[:, 2]
    gram, right = k.T @ k, k.T @ b
    best = np.linalg.norm(k @ np.linalg.lstsq(k, b, rcond=None)[0] - b)
    for exact in (
        None,
        lambda: least_squares(xp.asarray(k), xp.asarray(b)),
        lambda: xp.asarray(np.full((6, 5), np.nan)),
    ):
        got = xp.to_numpy(solve_gram(xp.asarray(gram), xp.asarray(right), exact))
        assert np.linalg.norm(k @ got - b) <= best * (1 + 1e-7)


@pytest.mark.parametrize("route", ["ridge", "least squares"])
def test_what_is_not_there_gets_exactly_nothing(route, dtype, xp, gaussian) -> None:
    """Of rounding in it the next fit, which scales components to one, would make a component of its own."""
    k, b, _, _ = problem(gaussian, dtype)
    k[:, 1] = k[:, 4] = 0.0
    wide = "complex128" if "complex" in dtype else "float64"
    gram, right = k.conj().T.astype(wide) @ k.astype(wide), k.conj().T @ b
    noisy = gaussian((6, 5), dtype) * np.array(1e-17, dtype)

    def exact():
        return least_squares(xp.asarray(k), xp.asarray(b)) + xp.asarray(noisy)

    got = xp.to_numpy(solve_gram(xp.asarray(gram), xp.asarray(right), exact if route == "least squares" else None))
    assert not got[[1, 4]].any()
    expected = np.linalg.lstsq(k, b, rcond=None)[0]
    np.testing.assert_allclose(got, expected, atol=1e4 * np.finfo(dtype).eps)


@given(
    rank=st.integers(1, 8),
    zeros=st.integers(0, 8),
    power=st.integers(-12, 12),
    copies=st.integers(0, 4),
    kind=st.sampled_from(["float64", "complex128"]),
    seed=st.integers(0, 50),
)
def test_nothing_is_ever_nan(rank, zeros, power, copies, kind, seed) -> None:
    """Components that are missing, repeated, of any scale."""
    rng = np.random.default_rng(seed)
    k = rng.standard_normal((9, rank)) + (1j * rng.standard_normal((9, rank)) if kind == "complex128" else 0)
    k[:, : min(zeros, rank)] = 0.0
    k[:, -1] *= 10.0**power
    for c in range(min(copies, rank - 1)):
        k[:, c] = k[:, c + 1]
    b = rng.standard_normal((9, 3)).astype(kind)
    best = np.linalg.norm(b - k @ np.linalg.pinv(k, rcond=1e-13) @ b)
    got = solve_gram(k.conj().T @ k, k.conj().T @ b)
    assert np.isfinite(got).all()
    if power == 0:
        assert np.linalg.norm(b - k @ got) <= best + 1e-5


def test_the_limit_is_the_callers(gaussian) -> None:
    _, _, gram, right = problem(gaussian, "float64")
    scale = 1 / np.sqrt(gram.diagonal())
    seen = solve_unit_gram(gram * scale[:, None] * scale, right * scale[:, None], lambda: np.zeros((6, 5)), limit=1.0)
    assert not seen.any()
