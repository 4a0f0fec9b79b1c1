"""retarget against least squares on samples, and errors in a metric against sums over samples."""

import numpy as np
import pytest

import tensorring as tg
from tensorring._array import eps, to_host


def samples(gaussian, dtype, outputs=5, shape=(4, 3), count=80):
    """A kernel, inputs (N, count), outputs wanted, and their moments."""
    kernel, n = gaussian((outputs, *shape), dtype), int(np.prod(shape))
    u, z = gaussian((n, count), dtype), gaussian((outputs, count), dtype)
    return kernel, u, z, (u.conj() @ u.T / count).astype(dtype), (z @ u.conj().T / count).astype(dtype)


def test_it_is_the_least_squares_kernel(xp, dtype, gaussian):
    kernel, u, z, s, c = samples(gaussian, dtype)
    found = to_host(tg.retarget(xp.asarray(kernel), xp.asarray(s), xp.asarray(c), ridge=0.0))
    assert found.shape == kernel.shape
    assert found.dtype == np.dtype(dtype)
    expected = np.linalg.lstsq(u.T, z.T)[0].T.reshape(kernel.shape)
    np.testing.assert_allclose(found, expected, atol=2e3 * eps(dtype))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
def test_the_ridge_keeps_it_near_the_kernel(dtype, ridge, gaussian):
    """min mean|z − W*u|² + ρ‖W* − W‖², as one least-squares problem."""
    kernel, u, z, s, c = samples(gaussian, dtype)
    w, n, count = kernel.reshape(5, -1), u.shape[0], u.shape[1]
    level = ridge * np.trace(s).real / n
    rows = np.concatenate([u.T / count**0.5, level**0.5 * np.eye(n)])
    wanted = np.concatenate([z.T / count**0.5, level**0.5 * w.T])
    expected = np.linalg.lstsq(rows, wanted)[0].T.reshape(kernel.shape)
    np.testing.assert_allclose(tg.retarget(kernel, s, c, ridge=ridge), expected, atol=1e-10)


def test_its_own_outputs_leave_the_kernel_as_it_is(gaussian):
    kernel, u, _, s, _ = samples(gaussian, "complex128")
    own = kernel.reshape(5, -1) @ u @ u.conj().T / u.shape[1]
    np.testing.assert_allclose(tg.retarget(kernel, s, own), kernel, atol=1e-12)


def test_what_inputs_do_not_tell_stays(gaussian):
    kernel, u, z, _, _ = samples(gaussian, "float64", count=6)
    s, c = u @ u.T / 6, z @ u.T / 6
    for ridge in (0.0, 1e-6):
        change = (tg.retarget(kernel, s, c, ridge=ridge) - kernel).reshape(5, -1)
        blind = np.linalg.svd(u)[0][:, 6:]
        assert np.linalg.norm(change @ blind) < 1e-4 * np.linalg.norm(change)


@pytest.mark.parametrize(("of_kernel", "of_moments"), [(1e-150, 1.0), (1.0, 1e-140), (1e150, 1e-100), (1.0, 1e140)])
def test_scales(of_kernel, of_moments, gaussian):
    kernel, _, _, s, c = samples(gaussian, "float64")
    found = tg.retarget(kernel * of_kernel, s * of_moments, c * of_kernel * of_moments) / of_kernel
    np.testing.assert_allclose(found, tg.retarget(kernel, s, c), rtol=1e-8)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"x": np.ones(5)}, ValueError, "modes are the outputs"),
        ({"metric": np.eye(11)}, ValueError, r"\(12, 12\)"),
        ({"metric": np.triu(np.ones((12, 12)))}, ValueError, "not symmetric"),
        ({"cross": np.ones((4, 12))}, ValueError, r"\(5, 12\)"),
        ({"cross": [1.0]}, TypeError, "library"),
        ({"cross": np.full((5, 12), np.nan)}, ValueError, r"cross\[0, 0\] is nan"),
        ({"cross": np.ones((5, 12)) * 1j}, ValueError, "complex"),
        ({"x": np.full((5, 4, 3), np.inf)}, ValueError, "inf"),
        ({"ridge": -1.0}, ValueError, "at least 0"),
        ({"ridge": "much"}, ValueError, "at least 0"),
        ({"x": np.array([["a"]])}, TypeError, "dtype"),
    ],
)
def test_errors_say_what_was_got(change, kind, words, gaussian):
    kernel, _, _, s, c = samples(gaussian, "float64")
    options = {"x": kernel, "metric": s, "cross": c, "ridge": 1e-3} | change
    with pytest.raises(kind, match=words):
        tg.retarget(options["x"], options["metric"], options["cross"], ridge=options["ridge"])


def test_an_error_in_a_metric_is_the_change_of_the_outputs(xp, dtype, gaussian):
    kernel, u, _, s, _ = samples(gaussian, dtype)
    t = tg.tt_svd(kernel, ranks=2).tensor
    outputs = [(k.reshape(5, -1) @ u) for k in (kernel, kernel - t.to_dense())]
    expected = np.linalg.norm(outputs[1]) / np.linalg.norm(outputs[0])
    found = tg.relative_error(xp.asarray(kernel), xp.tensor(t), metric={(1, 2): xp.asarray(s)})
    assert found == pytest.approx(expected, rel=100 * eps(dtype))
    assert tg.relative_error(xp.tensor(t), xp.tensor(t), metric={(1, 2): xp.asarray(s)}) == 0
