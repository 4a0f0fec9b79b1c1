"""Least squares with a bound: against SLSQP, by Karush–Kuhn–Tucker conditions, and where nothing is to be found."""

import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from tensorring._array import eps
from tensorring.linalg.ridge import Ridge, bounded_norm, least_norm, least_norm_rows
from tensorring.linalg.secular import spectral_root

WIDE = ("float64", "complex128")
WEIGHTS = ("none", "vector", "matrix")
ROUTES = ("gram", "rows")


def draw(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if "complex" in dtype else x).astype(dtype)


def case(rng, dtype, m=9, r=5, n=4, weights="none"):
    """K with unit columns, x, and W as it is given and as a matrix."""
    k, x = draw(rng, (m, r), dtype), draw(rng, (m, n), dtype)
    k = k / np.linalg.norm(k, axis=0)
    if weights == "none":
        return k, x, None, np.eye(r)
    if weights == "vector":
        w = 10.0 ** rng.uniform(-2, 2, r)
        return k, x, w, np.diag(w)
    a = draw(rng, (r, r + 2), dtype)
    return k, x, a @ a.conj().T, a @ a.conj().T


def solve(route, k, x, bound, weights=None, **options):
    if route == "rows":
        return least_norm_rows(k, x, bound=bound, weights=weights)
    squared = np.linalg.norm(x) ** 2
    return least_norm(k.conj().T @ k, k.conj().T @ x, squared_norm=squared, bound=bound, weights=weights, **options)


def value(v, w):
    return float(np.sum(v.conj() * (w @ v)).real)


def residual(k, x, v):
    return float(np.linalg.norm(x - k @ v))


def least(k, x):
    return residual(k, x, np.linalg.lstsq(k, x, rcond=None)[0])


def slsqp(k, x, w, bound, constraint):
    """The same by SciPy: min of one quadratic form where another is bounded, over real and imaginary parts."""
    r, n = k.shape[1], x.shape[1]

    def unpack(z):
        z = z.reshape(-1, r, n)
        return z[0] + 1j * z[1] if len(z) == 2 else z[0]

    def pack(v):
        return np.concatenate([v.real.reshape(-1), v.imag.reshape(-1)]) if np.iscomplexobj(k) else v.reshape(-1)

    def squares(z):
        return residual(k, x, unpack(z)) ** 2, 2 * pack(k.conj().T @ (k @ unpack(z) - x))

    def size(z):
        return value(unpack(z), w), 2 * pack(w @ unpack(z))

    goal, limited = (size, squares) if constraint == "residual" else (squares, size)
    found = scipy.optimize.minimize(
        lambda z: goal(z)[0],
        0.9 * pack(np.linalg.lstsq(k, x, rcond=None)[0]),
        jac=lambda z: goal(z)[1],
        method="SLSQP",
        constraints={
            "type": "ineq",
            "fun": lambda z: bound**2 - limited(z)[0],
            "jac": lambda z: -limited(z)[1],
        },
        options={"maxiter": 500, "ftol": 1e-14},
    )
    return found.fun


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("route", ROUTES)
def test_scipy_finds_nothing_smaller(route, weights, dtype):
    for seed in range(5):
        k, x, given_weights, w = case(np.random.default_rng(seed), dtype, m=6, r=3, n=2, weights=weights)
        low, high = least(k, x), np.linalg.norm(x)
        bound = low + (0.2 + 0.1 * seed) * (high - low)
        ours = solve(route, k, x, bound, given_weights)
        assert value(ours.solution, w) == pytest.approx(slsqp(k, x, w, bound, "residual"), rel=1e-6)


@pytest.mark.parametrize("dtype", WIDE)
def test_scipy_finds_no_smaller_residual_within_the_norm(dtype):
    for seed in range(5):
        k, x, _, w = case(np.random.default_rng(seed), dtype, m=6, r=3, n=2)
        longest = np.linalg.norm(np.linalg.lstsq(k, x, rcond=None)[0])
        bound = (0.2 + 0.15 * seed) * longest
        ours = bounded_norm(k.conj().T @ k, k.conj().T @ x, max_norm=bound)
        squared = residual(k, x, ours.solution) ** 2
        assert squared == pytest.approx(slsqp(k, x, w, bound, "norm"), rel=1e-6)
        assert ours.squared_error + np.linalg.norm(x) ** 2 == pytest.approx(squared, rel=1e-12)


