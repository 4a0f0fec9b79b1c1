"""Corrections of rings, trains and Tucker cores: exact weights, bounds kept, measures that never grow, stationarity."""

import itertools

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from test_tr_als import RINGS, noisy, subchain

import tensorring as tg
from tensorring._array import eps
from tensorring.contract.chain_tree import Transfers, gram_of, weighted_transfer
from tensorring.decompose._arguments import prepare
from tensorring.decompose.iterative._chain import correction as module
from tensorring.decompose.iterative._chain.bond_gauge import regauged
from tensorring.decompose.iterative._chain.correction import corrected_ring, value_of
from tensorring.decompose.iterative._tucker.correction import corrected_core
from tensorring.testing import tensors

MEASURES = ("sensitivity", "norm")


def jacobian(arrays, dense):
    """∂x/∂θ of a tensor that is linear in each of its arrays, column after column, from the dense tensors alone."""
    columns = []
    for n, array in enumerate(arrays):
        for index in np.ndindex(array.shape):
            unit = np.zeros_like(array)
            unit[index] = 1
            columns.append(dense([*arrays[:n], unit, *arrays[n + 1 :]]).reshape(-1))
    return np.stack(columns, axis=1)


def ring(cores):
    return tg.TRTensor(tuple(cores)).to_dense()


def error_of(x, cores):
    return np.linalg.norm(x - ring(cores)) / np.linalg.norm(x)


def rough(x, ranks, sweeps=20, seed=0):
    """A ring of that many sweeps: correction finds something to do there."""
    return tg.tr_als(x, ranks=ranks, init="random", rng=seed, max_sweeps=sweeps, stall=0).tensor.cores


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("shape", "ranks"), RINGS)
def test_the_weights_give_the_sensitivity_exactly(shape, ranks, dtype) -> None:
    """Re tr(Vᴴ·W·V) + I_n·tr Γ = ‖∂x/∂θ‖², whatever the core."""
    cores = tg.random.tr(shape, ranks=ranks, dtype=dtype, rng=1).cores
    expected = np.linalg.norm(jacobian(cores, ring)) ** 2
    assert value_of(cores, "sensitivity") == pytest.approx(expected, rel=1e-12)
    assert tg.sensitivity(tg.TRTensor(cores)) == pytest.approx(expected, rel=1e-12)
    transfers = Transfers(cores, weighted_transfer)
    for n, core in enumerate(cores):
        environment, weights = transfers.weighted_environment(n)
        v = np.moveaxis(core, 1, 2).reshape(-1, shape[n])
        form, gram = gram_of(weights), gram_of(environment)
        np.testing.assert_allclose(form, form.conj().T, atol=1e-10 * np.abs(form).max())
        k = subchain(cores, n)
        np.testing.assert_allclose(gram, k.conj().T @ k, atol=1e-12 * np.abs(gram).max())
        own = np.sum(v.conj() * (form @ v)).real
        assert own + shape[n] * np.trace(gram).real == pytest.approx(expected, rel=1e-12)
        transfers.told(n, core)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(("shape", "ranks"), [*RINGS, ((5,), (3,)), ((4, 5, 6), (1, 2, 3))])
def test_the_gauge_changes_the_measure_and_nothing_else(shape, ranks, measure, dtype) -> None:
    cores = [
        (10.0 ** (k - 1)) * core for k, core in enumerate(tg.random.tr(shape, ranks=ranks, dtype=dtype, rng=3).cores)
    ]
    x, values = ring(cores), [value_of(cores, measure)]
    for _ in range(6):
        cores = regauged(cores, measure)
        values.append(value_of(cores, measure))
        assert all(core.dtype == dtype for core in cores)
        np.testing.assert_allclose(ring(cores), x, rtol=0, atol=200 * eps(dtype) * np.linalg.norm(x))
    assert all(b <= a * (1 + 100 * eps(dtype)) for a, b in itertools.pairwise(values))
    assert values[-1] == pytest.approx(values[-2], rel=1e-3)


