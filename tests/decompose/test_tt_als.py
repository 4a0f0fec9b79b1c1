"""Trains by alternating least squares: exact on exact data, stationary on noise, monotone, less stored by `tol`."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring import Stop
from tensorring._array import eps
from tensorring.decompose.iterative._chain.train_sweep import right_orthogonal, two_core_sweep
from tensorring.linalg import error_floor
from tensorring.testing import check_result, tensors, tolerances
from tensorring.testing.checks import check_backend

SHAPES = [((8, 9), (3,)), ((6, 7, 8), (3, 2)), ((5, 6, 4, 3), (2, 4, 2)), ((4, 1, 3, 4, 2), (2, 2, 3, 2))]
LETTERS, BONDS = "ijklm", "abcdef"


def noisy(shape, ranks, dtype="float64", noise=0.1, seed=0):
    """A train and noise: without it a missing conjugate would not show."""
    rng, wide = np.random.default_rng(seed), "complex128" if "complex" in dtype else "float64"
    x = tg.random.tt(shape, ranks=ranks, dtype=wide, rng=seed).to_dense()
    white = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if wide == "complex128" else 0)
    return (x + noise * np.linalg.norm(x) / np.linalg.norm(white) * white).astype(dtype)


def gradient(x, cores, n):
    """⟨∂ chain/∂G_n, x − chain⟩ over the conjugate of the other cores, by einsum."""
    order = len(cores)
    terms = [BONDS[k] + LETTERS[k] + BONDS[k + 1] for k in range(order)]
    dense = np.einsum(",".join(terms) + "->" + LETTERS[:order], *cores)
    rest = [k for k in range(order) if k != n]
    spec = ",".join([LETTERS[:order], *(terms[k] for k in rest)]) + "->" + terms[n]
    ends = [cores[k].conj() for k in rest]
    if n in (0, order - 1):  # the outer bond of size 1 belongs to the core that is left out
        spec = spec.replace("->" + terms[n], "->" + terms[n].strip(BONDS[0] if n == 0 else BONDS[order]))
    return np.einsum(spec, x - dense, *ends, optimize=True)


@pytest.mark.parametrize(("shape", "ranks"), SHAPES)
@pytest.mark.parametrize("init", ["svd", "random"])
def test_exact_trains_are_found(shape, ranks, init, dtype, xp) -> None:
    x = xp.asarray(tg.random.tt(shape, ranks=ranks, dtype=dtype, rng=1).to_dense())
    result = tg.tt_als(x, ranks=ranks, init=init, n_starts=2, rng=0)
    check_result(x, result, caps=ranks)
    assert result.error <= error_floor(dtype, len(shape))
    assert result.converged


@pytest.mark.parametrize(("shape", "ranks"), SHAPES)
def test_the_fit_is_stationary(shape, ranks, dtype) -> None:
    x = noisy(shape, ranks, dtype)
    result = tg.tt_als(x, ranks=ranks, stall=0, max_sweeps=300, init="random", rng=3)
    assert 0.03 < result.error < 0.2
    wide = "complex128" if "complex" in dtype else "float64"
    cores = [core.astype(wide) for core in result.tensor.cores]
    for n in range(len(shape)):
        # All other cores but core 0 have orthonormal rows, and core 0 the norm of the whole.
        scale = np.linalg.norm(x) * (np.linalg.norm(cores[0]) if n else 1.0)
        assert np.linalg.norm(gradient(x.astype(wide), cores, n)) <= 300 * eps(dtype) * scale


def test_one_sweep_is_that_of_the_definition(gaussian) -> None:
    """Core after core by lstsq on the dense chain of the others, to the end and back."""
    x = gaussian((4, 5, 3, 4), "complex128")
    start = tg.random.tt(x.shape, ranks=(2, 3, 2), dtype="complex128", rng=4)
    cores = [core.copy() for core in start.cores]
    for n in (1, 2, 3, 2, 1, 0):
        left, right = np.ones((1, 1)), np.ones((1, 1))
        for core in cores[:n]:
            left = np.tensordot(left, core, 1).reshape(-1, core.shape[2])
        for core in reversed(cores[n + 1 :]):
            right = np.tensordot(core, right, 1).reshape(core.shape[0], -1)
        unfolded = np.moveaxis(x, n, 0).reshape(x.shape[n], -1)
        solution = np.linalg.lstsq(np.kron(left, right.T), unfolded.T, rcond=None)[0]
        cores[n] = np.moveaxis(solution.reshape(left.shape[1], right.shape[0], -1), 2, 1)
    expected = tg.TTTensor(tuple(cores)).to_dense()
    result = tg.tt_als(x, ranks=(2, 3, 2), init=start, max_sweeps=1)
    np.testing.assert_allclose(result.tensor.to_dense(), expected, rtol=0, atol=1e-12 * np.linalg.norm(x))
    assert result.stop is Stop.max_sweeps
    assert not result.converged


def test_complex_data_with_real_entries_give_the_real_fit() -> None:
    x = noisy((5, 6, 7), (2, 3))
    one = tg.tt_als(x, ranks=(2, 3), max_sweeps=10, stall=0)
    two = tg.tt_als(x.astype("complex128"), ranks=(2, 3), max_sweeps=10, stall=0)
    np.testing.assert_allclose(two.errors, one.errors, rtol=1e-12)
    np.testing.assert_allclose(two.tensor.to_dense(), one.tensor.to_dense(), atol=1e-10)


@given(x=tensors(ndim=st.integers(1, 5)), cap=st.integers(1, 5), init=st.sampled_from(["svd", "random"]))
def test_errors_never_rise_and_end_in_the_error(x, cap, init) -> None:
    result = tg.tt_als(x, ranks=cap, init=init, max_sweeps=8, rng=0)
    check_result(x, result, caps=cap)
    floor = error_floor(result.tensor.dtype, x.ndim)
    unit = eps(result.tensor.dtype.name)
    # Differences of squares are right to eps over the error.
    assert all(b <= a + floor + 20 * unit / max(a, math.sqrt(unit)) for a, b in itertools.pairwise(result.errors))
    assert result.errors[-1:] in ((), (result.error,))
    if init == "svd":
        assert result.error <= tg.tt_svd(x, ranks=cap).error * (1 + 1e-6) + floor


@given(x=tensors(ndim=st.integers(1, 5)), tol=tolerances())
def test_a_tolerance_is_kept_in_no_more_than_the_direct_method_stores(x, tol) -> None:
    result, direct = tg.tt_als(x, tol=tol, max_sweeps=40), tg.tt_svd(x, tol=tol)
    check_result(x, result, tol=tol)
    assert result.converged
    assert result.tensor.parameter_count <= direct.tensor.parameter_count
    assert result.errors[-1:] in ((), (result.error,))


@pytest.mark.parametrize(("noise", "tol", "share"), [(None, 0.5, 0.92), (0.3, 0.1, 0.95)])
def test_less_is_stored_on_noise_and_the_candidates_say_so(noise, tol, share, gaussian) -> None:
    """Less by a margin: a search that proposed nothing would fail here."""
    x = gaussian((8, 8, 8, 8)) if noise is None else noisy((8, 8, 8, 8), (3, 5, 3), noise=noise)
    result, direct = tg.tt_als(x, tol=tol), tg.tt_svd(x, tol=tol)
    assert result.stop is Stop.tol
    assert result.tensor.parameter_count <= share * direct.tensor.parameter_count
    mine = [c for c in result.candidates if c.ranks[-len(result.tensor.ranks) :] == result.tensor.ranks]
    assert mine
    assert mine[-1].error == pytest.approx(result.error, rel=1e-6)
    assert mine[-1].parameter_count == min(c.parameter_count for c in result.candidates)


def test_two_cores_at_a_time_lower_the_ranks_to_the_bound(dtype) -> None:
    """From a train that holds the noise too: the ranks without it, at an error that the sweep foresaw."""
    x = noisy((6, 7, 8, 5), (2, 3, 2), dtype)
    norm = float(np.linalg.norm(x))
    start = right_orthogonal(tg.tt_svd(x, ranks=(5, 9, 4)).tensor.cores)
    for bound, ranks in ((0.13, (2, 3, 2)), (0.0, (5, 9, 4))):
        swept = tg.TTTensor(two_core_sweep(x, start, norm, bound * norm))
        assert swept.ranks == ranks
        assert tg.relative_error(x, swept) <= max(bound, tg.relative_error(x, tg.TTTensor(start))) + 100 * eps(dtype)


def test_the_form_of_the_result(dtype) -> None:
    """Every core but the first has orthonormal rows, after a fit and after a search."""
    x = noisy((6, 7, 8, 5), (2, 3, 2), dtype)
    for options in ({"ranks": (2, 3, 2)}, {"tol": 0.15}):
        result = tg.tt_als(x, **options)
        assert result.tensor.dtype == dtype
        for core in result.tensor.cores[1:]:
            rows = core.reshape(core.shape[0], -1)
            np.testing.assert_allclose(rows @ rows.conj().T, np.eye(len(rows)), atol=100 * eps(dtype))


@pytest.mark.parametrize("options", [{"ranks": 2, "init": "random", "n_starts": 3}, {"ranks": (2, None), "tol": 0.2}])
def test_the_same_seed_gives_the_same_result(options) -> None:
    x = noisy((7, 8, 9), (3, 3))
    one, two = (tg.tt_als(x, rng=7, **options) for _ in range(2))
    for a, b in zip(one.tensor.arrays, two.tensor.arrays, strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.errors == two.errors


def test_more_starts_are_not_worse() -> None:
    x = noisy((5, 6, 5, 4), (3, 3, 3), noise=1.0)
    few, many = (tg.tt_als(x, ranks=2, init="random", n_starts=n, rng=1, max_sweeps=30) for n in (1, 4))
    assert many.error <= few.error


@pytest.mark.parametrize("options", [{"ranks": (3, 3)}, {"tol": 0.15}])
def test_libraries_agree(options, xp, dtype) -> None:
    check_backend(tg.tt_als, xp.asarray, (6, 7, 8), dtype, {**options, "max_sweeps": 10}, spread=1e6)


def test_a_tolerance_ends_the_run_at_given_ranks() -> None:
    x = noisy((8, 9, 10), (3, 3))
    result = tg.tt_als(x, ranks=(3, 3), tol=0.2)
    assert (result.stop, result.converged, len(result.errors)) == (Stop.tol, True, 1)
    missed = tg.tt_als(x, ranks=(3, 3), tol=0.01)
    assert (missed.stop, missed.converged) == (Stop.stall, False)


def test_ranks_beyond_use_are_lowered(gaussian) -> None:
    for init in ("svd", "random"):
        result = tg.tt_als(gaussian((3, 4, 5)), ranks=1000, init=init, rng=0)
        assert result.tensor.ranks == (3, 5)
        assert result.error < 1e-14


@pytest.mark.parametrize("shape", [(7,), (1,), (1, 1, 1), (1, 5, 1)])
@pytest.mark.parametrize("options", [{"ranks": 2}, {"tol": 0.1}])
def test_small_cases(shape, options, gaussian) -> None:
    x = gaussian(shape)
    check_result(x, tg.tt_als(x, **options))
    assert tg.tt_als(x, **options).error < 1e-14
    zero = tg.tt_als(np.zeros(shape), **options)
    assert (zero.error, set(zero.tensor.ranks), zero.converged) == (0.0, {1} if len(shape) > 1 else set(), True)


@pytest.mark.parametrize("options", [{"ranks": (3, 3)}, {"tol": 0.12}])
def test_a_callback_ends_the_run_with_the_best(options) -> None:
    x = noisy((8, 9, 10), (4, 4))
    seen = []

    def once(sweep: int, error: float) -> bool:
        seen.append((sweep, error))
        return sweep == 2

    def interrupt(sweep: int, error: float) -> None:
        if sweep == 2:
            raise KeyboardInterrupt

    for callback, stop in ((once, Stop.budget), (interrupt, Stop.interrupted)):
        result = tg.tt_als(x, **options, init="svd", stall=0, callback=callback)
        assert result.stop is stop
        assert len(result.errors) == 2
        assert result.errors[-1] == result.error
        check_result(x, result)
        assert result.error <= options.get("tol", tg.tt_svd(x, **options).error * (1 + 1e-9))
    assert [sweep for sweep, _ in seen] == [1, 2]


@pytest.mark.parametrize("options", [{"ranks": (2, 2)}, {"tol": 0.3}])
def test_the_start_given_is_used_and_not_written_to(options) -> None:
    x = noisy((4, 5, 6), (2, 2))
    start = tg.tt_als(x, ranks=(2, 2)).tensor
    before = [array.copy() for array in start.arrays]
    for array in start.arrays:
        array.flags.writeable = False
    result = tg.tt_als(x, init=start, max_sweeps=20, **options)
    for a, b in zip(before, start.arrays, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any(np.shares_memory(a, b) for a in result.tensor.arrays for b in start.arrays)
    if "ranks" in options:
        assert result.errors[0] == pytest.approx(tg.relative_error(x, start), rel=1e-9)
    else:
        assert result.tensor.parameter_count <= start.parameter_count


@pytest.mark.parametrize(
    ("options", "error", "part"),
    [
        ({"ranks": 0}, ValueError, "at least 1"),
        ({"ranks": (2, 2, 2)}, ValueError, "the bonds between neighbours: 2 of them"),
        ({}, ValueError, "neither tol nor ranks"),
        ({"ranks": (None, None)}, ValueError, "cap at least one rank"),
        ({"ranks": 2, "init": "hosvd"}, ValueError, "'svd', 'random', or a TTTensor"),
        ({"ranks": 2, "init": tg.random.tr((3, 4, 5), ranks=2, rng=0)}, TypeError, "TTTensor"),
        ({"ranks": 2, "init": tg.random.tt((3, 4, 6), ranks=2, rng=0)}, ValueError, "(3, 4, 6)"),
        ({"ranks": 2, "init": tg.random.tt((3, 4, 5), ranks=3, rng=0)}, ValueError, "ranks (3, 3)"),
        ({"ranks": 2, "init": tg.random.tt((3, 4, 5), ranks=2, rng=0, dtype="complex128")}, ValueError, "complex init"),
        ({"ranks": 2, "n_starts": 0}, ValueError, "n_starts=0"),
        ({"ranks": 2, "n_starts": 1.5}, TypeError, "n_starts=1.5"),
        ({"ranks": 2, "max_sweeps": 0}, ValueError, "max_sweeps=0"),
        ({"ranks": 2, "stall": -1}, ValueError, "stall=-1"),
        ({"ranks": 2, "callback": 3}, TypeError, "callback=3"),
        ({"ranks": 2, "tol": 1}, ValueError, "tol=1"),
    ],
)
def test_arguments_out_of_range(options, error, part) -> None:
    with pytest.raises(error) as info:
        tg.tt_als(np.ones((3, 4, 5)), **options)
    assert part in str(info.value)
