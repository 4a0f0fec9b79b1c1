"""The truncated SVD: every route, dtype and shape against LAPACK's full SVD."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorring import _array
from tensorring.linalg import error_floor, tails, truncated_svd
from tensorring.testing import tensors, tolerances

ROUTES = ("auto", "exact", "gram", "randomized")
SHAPES = [(6, 40), (40, 6), (12, 12), (12, 20), (1, 7), (7, 1), (1, 1)]
SPECTRA = {
    "flat": lambda k: np.ones(k),
    "slow": lambda k: np.arange(1.0, k + 1) ** -0.5,
    "fast": lambda k: 10.0 ** -np.arange(k),
    "deficient": lambda k: np.where(np.arange(k) < max(1, k // 2), 1.0, 0.0),
}


def _norm(a: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype("complex128")))


def _matrix(shape, spectrum, dtype, gaussian) -> np.ndarray:
    k = min(shape)
    u, v = (np.linalg.qr(gaussian((side, k), "complex128" if "complex" in dtype else "float64")).Q for side in shape)
    return ((u * SPECTRA[spectrum](k)) @ v.conj().T).astype(dtype)


def _check(a: np.ndarray, result, *, max_error: float = 0.0, cap: int | None = None, slack: float = 0.0) -> None:
    """All promises of one result, against the dense error in double precision and LAPACK's singular values."""
    u, s, vh, error = result
    dtype, size = a.dtype.name, _norm(a)
    floor = error_floor(dtype, 1) * size
    rank = len(s)
    assert u.shape == (a.shape[0], rank)
    assert vh.shape == (rank, a.shape[1])
    assert (u.dtype, vh.dtype, s.dtype) == (a.dtype, a.dtype, np.finfo(dtype).dtype)
    assert np.all(np.diff(s) <= 0)
    assert np.all(s >= 0)
    made = _norm(a - (u.astype("complex128") * s) @ vh)
    assert error == pytest.approx(made, abs=floor + slack)
    values = np.linalg.svd(a.astype("complex128"), compute_uv=False)
    # Eckart and Young: no other matrix of this rank does better, and one less would not do.
    assert made >= tails(values)[rank] - floor
    if cap is None or rank < cap:
        assert made <= max_error + floor
        # Where the tail is the tolerance itself (spectra of powers of ten), rounding decides, on either side of it.
        assert rank == 1 or tails(values)[rank - 1] > max_error - slack - floor
    else:
        assert rank == cap


@pytest.mark.parametrize("route", ["auto", "exact", "gram"])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_route_keeps_its_promises(dtype, gaussian, route, spectrum, shape) -> None:
    a = _matrix(shape, spectrum, dtype, gaussian)
    for tol in (0.0, 1e-3, 0.3, 0.8, 2.0):
        max_error = tol * _norm(a)
        if route == "gram" and tol == 0.0:
            continue
        _check(a, truncated_svd(a, max_error=max_error, route=route), max_error=max_error)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_the_randomized_route_under_a_cap(dtype, gaussian, shape) -> None:
    a = _matrix(shape, "slow", dtype, gaussian) + 0.01 * gaussian(shape, dtype)
    result = truncated_svd(a, max_rank=5, route="randomized")
    _check(a, result, cap=5)
    best = truncated_svd(a, max_rank=5, route="exact").error
    assert best <= result.error * (1 + 50 * _array.eps(dtype))
    assert result.error <= 1.05 * best  # two power steps, ten columns to spare


def test_the_randomized_error_is_exact_where_the_sketch_misses_much(gaussian) -> None:
    """A flat spectrum: the sketch finds no better directions than others, and the error must say so."""
    a = np.linalg.qr(gaussian((80, 80))).Q
    u, s, vh, error = truncated_svd(a, max_rank=4, route="randomized")
    assert error == pytest.approx(np.linalg.norm(a - (u * s) @ vh), rel=1e-13)


def test_the_randomized_route_gives_the_same_twice_and_is_taken_for_small_caps(gaussian) -> None:
    a = gaussian((520, 600), "float32")
    one, two = truncated_svd(a, max_rank=3), truncated_svd(a, max_rank=3, route="randomized")
    for left, right in zip(one, two, strict=True):
        np.testing.assert_array_equal(left, right)


