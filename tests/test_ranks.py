"""Ranks by variational Bayes: the thresholds of the literature, and tensors of known rank in noise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring.ranks import _free_energy, _threshold

# x̄ by the shorter side over the longer.
EXACT = {1: 4.9108, 0.5: 3.5631, 0.25: 2.7191, 0.1: 2.0438, 0.05: 1.7283, 0.01: 1.3282}
SCALES = {"float32": (1e-30, 1.0, 1e30), "float64": (1e-150, 1.0, 1e150)}


@pytest.mark.parametrize("alpha", EXACT)
def test_thresholds(alpha):
    assert _threshold(alpha) == pytest.approx(EXACT[alpha], abs=6e-5)


@pytest.mark.parametrize("alpha", [1e-12, 1e-6, 1e-3, 0.3, 1])
def test_the_threshold_solves_its_equation_and_lies_above_what_noise_reaches(alpha):
    """x̄ = (1+τ)(1+α/τ) determines τ, the larger of two roots, and Φ(τ) + Φ(τ/α) = 0."""
    x = _threshold(alpha)
    below = x - 1 - alpha
    tau = (below + math.sqrt(below**2 - 4 * alpha)) / 2
    assert sum(math.log1p(z) / z - 0.5 for z in (tau, tau / alpha)) == pytest.approx(0, abs=1e-7)
    assert (1 + math.sqrt(alpha)) ** 2 < x < 4.92


def with_values(values, shape, gaussian, dtype):
    """A matrix of these singular values."""
    u, v = (np.linalg.qr(gaussian((n, min(shape)), dtype))[0] for n in shape)
    return ((u * values) @ v.conj().T).astype(dtype)


@pytest.mark.parametrize("alpha", EXACT)
def test_with_the_noise_given_what_lies_above_the_threshold_is_counted(xp, dtype, gaussian, alpha):
    columns = 100
    rows = round(alpha * columns)
    for scale in SCALES["float32" if dtype in ("float32", "complex64") else "float64"]:
        edge = math.sqrt(columns * EXACT[alpha])
        values = np.where(np.arange(rows) < (rows + 1) // 2, 1.001, 0.999) * edge
        x = with_values(values, (rows, columns), gaussian, dtype) * scale
        for matrix in (x, x.T):
            matrix.setflags(write=False)
            assert tg.vbmf_rank(xp.asarray(matrix.astype(dtype)), noise=scale) == (rows + 1) // 2


@given(
    st.integers(0, 5),
    st.integers(30, 60),
    st.integers(60, 200),
    st.sampled_from(["float32", "float64", "complex64", "complex128"]),
    st.integers(0, 2),
    st.integers(0, 99),
)
def test_the_rank_of_a_matrix_in_noise_is_found(rank, rows, columns, dtype, scale, seed):
    """Components of twice the size at which noise hides them; whatever the scale, lying or standing."""
    rng = np.random.default_rng(seed)
    scale = SCALES["float32" if dtype in ("float32", "complex64") else "float64"][scale]

    def white(*shape):
        return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if "complex" in dtype else 0)

    left, right = (np.linalg.qr(white(n, rank or 1))[0] for n in (rows, columns))
    noise = math.sqrt(2 if "complex" in dtype else 1)
    size = 2 * noise * np.sqrt(columns * _threshold(rows / columns)) * (rank > 0)
    x = (scale * (size * left @ right.conj().T + white(rows, columns))).astype(dtype)
    assert tg.vbmf_rank(x) == tg.vbmf_rank(x.T) == rank
    assert tg.vbmf_rank(x, noise=noise * scale) == rank


def test_the_noise_found_is_the_noise_there_is():
    """The least free energy, on a finer grid than the search looks at, is near the true variance."""
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((80, 4)) @ rng.standard_normal((4, 120)) + 0.5 * rng.standard_normal((80, 120))
    squares = np.linalg.svd(x, compute_uv=False) ** 2
    energy = _free_energy(squares, 120, _threshold(80 / 120))
    grid = np.linspace(math.log(0.01), math.log(100), 20_000)
    best = math.exp(grid[np.argmin([energy(point) for point in grid])])
    assert best == pytest.approx(0.25, rel=0.05)
    kept = squares > 120 * best * _threshold(80 / 120)
    assert tg.vbmf_rank(x) == kept.sum() == 4


@pytest.mark.parametrize("rank", [1, 3])
def test_without_noise_rounding_is_the_noise(xp, dtype, gaussian, rank):
    x = gaussian((20, rank), dtype) @ gaussian((rank, 30), dtype)
    assert tg.vbmf_rank(xp.asarray(x)) == tg.vbmf_rank(xp.asarray(x.T)) == rank
    whole = gaussian((5, 8), dtype)
    assert tg.vbmf_rank(xp.asarray(whole), noise=1e-30) == 5, "noise far below rounding hides nothing"
    assert tg.vbmf_rank(xp.asarray(x.astype(dtype)), noise=1e30) == 0
    twice = np.concatenate([whole, whole]).astype(dtype)
    assert tg.vbmf_rank(xp.asarray(twice), noise=1e-30) == 5, "but rounding itself never counts"


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (5, 5), (3, 40)])
def test_little_and_nothing(shape):
    assert tg.vbmf_rank(np.zeros(shape)) == tg.vbmf_rank(np.zeros(shape), noise=1.0) == 0
    for x in (np.ones(shape), np.eye(*shape), np.ones(shape, dtype=int), np.ones(shape, dtype=bool)):
        below = min(shape) / (1 + min(shape) / max(shape))
        assert 0 <= tg.vbmf_rank(x) < below
    assert tg.vbmf_rank(np.ones(shape), noise=1e-3) == 1
    assert tg.vbmf_rank(np.full(shape, 1e-150), noise=1e150) == 0
    assert tg.vbmf_rank(np.full(shape, 1e150), noise=1e-150) == 1


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99), st.sampled_from([1.0, 1e-6, 0.0]))
def test_any_matrix_has_a_rank_below_its_half(rows, columns, seed, decay):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)) * decay ** np.arange(columns)
    rank = tg.vbmf_rank(x)
    shorter, longer = sorted(x.shape)
    assert 0 <= rank < shorter / (1 + shorter / longer)
    assert rank == tg.vbmf_rank(x[::-1].T)


def test_ranks_of_a_tensor_are_those_of_its_unfoldings(xp, dtype, gaussian):
    core = tg.random.tucker((12, 9, 14), ranks=(3, 2, 4), dtype=dtype, rng=0).to_dense()
    x = (core / np.linalg.norm(core) * math.sqrt(core.size) + 0.2 * gaussian(core.shape, dtype)).astype(dtype)
    unfoldings = [np.moveaxis(x, k, 0).reshape(x.shape[k], -1) for k in range(3)]
    found = tg.estimate_ranks(xp.asarray(x))
    assert found == tuple(max(1, tg.vbmf_rank(matrix)) for matrix in unfoldings) == (3, 2, 4)
    assert tg.estimate_ranks(xp.asarray(x), method="vbmf") == found
    assert tg.tucker_hosvd(x, ranks=found).tensor.ranks == found


def test_ranks_of_a_tensor_are_ranks_that_can_be_asked_for():
    assert tg.estimate_ranks(np.zeros((3, 4, 5))) == (1, 1, 1)
    assert tg.estimate_ranks(np.ones(6)) == (1,)
    assert tg.estimate_ranks(np.ones((1, 4, 1))) == (1, 1, 1)
    x = np.random.default_rng(0).standard_normal((6, 50, 4)).transpose(2, 0, 1)
    assert tg.estimate_ranks(x) == tg.estimate_ranks(x.copy())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tg.vbmf_rank([[1.0]]), TypeError, "got a list for matrix; it is an array"),
        (lambda: tg.vbmf_rank(np.ones((2, 3, 4))), ValueError, r"got an array of shape \(2, 3, 4\).*unfold it"),
        (lambda: tg.vbmf_rank(np.ones((0, 3))), ValueError, r"got matrix of shape \(0, 3\); it must not be empty"),
        (lambda: tg.vbmf_rank(np.array([["a"]])), TypeError, "dtype str"),
        (lambda: tg.vbmf_rank(np.array([[1.0, np.nan]])), ValueError, r"matrix\[0, 1\] is nan"),
        (lambda: tg.vbmf_rank(np.eye(2), noise=0), ValueError, "got noise=0; a standard deviation is finite and above"),
        (lambda: tg.vbmf_rank(np.eye(2), noise=-1.0), ValueError, "got noise=-1.0; .* None to find it"),
        (lambda: tg.vbmf_rank(np.eye(2), noise=math.inf), ValueError, "got noise=inf"),
        (lambda: tg.vbmf_rank(np.eye(2), noise=math.nan), ValueError, "got noise=nan"),
        (lambda: tg.vbmf_rank(np.eye(2), noise="0.1"), TypeError, "got noise='0.1'; it is a standard deviation"),
        (lambda: tg.vbmf_rank(np.eye(2), noise=True), TypeError, "got noise=True"),
        (lambda: tg.estimate_ranks(np.eye(2), method="aic"), ValueError, "got method='aic'; known are vbmf"),
        (lambda: tg.estimate_ranks(1.0), TypeError, "got a float for x; it is an array"),
        (lambda: tg.estimate_ranks(np.array(1.0)), ValueError, "got a 0-d array; .* it needs a mode"),
        (lambda: tg.estimate_ranks(np.ones((2, 0))), ValueError, r"got x of shape \(2, 0\)"),
        (lambda: tg.estimate_ranks(np.array([1.0, np.inf])), ValueError, r"x\[1\] is inf"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
