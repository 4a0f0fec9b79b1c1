"""Ranks by variational Bayes: the thresholds of the literature, and matrices of known rank in noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.vbmf import _threshold, vbmf_rank


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(1, 4.9108), (0.5, 3.5631), (0.25, 2.7191), (0.1, 2.0438), (0.05, 1.7283), (0.01, 1.3282)],
)
def test_thresholds(alpha, expected):
    assert _threshold(alpha) == pytest.approx(expected, abs=2e-4)


@given(
    st.integers(0, 5),
    st.integers(30, 60),
    st.integers(60, 200),
    st.sampled_from([1e-30, 1.0, 1e30]),
    st.integers(0, 99),
)
def test_the_rank_of_a_matrix_in_noise_is_found(rank, rows, columns, scale, seed):
    """Components of twice the size at which noise hides them; whatever the scale, lying or standing."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((rows, rank or 1)))
    right, _ = np.linalg.qr(rng.standard_normal((columns, rank or 1)))
    size = 2 * np.sqrt(columns * _threshold(rows / columns)) * (rank > 0)
    x = scale * (size * left @ right.T + rng.standard_normal((rows, columns)))
    assert vbmf_rank(x) == vbmf_rank(x.T) == rank


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (5, 5)])
def test_little_and_nothing(shape):
    assert vbmf_rank(np.zeros(shape)) == 0
    assert 0 <= vbmf_rank(np.ones(shape)) <= 1
    assert 0 <= vbmf_rank(np.eye(*shape)) <= min(shape)
