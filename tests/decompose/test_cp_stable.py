"""cp_stable: terms that do not cancel, exact fits from most starts, border ranks told as such, ranks found."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cp_lm import collinear, multiplication, near_border, noisy
from test_networks import kernels

import tensorring as tg
from tensorring._array import copy, eps, to_host
from tensorring.decompose.iterative._cp.space import CPSpace
from tensorring.decompose.iterative._cp.starts import starts
from tensorring.linalg import error_floor
from tensorring.testing import check_refusals, check_result, tensors, tolerances

WIDE = ("float64", "complex128")


def plain(x, rank, counts, seed=0):
    """Fits by alternating least squares and nothing else, after so many sweeps."""
    space = CPSpace(x, rank, float(np.linalg.norm(x)))
    rows, fits = [copy(u.T) for u in starts(x, rank, "random", 1, seed)[0]()], []
    for sweep in range(1, max(counts) + 1):
        fit = space.sweep(rows)
        rows = fit.factors
        if sweep in counts:
            fits.append(fit)
    return fits


def size(x, t):
    """‖λ‖/‖x‖."""
    wide = "complex128" if np.iscomplexobj(x) else "float64"
    terms = np.prod([np.linalg.norm(to_host(u).astype(wide), axis=0) for u in t.factors], axis=0) * to_host(t.weights)
    return float(np.linalg.norm(terms / np.linalg.norm(x.astype(wide))))


def border(dtype="float64"):
    """W = aab + aba + baa: rank 3, and a limit of tensors of rank 2."""
    x = np.zeros((2, 2, 2), dtype)
    x[0, 0, 1] = x[0, 1, 0] = x[1, 0, 0] = 1
    return x


def hyperdeterminant(x):
    """Cayley's: the discriminant of det(A + tB). Negative: rank 3, and no best approximation of rank 2."""
    a, b = x[:, :, 0], x[:, :, 1]
    constant, square = np.linalg.det(a), np.linalg.det(b)
    return (np.linalg.det(a + b) - constant - square) ** 2 - 4 * constant * square


def of_rank_three(count):
    """The first Gaussian 2 × 2 × 2 tensors whose hyperdeterminant is negative."""
    drawn = (np.random.default_rng(seed).standard_normal((2, 2, 2)) for seed in range(200))
    return [x for x in drawn if hyperdeterminant(x) < 0][:count]


def solved(x, rank, seeds=12):
    return sum(tg.cp_stable(x, rank=rank, init="random", rng=seed).error < 1e-10 for seed in range(seeds))


# Tensors of which much is known.


@pytest.mark.parametrize("e", [0.03, 0.01, 0.003])
@pytest.mark.parametrize("dtype", WIDE)
def test_the_border_tensor_at_a_norm_has_the_error_of_theory(e, dtype):
    """‖W − x̂‖·Σλ² = (1 + √3·e)³/(2√3) where it is least, ‖W − x̂‖ = √3·e."""
    squares = (1 + math.sqrt(3) * e) ** 3 / (2 * math.sqrt(3) * e)
    bound = math.sqrt(squares / 3)
    result = tg.cp_stable(border(dtype), rank=2, max_norm=bound, max_sweeps=2000, rng=0)
    assert (result.stop, result.converged) == (tg.Stop.border_rank, False)
    assert size(border(dtype), result.tensor) <= bound * (1 + 1e-9)
    reached = 3 * size(border(dtype), result.tensor) ** 2
    law = (1 + math.sqrt(3) * result.error) ** 3 / (2 * math.sqrt(3))
    assert result.error * reached == pytest.approx(law, rel=0.01)
    assert result.error == pytest.approx(e, rel=0.01)


def test_terms_of_plain_sweeps_grow_like_the_root_of_their_number_and_stable_ones_do_not():
    for seed, x in enumerate(of_rank_three(3)):
        few, many = plain(x, 2, (500, 2000), seed)
        assert many.size > 1.5 * few.size
        result = tg.cp_stable(x, rank=2, rng=seed)
        assert (result.stop, result.converged) == (tg.Stop.border_rank, False)
        assert "rank + 1" in result.stop.help
        assert size(x, result.tensor) <= 10 * (1 + 1e-9)
        assert result.error < 1.06 * many.error
        exact = tg.cp_stable(x, rank=3, init="random", n_starts=3, rng=seed)
        assert exact.error < 1e-10
        assert exact.converged