def test_no_other_gauge_of_a_bond_is_better() -> None:
    """Against a search over all matrices M of one bond, of a ring of complex cores."""
    cores = tg.random.tr((3, 4, 5), ranks=(2, 2, 2), dtype="complex128", rng=0).cores
    for measure in MEASURES:
        best = cores
        for _ in range(60):
            best = regauged(best, measure)

        def value(entries, best=best, measure=measure):
            m = (entries[:4] + 1j * entries[4:]).reshape(2, 2)
            cores = (best[0] @ m, np.tensordot(np.linalg.inv(m), best[1], axes=1), best[2])
            return value_of(cores, measure)

        start = np.r_[np.eye(2).ravel(), np.zeros(4)]
        found = scipy.optimize.minimize(value, start + 0.1 * np.random.default_rng(0).standard_normal(8), tol=1e-12)
        assert found.fun >= value(start) * (1 - 1e-8)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("factor", [1.0, 1.02, 1.5])
@pytest.mark.parametrize(("shape", "ranks"), [*RINGS, ((5, 6, 7), (1, 2, 3))])
def test_measures_never_grow_and_bounds_are_kept(shape, ranks, factor, measure, dtype) -> None:
    x = noisy(shape, ranks, dtype, noise=0.3)
    wide = "complex128" if "complex" in dtype else "float64"
    cores = rough(x, ranks)
    exact = x.astype(wide)
    start = error_of(exact, [core.astype(wide) for core in cores])
    before = [core.copy() for core in cores]
    values = [value_of([core.astype(wide) for core in cores], measure)]
    for found in itertools.islice(corrected_ring(prepare(x, tol=None), cores, factor * start, measure), 15):
        error = error_of(exact, found.cores)
        assert found.error == pytest.approx(error, rel=1e-9)
        assert error <= factor * start * (1 + 3e-10)
        assert found.value == pytest.approx(value_of(found.cores, measure), rel=1e-12)
        values.append(found.value)
    assert all(b <= a * (1 + 1e-13) for a, b in itertools.pairwise(values))
    assert len(values) > 2
    if factor > 1:
        assert error == pytest.approx(factor * start, rel=1e-7)
        assert values[-1] < 0.999 * values[1]
    for a, b in zip(before, cores, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(
    ("shape", "ranks"), [((3, 4, 3), (2, 2, 2)), ((2, 3, 2, 3), (2, 2, 1, 2)), ((3, 4, 3), (1, 2, 2))]
)
def test_corrections_end_where_the_whole_problem_is_stationary(shape, ranks, dtype, measure) -> None:
    """∇measure = −λ·∇‖x − ring‖² with one λ ≥ 0 for all cores, by differences of dense tensors."""
    x = noisy(shape, ranks, dtype, noise=0.1)
    cores = rough(x, ranks, 200)
    bound = 1.3 * error_of(x, cores)
    *_, found = itertools.islice(corrected_ring(prepare(x, tol=None), cores, bound, measure), 3000)
    sizes = [core.size for core in found.cores]

    def unpacked(entries):
        parts = np.split(
            entries[: sum(sizes)] + (1j * entries[sum(sizes) :] if dtype == "complex128" else 0), np.cumsum(sizes)[:-1]
        )
        return [part.reshape(core.shape) for part, core in zip(parts, found.cores, strict=True)]

    def independent(entries):
        cores = unpacked(entries)
        if measure == "norm":
            return sum(np.linalg.norm(core) ** 2 for core in cores)
        return sum(size * np.linalg.norm(subchain(cores, n)) ** 2 for n, size in enumerate(shape))

    def squared(entries):
        return np.linalg.norm(x - ring(unpacked(entries))) ** 2

    flat = np.concatenate([core.ravel() for core in found.cores])
    at = np.concatenate([flat.real, flat.imag]) if dtype == "complex128" else flat
    gain, loss = (gradient(f, at) for f in (independent, squared))
    cosine = gain @ loss / np.linalg.norm(gain) / np.linalg.norm(loss)
    assert cosine <= -1 + 1e-5
    assert squared(at) == pytest.approx((bound * np.linalg.norm(x)) ** 2, rel=1e-8)


def gradient(function, at, step=1e-5):
    steps = step * np.eye(len(at))
    return np.array([(function(at + h) - function(at - h)) / (2 * step) for h in steps])


@pytest.mark.parametrize("measure", MEASURES)
def test_slsqp_finds_no_better_ring_nearby(measure) -> None:
    shape, ranks = (3, 2, 3), (2, 2, 1)
    x = noisy(shape, ranks, noise=0.2)
    cores = rough(x, ranks, 100)
    bound = 1.3 * error_of(x, cores)
    *_, found = itertools.islice(corrected_ring(prepare(x, tol=None), cores, bound, measure), 1000)
    cuts, shapes = np.cumsum([core.size for core in cores])[:-1], [core.shape for core in cores]

    def unpacked(entries):
        return [part.reshape(s) for part, s in zip(np.split(entries, cuts), shapes, strict=True)]

    at = np.concatenate([core.ravel() for core in found.cores])
    allowed = (bound * np.linalg.norm(x)) ** 2
    best = scipy.optimize.minimize(
        lambda entries: value_of(unpacked(entries), measure),
        at + 1e-3 * np.random.default_rng(0).standard_normal(len(at)),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda e: allowed - np.linalg.norm(x - ring(unpacked(e))) ** 2},
        options={"maxiter": 500, "ftol": 1e-9},
    )
    assert np.linalg.norm(x - ring(unpacked(best.x))) ** 2 <= allowed * (1 + 1e-6)
    assert best.fun == pytest.approx(found.value, rel=1e-5)