@given(
    data=st.data(),
    dtype=st.sampled_from(WIDE),
    weights=st.sampled_from(WEIGHTS),
    route=st.sampled_from(ROUTES),
    scale=st.sampled_from([1.0, 1e-80, 1e80]),
    share=st.floats(1e-6, 1 - 1e-6),
)
def test_the_bound_is_met_and_the_conditions_hold(data, dtype, weights, route, scale, share):
    """(Γ + νW)·V = B with ν > 0, and a residual of δ to 1e-12 of it."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    m, r, n = (data.draw(st.integers(low, high)) for low, high in ((1, 14), (1, 9), (1, 6)))
    k, x, given_weights, w = case(rng, dtype, m, r, n, weights)
    x = scale * x
    low, high = least(k, x), np.linalg.norm(x)
    bound = low + share * (high - low)
    # Gram matrices tell residuals to a few eps of ‖x‖².
    accuracy = max(1e-12, 100 * eps(dtype) * (high / bound) ** 2 if route == "gram" else 0.0)
    if accuracy > 1e-9 or bound - low < 1e-5 * high:
        return
    found = solve(route, k, x, bound, given_weights)
    v, nu = found.solution, found.multiplier
    assert v.dtype == dtype
    assert nu > 0
    assert residual(k, x, v) == pytest.approx(bound, rel=accuracy)
    assert found.squared_error == pytest.approx(bound**2, rel=2 * accuracy)
    off = k.conj().T @ (x - k @ v) - nu * (w @ v)
    assert np.linalg.norm(off) <= 1e-10 * np.linalg.norm(k.conj().T @ x)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("route", ROUTES)
def test_a_looser_bound_is_a_smaller_solution(route, weights, dtype):
    k, x, given_weights, w = case(np.random.default_rng(3), dtype, weights=weights)
    bounds = least(k, x) + np.linspace(0.01, 1, 30) * (np.linalg.norm(x) - least(k, x))
    found = [solve(route, k, x, bound, given_weights) for bound in bounds]
    assert np.all(np.diff([value(ridge.solution, w) for ridge in found]) < 0)
    assert np.all(np.diff([ridge.multiplier for ridge in found]) > 0)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_bound_below_the_least_residual_gives_least_squares(weights, route, dtype):
    k, x, given_weights, _ = case(np.random.default_rng(0), dtype, weights=weights)
    for bound in (0.0, 0.5 * least(k, x)):
        found = solve(route, k, x, bound, given_weights)
        assert found.multiplier == 0.0
        np.testing.assert_allclose(found.solution, np.linalg.lstsq(k, x, rcond=None)[0], rtol=1e-10, atol=1e-12)
        assert found.squared_error == pytest.approx(least(k, x) ** 2, rel=1e-12)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("share", [1.0, 1 + 1e-12, 2.0])
def test_a_bound_that_nothing_keeps_leaves_nothing(share, weights, route):
    k, x, given_weights, _ = case(np.random.default_rng(0), "complex128", weights=weights)
    found = solve(route, k, x, share * np.linalg.norm(x), given_weights)
    assert np.linalg.norm(found.solution) <= 1e-12 * np.linalg.norm(x)
    assert found.squared_error == pytest.approx(np.linalg.norm(x) ** 2)
    if share > 1:
        assert not found.solution.any()
        assert found.multiplier == math.inf


@pytest.mark.parametrize("route", ROUTES)
def test_bounds_next_to_the_norm_end_too(route):
    """Where μ = 1/ν is next to nothing: the last few numbers below ‖x‖, and a little further down."""
    k, x, _, _ = case(np.random.default_rng(2), "float64", r=9)
    whole = np.linalg.norm(x)
    below = whole
    for _ in range(20):
        below = np.nextafter(below, 0)
        for bound in (below, whole - 2e-9 * (whole - below) / (whole * eps("float64"))):
            found = solve(route, k, x, bound)
            assert np.all(np.isfinite(found.solution))
            assert residual(k, x, found.solution) == pytest.approx(bound, rel=1e-12)


def test_bounds_next_to_the_least_residual_by_gram_matrices_are_right_to_rounding():
    """Rounding of φ(0), of either sign, counts as no room: no step ends far from both."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        k, x, _, _ = case(rng, "float64", 4, int(rng.integers(1, 5)), 3)
        low, high = least(k, x), np.linalg.norm(x)
        for share in (0.0, 1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12):
            bound = math.sqrt(low**2 + share * high**2)
            squared = residual(k, x, solve("gram", k, x, bound).solution) ** 2
            condition = np.linalg.cond(k) ** 2
            assert squared - bound**2 <= (0.25 * share + 100 * condition * eps("float64")) * high**2