@pytest.mark.slow
def test_of_twenty_tensors_of_rank_three_none_has_a_best_approximation():
    """Nineteen of the twenty double: of one the hyperdeterminant is next to zero, and it is still under way."""
    growth = []
    for seed, x in enumerate(of_rank_three(20)):
        few, many = plain(x, 2, (5000, 20000), seed)
        growth.append(many.size / few.size)
        result = tg.cp_stable(x, rank=2, rng=0)
        assert (result.stop, result.converged) == (tg.Stop.border_rank, False)
        assert size(x, result.tensor) <= 10 * (1 + 1e-9)
    assert sum(ratio >= 1.7 for ratio in growth) >= 19
    assert min(growth) >= 1.5


@pytest.mark.parametrize(("sizes", "rank", "least"), [((2, 2, 2), 7, 11), ((2, 2, 3), 11, 11), ((3, 3, 2), 15, 8)])
def test_matrix_multiplication_is_found_from_most_starts(sizes, rank, least):
    assert solved(multiplication(*sizes), rank) >= least


@pytest.mark.slow
def test_laderman_is_found_from_half_the_starts():
    assert solved(multiplication(3, 3, 3), 23) >= 6


def test_matrix_multiplication_in_complex_numbers():
    x = multiplication(2, 2, 2).astype("complex128")
    assert solved(x * np.exp(0.3j), 7, seeds=4) >= 3


def test_matrix_multiplication_of_border_rank_is_told():
    """⟨2, 2, 3⟩: border rank 10, rank 11."""
    result = tg.cp_stable(multiplication(2, 2, 3), rank=10, init="random", n_starts=3, rng=0)
    assert (result.stop, result.converged) == (tg.Stop.border_rank, False)
    assert size(multiplication(2, 2, 3), result.tensor) <= 10 * (1 + 1e-9)
    assert result.error < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_collinear_terms_are_found_where_plain_sweeps_creep(seed):
    x = collinear(seed)
    (crept,) = plain(x, 5, (5000,), seed)
    assert crept.error > 1e-4
    assert tg.cp_stable(x, rank=5, rng=seed).error < 1e-7


@pytest.mark.parametrize("dtype", WIDE)
def test_best_approximations_that_exist_are_found_whatever_the_terms_are_like(dtype):
    """Slices I and [[0, 1], [0, ε]]: rank 2 with terms of size 1/ε, allowed or not."""
    x = near_border(0.2).astype(dtype)
    found = tg.cp_stable(x, rank=2, rng=0)
    assert found.error < 1e-10
    assert found.converged
    bounded = tg.cp_stable(x, rank=2, rng=0, max_norm=2.0)
    assert (bounded.stop, bounded.converged) == (tg.Stop.border_rank, False)
    assert size(x, bounded.tensor) <= 2 * (1 + 1e-9)


def test_kernels_of_a_network_are_fitted_as_well_by_smaller_terms():
    for kernel in list(kernels("resnet20"))[0:7:3]:
        x = kernel.reshape(*kernel.shape[:2], -1).astype("float64")
        rank = x.size // (4 * sum(x.shape))
        (one,) = plain(x, rank, (300,))
        two = tg.cp_stable(x, rank=rank, max_sweeps=300, rng=0)
        assert two.error <= 1.02 * one.error
        assert size(x, two.tensor) <= 1.6
        assert tg.sensitivity(two.tensor) < 0.7 * tg.sensitivity(tg.balance(tg.CPTensor(np.ones(rank), one.expanded())))


# Promises.


@pytest.mark.parametrize("max_norm", [1.0, 1.3, 3.0, 50.0, 1000.0])
@pytest.mark.parametrize("max_sweeps", [1, 2, 3, 4, 5, 10, 200])
def test_terms_are_within_the_norm_however_few_sweeps(max_norm, max_sweeps, dtype):
    for x, rank in ((border(dtype), 2), (noisy((4, 5, 6), 3, dtype, share=0.3).astype(dtype), 6)):
        result = tg.cp_stable(x, rank=rank, max_norm=max_norm, max_sweeps=max_sweeps, rng=0)
        assert size(x, result.tensor) <= max_norm * (1 + 1e-9 + 20 * eps(dtype))
        assert len(result.errors) <= max_sweeps
        check_result(x, result, caps=rank)


