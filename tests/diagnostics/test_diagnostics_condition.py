"""The condition number of a CP, against Terracini's matrix from the dense Jacobian, and against what terms do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring.diagnostics import condition
from tensorring.diagnostics.terms import norm_of, terms_of


def dense_condition(t) -> float:
    """Another route: the tangent space of each term is the range of its Jacobian, in full size; SVD bases of it."""
    bases = []
    for r in range(t.rank):
        vectors = [u[:, r] / np.linalg.norm(u[:, r]) for u in t.factors]
        columns = []
        for n, u in enumerate(t.factors):
            for e in np.eye(u.shape[0]):
                term = np.ones(())
                for m, vector in enumerate(vectors):
                    term = np.multiply.outer(term, e if m == n else vector)
                columns.append(term.reshape(-1))
        left, values, _ = np.linalg.svd(np.stack(columns, axis=1), full_matrices=False)
        bases.append(left[:, : 1 + sum(u.shape[0] - 1 for u in t.factors)])
        assert values[bases[-1].shape[1] - 1] > 1e-8
    matrix = np.concatenate(bases, axis=1)
    if matrix.shape[1] > matrix.shape[0]:
        return math.inf
    return 1 / np.linalg.svd(matrix, compute_uv=False)[-1]


@given(
    st.lists(st.integers(2, 5), min_size=3, max_size=4).map(tuple),
    st.integers(1, 4),
    st.sampled_from(["float64", "complex128"]),
    st.integers(0, 99),
)
def test_it_is_that_of_the_dense_tangent_spaces(shape, rank, dtype, seed) -> None:
    """Modes longer and shorter than the rank: the compression to their span must not show."""
    t = tg.random.cp(shape, rank=rank, dtype=dtype, rng=seed)
    found, expected = tg.degeneracy(t).condition, dense_condition(t)
    if expected < 1e10:
        assert found == pytest.approx(expected, rel=1e-4)
    else:
        assert found > 1e9


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_terms_move_by_no_more_and_by_as_much(dtype, gaussian) -> None:
    """Along the worst direction two CPs that differ little give terms that differ by condition times as much."""
    t = tg.random.cp((4, 5, 6), rank=3, dtype=dtype, rng=3)
    kappa = tg.degeneracy(t).condition
    most = 0.0
    for _ in range(300):
        moved = [u + 1e-7 * gaussian(u.shape, dtype) for u in t.factors]
        change = np.linalg.norm(tg.CPTensor(t.weights, moved).to_dense() - t.to_dense())
        terms = 0.0
        for r in range(3):
            pair = (tg.CPTensor(t.weights[[r]], [u[:, [r]] for u in f]).to_dense() for f in (moved, t.factors))
            terms += np.linalg.norm(next(pair) - next(pair)) ** 2
        most = max(most, math.sqrt(terms) / change)
    assert most <= kappa * (1 + 1e-5)
    assert most >= 0.3 * kappa


def test_it_does_not_depend_on_weights_or_bases(rng) -> None:
    t = tg.random.cp((4, 5, 6), rank=3, rng=3)
    expected = tg.degeneracy(t).condition
    weighted = tg.CPTensor(np.array([1e-6, -3.0, 1e8]), t.factors)
    assert tg.degeneracy(weighted).condition == pytest.approx(expected, rel=1e-9)
    turned = [np.linalg.qr(rng.standard_normal((n + 4, n)))[0] @ u for n, u in zip(t.shape, t.factors, strict=True)]
    assert tg.degeneracy(tg.CPTensor(t.weights, turned)).condition == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", [3, 4, 5])
def test_orthogonal_terms_have_condition_one(order, rng) -> None:
    factors = [np.linalg.qr(rng.standard_normal((6, 3)))[0] for _ in range(order)]
    assert tg.degeneracy(tg.CPTensor([5.0, 1e-3, 1.0], factors)).condition == pytest.approx(1, rel=1e-12)


def test_matrices_and_too_many_terms_are_not_determined() -> None:
    assert tg.degeneracy(tg.random.cp((4, 5), rank=2, rng=0)).condition == math.inf
    assert tg.degeneracy(tg.random.cp((4, 5), rank=1, rng=0)).condition == pytest.approx(1)
    assert tg.degeneracy(tg.random.cp((2, 2, 2), rank=3, rng=0)).condition == math.inf
    # Two terms that share a column in two modes are a matrix in disguise.
    t = tg.random.cp((4, 5, 6), rank=2, rng=0)
    shared = [np.repeat(u[:, :1], 2, axis=1) if n == 2 else u for n, u in enumerate(t.factors)]
    report = tg.degeneracy(tg.CPTensor(t.weights, shared))
    assert report.condition == math.inf
    assert "not unique" in report.verdict


def test_a_pair_of_terms_that_nearly_cancel_costs_the_inverse_of_its_angle_squared() -> None:
    values = []
    for e in (1e-1, 1e-2, 1e-3):
        u = np.stack([np.array([1.0, e, 0]), np.array([1.0, 0, 0])], axis=1)
        values.append(tg.degeneracy(tg.CPTensor([1.0, -1.0], [u, u, u])).condition)
    # σ_min of the tangent spaces of W-like pairs falls as e³: a³ and three a²b, seen from a distance e.
    assert values[1] / values[0] == pytest.approx(values[2] / values[1], rel=0.3)
    assert values[2] > 1e6


def test_beyond_its_limit_it_says_so(monkeypatch) -> None:
    t = tg.random.cp((4, 5, 6), rank=3, rng=3)
    monkeypatch.setattr(condition, "_MOST_WORK", 1000)
    report = tg.degeneracy(t)
    assert report.condition is None
    assert "not computed" in str(report)
    assert report.gram_condition > 1


@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 99))
def test_the_norm_of_a_sum_of_terms(order, rank, seed) -> None:
    t = tg.random.cp((5, 2, 4, 3)[:order], rank=rank, dtype="complex128", rng=seed)
    phased = tg.CPTensor(t.weights * np.exp(1j * np.arange(rank)), t.factors)
    assert float(norm_of(terms_of(phased))) == pytest.approx(np.linalg.norm(phased.to_dense()), rel=1e-12)