@pytest.mark.parametrize("error", [1e-4, 1e-7, 1e-10])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_small_bounds_are_kept_too(error, dtype) -> None:
    """Where a difference of norms has no digits left."""
    x = noisy((5, 6, 7), (2, 3, 2), dtype, noise=error)
    cores = noisy_cores((5, 6, 7), (2, 3, 2), dtype, error)
    *_, found = itertools.islice(corrected_ring(prepare(x, tol=None), cores, 3 * error), 20)
    made = error_of(x, found.cores)
    # Below 1e-6 the rounding of the dense tensor itself is more than 1e-10 of the error.
    assert 2.99 * error <= made <= 3 * error * (1 + 1e-10) + 30 * eps(dtype)


def noisy_cores(shape, ranks, dtype, error):
    return tg.tr_als(
        noisy(shape, ranks, dtype, noise=error), ranks=ranks, init=tg.random.tr(shape, ranks=ranks, dtype=dtype, rng=0)
    ).tensor.cores


def test_large_tensors_are_corrected_without_their_chains(monkeypatch) -> None:
    """The same by Gram matrices, verified by the residual: within the bound even where these lose digits."""
    monkeypatch.setattr(module, "_SMALL", 0)
    for error in (1e-3, 1e-5, 1e-7):
        x = noisy((5, 6, 7), (2, 3, 2), noise=error)
        cores = noisy_cores((5, 6, 7), (2, 3, 2), "float64", error)
        *_, found = itertools.islice(corrected_ring(prepare(x, tol=None), cores, 2 * error), 10)
        assert error_of(x, found.cores) <= 2 * error * (1 + 1e-10) + 30 * eps("float64")


def test_a_bound_below_the_error_keeps_the_error() -> None:
    x = noisy((5, 6, 7), (2, 3, 2))
    cores = rough(x, (2, 3, 2))
    for found in itertools.islice(corrected_ring(prepare(x, tol=None), cores, 1e-3), 5):
        assert found.error <= error_of(x, cores) * (1 + 1e-9)


@given(x=tensors(ndim=st.integers(1, 4)), cap=st.integers(1, 3), bound=st.sampled_from([0.0, 1e-9, 0.1, 0.9, 1.0, 2.0]))
def test_anything_can_be_corrected(x, cap, bound) -> None:
    """Redundant bonds, cores that are zero, bounds that ask for nothing at all."""
    problem = prepare(x, tol=None)
    if problem.norm == 0.0:
        return
    cores = tg.tr_als(problem.x, ranks=cap, max_sweeps=3, rng=0).tensor.cores
    for measure in MEASURES:
        values = []
        for found in itertools.islice(corrected_ring(problem, cores, bound, measure), 3):
            assert all(np.isfinite(core).all() for core in found.cores)
            values.append(found.value)
            assert found.error <= max(bound, values and found.error)
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(values))


