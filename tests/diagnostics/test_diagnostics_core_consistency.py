"""Core consistency, against the pseudo-inverse of the Kronecker product."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg


def formed(x, t) -> float:
    """By the definition: the least-squares core from the Kronecker product of the balanced factors."""
    terms = np.abs(t.weights) * math.prod(np.linalg.norm(u, axis=0) for u in t.factors)
    factors = [u / np.linalg.norm(u, axis=0) * terms ** (1 / t.ndim) for u in t.factors]
    factors[-1] = factors[-1] * t.weights / np.abs(t.weights)
    core = np.linalg.pinv(functools.reduce(np.kron, factors)) @ x.reshape(-1)
    ideal = np.zeros((t.rank,) * t.ndim)
    ideal[(np.arange(t.rank),) * t.ndim] = 1
    return 100 * (1 - np.linalg.norm(core - ideal.reshape(-1)) ** 2 / t.rank)


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from(["float64", "complex128"]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.integers(0, 99),
)
def test_it_is_that_of_the_formed_product(order, rank, dtype, noise, seed) -> None:
    shape, rng = (4, 2, 5, 3)[:order], np.random.default_rng(seed)
    t = tg.random.cp(shape, rank=rank, dtype=dtype, rng=seed)
    t = tg.CPTensor(t.weights * rng.choice([-3.0, 0.1, 1.0], rank), t.factors)
    white = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype == "complex128" else 0)
    x = t.to_dense() + noise * white
    expected = formed(x, t)
    slack = 1e-9 * max(1.0, 100 - expected) * max(np.linalg.cond(u) for u in t.factors if len(u) >= rank)
    assert tg.core_consistency(x, t) == pytest.approx(expected, rel=1e-7, abs=max(slack, 1e-9))


def test_exact_terms_are_consistent_however_they_are_held(xp, dtype) -> None:
    t = tg.random.cp((6, 7, 8), rank=3, dtype=dtype, rng=0)
    x, rel = xp.asarray(t.to_dense()), 1e-3 if dtype in ("float32", "complex64") else 1e-10
    for held in (t, tg.balance(t), t.with_arrays([t.weights * 8, t.factors[0] / 8, *t.factors[1:]])):
        assert tg.core_consistency(x, xp.tensor(held)) == pytest.approx(100, rel=rel)
    assert tg.core_consistency(xp.tensor(t), xp.tensor(t)) == pytest.approx(100, rel=rel)


@pytest.mark.parametrize("seed", range(3))
def test_it_falls_where_there_is_one_term_too_many(seed) -> None:
    x = tg.random.cp((6, 7, 8), rank=3, rng=seed).to_dense()
    noise = np.random.default_rng(seed).standard_normal(x.shape)
    x = x + 0.3 * np.linalg.norm(x) / math.sqrt(x.size) * noise
    values = [tg.core_consistency(x, tg.cp_als(x, rank=r, n_starts=3, rng=0).tensor) for r in (1, 2, 3, 4)]
    assert min(values[:3]) > 80
    assert values[3] < 50


@pytest.mark.parametrize("power", [-150, 150])
def test_extreme_scales(power, gaussian) -> None:
    t = tg.random.cp((4, 5, 6), rank=2, rng=0)
    x = t.to_dense() + 0.1 * gaussian((4, 5, 6))
    expected = tg.core_consistency(x, t)
    factor = 10.0**power
    scaled = tg.CPTensor(t.weights * factor, t.factors)
    assert tg.core_consistency(x * factor, scaled) == pytest.approx(expected, rel=1e-10)


def test_terms_that_are_zero_are_left_out(gaussian) -> None:
    t = tg.random.cp((4, 5, 6), rank=3, rng=0)
    x = t.to_dense() + 0.1 * gaussian((4, 5, 6))
    two = tg.CPTensor(t.weights[:2], [u[:, :2] for u in t.factors])
    zeroed = tg.CPTensor(t.weights * [1, 1, 0], t.factors)
    assert tg.core_consistency(x, zeroed) == pytest.approx(tg.core_consistency(x, two), rel=1e-12)
    assert tg.core_consistency(x, tg.CPTensor([0.0], [np.ones((n, 1)) for n in x.shape])) == 100.0
    assert tg.core_consistency(x * 0, two) == pytest.approx(0.0)


def test_integers_are_welcome_and_inputs_are_not_written_to() -> None:
    x = np.ones((2, 3, 4), dtype=int)
    x.flags.writeable = False
    assert tg.core_consistency(x, tg.CPTensor([1.0], [np.ones((n, 1)) for n in x.shape])) == pytest.approx(100)


def test_refusals() -> None:
    t = tg.random.cp((3, 4, 5), rank=2, rng=0)
    with pytest.raises(TypeError, match="got TTTensor"):
        tg.core_consistency(np.ones((3, 4, 5)), tg.random.tt((3, 4, 5), ranks=2, rng=0))
    with pytest.raises(TypeError, match="got list"):
        tg.core_consistency([[1.0]], t)
    with pytest.raises(ValueError, match=r"\(3, 4\) and a CP of shape \(3, 4, 5\)"):
        tg.core_consistency(np.ones((3, 4)), t)
    x = np.ones((3, 4, 5))
    x[1, 2, 3] = math.nan
    with pytest.raises(ValueError, match=r"x\[1, 2, 3\] is nan"):
        tg.core_consistency(x, t)