@pytest.mark.parametrize("max_norm", [100.0, 101.0, 1e3, 1e6])
def test_no_norm_allowed_makes_a_border_tensor_converge(max_norm):
    result = tg.cp_stable(border(), rank=2, max_norm=max_norm, rng=0)
    assert result.stop in (tg.Stop.border_rank, tg.Stop.max_sweeps)
    assert not result.converged


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_results_are_balanced(rank, dtype):
    x = noisy((6, 5, 4), 3, dtype).astype(dtype)
    t = tg.cp_stable(x, rank=rank, rng=0).tensor
    assert np.all(t.weights == 1)
    norms = [np.linalg.norm(u, axis=0) ** 2 / u.shape[0] for u in t.factors]
    for other in norms[1:]:
        np.testing.assert_allclose(other, norms[0], rtol=100 * eps(dtype))
    assert np.all(np.diff(norms[0]) <= 100 * eps(dtype) * norms[0][0])
    assert tg.sensitivity(t) == pytest.approx(tg.sensitivity(tg.balance(t)), rel=100 * eps(dtype))


@given(x=tensors(ndim=st.integers(1, 4)), rank=st.integers(1, 5), max_norm=st.sampled_from([1.0, 2.0, 10.0]))
def test_any_tensor_at_any_rank(x, rank, max_norm):
    result = tg.cp_stable(x, rank=rank, max_norm=max_norm, max_sweeps=30, rng=0)
    check_result(x, result, caps=rank)
    assert result.errors[-1:] in ((), (result.error,))
    scale = 2.0 ** -math.frexp(np.abs(x).max() or 1.0)[1]
    if x.any():
        scaled = result.tensor.with_arrays([u * (scale if k == 1 else 1) for k, u in enumerate(result.tensor.arrays)])
        assert size(x * scale, scaled) <= max_norm * (1 + 1e-9 + 20 * eps(str(x.dtype)))


