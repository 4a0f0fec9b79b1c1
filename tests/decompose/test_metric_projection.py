"""Variable projection: values against dense sums, gradients against finite differences, kernels and steps by others."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize, rosen, rosen_der
from test_metric import dense_norm, moments, sizes

import tensorring as tg
from tensorring.algebra.metric import checked_metric
from tensorring.decompose._metric.formats import CP, Cut, Ring, Tucker
from tensorring.decompose._metric.kernels import Chain, KhatriRao, Kronecker
from tensorring.decompose._metric.lbfgs import lbfgs
from tensorring.decompose._metric.projection import Projection

SHAPE = (4, 3, 5, 2)
FORMS = {
    "cp": lambda leg: (CP(leg, SHAPE), tg.random.cp(SHAPE, rank=3, rng=0)),
    "tt": lambda leg: (Ring(leg, SHAPE, tg.TTTensor), tg.random.tt(SHAPE, ranks=(2, 3, 2), rng=0)),
    "tr": lambda leg: (Ring(leg, SHAPE, tg.TRTensor), tg.random.tr(SHAPE, ranks=(2, 1, 3, 2), rng=0)),
    "tucker": lambda leg: (
        Tucker(leg, SHAPE, (2, 2, 3, 2), (0, 1, 2)),
        tg.random.tucker(SHAPE, ranks=(2, 2, 3, 2), rng=0),
    ),
    "cut": lambda leg: (
        Cut(leg, SHAPE, (0, 2)),
        tg.cut_svd(tg.random.cp(SHAPE, rank=9, rng=0).to_dense(), modes=(0, 2), ranks=3).tensor,
    ),
}  # fmt: skip


def problem(name, leg, dtype, penalty=0.0):
    rng = np.random.default_rng(7)
    form, tensor = FORMS[name](leg)
    x, arrays = rng.standard_normal(SHAPE), list(tensor.arrays)
    if dtype == "complex128":
        x = x + 1j * rng.standard_normal(SHAPE)
        first = 1 if name == "cp" else 0
        arrays[first:] = [a + 0.5j * rng.standard_normal(a.shape) for a in arrays[first:]]
    others = tuple(k for k in range(4) if k != leg)
    metric = {others[:2]: moments(sizes(others[:2], SHAPE), dtype)}
    norm = float(np.linalg.norm(x))
    return x, norm, metric, form, Projection(x, norm, checked_metric(metric, x), form), tensor.with_arrays(arrays)


CASES = list(itertools.product(FORMS, range(4), ["float64", "complex128"]))


@pytest.mark.parametrize(("name", "leg", "dtype"), CASES)
def test_the_value_is_the_error_of_the_tensor_made(name, leg, dtype):
    x, norm, metric, form, projection, tensor = problem(name, leg, dtype)
    theta = projection.begun(tensor)
    value, _, point = projection.at(theta, 0.0)
    made = form.tensor(point.basis, point.a * norm, [u.conj() for u in theta])
    assert type(made) is type(tensor)
    error = dense_norm(x - made.to_dense(), metric) / dense_norm(x, metric)
    assert point.error == pytest.approx(error, rel=1e-4)
    assert value == pytest.approx(error**2, rel=1e-4)
    assert error <= dense_norm(x - tensor.to_dense(), metric) / dense_norm(x, metric)


@pytest.mark.parametrize(("name", "leg", "dtype"), CASES)
def test_the_gradient_is_that_of_finite_differences(name, leg, dtype):
    for penalty in (0.0, 0.1) if name == "cp" else (0.0,):
        *_, projection, tensor = problem(name, leg, dtype)
        theta = projection.begun(tensor)
        shapes, start = [u.shape for u in theta], projection.pack(theta)
        gradient = projection.pack(projection.at(theta, penalty)[1])
        for k, h in itertools.product(range(0, len(start), 3), [1e-6]):
            step = h * (np.arange(len(start)) == k)
            up, down = (projection.at(projection.unpack(start + s * step, shapes), penalty)[0] for s in (1, -1))
            assert (up - down) / (2 * h) == pytest.approx(gradient[k], abs=1e-7)


def test_the_price_is_part_of_the_value():
    _, _, _, form, projection, tensor = problem("cp", 0, "float64")
    theta = projection.begun(tensor)
    value, _, point = projection.at(theta, 0.5)
    made = form.tensor(None, point.a, theta)
    terms = np.prod([np.linalg.norm(u, axis=0) for u in made.factors], axis=0)
    assert point.size == pytest.approx(np.linalg.norm(terms))
    assert value == pytest.approx(point.error**2 + 0.5 * point.size**2)
    assert point.size < projection.at(theta, 0.0)[2].error ** 0 * 0.5**-0.5


def complexes(rng, *shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


@pytest.mark.parametrize("there", [(0, 1, 2), (1,), (0, 2), ()], ids=str)
def test_a_kronecker_product_that_is_not_formed(there, rng):
    sizes_, ranks = (3, 4, 2), (2, 3, 1)
    factors = [complexes(rng, n, r) if k in there else None for k, (n, r) in enumerate(zip(sizes_, ranks, strict=True))]
    full = [np.eye(n) if v is None else v for n, v in zip(sizes_, factors, strict=True)]
    g, kernel = np.kron(np.kron(full[0], full[1]), full[2]), Kronecker(sizes_, factors)
    m, product = complexes(rng, 5, 24), complexes(rng, 24, g.shape[1])
    np.testing.assert_allclose(kernel.times(m), m @ g)
    np.testing.assert_allclose(kernel.gram(product), g.conj().T @ product)


@pytest.mark.parametrize("kind", ["khatri-rao", "chain", "kronecker"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_derivatives_of_a_kernel(kind, count, rng):
    """⟨T·A, G(θ + δ) − G(θ − δ)⟩ is twice ⟨pulled, δ⟩, to second order."""
    shape = (3, 2, 4, 2)[:count]
    if kind == "khatri-rao":
        theta, kernel = [complexes(rng, n, 3) for n in shape], KhatriRao
    elif kind == "chain":
        theta, kernel = [complexes(rng, 2 + (k % 2), n, 2 + (k + 1) % 2) for k, n in enumerate(shape)], Chain
    else:
        theta = [complexes(rng, n, 2) for n in shape]
        kernel = lambda theta: Kronecker(shape, theta)  # noqa: E731
    g = kernel(theta)
    n, q = int(np.prod(shape)), g.times(np.eye(int(np.prod(shape)))).shape[1]
    t, a = complexes(rng, n, 5), complexes(rng, 5, q)
    pulled = g.pull(t, a)
    for k, part in enumerate(pulled):
        move = 1e-5 * complexes(rng, *theta[k].shape)
        up, down = (
            kernel([u + s * move if j == k else u for j, u in enumerate(theta)]).times(np.eye(n)) for s in (1, -1)
        )
        assert np.vdot(t @ a, up - down).real == pytest.approx(2 * np.vdot(part, move).real, rel=1e-6)


def run(fn, start, steps):
    values = [value for value, _ in itertools.islice(lbfgs(lambda x: (*fn(x), x), start), steps)]
    assert all(b <= a for a, b in itertools.pairwise(values))
    return values[-1]


def test_steps_reach_what_scipy_reaches(rng):
    start = rng.standard_normal(30)
    theirs = minimize(rosen, start, jac=rosen_der, method="L-BFGS-B", options={"maxcor": 20, "maxiter": 150})
    assert run(lambda x: (rosen(x), rosen_der(x)), start, 250) < max(1e-8, 10 * theirs.fun)


@given(st.integers(1, 20), st.floats(0, 6), st.integers(0, 50))
def test_quadratics_are_solved(n, decades, seed):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    h = (q * np.logspace(0, decades, n)) @ q.T
    start = rng.standard_normal(n)
    before = 0.5 * start @ h @ start
    assert run(lambda x: (0.5 * x @ h @ x, h @ x), start, 400) < 1e-6 * before


def test_where_nothing_is_to_be_gained_it_ends():
    assert len(list(lbfgs(lambda x: (1.0, np.zeros(3), None), np.ones(3)))) == 1
    assert len(list(lbfgs(lambda x: (float(x @ x), 2 * x, None), np.ones(3)))) < 60
    misleading = list(lbfgs(lambda x: (float(x @ x), -2 * x, None), np.ones(3)))
    assert len(misleading) == 1


def test_values_that_are_not_finite_are_steps_too_long():
    def fn(x):
        value = float(x @ x - np.log(x).sum()) if (x > 0).all() else np.nan
        return value, 2 * x - 1 / np.maximum(x, 1e-300), None

    with np.errstate(invalid="ignore", divide="ignore"):
        *_, (value, _) = itertools.islice(lbfgs(fn, np.full(4, 5.0)), 100)
    assert value == pytest.approx(4 * (0.5 + 0.5 * np.log(2)))