@pytest.mark.parametrize("route", ROUTES)
def test_what_has_nothing_to_do_with_the_matrix_is_not_fitted(route):
    k = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 3)))[0]
    x = np.linalg.svd(k)[0][:, 3:]
    found = solve(route, k, x, 0.5)
    assert np.linalg.norm(found.solution) <= 1e-14
    assert found.squared_error == pytest.approx(3.0)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("route", ROUTES)
def test_a_matrix_of_zeros_has_the_solution_zero(route, weights):
    _, x, given_weights, _ = case(np.random.default_rng(0), "float64", weights=weights)
    found = solve(route, np.zeros((9, 5)), x, 0.5 * np.linalg.norm(x), given_weights)
    assert not found.solution.any()
    assert found.multiplier == 0.0
    found = solve(route, np.zeros((9, 5)), 0 * x, 0.0, given_weights)
    assert not found.solution.any()


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("route", ROUTES)
def test_columns_that_depend_on_each_other_share(route, dtype):
    """Rank-deficient K: the least of all solutions, which has nothing in the kernel."""
    rng = np.random.default_rng(1)
    half = draw(rng, (8, 3), dtype)
    k = np.hstack([half, half])
    x = draw(rng, (8, 2), dtype)
    low, high = least(k, x), np.linalg.norm(x)
    for bound in (0.5 * low, 0.5 * (low + high)):
        found = solve(route, k, x, bound)
        np.testing.assert_allclose(found.solution[:3], found.solution[3:], rtol=1e-8, atol=1e-10)
        assert residual(k, x, found.solution) == pytest.approx(max(low, bound), rel=1e-9)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("weights", ["none", "vector"])
def test_spectra_over_thirty_decades_meet_the_bound_by_rows(weights, dtype):
    """Singular values of K from 1 to 1e-15: squared, thirty decades."""
    rng = np.random.default_rng(4)
    u, v = (np.linalg.qr(draw(rng, (16, 16), dtype))[0] for _ in range(2))
    k = (u * np.logspace(0, -15, 16)) @ v
    x = u @ draw(rng, (16, 3), dtype)
    w = None if weights == "none" else rng.uniform(0.5, 2, 16)
    for share in np.logspace(-4, -1e-3, 25):
        found = solve("rows", k, x, share * np.linalg.norm(x), w)
        # The smallest directions are rounding to the SVD of K, and long V are rounded themselves.
        rounding = 16 * eps(dtype) * np.linalg.norm(found.solution)
        made = residual(k, x, found.solution)
        assert made <= share * np.linalg.norm(x) * (1 + 1e-9) + rounding or found.multiplier == 0.0


@pytest.mark.parametrize("share", [1e-3, 1e-6, 1e-9, 1e-12])
def test_small_bounds_keep_their_digits_by_rows(share):
    k, x, weights, _ = case(np.random.default_rng(0), "complex128", r=9, weights="vector")
    bound = share * np.linalg.norm(x)
    found = solve("rows", k, x, bound, weights)
    assert residual(k, x, found.solution) == pytest.approx(bound, rel=max(1e-12, 1e-13 / share))