@pytest.mark.parametrize("shape", [(7, 6), (6, 5, 4), (2, 3, 4, 3), (1, 6, 1, 5), (2, 3, 2, 3, 2), (40, 3, 2)])
def test_exact_tensors_are_found_to_all_digits(shape, xp, dtype):
    rank = min(2, math.prod(shape) // max(shape))
    x = xp.asarray(tg.random.cp(shape, rank=rank, dtype=dtype, rng=3).to_dense())
    result = tg.cp_stable(x, rank=2, n_starts=4, rng=0)
    check_result(x, result, caps=2)
    assert result.error <= max(1e-11, 2 * error_floor(dtype, len(shape)))  # ridges do not end at zero
    assert result.converged


@pytest.mark.parametrize("tol", [0.15, 0.3])
@pytest.mark.parametrize("rank", [3, 5])
def test_what_a_tolerance_leaves_makes_terms_smaller(rank, tol, dtype):
    x = noisy((6, 5, 4), 3, dtype).astype(dtype)
    result = tg.cp_stable(x, rank=rank, tol=tol, rng=0)
    assert (result.stop, result.converged) == (tg.Stop.tol, True)
    check_result(x, result, tol=tol, caps=rank)
    missed = tg.cp_stable(x, rank=1, tol=0.01, rng=0)
    assert not missed.converged
    assert missed.error > 0.01


@pytest.mark.parametrize("tol", [0.0032, 0.004, 0.01, 0.05])
@pytest.mark.parametrize("options", [{}, {"rank": 6}, {"rank": 9}])
@pytest.mark.parametrize("shape", [(3, 4, 2, 3), (7, 6), (6, 5, 4)])
def test_tolerances_next_to_which_gram_matrices_lose_digits_are_kept(shape, options, tol, dtype):
    x = noisy(shape, 3, dtype, seed=1, share=0.9 * tol).astype(dtype)
    result = tg.cp_stable(x, tol=tol, rng=0, **options)
    assert (result.stop is tg.Stop.tol) == result.converged
    assert result.converged
    check_result(x, result, tol=tol)


@pytest.mark.parametrize("init", ["hosvd", "random", "gevd", "greedy"])
def test_every_start_leads_there_and_the_same_seed_to_the_same(init):
    x = noisy((5, 6, 4), 3, "float64", share=1e-3)
    one, other = (tg.cp_stable(x, rank=3, init=init, n_starts=3, rng=7) for _ in range(2))
    assert one.error < 2e-3
    assert one.errors == other.errors
    np.testing.assert_array_equal(one.tensor.to_dense(), other.tensor.to_dense())


def test_a_given_start_is_where_it_starts(dtype):
    truth = tg.random.cp((4, 5, 6), rank=3, dtype=dtype, rng=0)
    x = truth.to_dense()
    result = tg.cp_stable(x, rank=3, init=truth)
    assert result.error <= 30 * error_floor(dtype, 3)
    degenerate = tg.CPTensor(np.ones(2), plain(border(), 2, (3000,))[0].expanded())
    assert size(border(), degenerate) > 5
    result = tg.cp_stable(border(), rank=2, init=degenerate, max_norm=3.0)
    assert size(border(), result.tensor) <= 3 * (1 + 1e-9)


def test_more_starts_are_no_worse():
    x = np.random.default_rng(1).standard_normal((5, 5, 5))
    errors = [tg.cp_stable(x, rank=4, init="random", n_starts=count, rng=0).error for count in (1, 2, 4, 8)]
    assert np.all(np.diff(errors) <= 0)


def test_errors_fall_until_the_correction():
    x = noisy((6, 5, 4), 3, "float64", share=0.5)
    for max_norm in (1.1, 10.0):
        errors = np.array(tg.cp_stable(x, rank=6, max_norm=max_norm, rng=0).errors)
        assert errors[-1] <= 1.002 * errors.min()
        assert errors[0] == errors.max()


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_scales_change_nothing(scale):
    for x, rank in ((noisy((4, 5, 6), 3, "float64"), 3), (border(), 2)):
        one, other = tg.cp_stable(x, rank=rank, rng=0), tg.cp_stable(x * scale, rank=rank, rng=0)
        check_result(x * scale, other)
        assert other.stop is one.stop
        assert other.error == pytest.approx(one.error, rel=0.05)


def test_zero_and_one_mode_and_more_terms_than_needed():
    zero = tg.cp_stable(np.zeros((3, 4, 5)), rank=3)
    assert (zero.error, zero.tensor.rank) == (0.0, 1)
    assert tg.cp_stable(np.zeros((3, 4, 5)), tol=0.0).tensor.rank == 1
    line = tg.cp_stable(np.arange(1.0, 6.0), rank=4)
    assert line.error < 1e-15
    many = tg.cp_stable(np.random.default_rng(0).standard_normal((2, 3, 4)), rank=50, rng=0)
    assert many.tensor.rank == 6
    assert many.error < 1e-12


@pytest.mark.parametrize("max_sweeps", [1, 2, 3, 5, 20, 100, 500])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_large_tensors_go_by_their_core(monkeypatch, share, max_sweeps):
    monkeypatch.setattr("tensorring.decompose.iterative._cp.core.COMPRESSED_FROM", 1)
    x = noisy((30, 20, 40), 3, "float32", share=share).astype("float32")
    by_core = tg.cp_stable(x[::-1].transpose(2, 0, 1), rank=3, rng=0, max_sweeps=max_sweeps)
    check_result(x[::-1].transpose(2, 0, 1), by_core, caps=3)
    assert len(by_core.errors) <= max_sweeps
    if max_sweeps >= 100:
        monkeypatch.setattr("tensorring.decompose.iterative._cp.core.COMPRESSED_FROM", 2**21)
        assert by_core.error <= tg.cp_stable(x, rank=3, rng=0).error * (1 + 1e-3) + error_floor("float32", 3)


def test_a_tensor_of_two_million_entries():
    x = noisy((128, 128, 128), 4, "float32", share=0.2).astype("float32")
    result = tg.cp_stable(x, rank=4, rng=0)
    assert result.error == pytest.approx(0.2 / math.hypot(1, 0.2), rel=0.02)
    assert result.converged
    assert tg.cp_stable(x, tol=0.25, rng=0).tensor.rank == 4


# The search for the rank.


@pytest.mark.parametrize("rank", [1, 3, 5])
@pytest.mark.parametrize("shape", [(10, 11, 12), (6, 7, 8), (5, 4, 3, 6)])
def test_exact_ranks_are_found(shape, rank, dtype):
    x = tg.random.cp(shape, rank=rank, dtype=dtype, rng=rank).to_dense()
    result = tg.cp_stable(x, tol=1e-4 if eps(dtype) > 1e-10 else 1e-9, rng=0)
    assert result.tensor.rank == rank
    assert (result.stop, result.converged) == (tg.Stop.tol, True)
    check_result(x, result, tol=1e-4 if eps(dtype) > 1e-10 else 1e-9)


@pytest.mark.parametrize("rank", [2, 4])
def test_ranks_below_noise_are_found(rank, dtype):
    x = noisy((7, 8, 9), rank, dtype, share=0.05).astype(dtype)
    result = tg.cp_stable(x, tol=0.052, rng=0)
    assert result.tensor.rank == rank
    check_result(x, result, tol=0.052)


@given(x=tensors(ndim=st.integers(1, 3)), tol=tolerances())
def test_the_tolerance_is_always_kept(x, tol):
    result = tg.cp_stable(x, tol=tol, rng=0)
    check_result(x, result, tol=tol)
    assert result.converged
    assert result.tensor.rank <= max(1, math.prod(x.shape) // max(x.shape))
    assert all(candidate.error <= tol + error_floor(x.dtype, x.ndim) for candidate in result.candidates)
    if result.candidates:
        assert min(candidate.ranks[0] for candidate in result.candidates) == result.tensor.rank
        assert {candidate.format for candidate in result.candidates} == {"cp"}


@pytest.mark.parametrize("tol", [0.0, 1e-12, 0.9])
def test_the_ends_of_the_tolerance(tol):
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    result = tg.cp_stable(x, tol=tol, rng=0)
    check_result(x, result, tol=tol)
    assert result.tensor.rank <= 12
    assert result.tensor.rank >= (5 if tol < 0.5 else 1)  # that of the longest unfolding


def test_looser_tolerances_take_no_more_terms():
    x = tg.random.tucker((6, 7, 5), ranks=3, rng=0).to_dense()
    ranks = [tg.cp_stable(x, tol=tol, rng=0).tensor.rank for tol in (0.5, 0.2, 0.05, 1e-6)]
    assert np.all(np.diff(ranks) >= 0)


def test_a_search_gives_the_same_for_the_same_seed():
    x = noisy((6, 7, 8), 4, "float64", share=0.1)
    one, other = (tg.cp_stable(x, tol=0.1, rng=5) for _ in range(2))
    assert one.errors == other.errors
    assert [c.ranks for c in one.candidates] == [c.ranks for c in other.candidates]
    np.testing.assert_array_equal(one.tensor.to_dense(), other.tensor.to_dense())


@pytest.mark.parametrize("max_norm", [1.0, 1.1, 1.5])
def test_a_tolerance_does_not_win_over_the_norm(max_norm):
    x = np.random.default_rng(3).standard_normal((4, 4, 4))
    for rank in (5, 6, 7, 8):
        for tol in (0.2, 0.3):
            result = tg.cp_stable(x, rank=rank, tol=tol, max_norm=max_norm, rng=0)
            assert size(x, result.tensor) <= max_norm * (1 + 1e-9)
            assert result.converged == (result.error <= tol + error_floor("float64", 3))


def test_terms_of_a_search_are_within_the_norm():
    x = np.random.default_rng(3).standard_normal((4, 4, 4))
    for max_norm in (1.0, 2.0, 10.0):
        result = tg.cp_stable(x, tol=0.2, max_norm=max_norm, rng=0)
        check_result(x, result, tol=0.2)
        assert size(x, result.tensor) <= max_norm * (1 + 1e-9)


# Watching, ending, interrupting.

RUNS = {
    "border": (border(), {"rank": 2, "max_norm": 3.0, "rng": 0}),
    "strassen": (multiplication(2, 2, 2), {"rank": 7, "init": "random", "rng": 0}),
    "noise": (np.random.default_rng(5).standard_normal((4, 5, 6)), {"rank": 6, "max_norm": 1.2, "rng": 0}),
    "complex": (noisy((6, 7, 5), 3, "complex64", share=0.1).astype("complex64"), {"rank": 4, "tol": 0.3, "rng": 0}),
    "search": (noisy((6, 7, 5), 3, "float32", share=0.1).astype("float32"), {"tol": 0.15, "rng": 0}),
}


@pytest.mark.parametrize("name", RUNS)
def test_wherever_it_ends_what_is_there_is_whole(name):
    x, options = RUNS[name]
    count = len(tg.cp_stable(x, **options).errors)
    for at in sorted({1, 2, 3, *np.linspace(4, max(4, count - 1), 12).astype(int), count}):

        def interrupt(sweep, _, at=at):
            if sweep == at:
                raise KeyboardInterrupt

        def enough(sweep, _, at=at):
            return sweep >= at

        for callback, stop in ((interrupt, tg.Stop.interrupted), (enough, tg.Stop.budget)):
            result = tg.cp_stable(x, callback=callback, **options)
            check_result(x, result)
            assert size(x, result.tensor) <= options.get("max_norm", 10.0) * (1 + 1e-6)
            assert len(result.errors) <= max(at, 1)
            if at <= count:
                assert result.stop is stop


def test_sweeps_are_counted_and_told():
    told = []
    x = noisy((6, 7, 5), 3, "float64")
    result = tg.cp_stable(x, rank=4, rng=0, callback=lambda sweep, error: told.append(error))
    assert len(told) == len(result.errors)
    assert np.all(np.diff(told) <= 0)
    tg.cp_stable(x, tol=0.2, rng=0, callback=tg.progress("CP"))


def test_other_exceptions_of_a_callback_reach_the_caller():
    def fails(sweep, error):
        raise ZeroDivisionError

    for options in ({"rank": 2}, {"tol": 0.1}, {"rank": 2, "n_starts": 3}):
        with pytest.raises(ZeroDivisionError):
            tg.cp_stable(noisy((6, 7, 5), 3, "float64"), callback=fails, **options)


# Arguments.


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({}, ValueError, ["neither rank nor tol", "rank=", "tol="]),
        ({"rank": 2, "max_norm": 0.5}, ValueError, ["max_norm=0.5", "at least 1"]),
        ({"rank": 2, "max_norm": math.nan}, ValueError, ["max_norm=nan", "at least 1"]),
        ({"rank": 2, "max_norm": math.inf}, ValueError, ["max_norm=inf", "finite"]),
        ({"rank": 2, "max_norm": True}, TypeError, ["max_norm=True"]),
        ({"rank": 2, "max_norm": "3"}, TypeError, ["max_norm='3'"]),
        ({"rank": 2, "max_norm": None}, TypeError, ["max_norm=None"]),
        ({"rank": 0}, ValueError, ["rank=0", "at least 1"]),
        ({"rank": (2, 2)}, TypeError, ["rank=(2, 2)", "one rank"]),
        ({"rank": 2, "n_starts": 0}, ValueError, ["n_starts=0"]),
        ({"rank": 2, "max_sweeps": 0}, ValueError, ["max_sweeps=0"]),
        ({"rank": 2, "stall": 1}, ValueError, ["stall=1"]),
        ({"rank": 2, "callback": 1}, TypeError, ["callback=1"]),
        ({"rank": 2, "init": "svd"}, ValueError, ["'hosvd'"]),
        ({"rank": 2, "init": tg.random.cp((4, 5, 7), rank=2, rng=0)}, ValueError, ["(4, 5, 7)"]),
        ({"rank": 2, "init": tg.random.cp((4, 5, 6), rank=3, rng=0)}, ValueError, ["rank 3"]),
        ({"tol": 0.1, "init": "random"}, ValueError, ["init='random'", "without a rank"]),
        ({"tol": 0.1, "init": tg.random.cp((4, 5, 6), rank=3, rng=0)}, ValueError, ["init=", "without a rank"]),
        ({"tol": 1.5}, ValueError, ["tol=1.5"]),
    ],
)
def test_what_makes_no_sense_is_refused(options, error, parts):
    with pytest.raises(error) as info:
        tg.cp_stable(noisy((4, 5, 6), 2, "float64"), **options)
    for part in parts:
        assert part in str(info.value)


def test_what_is_no_finite_tensor_is_refused():
    check_refusals(tg.cp_stable, rank=2)
    check_refusals(tg.cp_stable, tol=0.1)
