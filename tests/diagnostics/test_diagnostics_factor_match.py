"""Factor match: 1 for the same terms in any order and gauge, the best matching, and less for anything else."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring.testing import cp_tensors


def pairwise(a, b) -> np.ndarray:
    """The score of each pair of terms, by the definition."""
    table = np.zeros((a.rank, b.rank))
    for k, other in np.ndindex(a.rank, b.rank):
        one = [u[:, k] for u in a.factors]
        two = [u[:, other] for u in b.factors]
        sizes = [
            abs(t.weights[index]) * math.prod(np.linalg.norm(v) for v in vectors)
            for t, index, vectors in ((a, k, one), (b, other, two))
        ]
        cosines = [abs(np.vdot(u, v)) / np.linalg.norm(u) / np.linalg.norm(v) for u, v in zip(one, two, strict=True)]
        table[k, other] = (1 - abs(sizes[0] - sizes[1]) / max(sizes)) * math.prod(cosines)
    return table


def best(table) -> float:
    rows, columns = table.shape
    if rows > columns:
        return best(table.T)
    return max(sum(table[range(rows), list(p)]) for p in itertools.permutations(range(columns), rows)) / columns


@given(st.data())
def test_it_is_the_best_of_all_matchings(data) -> None:
    dtype = st.sampled_from(["float64", "complex128"])
    a = data.draw(cp_tensors(dtype=dtype, max_size=4))
    b = data.draw(cp_tensors(shape=a.shape, dtype=dtype))
    found, table = tg.factor_match(a, b), pairwise(a, b)
    assert found.score == pytest.approx(best(table), abs=1e-12)
    for k, (other, score) in enumerate(zip(found.permutation, found.scores, strict=True)):
        assert score == pytest.approx(0.0 if other is None else table[k, other], abs=1e-12)
    matched = [other for other in found.permutation if other is not None]
    assert len(set(matched)) == len(matched) == min(a.rank, b.rank)
    assert tg.factor_match(b, a).score == pytest.approx(found.score, abs=1e-12)


@given(cp_tensors(), st.integers(0, 99))
def test_order_signs_phases_and_scales_are_not_seen(t, seed) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(t.rank)
    signs = rng.choice([-1.0, 1.0], t.rank).astype(t.weights.dtype)
    if t.ndim > 1:
        factors = [u[:, order] for u in t.factors]
        factors[0], factors[1] = factors[0] * signs * 4, factors[1] / 4
    else:
        factors = [t.factors[0][:, order]]
    if t.dtype.kind == "c":
        factors[-1] = factors[-1] * np.exp(1j * rng.uniform(0, 6, t.rank)).astype(t.dtype)
    other = tg.CPTensor(t.weights[order], factors)
    found = tg.factor_match(t, other)
    assert found.score == pytest.approx(1, abs=1e-5 if t.dtype in ("float32", "complex64") else 1e-12)
    assert found.score <= 1
    if t.ndim > 1 and max(t.shape) > 1:
        assert [int(order[k]) for k in found.permutation] == list(range(t.rank))


def test_each_mode_and_the_weights_count() -> None:
    u = np.eye(4)[:, :2]
    t = tg.CPTensor([2.0, 1.0], [u, u, u])
    assert tg.factor_match(t, tg.CPTensor([1.0, 1.0], [u, u, u])).scores == (0.5, 1.0)
    tilted = np.stack([np.array([0.6, 0, 0.8, 0]), u[:, 1]], axis=1)
    assert tg.factor_match(t, tg.CPTensor([2.0, 1.0], [u, tilted, u])).scores == pytest.approx((0.6, 1.0))


def test_different_ranks() -> None:
    u = np.eye(5)
    three, two = tg.CPTensor(np.ones(3), [u[:, :3]] * 3), tg.CPTensor(np.ones(2), [u[:, [2, 0]]] * 3)
    found = tg.factor_match(three, two)
    assert found.permutation == (1, None, 0)
    assert found.scores == (1.0, 0.0, 1.0)
    assert found.score == pytest.approx(2 / 3)
    assert tg.factor_match(two, three).permutation == (2, 0)
    assert "none" in str(found)
    assert repr(found) == "FactorMatch(score=0.6667, permutation=(1, None, 0))"


def test_zero_terms_match_each_other_alone() -> None:
    t = tg.random.cp((3, 4, 5), rank=2, rng=0)
    zeroed = tg.CPTensor(t.weights * [1, 0], t.factors)
    assert tg.factor_match(zeroed, zeroed).score == pytest.approx(1)
    assert tg.factor_match(zeroed, t).score == pytest.approx(0.5)
    zero = tg.CPTensor([0.0], [np.ones((n, 1)) for n in t.shape])
    assert tg.factor_match(zero, zero).score == 1.0
    assert tg.factor_match(zero, t).score == 0.0


def test_extreme_scales_and_libraries(xp, dtype) -> None:
    t = tg.random.cp((3, 4, 5), rank=2, dtype=dtype, rng=0)
    power = np.asarray(1e30 if dtype in ("float32", "complex64") else 1e150).astype(t.weights.dtype)
    big = t.with_arrays([t.weights * power, t.factors[0] * power, *t.factors[1:]])
    assert tg.factor_match(xp.tensor(big), xp.tensor(big)).score == pytest.approx(1, rel=1e-6)
    assert tg.factor_match(xp.tensor(big), xp.tensor(t)).score == pytest.approx(0, abs=1e-50)


def test_terms_found_again(gaussian) -> None:
    t = tg.random.cp((8, 9, 10), rank=4, rng=0)
    x = t.to_dense() + 0.01 * gaussian((8, 9, 10))
    found = tg.cp_als(x, rank=4, n_starts=5, rng=0).tensor
    assert tg.factor_match(found, t).score > 0.97


def test_refusals() -> None:
    t = tg.random.cp((3, 4, 5), rank=2, rng=0)
    with pytest.raises(TypeError, match="got TTTensor"):
        tg.factor_match(t, tg.random.tt((3, 4, 5), ranks=2, rng=0))
    with pytest.raises(ValueError, match=r"\(3, 4, 5\) and \(3, 4\)"):
        tg.factor_match(t, tg.random.cp((3, 4), rank=2, rng=0))
