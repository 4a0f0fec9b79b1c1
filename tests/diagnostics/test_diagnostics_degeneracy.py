"""Degeneracy of tensors of known behaviour: W, identities, rings that cancel, gauges that do."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring.testing import low_rank_tensors


def w_family(e, n=2):
    """((a + e·b)^⊗3 − a^⊗3)/e → aab + aba + baa: an error of e·√3, and two terms of norm 1/e that cancel."""
    a, b = np.eye(n)[:, 0], np.eye(n)[:, 1]
    u = np.stack([a + e * b, a], axis=1)
    return tg.CPTensor(np.array([1 / e, -1 / e]), [u, u, u])


def w_tensor():
    x = np.zeros((2, 2, 2))
    x[0, 0, 1] = x[0, 1, 0] = x[1, 0, 0] = 1
    return x


def as_ring(t):
    """The CP as a ring of diagonal cores: the weights in the first."""
    cores = [np.stack([np.diag(row) for row in u], axis=1) for u in (t.factors[0] * t.weights, *t.factors[1:])]
    return tg.TRTensor(cores)


def numbers(report):
    found = (report.norm_ratio, report.sensitivity, report.weight_spread, report.cosine)
    return [n for n in (*found, report.gram_condition, report.condition) if n is not None]


@pytest.mark.parametrize("e", [0.1, 1e-2, 1e-3, 1e-5])
def test_the_w_family(e) -> None:
    t = w_family(e)
    report = tg.degeneracy(t)
    assert np.linalg.norm(t.to_dense() - w_tensor()) == pytest.approx(math.sqrt(3) * e, rel=0.1)
    terms = np.abs(t.weights) * math.prod(np.linalg.norm(u, axis=0) for u in t.factors)
    expected = np.linalg.norm(terms) / np.linalg.norm(t.to_dense())
    assert report.norm_ratio == pytest.approx(expected, rel=1e-8)
    assert report.norm_ratio == pytest.approx(math.sqrt(2 / 3) / e, rel=0.3)
    assert report.pair == (0, 1)
    # cos = −(1 + e²)^{-3/2}
    assert report.cosine == pytest.approx(-((1 + e * e) ** -1.5), abs=1e-14)
    assert report.weight_spread == pytest.approx((1 + e * e) ** 1.5, rel=1e-12)
    # Γ of two modes has the off-diagonal c² = 1/(1 + e²).
    square = 1 / (1 + e * e)
    assert report.gram_condition == pytest.approx((1 + square) / (1 - square), rel=1e-5)
    assert "degenerate: terms 0 and 1 cancel" in report.verdict
    assert "rank + 1" in report.verdict


def test_along_the_w_family_everything_grows() -> None:
    reports = [tg.degeneracy(w_family(e)) for e in (0.3, 0.1, 0.03, 0.01)]
    for one, two in itertools.pairwise(reports):
        assert two.norm_ratio > 2 * one.norm_ratio
        assert two.condition > 2 * one.condition
        assert two.sensitivity > 2 * one.sensitivity
        assert two.cosine < one.cosine


def test_norms_keep_the_digits_that_cancel() -> None:
    """‖λ‖/‖x‖ = 1e10: a Gram matrix would have lost the norm of x altogether."""
    report = tg.degeneracy(w_family(1e-10))
    assert report.norm_ratio == pytest.approx(math.sqrt(2 / 3) * 1e10, rel=1e-4)


@pytest.mark.parametrize("order", [3, 4])
def test_identity_tensors_are_as_healthy_as_can_be(order, xp, dtype) -> None:
    t = xp.tensor(tg.CPTensor(np.ones(3, dtype=dtype), [np.eye(3, dtype=dtype)] * order))
    report = tg.degeneracy(t)
    assert report.norm_ratio == pytest.approx(1, rel=1e-12)
    assert report.sensitivity == pytest.approx(3 ** (1 / order), rel=1e-12)
    assert report.condition == pytest.approx(1, rel=1e-12)
    assert (report.gram_condition, report.cosine, report.weight_spread) == (1.0, 0.0, 1.0)
    assert report.verdict == "healthy: nothing cancels"


def test_the_sensitivity_is_that_of_the_balanced_tensor_in_units_of_one_term() -> None:
    shape = (3, 4, 5)
    for t in (
        tg.random.cp(shape, rank=3, rng=0),
        tg.random.tucker(shape, ranks=(2, 3, 4), rng=0),
        tg.random.tt(shape, ranks=2, rng=0),
        tg.random.tr(shape, ranks=2, rng=0),
        tg.CutTensor(np.random.default_rng(0).standard_normal((3, 5, 2)), np.ones((2, 4)), (0, 2)),
    ):
        report, size = tg.degeneracy(t), tg.norm(t)
        ones = {"rank" if t.format == "cp" else "ranks": 1}
        if t.format == "cut":
            single = tg.CutTensor(np.ones((3, 5, 1)), np.ones((1, 4)), (0, 2))
        else:
            single = getattr(tg.random, t.format)(shape, **ones, rng=1)
        arrays = list(single.arrays)
        arrays[0] = arrays[0] * (size / tg.norm(single))
        unit = tg.sensitivity(tg.balance(single.with_arrays(arrays)))
        assert report.sensitivity == pytest.approx(tg.sensitivity(tg.balance(t)) / unit, rel=1e-10)


def test_phases_count_in_cosines() -> None:
    u = np.full((4, 2), 0.5)
    assert tg.degeneracy(tg.CPTensor([1.0, 0.5], [u, u, u])).cosine == pytest.approx(1)
    assert tg.degeneracy(tg.CPTensor([1.0, -0.5], [u, u, u])).cosine == pytest.approx(-1)
    assert tg.degeneracy(tg.CPTensor([1.0, 0.5], [u * [1, -1], u, u])).cosine == pytest.approx(-1)
    turned = u * np.array([1, 1j])
    assert tg.degeneracy(tg.CPTensor([1.0, 0.5], [turned, u, u])).cosine == pytest.approx(0, abs=1e-15)
    assert tg.degeneracy(tg.CPTensor([1.0, 0.5], [turned, turned, u])).cosine == pytest.approx(-1)
    assert tg.degeneracy(tg.CPTensor([1.0, 0.5], [turned, turned.conj(), u])).cosine == pytest.approx(1)
    assert tg.degeneracy(tg.CPTensor(np.array([1.0, 1j]), [turned, u, u])).cosine == pytest.approx(-1)


def test_the_pair_is_named_by_its_place_in_the_cp() -> None:
    t = tg.random.cp((5, 6, 7), rank=6, rng=0)
    factors = [u.copy() for u in t.factors]
    weights = np.ones(6)
    for u in factors:
        u[:, 5] = u[:, 2] + 1e-3 * u[:, 4]
    weights[5], weights[0] = -1, 0
    report = tg.degeneracy(tg.CPTensor(weights, factors))
    assert report.pair == (2, 5)
    assert report.cosine < -0.999


@given(low_rank_tensors(), st.sampled_from([-150, -20, 0, 150]))
def test_nothing_is_nan_and_scale_is_not_seen(t, power) -> None:
    report = tg.degeneracy(t)
    assert not any(math.isnan(n) for n in numbers(report))
    assert report.norm_ratio > 0
    assert (report.pair is None) == (t.format != "cp" or t.rank < 2)
    assert len(repr(report).splitlines()) == 1
    assert report.verdict in str(report)
    if t.dtype in ("float64", "complex128"):
        first, *rest = t.arrays
        scaled = tg.degeneracy(t.with_arrays([first * 10.0**power, *rest]))
        expected = np.array(numbers(report))
        finite = expected < 1e10
        np.testing.assert_allclose(np.array(numbers(scaled))[finite], expected[finite], rtol=1e-4, atol=1e-12)


def test_zeros() -> None:
    for t in (
        tg.CPTensor([1.0, 0.0], [np.zeros((3, 2)), np.ones((4, 2)), np.ones((5, 2))]),
        tg.TuckerTensor(np.zeros((2, 2)), [np.eye(2), np.eye(2)]),
        tg.TTTensor([np.ones((1, 2, 2)), np.zeros((2, 3, 1))]),
        tg.TRTensor([np.ones((2, 2, 2)), np.zeros((2, 3, 2))]),
        tg.CutTensor(np.zeros((2, 2)), np.ones((2, 3)), (0,)),
    ):
        report = tg.degeneracy(t)
        assert (report.norm_ratio, report.sensitivity) == (1.0, 1.0)
        assert report.verdict.startswith("zero")
    u = np.eye(3)[:, [0, 0]]
    report = tg.degeneracy(tg.CPTensor([1.0, -1.0], [u, u, u]))
    assert (report.norm_ratio, report.sensitivity, report.condition) == (math.inf, math.inf, math.inf)
    assert report.verdict.startswith("degenerate: terms 0 and 1 cancel")
    crossed = tg.TTTensor([np.array([[[1.0, 0.0]]]), np.array([[[0.0]], [[1.0]]])])
    assert tg.degeneracy(crossed).norm_ratio == math.inf


def test_one_term_and_one_mode() -> None:
    report = tg.degeneracy(tg.CPTensor([-3.0], [np.ones((2, 1)), np.ones((3, 1))]))
    assert (report.pair, report.cosine, report.condition, report.gram_condition) == (None, None, 1.0, 1.0)
    assert report.norm_ratio == pytest.approx(1)
    assert report.sensitivity == pytest.approx(1)
    report = tg.degeneracy(tg.CPTensor([1.0, 1.0], [np.eye(3)[:, :2]]))
    assert report.condition == math.inf
    assert report.verdict.startswith("healthy but not unique")


def test_rings_show_the_cancellation_of_the_cp_in_them() -> None:
    """A CP as a ring of diagonal cores: ‖chain‖ = ‖λ‖, and the bond is R."""
    reports = [tg.degeneracy(as_ring(w_family(e))) for e in (0.2, 0.03, 0.003)]
    for e, report in zip((0.2, 0.03, 0.003), reports, strict=True):
        assert report.norm_ratio >= tg.degeneracy(w_family(e)).norm_ratio / math.sqrt(2) * (1 - 1e-9)
    assert [report.verdict.split(":")[0] for report in reports] == ["mild", "degenerate", "degenerate"]
    assert "tg.tr_stable" in reports[-1].verdict


@pytest.mark.parametrize("kind", ["tucker", "tt", "tr"])
def test_the_ratio_is_the_amplification_of_relative_noise(kind, gaussian) -> None:
    """Noise of 1e-6·‖array‖ on the worst array moves the tensor by 1e-6·ratio·‖x‖: seen on 400 draws."""
    t = getattr(tg.random, kind)((3, 4, 5), ranks=3, rng=0)
    x, worst = t.to_dense(), 0.0
    for k, array in enumerate(t.arrays):
        moved = []
        for _ in range(400):
            noise = gaussian(array.shape)
            noise *= 1e-6 * np.linalg.norm(array) / math.sqrt(array.size)
            arrays = [*t.arrays[:k], array + noise, *t.arrays[k + 1 :]]
            moved.append(np.linalg.norm(t.with_arrays(arrays).to_dense() - x) ** 2)
        worst = max(worst, math.sqrt(np.mean(moved)) / 1e-6 / np.linalg.norm(x))
    ratio = tg.degeneracy(t).norm_ratio
    # Rings also look at the bonds, as if at a core that is the identity.
    assert ratio >= 0.9 * worst if kind == "tr" else ratio == pytest.approx(worst, rel=0.1)


def test_a_bad_gauge_of_a_train_shows_and_an_orthogonal_one_does_not(gaussian) -> None:
    t = tg.tt_svd(gaussian((4, 5, 6)), ranks=3).tensor
    assert tg.degeneracy(t).norm_ratio == pytest.approx(1, rel=1e-9)
    gauge = np.array([[1.0, 1, 0], [1.0, 1.001, 0], [0, 0, 1]])
    first, middle, last = t.cores
    bad = tg.TTTensor([first, np.tensordot(middle, gauge, 1), np.tensordot(np.linalg.inv(gauge), last, 1)])
    report = tg.degeneracy(bad)
    assert report.norm_ratio > 100
    assert "the arrays cancel, not the tensor" in report.verdict


def test_orthonormal_factors_of_a_tucker_tensor_have_ratio_one(gaussian, dtype, xp) -> None:
    t = tg.tucker_hosvd(gaussian((4, 5, 6), dtype), ranks=3).tensor
    assert tg.degeneracy(xp.tensor(t)).norm_ratio == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_random_tensors_are_healthy(seed) -> None:
    for t in (
        tg.random.cp((8, 9, 10), rank=5, rng=seed),
        tg.random.tucker((8, 9, 10), ranks=4, rng=seed),
        tg.random.tt((8, 9, 10), ranks=4, rng=seed),
        tg.random.tr((8, 9, 10), ranks=4, rng=seed),
    ):
        assert tg.degeneracy(t).verdict.startswith("healthy")


def test_plain_als_on_a_tensor_of_border_rank_two_is_seen_through() -> None:
    fit = tg.cp_als(w_tensor(), rank=2, init="random", rng=0, max_sweeps=2000, stall=0).tensor
    report = tg.degeneracy(fit)
    assert report.norm_ratio > 4
    assert report.cosine < -0.9
    assert report.verdict.startswith("degenerate: terms")


def test_every_library_gives_the_same_report(xp) -> None:
    for t in (
        tg.random.cp((3, 4, 5), rank=3, dtype="complex128", rng=0),
        tg.random.tucker((3, 4, 5), ranks=2, dtype="complex64", rng=0),
        tg.random.tt((3, 4, 5), ranks=2, dtype="float32", rng=0),
        tg.random.tr((3, 4, 5), ranks=2, rng=0),
        tg.CutTensor(np.arange(6.0).reshape(3, 2), np.ones((2, 4, 5)), modes=(0,)),
    ):
        ours, theirs = tg.degeneracy(t), tg.degeneracy(xp.tensor(t))
        np.testing.assert_allclose(numbers(theirs), numbers(ours), rtol=1e-9)


def test_what_is_no_low_rank_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match=r"got ndarray; .* CPTensor, TuckerTensor"):
        tg.degeneracy(np.ones((2, 3)))