@given(
    seed=st.integers(0, 10**6),
    decades=st.integers(0, 30),
    rate=st.floats(-0.5, 1.5),
    share=st.floats(1e-8, 1 - 1e-9),
    scale=st.sampled_from([1e-150, 1.0, 1e100]),
)
def test_roots_of_any_spectrum_are_found(seed, decades, rate, share, scale):
    rng = np.random.default_rng(seed)
    sigma = np.logspace(0, -decades, 12)
    squares = scale * rng.uniform(0, 1, 12) * sigma**rate
    outside = rng.choice([0.0, 0.3]) * squares.sum()
    bound = math.sqrt(outside + share * squares.sum())
    nu, squared = spectral_root(sigma, squares, outside, bound)
    made = outside + (squares * (nu / (sigma + nu)) ** 2).sum()
    assert nu > 0
    assert made == pytest.approx(bound**2, rel=1e-12)
    assert squared == pytest.approx(made, rel=1e-12)


def test_roots_at_both_ends_are_known():
    sigma, squares = np.array([2.0, 1.0]), np.array([3.0, 1.0])
    assert spectral_root(sigma, squares, 1.0, math.sqrt(5.0)) == (math.inf, 5.0)
    assert spectral_root(sigma, squares, 1.0, 9.0) == (math.inf, 5.0)
    assert spectral_root(sigma, squares, 1.0, 1.0) == (0.0, 1.0)
    assert spectral_root(sigma, squares, 1.0, 0.5) == (0.0, 1.0)


def test_guesses_change_the_way_and_not_the_result():
    k, x, weights, _ = case(np.random.default_rng(0), "complex128", weights="vector")
    bound = 0.5 * (least(k, x) + np.linalg.norm(x))
    found = solve("gram", k, x, bound, weights)
    far = Ridge(found.solution, 0.0, 1e6 * found.multiplier, 1e3 * found.slope)
    flat = Ridge(found.solution, 0.0, 1e-9 * found.multiplier, 1e-9 * found.slope)
    none = [solve("gram", k, x, end) for end in (0.0, 2 * np.linalg.norm(x))]
    for guess in (found, far, flat, *none):
        again = solve("gram", k, x, bound, weights, guess=guess)
        np.testing.assert_allclose(again.solution, found.solution, rtol=1e-11, atol=1e-12)
        assert again.multiplier == pytest.approx(found.multiplier, rel=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("weights", ["none", "vector"])
def test_right_hand_sides_in_single_precision_come_back_in_it(weights, dtype):
    k, x, given_weights, _ = case(np.random.default_rng(0), "complex128" if "complex" in dtype else "float64")
    if weights == "vector":
        given_weights = np.linspace(0.5, 2, 5)
    bound = 0.5 * (least(k, x) + np.linalg.norm(x))
    wide, short = (
        least_norm(
            k.conj().T @ k, (k.conj().T @ x).astype(d), squared_norm=np.linalg.norm(x) ** 2, bound=bound,
            weights=given_weights,
        )
        for d in (k.dtype, dtype)
    )  # fmt: skip
    assert short.solution.dtype == dtype
    np.testing.assert_allclose(short.solution, wide.solution, rtol=1e-4, atol=1e-5)
    rows = least_norm_rows(k.astype(dtype), x.astype(dtype), bound=bound, weights=given_weights)
    assert rows.solution.dtype == dtype
    np.testing.assert_allclose(rows.solution, wide.solution, rtol=1e-4, atol=1e-5)
    within = bounded_norm(k.conj().T @ k, (k.conj().T @ x).astype(dtype), max_norm=0.5)
    assert within.solution.dtype == dtype
    assert np.linalg.norm(within.solution) == pytest.approx(0.5, rel=1e-6)


@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(WIDE),
    share=st.floats(1e-6, 0.999),
    scale=st.sampled_from([1.0, 1e-80, 1e80]),
)
def test_the_norm_is_met_and_the_conditions_hold(seed, dtype, share, scale):
    rng = np.random.default_rng(seed)
    m, r, n = rng.integers(1, [14, 9, 6])
    k, x, _, _ = case(rng, dtype, m, r, n)
    gram, right = k.conj().T @ k, k.conj().T @ (scale * x)
    bound = share * np.linalg.norm(np.linalg.pinv(gram, rcond=1e-13, hermitian=True) @ right)
    found = bounded_norm(gram, right, max_norm=bound)
    assert found.multiplier > 0
    assert np.linalg.norm(found.solution) == pytest.approx(bound, rel=1e-12)
    off = right - gram @ found.solution - found.multiplier * found.solution
    assert np.linalg.norm(off) <= 1e-11 * np.linalg.norm(right)


