"""Two starts of CP fits: generalised eigenvalues, exact where they can be, and rank-one terms one after another."""

import itertools

import numpy as np
import pytest

import tensorring as tg
from tensorring._array import to_host
from tensorring.decompose.iterative._cp.gevd import gevd
from tensorring.decompose.iterative._cp.greedy import greedy
from tensorring.linalg.rank import error_floor

WIDE = ("float64", "complex128")


def error(x, factors):
    """The relative error of the CP with these factors."""
    hosts = [to_host(factor) for factor in factors]
    return tg.relative_error(to_host(x), tg.CPTensor(np.ones(hosts[0].shape[1], hosts[0].real.dtype), hosts))


def conditioned(shape, rank, dtype, seed):
    """A CP whose factors have singular values between 1 and 3 wherever the mode is as long as the rank."""
    rng, factors = np.random.default_rng(seed), []
    for u in tg.random.cp(shape, rank=rank, dtype=dtype, rng=seed).factors:
        left, values, right = np.linalg.svd(u, full_matrices=False)
        factors.append((left * rng.uniform(1, 3, len(values))) @ right)
    return tg.CPTensor(rng.uniform(1, 2, rank), factors).to_dense()


# The rank is at most two of the dimensions, also where they are merged from several.
EXACT = [
    ((7, 5, 2), 5), ((6, 6, 6), 6), ((3, 9, 4), 4), ((4, 20, 5), 1), ((2, 2, 2), 2),
    ((3, 4, 5, 6), 6), ((3, 3, 3, 3), 3), ((2, 5, 2, 4), 4),
    ((3, 3, 3, 3, 3), 9), ((2, 3, 2, 3, 2), 4), ((1, 5, 1, 4, 3), 4),
]  # fmt: skip


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(("shape", "rank"), EXACT)
def test_gevd_is_exact_in_one_go_where_the_cp_is(shape, rank, dtype):
    for seed in range(5):
        x = conditioned(shape, rank, dtype, seed)
        assert error(x, gevd(x, rank, np.random.default_rng(seed))) < 1e-10


@pytest.mark.parametrize(("shape", "rank"), [((5,), 1), ((4, 6), 3), ((1, 6, 1, 4), 4), ((1, 1, 1), 1)])
def test_gevd_of_what_is_a_matrix_is_its_svd(gaussian, shape, rank, dtype):
    x = gaussian(shape, dtype)
    matrix = x.reshape(-1, max(n for n in shape[-1:])) if x.ndim > 1 else x.reshape(-1, 1)
    tail = np.linalg.svd(matrix, compute_uv=False)[rank:]
    expected = np.linalg.norm(tail) / np.linalg.norm(x)
    assert error(x, gevd(x, rank, np.random.default_rng(0))) == pytest.approx(expected, abs=error_floor(dtype, x.ndim))


def test_gevd_recovers_the_factors_and_not_only_the_tensor():
    truth = tg.random.cp((6, 5, 7), rank=4, rng=0)
    found = gevd(truth.to_dense(), 4, np.random.default_rng(0))
    for u, v in zip(truth.factors, found, strict=True):
        cosines = np.abs((u / np.linalg.norm(u, axis=0)).T @ (v / np.linalg.norm(v, axis=0)))
        np.testing.assert_allclose(cosines.max(axis=1), 1.0, atol=1e-12)


def test_gevd_of_a_lower_rank_leaves_terms_free():
    x = tg.random.cp((6, 7, 8), rank=3, rng=0).to_dense()
    factors = gevd(x, 5, np.random.default_rng(0))
    assert factors[0].shape == (6, 5)
    assert error(x, factors) < 1e-10


@pytest.mark.parametrize("seed", [5, 8, 10, 12])
def test_complex_pairs_of_a_real_tensor_become_real_factors(seed):
    """2 × 2 × 2 tensors of rank 3, whose pencils have complex eigenvalues: a start, but not exact."""
    x = np.random.default_rng(seed).standard_normal((2, 2, 2))
    assert hyperdeterminant(x) < 0
    factors = gevd(x, 2, np.random.default_rng(0))
    assert all(factor.dtype == np.float64 for factor in factors)
    assert 0.1 < error(x, factors) < 0.5
    assert error(x.astype(complex), gevd(x.astype(complex), 2, np.random.default_rng(0))) < 1e-12


def test_gevd_of_a_noisy_tensor_is_near_the_best():
    x = conditioned((8, 9, 10), 4, "float64", 0)
    noise = np.random.default_rng(1).standard_normal(x.shape)
    x += 1e-3 * np.linalg.norm(x) / np.linalg.norm(noise) * noise
    assert error(x, gevd(x, 4, np.random.default_rng(0))) < 3e-3