@given(
    a=tensors(ndim=2, max_size=11), tol=tolerances(), cap=st.none() | st.integers(1, 5), route=st.sampled_from(ROUTES)
)
def test_any_matrix_any_tolerance(a, tol, cap, route) -> None:
    if route == "randomized":
        cap = cap or 3
    scale = float(np.max(np.abs(a.real))) or 1.0
    size = _norm(a / scale)
    if route == "gram":
        tol = max(tol, 1e-6)
    before = a.copy()
    u, s, vh, error = truncated_svd(a, max_error=tol * size * scale, max_rank=cap, route=route)
    np.testing.assert_array_equal(a, before)
    # The promise is homogeneous: divide by the scale and check at ordinary size, in double precision.
    scaled = (u.astype("complex128") * (s.astype("float64") / scale)) @ vh
    made = _norm(a / scale - scaled)
    floor = error_floor(a.dtype, 1) * size
    assert error / scale == pytest.approx(made, abs=floor)
    if cap is None or len(s) < cap:
        assert made <= tol * size + floor
    if cap is not None:
        assert len(s) <= cap


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12)])
def test_every_library_gives_the_same_matrix(xp, dtype, gaussian, route, shape) -> None:
    a = _matrix(shape, "slow", dtype, gaussian)
    u, s, vh, error = truncated_svd(xp.asarray(a), max_error=0.2 * _norm(a), max_rank=4, route=route)
    assert isinstance(error, float)
    u, s, vh = xp.to_numpy(u), xp.to_numpy(s), xp.to_numpy(vh)
    expected = truncated_svd(a, max_error=0.2 * _norm(a), max_rank=4, route=route)
    tolerance = error_floor(dtype, 1) * _norm(a)
    np.testing.assert_allclose((u * s) @ vh, (expected.u * expected.s) @ expected.vh, atol=tolerance)
    assert error == pytest.approx(expected.error, abs=tolerance)


@pytest.mark.parametrize("route", ["exact", "gram"])
@pytest.mark.parametrize("shape", [(8, 30), (30, 8)])
def test_the_basis_of_the_short_side_is_orthonormal(dtype, gaussian, route, shape) -> None:
    a = _matrix(shape, "fast", dtype, gaussian)
    u, _, vh, _ = truncated_svd(a, max_error=1e-6, route=route)
    gram = u.conj().T @ u if shape[0] < shape[1] else vh @ vh.conj().T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=50 * _array.eps(dtype))


def test_zero_and_rank_deficient_matrices_at_tolerance_zero(dtype, gaussian) -> None:
    u, s, vh, error = truncated_svd(np.zeros((3, 5), dtype))
    assert (u.shape, vh.shape, error) == ((3, 1), (1, 5), 0.0)
    np.testing.assert_array_equal(s, [0])
    np.testing.assert_array_equal((u * s) @ vh, 0)
    a = _matrix((30, 12), "deficient", dtype, gaussian)
    assert len(truncated_svd(a).s) == 6


@pytest.mark.parametrize("route", ["exact", "gram"])
def test_equal_values_at_the_cut(dtype, gaussian, route) -> None:
    """Four values of 1: an error of √2 leaves out two of them, whichever, and rounding decides nothing."""
    a = _matrix((4, 9), "flat", dtype, gaussian)
    slack = 1 + 10 * _array.eps(dtype)
    assert len(truncated_svd(a, max_error=np.sqrt(2) * slack, route=route).s) == 2
    assert len(truncated_svd(a, max_error=np.sqrt(2) * (1 - 100 * _array.eps(dtype)), route=route).s) == 3


@pytest.mark.parametrize("power", [-1.0, -0.5, 0.5, 1.0])
@pytest.mark.parametrize("route", ROUTES)
def test_extreme_scales(dtype, gaussian, route, power) -> None:
    factor = (1e30 if dtype in ("float32", "complex64") else 1e150) ** power
    a = _matrix((6, 20), "slow", dtype, gaussian)
    plain = truncated_svd(a, max_error=0.5, max_rank=4, route=route)
    result = truncated_svd((a * factor).astype(dtype), max_error=0.5 * factor, max_rank=4, route=route)
    tolerance = error_floor(dtype, 1) * _norm(a)
    np.testing.assert_allclose(result.s / factor, plain.s, atol=tolerance)
    assert result.error / factor == pytest.approx(plain.error, abs=tolerance)


