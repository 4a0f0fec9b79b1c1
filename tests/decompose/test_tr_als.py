"""Rings by alternating least squares: the sweep of the definition, stationary points, rings found by `tol` alone."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring import Stop
from tensorring._array import eps
from tensorring.decompose._arguments import prepare
from tensorring.decompose.iterative._chain import ring_sweep as module
from tensorring.decompose.iterative._chain.ring_starts import feasible_ranks, random_ring
from tensorring.decompose.iterative._chain.ring_sweep import ring_sweep, subchain_solution
from tensorring.linalg import error_floor
from tensorring.testing import check_result, tensors, tolerances
from tensorring.testing.checks import check_backend
from tensorring.testing.samples import VALUES

RINGS = [((9, 8), (2, 2)), ((6, 7, 8), (3, 2, 2)), ((5, 6, 4, 3), (2, 3, 2, 2)), ((4, 1, 3, 4, 3), (2, 2, 2, 1, 3))]
LETTERS, BONDS = "ijklm", "abcde"


def noisy(shape, ranks, dtype="float64", noise=0.1, seed=0):
    """A ring and noise: without it a missing conjugate would not show."""
    rng, wide = np.random.default_rng(seed), "complex128" if "complex" in dtype else "float64"
    x = tg.random.tr(shape, ranks=ranks, dtype=wide, rng=seed).to_dense()
    white = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if wide == "complex128" else 0)
    return (x + noise * np.linalg.norm(x) / np.linalg.norm(white) * white).astype(dtype)


def subchain(cores, n):
    """The matrix of the problem of core n: (entries of the other modes, (p, s)), by einsum."""
    order = len(cores)
    rest = [k for k in range(order) if k != n]
    # Core n's bonds have other names outside it, so that a ring of two cores is no special case.
    terms = {k: BONDS[k] + LETTERS[k] + BONDS[(k + 1) % order] for k in rest}
    terms[(n + 1) % order] = "y" + terms[(n + 1) % order][1:]
    terms[(n - 1) % order] = terms[(n - 1) % order][:-1] + "z"
    spec = ",".join(terms[k] for k in rest) + "->" + "".join(LETTERS[k] for k in rest) + "zy"
    matrix = np.einsum(spec, *(cores[k] for k in rest))
    return matrix.reshape(-1, cores[n].shape[0] * cores[n].shape[2])


def unfolded(x, n):
    return np.moveaxis(x, n, -1).reshape(-1, x.shape[n])


def naive_sweep(x, cores):
    """The textbook (Zhao et al. 2016, algorithm 2): core after core by lstsq on the dense subchain matrix."""
    cores = list(cores)
    for n in range(x.ndim):
        solution = np.linalg.lstsq(subchain(cores, n), unfolded(x, n), rcond=None)[0]
        p, _, s = cores[n].shape
        cores[n] = np.moveaxis(solution.reshape(p, s, -1), 2, 1)
    return cores


@pytest.mark.parametrize(("shape", "ranks"), RINGS)
def test_sweeps_are_those_of_the_definition(shape, ranks, dtype) -> None:
    x = noisy(shape, ranks, dtype, noise=0.5)
    wide = x.astype("complex128" if "complex" in dtype else "float64")
    start = tg.random.tr(shape, ranks=ranks, dtype=dtype, rng=3)
    cores = [core.astype(wide.dtype) for core in start.cores]
    for sweeps in (1, 2):
        cores = naive_sweep(wide, cores)
        expected = tg.TRTensor(tuple(cores)).to_dense()
        result = tg.tr_als(x, ranks=ranks, init=start, stall=0, max_sweeps=sweeps)
        tolerance = 3e4 * eps(dtype) * np.linalg.norm(x)
        np.testing.assert_allclose(result.tensor.to_dense(), expected, rtol=0, atol=tolerance)
        assert result.errors[-1] == pytest.approx(np.linalg.norm(wide - expected) / np.linalg.norm(x), rel=1e-5)
        assert result.stop is Stop.max_sweeps
        assert not result.converged


@pytest.mark.parametrize(("shape", "ranks"), RINGS)
@pytest.mark.parametrize("init", ["svd", "random"])
def test_exact_rings_are_found(shape, ranks, init, dtype) -> None:
    x = tg.random.tr(shape, ranks=ranks, dtype=dtype, rng=1).to_dense()
    result = tg.tr_als(x, ranks=ranks, init=init, n_starts=10, rng=0)
    check_result(x, result, caps=ranks)
    assert result.error <= (1e-8 if dtype in ("float64", "complex128") else error_floor(dtype, len(shape)))
    assert result.converged


def test_exact_rings_are_found_in_other_libraries(dtype, xp, gaussian) -> None:
    ring = tg.random.tr((6, 5, 4), ranks=2, dtype=dtype, rng=1)
    near = tg.TRTensor(tuple(core + np.float32(0.02) * gaussian(core.shape, dtype) for core in ring.cores))
    x = xp.asarray(ring.to_dense())
    result = tg.tr_als(x, ranks=2, init=xp.tensor(near), max_sweeps=60)
    check_result(x, result, caps=2)
    assert result.error <= (1e-6 if dtype in ("float64", "complex128") else 1e-4)


@pytest.mark.parametrize(("shape", "ranks"), RINGS)
def test_the_fit_is_stationary(shape, ranks, dtype) -> None:
    """Kᴴ·(x − ring) = 0 for the subchain K of every core."""
    x = noisy(shape, ranks, dtype)
    start = tg.random.tr(shape, ranks=ranks, dtype=dtype, rng=1)
    result = tg.tr_als(x, ranks=ranks, init=start, stall=0, max_sweeps=400)
    assert 0.02 < result.error < 0.2
    wide = "complex128" if "complex" in dtype else "float64"
    cores = [core.astype(wide) for core in result.tensor.cores]
    residual = x.astype(wide) - tg.TRTensor(tuple(cores)).to_dense()
    for n in range(len(shape)):
        k = subchain(cores, n)
        gradient = k.conj().T @ unfolded(residual, n)
        # An error of √eps in the cores changes the fit by eps: more is not seen by it.
        assert np.linalg.norm(gradient) <= 3 * np.sqrt(eps(dtype)) * np.linalg.norm(k, 2) * np.linalg.norm(residual)


def test_complex_data_with_real_entries_give_the_real_fit() -> None:
    x, start = noisy((5, 6, 7), (2, 3, 2)), tg.random.tr((5, 6, 7), ranks=(2, 3, 2), rng=0)
    one = tg.tr_als(x, ranks=(2, 3, 2), init=start, max_sweeps=10, stall=0)
    two = tg.tr_als(x.astype("complex128"), ranks=(2, 3, 2), init=start, max_sweeps=10, stall=0)
    np.testing.assert_allclose(two.errors, one.errors, rtol=1e-9)
    np.testing.assert_allclose(two.tensor.to_dense(), one.tensor.to_dense(), atol=1e-8)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_least_squares_on_the_subchain_itself(order, dtype, gaussian) -> None:
    """Where normal equations fail: from cores reduced by QR, whole and for some rows of the mode."""
    shape, ranks = (7, 3, 6, 4)[:order], (2, 3, 1, 2)[:order]
    x, ring = gaussian(shape, dtype), tg.random.tr(shape, ranks=ranks, dtype=dtype, rng=0)
    for n, rows in itertools.product(range(order), (slice(0, 99), slice(1, 3))):
        rows = slice(rows.start, min(rows.stop, shape[n]))
        matrix, right = subchain(ring.cores, n), unfolded(x, n)[:, rows]
        got = subchain_solution(x, ring.cores, n, rows)
        # Where the subchain has more columns than rows, it is the fit that is unique.
        best = matrix @ np.linalg.lstsq(matrix, right, rcond=None)[0]
        np.testing.assert_allclose(matrix @ got, best, rtol=0, atol=1e4 * eps(dtype) * np.linalg.norm(right))


def test_large_problems_are_left_to_the_ridge(monkeypatch, gaussian) -> None:
    x, ring = gaussian((6, 7, 8)), tg.random.tr((6, 7, 8), ranks=3, rng=0)
    monkeypatch.setattr(module, "_SMALL", 10)
    assert subchain_solution(x, ring.cores, 0, slice(0, 6)) is None


@given(x=tensors(ndim=st.integers(2, 5)), cap=st.integers(1, 4), seed=st.integers(0, 99))
def test_sweeps_themselves_never_raise_the_error(x, cap, seed) -> None:
    """As told by sweeps, before the control loop keeps the best: up to rounding times the condition of the problems."""
    problem = prepare(x, tol=None)
    if problem.norm == 0.0:
        return
    cores = random_ring(problem.x, feasible_ranks(x.shape, [cap] * x.ndim), np.random.default_rng(seed))
    unit, last, before = eps(problem.x.dtype.name), math.inf, 1.0
    for _ in range(5):
        cores, error = ring_sweep(problem.x, problem.norm, cores)
        assert all(np.isfinite(core).all() for core in cores)
        condition = max(np.linalg.cond(subchain(cores, n)) for n in range(x.ndim))
        # Differences of squares are right to eps over the error.
        assert error <= last + 30 * unit * max(condition, before) + 20 * unit / max(error, math.sqrt(unit))
        last, before = error, condition


def test_told_errors_are_those_of_chains_that_cancel() -> None:
    """Three times the rank there is: by Gram matrices alone the error told was 1e-6, where 1e-14 was made."""
    rows = np.array([[-0.28438028, -0.60925949], [0.18006592, 0.38577646], [-0.23171415, -0.49642696]])
    x = np.stack([rows, rows * 0.01068681 / 0.28438028, rows * -0.08834885 / 0.28438028])[None]
    for seed in range(20, 40):
        cores = random_ring(x, feasible_ranks(x.shape, [3] * 4), np.random.default_rng(seed))
        for _ in range(5):
            cores, error = ring_sweep(x, float(np.linalg.norm(x)), cores)
            made = np.linalg.norm(x - tg.TRTensor(cores).to_dense()) / np.linalg.norm(x)
            assert error == pytest.approx(made, rel=1e-2, abs=1e-12)


@given(x=tensors(ndim=st.integers(1, 5)), cap=st.integers(1, 5), init=st.sampled_from(["svd", "random"]))
def test_errors_never_rise_and_end_in_the_error(x, cap, init) -> None:
    result = tg.tr_als(x, ranks=cap, init=init, max_sweeps=8, rng=0)
    check_result(x, result, caps=cap)
    floor, unit = error_floor(result.tensor.dtype, x.ndim), eps(result.tensor.dtype.name)
    assert all(b <= a + floor + 20 * unit / max(a, math.sqrt(unit)) for a, b in itertools.pairwise(result.errors))
    assert result.errors[-1:] in ((), (result.error,))


@given(x=tensors(ndim=st.integers(1, 5)), tol=tolerances())
def test_a_tolerance_is_kept_in_no_more_than_the_direct_methods_store(x, tol) -> None:
    result = tg.tr_als(x, tol=tol, max_sweeps=30)
    check_result(x, result, tol=tol)
    assert result.converged
    for direct in (tg.tr_svd(x, tol=tol), tg.tr_reduced_storage(x, tol=tol)):
        assert result.tensor.parameter_count <= direct.tensor.parameter_count
    assert result.errors[-1:] in ((), (result.error,))


@pytest.mark.parametrize(("noise", "tol"), [(0.11, 0.1), (0.11, 0.2), (1.0, 0.3), (1.0, 0.5)])
def test_less_is_stored_on_noise_and_the_candidates_say_so(noise, tol) -> None:
    """Less by a margin: a search that proposed nothing would fail here."""
    x = noisy((8, 7, 6, 5), (2, 3, 2, 3), noise=noise)
    result = tg.tr_als(x, tol=tol)
    direct = min(method(x, tol=tol).tensor.parameter_count for method in (tg.tr_svd, tg.tr_reduced_storage))
    assert result.stop is Stop.tol
    assert result.tensor.parameter_count <= 0.9 * direct
    mine = [candidate for candidate in result.candidates if candidate.ranks == result.tensor.ranks]
    assert [candidate.error for candidate in mine] == [pytest.approx(result.error, rel=1e-6)]
    assert mine[0].parameter_count == min(candidate.parameter_count for candidate in result.candidates)


@pytest.mark.parametrize("seed", range(6))
def test_a_random_ring_is_found_by_its_tolerance(seed) -> None:
    x = tg.random.tr((8,) * 5, ranks=3, rng=seed).to_dense()
    result = tg.tr_als(x, tol=1e-6)
    assert result.error <= 1e-6
    assert 324 <= result.tensor.parameter_count <= 396


@pytest.mark.parametrize(("shape", "ranks"), [((20, 18, 19), (3, 2, 4)), ((10, 11, 12, 9), (3, 2, 4, 3))])
@pytest.mark.parametrize("seed", range(5))
def test_ten_starts_recover_a_ring(shape, ranks, seed) -> None:
    x = tg.random.tr(shape, ranks=ranks, rng=seed).to_dense()
    assert tg.tr_als(x, ranks=ranks, n_starts=10, rng=seed).error <= 1e-8


@pytest.mark.parametrize("init", ["svd", "random"])
def test_more_parameters_than_entries(init, gaussian) -> None:
    """952 numbers for 432 entries: every normal equation is singular."""
    result = tg.tr_als(gaussian((6, 2, 3, 2, 6)), ranks=(3, 2, 4, 12, 18), init=init, rng=0)
    assert result.error <= 1e-10
    assert result.tensor.ranks == (3, 2, 4, 12, 18)


@pytest.mark.parametrize(
    "options", [{"ranks": 2, "init": "random", "n_starts": 3}, {"ranks": (2, None, 2), "tol": 0.3}, {"tol": 0.3}]
)
def test_the_same_seed_gives_the_same_result(options) -> None:
    x = noisy((7, 8, 9), (3, 2, 3))
    one, two = (tg.tr_als(x, rng=7, **options) for _ in range(2))
    for a, b in zip(one.tensor.arrays, two.tensor.arrays, strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.errors == two.errors


def test_more_starts_are_not_worse() -> None:
    x = noisy((5, 6, 5, 4), (3, 3, 3, 2), noise=1.0)
    few, many = (tg.tr_als(x, ranks=2, init="random", n_starts=n, rng=1, max_sweeps=30) for n in (1, 4))
    assert many.error <= few.error


@pytest.mark.parametrize("options", [{"ranks": (3, 2, 2)}, {"tol": 0.3}])
def test_libraries_agree(options, xp, dtype) -> None:
    check_backend(tg.tr_als, xp.asarray, (6, 7, 8), dtype, {**options, "max_sweeps": 10, "rng": 0}, spread=1e6)


def test_a_tolerance_ends_the_run_at_given_ranks() -> None:
    x = noisy((8, 9, 10), (2, 3, 2))
    result = tg.tr_als(x, ranks=(2, 3, 2), tol=0.15, n_starts=5, rng=0)
    assert (result.stop, result.converged) == (Stop.tol, True)
    missed = tg.tr_als(x, ranks=(2, 3, 2), tol=0.01, stall=1e-4)
    assert (missed.stop, missed.converged) == (Stop.stall, False)
    assert missed.error > 0.01


def test_ranks_beyond_use_are_lowered(gaussian) -> None:
    for init in ("svd", "random"):
        result = tg.tr_als(gaussian((3, 4, 5)), ranks=1000, init=init, rng=0)
        assert max(result.tensor.ranks) <= 20
        assert result.error < 1e-10


@pytest.mark.parametrize("shape", [(7,), (1,), (1, 1, 1), (1, 5, 1)])
@pytest.mark.parametrize("options", [{"ranks": 2}, {"tol": 0.1}])
def test_small_cases(shape, options, gaussian) -> None:
    x = gaussian(shape)
    check_result(x, tg.tr_als(x, **options))
    assert tg.tr_als(x, **options).error < 1e-14
    zero = tg.tr_als(np.zeros(shape), **options)
    assert (zero.error, set(zero.tensor.ranks), zero.converged) == (0.0, {1}, True)


@pytest.mark.parametrize("kind", VALUES)
def test_caps_beyond_all_use_are_no_worse_than_the_direct_ring(kind, dtype) -> None:
    """Of low rank or sparse, the direct ring may split where no such ring can, and cutting that off begins anywhere."""
    x = VALUES[kind]((2, 3, 2, 3, 2), "complex" in dtype, np.random.default_rng(0)).astype(dtype)
    for caps in (1000, (1000, 1, 1000, 1000, 1000)):
        assert tg.tr_als(x, ranks=caps).error <= tg.tr_svd(x, ranks=caps).error + 1e3 * eps(dtype)


@pytest.mark.parametrize("options", [{"ranks": (2, 2, 2)}, {"ranks": 2, "n_starts": 4, "rng": 0}, {"tol": 0.3}])
def test_a_callback_ends_the_run_with_the_best(options) -> None:
    x = noisy((8, 9, 10), (3, 2, 3))
    seen = []

    def enough(sweep: int, error: float) -> bool:
        seen.append((sweep, error))
        return sweep == 3

    def interrupt(sweep: int, error: float) -> None:
        seen.append((sweep, error))
        if sweep == 3:
            raise KeyboardInterrupt

    for callback, stop in ((enough, Stop.budget), (interrupt, Stop.interrupted)):
        seen.clear()
        result = tg.tr_als(x, **options, stall=0, callback=callback)
        assert result.stop is stop
        assert result.errors[-1] == result.error
        check_result(x, result)
        assert [sweep for sweep, _ in seen] == [1, 2, 3]
        if "tol" in options:
            assert result.error <= options["tol"]
            assert result.tensor.parameter_count <= tg.tr_reduced_storage(x, **options).tensor.parameter_count
        else:
            least = min(error for _, error in seen)
            assert result.error <= least * (1 + 1e-6)
            # Of several starts another one may have been in the middle of a sweep, which counts and is not told.
            assert "n_starts" in options or result.error >= least * (1 - 1e-6)


@pytest.mark.parametrize("kind", ["ring", "train"])
@pytest.mark.parametrize("options", [{"ranks": 3}, {"tol": 0.3}])
def test_the_start_given_is_used_and_not_written_to(kind, options) -> None:
    if kind == "train":  # the ring whose closing bond is 1
        x = tg.random.tt((4, 5, 6), ranks=(2, 2), rng=0).to_dense()
        x += 0.02 * np.random.default_rng(1).standard_normal(x.shape)
        start, ranks = tg.tt_als(x, ranks=(2, 2)).tensor, (1, 2, 2)
    else:
        x, ranks = noisy((4, 5, 6), (2, 2, 2)), (2, 2, 2)
        start = tg.tr_als(x, ranks=ranks, n_starts=5, rng=0).tensor
    before = [array.copy() for array in start.arrays]
    for array in start.arrays:
        array.flags.writeable = False
    result = tg.tr_als(x, init=start, max_sweeps=20, **options)
    for a, b in zip(before, start.arrays, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any(np.shares_memory(a, b) for a in result.tensor.arrays for b in start.arrays)
    if "ranks" in options:
        assert result.tensor.ranks == ranks
        assert result.errors[0] == pytest.approx(tg.relative_error(x, start), rel=1e-3)
    else:
        assert result.tensor.parameter_count <= start.parameter_count


def test_a_ring_that_somebody_proposes_is_taken_by_a_search() -> None:
    """One that the search, with one sweep to go, would not find by itself."""
    x = tg.random.tr((8,) * 5, ranks=3, rng=0).to_dense()
    start = tg.random.tr((8,) * 5, ranks=3, rng=0)
    assert tg.tr_als(x, tol=1e-6, init=start, max_sweeps=1).tensor.parameter_count == 360
    assert tg.tr_als(x, tol=1e-6, max_sweeps=1).tensor.parameter_count > 360


@pytest.mark.parametrize(
    ("options", "error", "part"),
    [
        ({"ranks": 0}, ValueError, "at least 1"),
        ({"ranks": (2, 2)}, ValueError, "the bonds of the ring, one for each mode: 3 of them"),
        ({}, ValueError, "neither tol nor ranks"),
        ({"ranks": (None, None, None)}, ValueError, "cap at least one rank"),
        ({"ranks": 2, "init": "hosvd"}, ValueError, "'svd', 'random', or a TRTensor"),
        ({"ranks": 2, "init": tg.random.cp((3, 4, 5), rank=2, rng=0)}, TypeError, "TRTensor"),
        ({"ranks": 2, "init": tg.random.tr((3, 4, 6), ranks=2, rng=0)}, ValueError, "(3, 4, 6)"),
        ({"ranks": 2, "init": tg.random.tt((3, 4, 6), ranks=2, rng=0)}, ValueError, "(3, 4, 6)"),
        ({"ranks": 2, "init": tg.random.tr((3, 4, 5), ranks=3, rng=0)}, ValueError, "ranks (3, 3, 3)"),
        ({"ranks": 2, "init": tg.random.tr((3, 4, 5), ranks=2, rng=0, dtype="complex128")}, ValueError, "complex init"),
        ({"ranks": 2, "n_starts": 0}, ValueError, "n_starts=0"),
        ({"ranks": 2, "n_starts": 1.5}, TypeError, "n_starts=1.5"),
        ({"ranks": 2, "max_sweeps": 0}, ValueError, "max_sweeps=0"),
        ({"ranks": 2, "stall": 1}, ValueError, "stall=1"),
        ({"ranks": 2, "callback": 3}, TypeError, "callback=3"),
        ({"ranks": 2, "tol": 1}, ValueError, "tol=1"),
    ],
)
def test_arguments_out_of_range(options, error, part) -> None:
    with pytest.raises(error) as info:
        tg.tr_als(np.ones((3, 4, 5)), **options)
    assert part in str(info.value)