def test_gevd_is_finite_whatever_comes():
    w = np.zeros((2, 2, 2))
    w[0, 0, 1] = w[0, 1, 0] = w[1, 0, 0] = 1
    for x in (w, np.zeros((2, 3, 4)), np.ones((3, 3, 3)), np.eye(3)[:, :, None] * np.ones(2)):
        for rank in (1, 2):
            factors = gevd(x, rank, np.random.default_rng(0))
            assert all(np.isfinite(factor).all() for factor in factors)
            assert error(x, factors) <= 1 + 1e-12


@pytest.mark.parametrize(
    ("shape", "rank", "most"), [((4, 4, 4), 5, 4), ((9, 2, 3), 4, 3), ((3, 3, 3, 3), 4, 3), ((4, 5), 5, 4)]
)
def test_gevd_says_what_rank_it_can_do(shape, rank, most):
    with pytest.raises(ValueError, match=rf"rank {rank}.*at most two of the dimensions, here at most {most}.*hosvd"):
        gevd(np.ones(shape), rank, np.random.default_rng(0))


@pytest.mark.parametrize("start", [gevd, greedy])
def test_starts_come_in_the_library_and_dtype_and_leave_the_input_alone(xp, dtype, start):
    x = tg.random.cp((4, 5, 6), rank=3, dtype=dtype, rng=0).to_dense()
    given = xp.asarray(x.copy())
    first, again = (start(given, 3, np.random.default_rng(5)) for _ in range(2))
    for factor, twin, n in zip(first, again, x.shape, strict=True):
        assert factor.shape == (n, 3)
        assert xp.to_numpy(factor).dtype == dtype
        np.testing.assert_array_equal(xp.to_numpy(factor), xp.to_numpy(twin))
    np.testing.assert_array_equal(xp.to_numpy(given), x)


# One after another.


def test_greedy_is_the_svd_of_a_matrix(gaussian, dtype):
    x = gaussian((6, 9), dtype)
    tail = np.linalg.svd(x, compute_uv=False)[3:]
    found = error(x, greedy(x, 3, np.random.default_rng(0)))
    assert found == pytest.approx(np.linalg.norm(tail) / np.linalg.norm(x), rel=1e-4 if "64" in dtype else 1e-3)


@pytest.mark.parametrize("shape", [(5,), (1, 3, 1), (4, 5, 6), (2, 3, 4, 3), (2, 2, 2, 2, 2)])
def test_each_greedy_term_lowers_the_error(gaussian, shape, dtype):
    x = gaussian(shape, dtype)
    factors = greedy(x, 4, np.random.default_rng(0))
    errors = [error(x, [factor[:, :k] for factor in factors]) for k in range(1, 5)]
    assert all(b <= a + error_floor(dtype, len(shape)) for a, b in itertools.pairwise([1.0, *errors]))


def test_the_first_greedy_term_is_the_best_of_rank_one():
    """Orthogonal terms come out one by one, largest first."""
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 3)))
    x = tg.CPTensor(np.array([3.0, 2.0, 1.0]), [q, q, q]).to_dense()
    factors = greedy(x, 3, np.random.default_rng(0))
    sizes = np.prod([np.linalg.norm(factor, axis=0) for factor in factors], axis=0)
    np.testing.assert_allclose(sizes, [3.0, 2.0, 1.0], rtol=1e-8)


def hyperdeterminant(x):
    """Positive where a 2 × 2 × 2 tensor has rank 2, negative where it has rank 3, and zero between them."""
    a, b = x[:, :, 0], x[:, :, 1]
    det = np.linalg.det
    return (det(a + b) - det(a) - det(b)) ** 2 - 4 * det(a) * det(b)


@pytest.mark.parametrize("seed", range(5))
def test_subtracting_the_best_term_raises_the_rank(seed):
    """Stegeman & Comon 2010: from rank 2 to the border of rank 3, so that two terms of two are not enough."""
    x = tg.random.cp((2, 2, 2), rank=2, rng=seed).to_dense()
    x /= np.linalg.norm(x)
    first = greedy(x, 1, np.random.default_rng(0))
    rest = x - tg.CPTensor(np.ones(1), first).to_dense()
    assert hyperdeterminant(x) > 1e-8
    assert abs(hyperdeterminant(rest)) < 1e-12
    assert error(x, greedy(x, 2, np.random.default_rng(0))) > 1e-4
    assert error(x, gevd(x, 2, np.random.default_rng(0))) < 1e-12


def test_greedy_of_zeros_is_zero():
    factors = greedy(np.zeros((2, 3, 4)), 2, np.random.default_rng(0))
    assert all(np.isfinite(factor).all() for factor in factors)
    assert np.all(tg.CPTensor(np.ones(2), factors).to_dense() == 0)