@pytest.mark.parametrize("dtype", WIDE)
def test_a_norm_that_is_long_enough_gives_least_squares(dtype):
    rng = np.random.default_rng(0)
    half = draw(rng, (8, 3), dtype)
    for k in (half, np.hstack([half, half])):  # the second one has a kernel
        x = draw(rng, (8, 2), dtype)
        expected = np.linalg.lstsq(k, x, rcond=None)[0]
        found = bounded_norm(k.conj().T @ k, k.conj().T @ x, max_norm=1.001 * np.linalg.norm(expected))
        assert found.multiplier == 0.0
        np.testing.assert_allclose(found.solution, expected, rtol=1e-10, atol=1e-12)
        squared = found.squared_error + np.linalg.norm(x) ** 2
        assert squared == pytest.approx(least(k, x) ** 2, rel=1e-10)


@pytest.mark.parametrize("gram", [np.eye(3), np.zeros((3, 3)), np.ones((3, 3))])
def test_of_nothing_the_best_within_a_norm_is_nothing(gram):
    found = bounded_norm(gram, np.zeros((3, 2)), max_norm=1.0)
    assert not found.solution.any()
    assert (found.squared_error, found.multiplier) == (0.0, 0.0)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_libraries_agree(xp, weights, dtype):
    k, x, given_weights, _ = case(np.random.default_rng(0), dtype, weights=weights)
    there = None if given_weights is None else xp.asarray(given_weights)
    for bound in (0.0, 0.5 * (least(k, x) + np.linalg.norm(x)), 1e-4 * np.linalg.norm(x), 2 * np.linalg.norm(x)):
        for route in ROUTES:
            ours = solve(route, k, x, bound, given_weights)
            if route == "rows":
                theirs = least_norm_rows(xp.asarray(k), xp.asarray(x), bound=bound, weights=there)
            else:
                gram, right = xp.asarray(k.conj().T @ k), xp.asarray(k.conj().T @ x)
                theirs = least_norm(
                    gram, right, squared_norm=float(np.linalg.norm(x) ** 2), bound=float(bound), weights=there
                )
            np.testing.assert_allclose(xp.to_numpy(theirs.solution), ours.solution, rtol=1e-9, atol=1e-11)
            assert theirs.squared_error == pytest.approx(ours.squared_error, rel=1e-9)
    gram, right = k.conj().T @ k, k.conj().T @ x
    for longest in (0.3, 1e6):
        ours = bounded_norm(gram, right, max_norm=longest)
        theirs = bounded_norm(xp.asarray(gram), xp.asarray(right), max_norm=longest)
        np.testing.assert_allclose(xp.to_numpy(theirs.solution), ours.solution, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_inputs_are_not_written_to(weights):
    k, x, given_weights, _ = case(np.random.default_rng(0), "complex128", weights=weights)
    gram, right = k.conj().T @ k, k.conj().T @ x
    arrays = [a for a in (k, x, given_weights, gram, right) if a is not None]
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    bound = 0.5 * (least(k, x) + np.linalg.norm(x))
    least_norm(gram, right, squared_norm=np.linalg.norm(x) ** 2, bound=bound, weights=given_weights)
    least_norm_rows(k, x, bound=bound, weights=given_weights)
    bounded_norm(gram, right, max_norm=0.1)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