@pytest.mark.parametrize("decay", [1e-2, 1e-4, 1e-6, 1e-7])
@pytest.mark.parametrize("shape", [(6, 60), (60, 6)])
def test_the_error_of_the_gram_route_is_right_however_small(gaussian, decay, shape) -> None:
    """Squaring loses half the digits of the small values; the error returned must not."""
    k = min(shape)
    u, v = (np.linalg.qr(gaussian((side, k))).Q for side in shape)
    a = (u * np.array([1.0, 0.5, 0.2, decay, decay / 2, decay / 3])) @ v.T
    result = truncated_svd(a, max_error=2 * decay, route="gram")
    made = np.linalg.norm(a - (result.u * result.s) @ result.vh)
    assert result.error == pytest.approx(made, abs=50 * _array.eps("float64"))
    assert made <= 2 * decay


@pytest.mark.parametrize("shape", [(4, 30), (30, 4)])
def test_the_gram_route_never_trusts_its_blurred_values(gaussian, shape) -> None:
    """A tail of 1e-6 is known to about 1e-10 from squares; asked for a little less, the rank must not be too small."""
    max_error = 1e-6 - 1e-12
    for _ in range(20):
        u, v = (np.linalg.qr(gaussian((side, 4))).Q for side in shape)
        a = (u * np.array([1.0, 0.5, 0.2, 1e-6])) @ v.T
        result = truncated_svd(a, max_error=max_error, route="gram")
        assert np.linalg.norm(a - (result.u * result.s) @ result.vh) <= max_error + 50 * _array.eps("float64")


def test_the_gram_route_of_single_precision_keeps_all_its_digits(gaussian) -> None:
    a = _matrix((8, 50), "fast", "float32", gaussian)
    values = np.linalg.svd(a.astype("float64"), compute_uv=False)
    result = truncated_svd(a, max_error=float(values[5]) * 1.5, route="gram")
    np.testing.assert_allclose(result.s, values[: len(result.s)], rtol=1e-5)


@pytest.mark.parametrize("shape", [(30, 4000), (4000, 30)])
def test_blocks_change_nothing(monkeypatch, gaussian, shape) -> None:
    """Thousands of columns in blocks of a few: TSQR and the blocked Gram matrix add up to the same."""
    from tensorring.linalg import basis

    a = _matrix(shape, "slow", "float64", gaussian)
    whole = {route: truncated_svd(a, max_error=0.8, route=route) for route in ("exact", "gram")}
    monkeypatch.setattr(basis, "block_length", lambda *_args, **_options: 7)
    for route, expected in whole.items():
        result = truncated_svd(a, max_error=0.8, route=route)
        np.testing.assert_allclose(result.s, expected.s, rtol=1e-13)
        assert result.error == pytest.approx(expected.error, rel=1e-12)


def test_auto_forbids_squaring_near_the_digits(monkeypatch, gaussian) -> None:
    from tensorring.linalg import basis

    a = _matrix((6, 40), "fast", "float64", gaussian)
    monkeypatch.setattr(basis, "_by_gram", lambda *_: pytest.fail("squared"))
    truncated_svd(a, max_error=1e-9)
    with pytest.raises(pytest.fail.Exception, match="squared"):
        truncated_svd(a, max_error=1e-3)


def test_a_failing_lapack_driver_is_replaced(monkeypatch, gaussian) -> None:
    a = gaussian((12, 12))
    expected = np.linalg.svd(a, compute_uv=False)

    def fail(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(np.linalg, "svd", fail)
    np.testing.assert_allclose(truncated_svd(a, route="exact").s, expected, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["int64", "bool", "float16"])
def test_other_numbers_are_promoted(dtype) -> None:
    a = np.array([[1, 0, 1], [0, 1, 1]]).astype(dtype)
    u, s, vh, _ = truncated_svd(a)
    assert u.dtype == _array.compute_dtype_name(a.dtype)
    np.testing.assert_allclose((u * s) @ vh, a, atol=1e-5)


@pytest.mark.parametrize(
    ("a", "options", "message"),
    [
        (np.ones(3), {}, r"shape \(3,\).*matrix"),
        (np.ones((0, 3)), {}, r"shape \(0, 3\).*not empty"),
        (np.ones((2, 2)), {"route": "fast"}, r"'fast'.*auto, exact, gram, randomized"),
        (np.ones((2, 2)), {"route": "randomized"}, r"max_rank"),
        (np.ones((2, 2)), {"max_rank": 0}, r"max_rank=0.*at least 1"),
        (np.array([[1.0, np.nan]]), {}, r"a\[0, 1\] is nan"),
    ],
)
def test_bad_input_is_named(a, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        truncated_svd(a, **options)