def test_libraries_agree(xp, dtype) -> None:
    x = noisy((5, 6, 7), (2, 3, 2), dtype)
    cores = rough(x, (2, 3, 2))
    one, two = (
        list(itertools.islice(corrected_ring(prepare(array, tol=None), start, 0.2), 4))[-1]
        for array, start in ((x, cores), (xp.asarray(x), [xp.asarray(core) for core in cores]))
    )
    assert two.error == pytest.approx(one.error, rel=1e-6)
    assert two.value == pytest.approx(one.value, rel=1e-6)
    for a, b in zip(one.cores, two.cores, strict=True):
        assert xp.to_numpy(b).dtype == a.dtype


# The core of a Tucker tensor.


def tucker(shape, ranks, dtype="float64", seed=0, noise=0.2):
    """A tensor with noise, and a Tucker tensor near it whose factors are neither orthogonal nor its best ones."""
    t = tg.random.tucker(shape, ranks=ranks, dtype=dtype, rng=seed)
    rng = np.random.default_rng(seed)
    white = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if "complex" in dtype else 0)
    x = t.to_dense()
    x = x + noise * np.linalg.norm(x) / np.linalg.norm(white) * white.astype(dtype)
    return x, t


TUCKERS = [((5, 6, 7), (2, 3, 2)), ((4, 5), (2, 2)), ((3, 4, 3, 4), (2, 1, 2, 3))]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(("shape", "ranks"), TUCKERS)
def test_the_core_is_the_best_for_its_factors(shape, ranks, measure, dtype) -> None:
    """Within the bound to 1e-12, and ∇measure = −λ·∇‖x − t‖²."""
    x, t = tucker(shape, ranks, dtype)
    wide = t.astype("complex128" if "complex" in dtype else "float64")
    exact = x.astype(wide.dtype)
    bound = 1.2 * tg.relative_error(exact, wide)
    found = corrected_core(prepare(x, tol=None), t, bound, measure)
    assert tg.relative_error(exact, found) == pytest.approx(bound, rel=1e-11)
    for a, b in zip(found.factors, wide.factors, strict=True):
        np.testing.assert_array_equal(a, b)
    loss = tg.TuckerTensor(found.to_dense() - exact, [u.conj().T for u in found.factors]).to_dense()
    gain = found.core if measure == "norm" else weighted_core(found)
    cosine = np.vdot(gain, loss) / np.linalg.norm(gain) / np.linalg.norm(loss)
    assert abs(cosine + 1) < 1e-12


def weighted_core(t):
    """½∇ of Σ_n I_n·‖core ×_{m≠n} U_m‖², with respect to the core."""
    total = 0
    for n, size in enumerate(t.shape):
        grams = [
            np.eye(r) if m == n else u.conj().T @ u for m, (u, r) in enumerate(zip(t.factors, t.ranks, strict=True))
        ]
        total = total + size * tg.TuckerTensor(t.core, grams).to_dense()
    return total


def test_the_sensitivity_of_the_core_falls() -> None:
    x, t = tucker((5, 6, 7), (2, 3, 2), "complex128")
    error = tg.relative_error(x, t)
    found = corrected_core(prepare(x, tol=None), t, error)
    assert tg.sensitivity(found) < tg.sensitivity(t)
    assert tg.relative_error(x, found) <= error * (1 + 1e-10)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_ends_of_the_bound(measure) -> None:
    x, t = tucker((5, 6, 7), (2, 3, 2))
    problem = prepare(x, tol=None)
    assert not corrected_core(problem, t, 1.001, measure).core.any()
    least = corrected_core(problem, t, 0.0, measure)
    bases = [np.linalg.pinv(u) for u in t.factors]
    np.testing.assert_allclose(least.core, tg.TuckerTensor(x, bases).to_dense(), atol=1e-12)


def test_factors_without_full_rank(xp, dtype) -> None:
    x, t = tucker((5, 6, 7), (2, 3, 2), dtype)
    factors = list(t.factors)
    factors[1] = factors[1] * np.array([1, 0, 1], dtype=dtype)
    t = xp.tensor(tg.TuckerTensor(t.core, factors))
    problem = prepare(xp.asarray(x), tol=None)
    least = corrected_core(problem, t, 0.0)
    error = tg.relative_error(xp.asarray(x.astype("complex128" if "complex" in dtype else "float64")), least)
    found = corrected_core(problem, t, 1.1 * error)
    assert np.isfinite(xp.to_numpy(found.core)).all()
    assert tg.relative_error(problem.x, found) == pytest.approx(1.1 * error, rel=1e-6)
