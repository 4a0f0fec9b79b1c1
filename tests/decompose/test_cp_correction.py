"""Correction of CP terms: the bound kept update by update, the measure falling, and where it ends."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cp_lm import noisy

import tensorring as tg
from tensorring._array import eps
from tensorring.contract.tree import khatri_rao_rows
from tensorring.decompose._arguments import prepare
from tensorring.decompose.iterative._cp.correction import MARGIN, Correction, corrections, exponent_of, size_of
from tensorring.decompose.iterative._cp.rows import reduced_rows

WIDE = ("float64", "complex128")
SHAPES = [(7, 6), (6, 5, 4), (2, 3, 4, 3), (1, 6, 1, 5), (2, 3, 2, 3, 2), (12, 3, 4)]
MEASURES = ("sensitivity", "norm")


def dense(factors):
    return tg.CPTensor(np.ones(factors[0].shape[1]), factors).to_dense()


def rough(x, rank, sweeps=10, seed=0):
    """Factor matrices of that many sweeps, and their error: correction finds something to do there."""
    found = tg.cp_als(x, rank=rank, init="random", rng=seed, max_sweeps=sweeps, stall=0)
    *head, last = found.tensor.factors
    factors = [*head, last * found.tensor.weights]
    return factors, float(np.linalg.norm(x - dense(factors)) / np.linalg.norm(x))


def term_norms(factors):
    return np.prod([np.linalg.norm(u, axis=0) for u in factors], axis=0)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", SHAPES)
def test_sum_of_powers_is_the_least_sensitivity(shape, dtype):
    """Over all scalings of the terms: d·(ΠI)^(1/d)·Σ λ^p, which `tg.balance` reaches."""
    factors = list(tg.random.cp(shape, rank=3, dtype=dtype, rng=0).factors)
    factors[0] = factors[0] * np.array([1.0, 30.0, 1e-3])
    d = len(shape)
    least = d * math.prod(shape) ** (1 / d) * size_of(factors, exponent_of("sensitivity", d))
    balanced = tg.balance(tg.CPTensor(np.ones(3), factors))
    assert tg.sensitivity(balanced) == pytest.approx(least, rel=1e-12)
    assert size_of(factors, exponent_of("norm", d)) == pytest.approx((term_norms(factors) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) > 1])
def test_rows_are_the_least_squares_problem(shape, dtype):
    """‖x − x̂‖² = ‖X − K·V‖² + what is lost, whatever V is; tall factors are reduced."""
    x = noisy(shape, 3, dtype)
    for rank in (1, 2, 5):
        factors = [np.ascontiguousarray(u.T) for u in tg.random.cp(shape, rank=rank, dtype=dtype, rng=1).factors]
        for mode in range(len(shape)):
            matrix, right, lost = reduced_rows(x, factors, mode)
            expected = np.linalg.norm(x - dense([v.T for v in factors])) ** 2
            assert np.linalg.norm(right - matrix @ factors[mode]) ** 2 + lost == pytest.approx(expected, rel=1e-12)
            assert matrix.shape[0] <= math.prod(min(rank, n) for m, n in enumerate(shape) if m != mode)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("slack", [1.0, 1.001, 1.1])
def test_each_sweep_is_within_the_bound_and_smaller(slack, shape, measure, dtype):
    x = noisy(shape, 3, dtype)
    factors, error = rough(x, 3)
    bound, exponent = slack * error, exponent_of(measure, len(shape))
    sizes = [size_of(factors, exponent)]
    for state in corrections(prepare(x, tol=None), factors, error, bound, measure=measure, count=25, stall=0.0):
        made = np.linalg.norm(x - dense(state.expanded())) / np.linalg.norm(x)
        assert made <= bound * (1 + 2 * MARGIN) + 1e-14
        assert state.error == pytest.approx(made, rel=1e-7, abs=1e-14)
        sizes.append(size_of(state.expanded(), exponent))
        assert state.size(exponent) == pytest.approx(sizes[-1], rel=1e-12)
    assert np.all(np.diff(sizes) <= 1e-7 * sizes[0])
    if slack > 1:
        assert sizes[-1] < sizes[0]


def stationarity(x, factors, measure):
    """How far ∇measure is from a multiple of ∇‖x − x̂‖², by explicit Khatri–Rao products: 0 where all of it holds.

    Of Σ λ^p, λ = Π‖u_k‖: ∂/∂u_k[:, r] = p·λ_r^p·u_k[:, r]/‖u_k[:, r]‖².
    """
    p = exponent_of(measure, x.ndim)
    error, powers = x - dense(factors), term_norms(factors) ** p
    fits, sizes = [], []
    for n, u in enumerate(factors):
        k = khatri_rao_rows([v.T for m, v in enumerate(factors) if m != n]).T
        fits.append((np.moveaxis(error, n, 0).reshape(x.shape[n], -1) @ k.conj()).reshape(-1))
        sizes.append((u * powers / np.linalg.norm(u, axis=0) ** 2).reshape(-1))
    fit, size = np.concatenate(fits), np.concatenate(sizes)
    multiplier = np.vdot(size, fit).real / np.vdot(size, size).real
    return np.linalg.norm(fit - multiplier * size) / np.linalg.norm(fit), multiplier


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shape", [(7, 6), (6, 5, 4), (3, 4, 3, 2)])
def test_it_ends_where_the_conditions_of_the_whole_problem_hold(shape, measure, dtype):
    x = noisy(shape, 2, dtype)
    factors, error = rough(x, 2)
    options = {"measure": measure, "count": 5000, "stall": 1e-14}
    *_, state = corrections(prepare(x, tol=None), factors, error, 1.5 * error, **options)
    off, multiplier = stationarity(x, state.expanded(), measure)
    assert multiplier > 0
    assert off < 1e-5
    assert stationarity(x, factors, measure)[0] > 0.1


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("measure", MEASURES)
def test_small_errors_are_kept_to_all_digits(measure, dtype):
    """Below 3e-3 of ‖x‖, where Gram matrices have not the digits."""
    for share in (1e-3, 1e-6, 1e-9, 1e-12):
        x = noisy((6, 5, 4), 3, dtype, share=share)
        factors, error = rough(x, 3, sweeps=200)
        for state in corrections(prepare(x, tol=None), factors, error, 2 * error, measure=measure, count=5):
            made = np.linalg.norm(x - dense(state.expanded())) / np.linalg.norm(x)
            assert made <= 2 * error * (1 + 1e-9) + 20 * eps(dtype)
            assert made >= 1.9 * error - 20 * eps(dtype)


@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(("float32", "float64", "complex64", "complex128")),
    measure=st.sampled_from(MEASURES),
    kind=st.sampled_from(["zero", "twin", "tiny", "huge pair", "all zero"]),
)
def test_odd_terms_are_no_trouble(seed, dtype, measure, kind):
    """Terms of zeros stay so, equal ones share, tiny ones are no noise, and pairs that cancel go."""
    x = noisy((4, 5, 3), 2, dtype, seed=seed).astype(dtype)
    factors = [np.array(u) for u in tg.random.cp(x.shape, rank=3, dtype=dtype, rng=seed).factors]
    if kind == "zero":
        factors[seed % 3][:, 1] = 0
    elif kind == "all zero":
        factors = [0 * u for u in factors]
    elif kind == "twin":
        for u in factors:
            u[:, 1] = u[:, 0]
    elif kind == "tiny":
        factors[0][:, 1] *= 1e-20
    else:
        for u in factors:
            u[:, 1] = u[:, 0]
        factors[0][:, 0] *= 1e3
        factors[0][:, 1] *= -1e3
    error = float(np.linalg.norm(x - dense(factors)) / np.linalg.norm(x))
    problem, exponent = prepare(x, tol=None), exponent_of(measure, 3)
    for bound in (min(error, 0.999), 0.5):
        correction = Correction(problem.x, 3, problem.norm, exponent=exponent)
        state = correction.start(factors, error)
        for _ in range(4):
            state = correction.sweep(state, bound)
            assert all(np.all(np.isfinite(v)) for v in state.factors)
            assert np.all(np.isfinite(state.weights))
            made = float(np.linalg.norm(x - dense(state.expanded())) / np.linalg.norm(x))
            assert made == pytest.approx(state.error, abs=200 * eps(dtype) / bound)
        if kind == "all zero":
            assert not state.weights.any()


@pytest.mark.parametrize("scale", [1e-80, 1e80])
@pytest.mark.parametrize("measure", MEASURES)
def test_scales_change_nothing(measure, scale, dtype):
    if dtype in ("float32", "complex64"):
        scale **= 5 / 80
    x = noisy((6, 5, 4), 3, dtype).astype(dtype)
    factors, error = rough(x, 3)
    one = list(corrections(prepare(x, tol=None), factors, error, 1.01 * error, measure=measure, count=5))
    large = [*factors[:2], (scale * factors[2]).astype(dtype)]
    scaled = prepare((scale * x).astype(dtype), tol=None)
    large[2] = large[2] / 2.0**scaled.exponent
    other = list(corrections(scaled, large, error, 1.01 * error, measure=measure, count=5))
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.error == pytest.approx(b.error, rel=1e-5 if eps(dtype) > 1e-10 else 1e-9)


def test_of_one_mode_there_is_nothing_to_correct():
    x = np.arange(1.0, 6.0)
    assert not list(corrections(prepare(x, tol=None), [np.ones((5, 2))], 0.5, 0.5, count=5))


@pytest.mark.parametrize("measure", MEASURES)
def test_libraries_agree(measure, xp, dtype):
    x = noisy((6, 5, 4), 3, dtype).astype(dtype)
    factors, error = rough(x, 3)
    ours = list(corrections(prepare(x, tol=None), factors, error, 1.05 * error, measure=measure, count=5))
    there = [xp.asarray(u) for u in factors]
    theirs = list(corrections(prepare(xp.asarray(x), tol=None), there, error, 1.05 * error, measure=measure, count=5))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.error == pytest.approx(b.error, rel=1e-4 if eps(dtype) > 1e-10 else 1e-8)
        np.testing.assert_allclose(xp.to_numpy(b.weights), a.weights, rtol=1e-3 if eps(dtype) > 1e-10 else 1e-7)
