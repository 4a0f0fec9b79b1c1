"""What HOOI promises beyond the contract: stationary points, the plain algorithm's errors, ranks of least storage."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring import Stop
from tensorring._array import eps, to_host
from tensorring.decompose.iterative._tucker.engine import feasible
from tensorring.decompose.iterative._tucker.vectors import leading
from tensorring.decompose.iterative.tucker_hooi import tucker_hooi
from tensorring.linalg import error_floor
from tensorring.testing import check_result, tensors, tolerances
from tensorring.testing.checks import SHAPES, check_backend
from tensorring.testing.samples import VALUES

RANKS = {1: (1,), 2: (3, 3), 3: (2, 3, 4), 4: (2, 3, 2, 2), 5: (2, 2, 2, 2, 2)}


def unfolded(x, mode):
    return np.moveaxis(x, mode, 0).reshape(x.shape[mode], -1)


def projected(x, factors, skip=None):
    for mode, u in enumerate(factors):
        if mode != skip:
            x = np.moveaxis(np.tensordot(u.conj().T, x, axes=(1, mode)), 0, mode)
    return x


def plain_hooi(x, factors, order, sweeps):
    """The textbook: everything from x itself, by SVDs of unfoldings; the errors after each sweep."""
    factors, errors = [np.linalg.qr(u).Q for u in factors], []
    for _ in range(sweeps):
        for mode in order:
            left = np.linalg.svd(unfolded(projected(x, factors, mode), mode), full_matrices=False)[0]
            factors[mode] = left[:, : factors[mode].shape[1]]
        back = projected(projected(x, factors), [u.conj().T for u in factors])
        errors.append(np.linalg.norm(x - back) / np.linalg.norm(x))
    return factors, errors


def noisy(shape, ranks, dtype="float64", noise=0.1, seed=0):
    """Low multilinear rank and noise: without it a missing conjugate would not show."""
    wide = "complex128" if "complex" in dtype else "float64"
    x = tg.random.tucker(shape, ranks=ranks, dtype=wide, rng=seed).to_dense()
    white = VALUES["gaussian"](shape, "complex" in dtype, np.random.default_rng(seed + 1))
    return (x + noise * np.linalg.norm(x) / np.linalg.norm(white) * white).astype(dtype)


def storage(shape, ranks):
    return math.prod(ranks) + sum(n * r for n, r in zip(shape, ranks, strict=True))


@pytest.mark.parametrize("shape", [(7, 8), (6, 7, 8), (5, 6, 4, 5), (4, 3, 4, 3, 4), (40, 4, 5), (4, 50, 5)])
def test_sweeps_are_those_of_the_textbook(shape, dtype, gaussian):
    x, ranks = gaussian(shape, dtype), RANKS[len(shape)]
    init = tg.random.tucker(shape, ranks=ranks, dtype=dtype, rng=5)
    result = tucker_hooi(x, ranks=ranks, init=init, stall=0, max_sweeps=4)
    order = _order(tuple(k for k, n in enumerate(shape) if ranks[k] < n))
    factors, errors = plain_hooi(x.astype(np.result_type(dtype, "float64")), init.factors, order, 4)
    np.testing.assert_allclose(result.errors, errors, rtol=0, atol=1e4 * eps(dtype))
    for ours, theirs in zip(result.tensor.factors, factors, strict=True):
        np.testing.assert_allclose(ours @ ours.conj().T, theirs @ theirs.conj().T, atol=1e5 * eps(dtype))


def _order(modes):
    """Right halves come first."""
    if len(modes) <= 1:
        return list(modes)
    return _order(modes[len(modes) // 2 :]) + _order(modes[: len(modes) // 2])


@pytest.mark.parametrize("shape", [(9,), (7, 8), (10, 11, 12), (6, 5, 7, 6), (4, 4, 5, 4, 4), (1, 8, 1, 9, 7)])
def test_what_is_returned_is_orthonormal_projected_and_stationary(shape, dtype):
    ranks = feasible(RANKS[len(shape)], shape, range(len(shape)))
    x = noisy(shape, ranks, dtype)
    result = tucker_hooi(x, ranks=ranks, stall=0, max_sweeps=200)
    core, factors, tight = result.tensor.core, result.tensor.factors, 100 * eps(dtype)
    check_result(x, result, caps=ranks)
    np.testing.assert_allclose(core, projected(x, factors), atol=tight * np.linalg.norm(x))
    for mode, u in enumerate(factors):
        np.testing.assert_allclose(u.conj().T @ u, np.eye(u.shape[1]), atol=tight)
        gram = (y := unfolded(projected(x, factors, mode), mode)) @ y.conj().T
        gradient = gram @ u - u @ (u.conj().T @ gram @ u)
        assert np.linalg.norm(gradient) <= 1e3 * tight * np.linalg.norm(gram)


@given(x=tensors(ndim=st.integers(1, 5)), cap=st.integers(1, 5), tol=st.none() | tolerances())
def test_errors_never_rise_at_given_ranks_and_end_in_the_error(x, cap, tol):
    result = tucker_hooi(x, ranks=cap, max_sweeps=6)
    floor = error_floor(result.tensor.dtype, x.ndim)
    # Estimates by differences of squares are right to eps over the error.
    unit = eps(result.tensor.dtype.name)
    assert all(b <= a + floor + 20 * unit / max(a, math.sqrt(unit)) for a, b in itertools.pairwise(result.errors))
    assert result.errors[-1] == result.error
    assert result.error <= tg.tucker_hosvd(x, ranks=cap).error * (1 + 1e-6) + floor
    ranks = result.tensor.ranks
    assert all(r <= max(1, math.prod(ranks) // r) for r in ranks)
    both = tucker_hooi(x, ranks=cap, tol=tol, max_sweeps=6)
    check_result(x, both, tol=tol, caps=cap)


@given(x=tensors(ndim=st.integers(1, 4)), tol=tolerances())
def test_a_tolerance_is_kept_in_no_more_than_the_direct_method_stores(x, tol):
    result, direct = tucker_hooi(x, tol=tol, max_sweeps=40), tg.tucker_hosvd(x, tol=tol)
    check_result(x, result, tol=tol)
    assert result.tensor.parameter_count <= direct.tensor.parameter_count
    assert result.errors[-1:] in ((), (result.error,))
    assert result.converged


@pytest.mark.parametrize("tol", [0.5, 0.8])
@pytest.mark.parametrize(
    ("shape", "kind"), [((5, 6, 7), "gaussian"), ((5, 6, 7), "decaying"), ((4, 4, 3, 3), "gaussian")]
)
def test_no_ranks_of_less_storage_keep_the_tolerance(shape, kind, tol):
    x = VALUES[kind](shape, False, np.random.default_rng(1))
    found = tucker_hooi(x, tol=tol).tensor
    for ranks in itertools.product(*(range(1, n + 1) for n in shape)):
        if storage(shape, ranks) < found.parameter_count and tg.tucker_hosvd(x, ranks=ranks).error < 1.2 * tol:
            assert tucker_hooi(x, ranks=ranks, max_sweeps=50).error > tol, ranks


def test_storage_falls_below_the_direct_method_under_noise():
    x = noisy((40, 40, 40), (6, 6, 6), noise=0.3)
    result, direct = tucker_hooi(x, tol=0.28), tg.tucker_hosvd(x, tol=0.28)
    assert result.tensor.parameter_count <= 0.92 * direct.tensor.parameter_count
    assert result.error <= 0.28 + error_floor("float64", 3)
    assert {c.ranks for c in result.candidates} > {c.ranks for c in direct.candidates}
    assert any(c.ranks == result.tensor.ranks for c in result.candidates)
    assert result.stop is Stop.tol


def test_the_search_ends_early_with_what_it_has():
    x = noisy((30, 30, 30), (6, 6, 6), noise=0.3)
    whole, seen = tucker_hooi(x, tol=0.28), []
    for stop_at in (1, 5, 12):
        for way in ("callback", "interrupt", "max_sweeps"):

            def watch(sweep, error, stop_at=stop_at, way=way):
                if way == "interrupt" and sweep == stop_at:
                    raise KeyboardInterrupt
                return way == "callback" and sweep == stop_at

            limit = stop_at if way == "max_sweeps" else 500
            result = tucker_hooi(x, tol=0.28, callback=watch, max_sweeps=limit)
            check_result(x, result, tol=0.28)
            seen.append(result.stop)
            assert whole.tensor.parameter_count <= result.tensor.parameter_count
    assert set(seen) == {Stop.budget, Stop.interrupted, Stop.max_sweeps}


def test_an_interrupt_keeps_the_best():
    x = np.random.default_rng(0).standard_normal((9, 10, 11))

    def watch(sweep, error):
        if sweep == 3:
            raise KeyboardInterrupt

    result = tucker_hooi(x, ranks=3, callback=watch)
    assert result.stop is Stop.interrupted
    check_result(x, result, caps=3)
    assert tucker_hooi(x, ranks=3, callback=lambda sweep, error: sweep == 2).stop is Stop.budget


def test_a_tolerance_under_caps_ends_the_sweeps_as_soon_as_it_holds():
    x = noisy((20, 21, 22), (4, 4, 4), noise=0.3)
    best = tucker_hooi(x, ranks=4).error
    result = tucker_hooi(x, ranks=4, tol=best * (1 + 1e-7))
    assert (result.stop, result.converged) == (Stop.tol, True)
    failed = tucker_hooi(x, ranks=4, tol=best * 0.99)
    assert (failed.stop, failed.converged) == (Stop.stall, False)
    generous = tucker_hooi(x, ranks=(15, None, 15), tol=0.5)
    assert generous.tensor.parameter_count <= tucker_hooi(x, tol=0.5).tensor.parameter_count * 1.05


def test_more_starts_are_never_worse_and_a_seed_repeats():
    x = np.random.default_rng(2).standard_normal((6, 7, 8))
    one = tucker_hooi(x, ranks=2, init="random", rng=3)
    many = tucker_hooi(x, ranks=2, init="random", n_starts=6, rng=3)
    again = tucker_hooi(x, ranks=2, init="random", n_starts=6, rng=3)
    assert many.error <= one.error
    for a, b in zip(many.tensor.arrays, again.tensor.arrays, strict=True):
        np.testing.assert_array_equal(a, b)


def test_partial_tucker_leaves_the_other_modes_alone(dtype, gaussian):
    x = gaussian((12, 10, 3, 3), dtype)
    result = tucker_hooi(x, modes=(0, 1), ranks=(4, 5))
    assert result.tensor.ranks == (4, 5, 3, 3)
    for factor in result.tensor.factors[2:]:
        np.testing.assert_array_equal(factor, np.eye(3, dtype=dtype))
    assert result.error <= tg.tucker_hosvd(x, modes=(0, 1), ranks=(4, 5)).error
    _, errors = plain_hooi(x.reshape(12, 10, 9), [*result.tensor.factors[:2], np.eye(9)], (0, 1), 3)
    assert abs(errors[-1] - result.error) <= 1e-4
    searched, direct = tucker_hooi(x, modes=(1, 0), tol=0.6), tg.tucker_hosvd(x, modes=(0, 1), tol=0.6)
    check_result(x, searched, tol=0.6)
    assert searched.tensor.ranks[2:] == (3, 3)
    assert searched.tensor.parameter_count <= direct.tensor.parameter_count


def test_ranks_that_no_core_can_use_are_lowered():
    assert feasible((9, 2, 2), (9, 9, 9), (0, 1, 2)) == (4, 2, 2)
    assert feasible((5, 5), (9, 3), (0, 1)) == (3, 3)
    assert feasible((7,), (9,), (0,)) == (1,)
    assert feasible((9, 3, 3), (9, 3, 3), (1, 2)) == (9, 3, 3)
    assert tucker_hooi(np.random.default_rng(0).standard_normal((9, 8, 7)), ranks=(9, 2, 2)).tensor.ranks == (4, 2, 2)


def test_ranks_that_the_tensor_has_not_are_lowered(dtype):
    x = tg.random.tucker((9, 8, 7), ranks=(2, 3, 4), dtype=dtype, rng=0).to_dense()
    result = tucker_hooi(x, ranks=6)
    check_result(x, result, caps=6)
    assert result.tensor.ranks == (2, 3, 4)
    assert result.converged
    assert result.errors[-1] == result.error
    check_result(x, tucker_hooi(x, ranks=(6, 6), modes=(1, 2)), caps=(9, 3, 4))


def test_little_memory_is_needed_beyond_the_tensor(gaussian):
    x = gaussian((128, 100, 128))
    tucker_hooi(x, ranks=10, max_sweeps=1)
    tracemalloc.start()
    tucker_hooi(x, ranks=10, max_sweeps=3, stall=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 0.4 * x.nbytes


def test_small_errors_are_measured_and_small_singular_values_found():
    """A diagonal core down to 1e-11: Gram matrices see half of it."""
    bases = [np.linalg.qr(np.random.default_rng(k).standard_normal((12, 6))).Q for k in range(3)]
    core = np.zeros((6, 6, 6))
    core[range(6), range(6), range(6)] = [1, 1e-2, 1e-5, 1e-7, 1e-9, 1e-11]
    x = tg.TuckerTensor(core, bases).to_dense()
    assert tucker_hooi(x, ranks=6).error < 1e-14
    for rank, error in ((3, 1e-7), (4, 1e-9), (5, 1e-11)):
        assert tucker_hooi(x, ranks=rank).error == pytest.approx(error, rel=1e-3)


def test_a_start_of_ones_own_and_its_ranks():
    x = noisy((8, 9, 10), (3, 3, 3))
    first = tucker_hooi(x, ranks=3, max_sweeps=1)
    further = tucker_hooi(x, init=first.tensor)
    assert further.tensor.ranks == (3, 3, 3)
    assert further.error <= first.error * (1 + 1e-9)
    assert tucker_hooi(x, tol=0.2, init=first.tensor).tensor.parameter_count <= first.tensor.parameter_count
    for init, error, part in (
        ("best", ValueError, "'hosvd', 'random'"),
        (3, TypeError, "TuckerTensor"),
        (tg.random.tucker((8, 9, 11), ranks=2, rng=0), ValueError, "shape"),
        (tg.random.tucker((8, 9, 10), ranks=2, rng=0), ValueError, "must agree"),
        (tg.random.tucker((8, 9, 10), ranks=3, dtype="complex128", rng=0), ValueError, "dtype"),
    ):
        with pytest.raises(error, match=part):
            tucker_hooi(x, ranks=3, init=init)
    with pytest.raises(ValueError, match="neither tol nor ranks"):
        tucker_hooi(x)
    with pytest.raises(ValueError, match="whole"):
        tucker_hooi(x, modes=(0, 1), init=first.tensor)


@pytest.mark.parametrize("options", [{"tol": 0.3}, {"ranks": 2}, {"tol": 0.05, "ranks": 3}])
def test_other_libraries_give_what_numpy_gives(xp, dtype, options):
    for shape in SHAPES:
        check_backend(tucker_hooi, xp.asarray, shape, dtype, options)


def test_a_random_start_is_the_same_everywhere(xp):
    x = noisy((8, 9, 10), (3, 3, 3))
    here, there = (tucker_hooi(a, ranks=2, init="random", n_starts=3, rng=7) for a in (x, xp.asarray(x)))
    np.testing.assert_allclose(xp.to_numpy(there.tensor.to_dense()), here.tensor.to_dense(), atol=1e-9)


@pytest.mark.parametrize("gap", [True, False])
def test_a_guess_of_the_singular_vectors_changes_nothing(xp, dtype, gaussian, gap):
    y = gaussian((4, 120, 60), dtype)
    scales = np.where(np.arange(120) < 10, 30.0, 1.0) if gap else np.ones(120)
    y = (y * scales[:, None]).astype(dtype)
    left = np.linalg.svd(unfolded(y, 1).astype(np.result_type(dtype, "float64")))[0]
    right = left[:, :10] @ left[:, :10].conj().T
    guesses = (left[:, :10], left[:, 20:30], gaussian((120, 10), dtype))
    for guess in guesses:
        found = leading(xp.asarray(y), 1, 10, exact=False, guess=xp.asarray(np.linalg.qr(guess).Q.astype(dtype)))
        found = to_host(found)
        np.testing.assert_allclose(found @ found.conj().T, right, atol=1e5 * eps(dtype))


def test_inputs_of_any_scale_and_zeros():
    x = noisy((6, 7, 8), (2, 2, 2))
    for scale in (1e-150, 1e150):
        np.testing.assert_allclose(
            tucker_hooi(x * scale, ranks=2).tensor.to_dense() / scale,
            tucker_hooi(x, ranks=2).tensor.to_dense(),
            atol=1e-9,
        )
    for options in ({"ranks": 3}, {"tol": 0.1}, {"tol": 0.0, "ranks": 2}):
        result = tucker_hooi(np.zeros((3, 4, 5)), **options)
        assert (result.tensor.ranks, result.error) == ((1, 1, 1), 0.0)
