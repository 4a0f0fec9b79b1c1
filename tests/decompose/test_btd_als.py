"""What block terms by ALS promise beyond the contract: the plain algorithm's errors, stationary points, exact terms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring._array import eps
from tensorring.decompose.iterative._btd import sweep
from tensorring.testing import check_result, tensors
from tensorring.testing.checks import SHAPES, check_backend

WAYS = [((6, 7, 8), (0, 1, 2), 2, (2, 3, 2)), ((6, 5, 9), (0, 1), 3, (2, 2)), ((4, 5, 6), (1, 2), 2, (2, 3)),
        ((5, 4, 3, 4), (0, 1, 2, 3), 2, (2, 2, 2, 2)), ((5, 6, 3, 3), (0, 1), 2, (3, 2)), ((3, 7, 4), (1,), 2, (2,)),
        ((8, 9), (0, 1), 2, (2, 2))]  # fmt: skip


def noisy(shape, modes, terms, ranks, dtype, noise=0.1, seed=0):
    """Block terms and noise: without it a missing conjugate would not show."""
    rng = np.random.default_rng(seed)

    def draw(*sizes):
        return rng.standard_normal(sizes) + (1j * rng.standard_normal(sizes) if "complex" in dtype else 0.0)

    sizes = [ranks[modes.index(k)] if k in modes else n for k, n in enumerate(shape)]
    t = tg.BlockTermTensor(
        draw(terms, *sizes), [draw(terms, shape[k], r) for k, r in zip(modes, ranks, strict=True)], modes
    )
    x, white = t.to_dense(), draw(*shape)
    return (x + noise * np.linalg.norm(x) / np.linalg.norm(white) * white).astype(dtype)


def terms_of(t):
    """The dense term of each core alone."""
    return [t.with_arrays([array[r : r + 1] for array in t.arrays]).to_dense() for r in range(t.ranks[0])]


def objective(x, t, ridge):
    return np.linalg.norm(x - t.to_dense()) ** 2 + ridge * sum(np.linalg.norm(term) ** 2 for term in terms_of(t))


def best_part(x, t, which, ridge):
    """The arrays with one of them replaced by the best there is: from a design matrix, one column an unknown."""
    columns, parts = [], list(t.arrays)
    for index in np.ndindex(*parts[which].shape):
        unit = np.zeros_like(parts[which])
        unit[index] = 1
        one = t.with_arrays([*parts[:which], unit, *parts[which + 1 :]])
        penalties = [math.sqrt(ridge) * term.ravel() for term in terms_of(one)] if ridge else []
        columns.append(np.concatenate([one.to_dense().ravel(), *penalties]))
    design = np.stack(columns, axis=1)
    right = np.concatenate([x.ravel(), np.zeros(len(design) - x.size)])
    parts[which] = np.linalg.lstsq(design, right, rcond=None)[0].reshape(parts[which].shape)
    return t.with_arrays(parts)


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("shape", "modes", "terms", "ranks"), WAYS)
def test_sweeps_are_those_of_the_textbook(shape, modes, terms, ranks, dtype, ridge):
    """Each array in turn by a dense least-squares problem: the factors, then the cores."""
    x = noisy(shape, modes, terms, ranks, dtype)
    init = tg.btd_als(x, terms=terms, ranks=ranks, modes=modes, init="random", max_sweeps=1, rng=3).tensor
    ours = tg.btd_als(x, terms=terms, ranks=ranks, modes=modes, init=init, ridge=ridge, stall=0, max_sweeps=2).tensor
    plain = best_part(x, init, 0, ridge)
    for _ in range(2):
        for which in [*range(1, len(modes) + 1), 0]:
            plain = best_part(x, plain, which, ridge)
    assert objective(x, ours, ridge) == pytest.approx(objective(x, plain, ridge), rel=1e-7)
    np.testing.assert_allclose(ours.to_dense(), plain.to_dense(), rtol=0, atol=1e-6 * np.linalg.norm(x))


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("shape", "modes", "terms", "ranks"), WAYS[:5])
def test_nothing_near_the_end_is_better(shape, modes, terms, ranks, dtype, ridge):
    """A stationary point: no part alone, however it is changed, takes off more than sweeps still do."""
    x = noisy(shape, modes, terms, ranks, dtype, seed=1)
    result = tg.btd_als(
        x, terms=terms, ranks=ranks, modes=modes, ridge=ridge, n_starts=2, rng=0, stall=1e-12, max_sweeps=3000
    )
    value = objective(x, result.tensor, ridge)
    for which in range(len(modes) + 1):
        assert objective(x, best_part(x, result.tensor, which, ridge), ridge) >= value * (1 - 1e-6)


def test_factors_are_orthonormal_and_errors_never_rise(dtype):
    x = noisy((6, 7, 8), (0, 1, 2), 3, (2, 2, 2), dtype)
    result = tg.btd_als(x, terms=3, ranks=2, max_sweeps=60, rng=0)
    assert all(a >= b - 10 * eps(dtype) for a, b in zip(result.errors, result.errors[1:], strict=False))
    for factor in result.tensor.factors:
        gram = np.swapaxes(factor.conj(), 1, 2) @ factor
        np.testing.assert_allclose(gram, np.broadcast_to(np.eye(2), gram.shape), atol=50 * eps(dtype))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(
    ("shape", "terms", "ranks"),
    [((8, 9, 10), 2, (2, 2, 3)), ((6, 6, 9), 3, (2, 1, 2)), ((6, 5, 6, 5), 2, (2, 2, 2, 2))],
)
def test_exact_block_terms_are_found_term_by_term(shape, terms, ranks, dtype):
    """Unique up to the order of the terms: each dense term comes back, not their sum alone."""
    truth = tg.random.btd(shape, terms=terms, ranks=ranks, dtype=dtype, rng=5)
    result = tg.btd_als(truth.to_dense(), terms=terms, ranks=ranks, tol=1e-11, n_starts=20, rng=0, max_sweeps=1000)
    assert result.converged
    found = terms_of(result.tensor)
    for term in terms_of(truth):
        assert min(np.linalg.norm(term - other) for other in found) < 1e-6 * np.linalg.norm(term)


def test_small_errors_keep_their_digits():
    """Normal equations alone would stop near 1e-8."""
    x = tg.random.btd((8, 9, 10), terms=2, ranks=(2, 2, 3), rng=2).to_dense()
    result = tg.btd_als(x, terms=2, ranks=(2, 2, 3), tol=0.0, n_starts=10, rng=0, max_sweeps=1000)
    assert result.stop is tg.Stop.tol
    assert result.error < 1e-13


def test_one_term_is_the_best_tucker_tensor():
    x = np.random.default_rng(0).standard_normal((7, 8, 9))
    ours, hooi = (
        tg.btd_als(x, terms=1, ranks=(2, 3, 4), stall=1e-12, max_sweeps=2000),
        tg.tucker_hooi(x, ranks=(2, 3, 4), stall=1e-12, max_sweeps=2000),
    )
    assert ours.error == pytest.approx(hooi.error, rel=1e-6)


def test_a_ridge_keeps_terms_from_cancelling_where_no_best_fit_exists():
    """aab + aba + baa: errors fall for ever as two terms grow; with a ridge they end."""
    a, b = np.eye(2)
    x = sum(np.einsum("i,j,k->ijk", *each) for each in ((a, a, b), (a, b, a), (b, a, a)))
    plain = tg.btd_als(x, terms=2, ranks=1, init="random", rng=0, stall=0, max_sweeps=2000)
    held = tg.btd_als(x, terms=2, ranks=1, init="random", rng=0, ridge=1e-2, stall=1e-10, max_sweeps=5000)
    assert held.stop is tg.Stop.stall
    assert np.linalg.norm(plain.tensor.cores) > 3 * np.linalg.norm(held.tensor.cores)


@given(x=tensors(ndim=st.integers(1, 4)), ridge=st.sampled_from([1e-4, 1e-2, 1.0]), rank=st.integers(1, 3))
def test_the_ridge_bounds_the_terms(x, ridge, rank):
    result = tg.btd_als(x, terms=3, ranks=rank, ridge=ridge, max_sweeps=5, init="random", rng=0)
    check_result(x, result, caps=3)
    peak = float(np.max(np.abs(x))) or 1.0
    norms = [np.linalg.norm(np.asarray(array, dtype=np.complex128) / peak) for array in (result.tensor.cores, x)]
    assert norms[0] ** 2 <= norms[1] ** 2 / ridge * (1 + 1e-3)


@given(data=st.data(), x=tensors(ndim=st.integers(1, 4)))
def test_any_modes_may_be_whole(data, x):
    modes = tuple(sorted(data.draw(st.sets(st.integers(0, x.ndim - 1), min_size=1))))
    result = tg.btd_als(x, terms=2, ranks=2, modes=modes, max_sweeps=4, rng=0)
    check_result(x, result)
    assert result.tensor.modes == modes
    for mode in set(range(x.ndim)) - set(modes):
        assert result.tensor.ranks[mode + 1] in (x.shape[mode], 1 if not np.any(x) else x.shape[mode])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_ranks_are_lowered_to_what_reaches_every_tensor(shape, rank):
    x = np.random.default_rng(0).standard_normal(shape)
    result = tg.btd_als(x, terms=10_000, ranks=rank, tol=1e-6, max_sweeps=200, rng=0)
    terms, *ranks = result.tensor.ranks
    assert all(r <= min(n, math.prod(ranks) // r) for r, n in zip(ranks, shape, strict=True))
    assert terms <= x.size
    assert result.converged


def test_one_core_after_another_ends_where_all_together_would(monkeypatch, dtype):
    x = noisy((6, 7, 8), (0, 1, 2), 2, (2, 3, 2), dtype, seed=4)
    options = {"terms": 2, "ranks": (2, 3, 2), "init": "random", "rng": 1, "stall": 1e-7, "max_sweeps": 2000}
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "_JOINT", 1)
        alone = tg.btd_als(x, **options)
    assert all(a >= b - 10 * eps(dtype) for a, b in zip(alone.errors, alone.errors[1:], strict=False))
    together = tg.btd_als(x, **{**options, "init": alone.tensor})
    assert alone.error * (1 - 1e-3) <= together.error <= alone.error * (1 + 1e-5)


def test_other_libraries_whole_modes_and_ridge(xp, dtype):
    def fit(x, **options):
        return tg.btd_als(x, terms=2, ranks=2, modes=(0, 2), ridge=1e-3, rng=0, **options)

    check_backend(fit, xp.asarray, (5, 3, 6), dtype, {"max_sweeps": 5}, spread=1e8)


def test_a_start_is_taken_further_and_brought_to_the_dtype():
    x = noisy((6, 7, 8), (0, 1, 2), 2, (2, 2, 2), "float64")
    rough = tg.btd_als(x, terms=2, ranks=2, max_sweeps=3)
    fine = tg.btd_als(x, terms=2, ranks=2, init=rough.tensor.astype("float32"))
    assert fine.error < rough.error + 1e-6
    assert fine.tensor.dtype == "float64"


def test_seeds_and_starts():
    x = noisy((6, 7, 8), (0, 1, 2), 2, (2, 2, 2), "float64")
    one, two = (tg.btd_als(x, terms=2, ranks=2, init="random", n_starts=4, rng=7) for _ in range(2))
    np.testing.assert_array_equal(one.tensor.to_dense(), two.tensor.to_dense())
    first = tg.btd_als(x, terms=2, ranks=2, init="random", n_starts=1, rng=7)
    assert one.error <= first.error


@pytest.mark.parametrize(
    ("options", "error", "part"),
    [
        ({"terms": 0}, ValueError, "terms=0"),
        ({"terms": 1.5}, TypeError, "terms=1.5"),
        ({"ranks": (2, 2)}, ValueError, "one for each mode with factors"),
        ({"ranks": (2, 2, 2), "modes": (0, 1)}, ValueError, "3 ranks"),
        ({"modes": (0, 3)}, ValueError, "between 0 and 2"),
        ({"ridge": -1}, ValueError, "ridge=-1"),
        ({"ridge": math.nan}, ValueError, "ridge=nan"),
        ({"ridge": "1"}, ValueError, "ridge='1'"),
        ({"init": "hosvd"}, ValueError, "'svd', 'random'"),
        ({"init": tg.random.btd((6, 7, 8), terms=3, ranks=2, rng=0)}, ValueError, "they must agree"),
        ({"init": tg.random.btd((6, 7, 9), terms=2, ranks=2, rng=0)}, ValueError, "two must agree"),
        ({"init": tg.random.tucker((6, 7, 8), ranks=2, rng=0)}, TypeError, "BlockTermTensor"),
        ({"n_starts": 0}, ValueError, "n_starts"),
        ({"stall": 1}, ValueError, "stall"),
    ],
)
def test_what_cannot_be_is_refused(options, error, part):
    with pytest.raises(error, match=part):
        tg.btd_als(np.ones((6, 7, 8)), **{"terms": 2, "ranks": 2, **options})
