"""CP-ALS: exact on exact data, stationary on noisy data, monotone, in its one normal form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring.contract import first_level
from tensorring.contract.mttkrp import mttkrp
from tensorring.decompose.iterative._cp import core
from tensorring.linalg import error_floor
from tensorring.testing import check_result

EPS = {"float32": 1.2e-7, "complex64": 1.2e-7, "float64": 2.2e-16, "complex128": 2.2e-16}


def noisy(gaussian, shape, rank, dtype, noise=0.1):
    x = tg.random.cp(shape, rank=rank, dtype=dtype, rng=0).to_dense()
    white = gaussian(shape, dtype)
    return x + np.asarray(noise * np.linalg.norm(x) / np.linalg.norm(white)).astype(white.real.dtype) * white


def collinear(n, rank, cosine, rng):
    """Unit columns with one cosine between any two, in each of three modes."""
    gram = np.full((rank, rank), cosine) + (1 - cosine) * np.eye(rank)
    factors = [np.linalg.qr(rng.standard_normal((n, n)))[0][:, :rank] @ np.linalg.cholesky(gram).T for _ in range(3)]
    return tg.CPTensor(np.ones(rank), factors).to_dense()


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 10), (6, 1, 7), (5, 6, 4, 3), (4, 3, 4, 3, 4)])
def test_exact_tensors_are_found(shape, dtype, xp) -> None:
    x = tg.random.cp(shape, rank=3, dtype=dtype, rng=1).to_dense()
    result = tg.cp_als(xp.asarray(x), rank=3, n_starts=5, rng=0)
    check_result(xp.asarray(x), result)
    assert result.error <= error_floor(dtype, len(shape))
    assert result.converged


@pytest.mark.parametrize("shape", [(8, 9, 10), (5, 6, 4, 3)])
def test_the_fit_is_stationary(shape, dtype, gaussian) -> None:
    """X_(n)·conj(K) = U·Kᵀ·conj(K) in each mode, with noise, on which a missing conjugate shows."""
    x = noisy(gaussian, shape, 3, dtype)
    result = tg.cp_als(x, rank=3, stall=1e-12, max_sweeps=3000)
    t = result.tensor.astype("complex128" if "complex" in dtype else "float64")
    factors = [t.factors[0] * t.weights, *t.factors[1:]]
    wide = x.astype(t.factors[0].dtype)
    for mode in range(len(shape)):
        left, right = mttkrp(wide, factors, mode), mttkrp(t.to_dense(), factors, mode)
        scale = np.linalg.norm(x) * np.linalg.norm(t.weights) ** (mode > 0)
        # An error of √eps in the factors changes the fit by eps: more is not seen by it.
        assert np.linalg.norm(left - right) <= 10 * np.sqrt(EPS[dtype]) * scale


def test_complex_data_with_real_entries_give_the_real_fit(gaussian) -> None:
    x = noisy(gaussian, (6, 7, 8), 2, "float64")
    start = tg.random.cp((6, 7, 8), rank=2, rng=3)
    one = tg.cp_als(x, rank=2, init=start, max_sweeps=20, stall=0)
    two = tg.cp_als(x.astype("complex128"), rank=2, init=start, max_sweeps=20, stall=0)
    np.testing.assert_allclose(two.errors, one.errors, rtol=1e-10)
    np.testing.assert_allclose(two.tensor.to_dense(), one.tensor.to_dense(), atol=1e-8)


def test_plain_sweeps_are_those_of_the_definition(gaussian) -> None:
    """Two sweeps (acceleration starts later) against updates by lstsq on the Khatri–Rao product."""
    x = gaussian((5, 6, 7))
    factors = [u.copy() for u in tg.random.cp(x.shape, rank=3, rng=0).factors]
    start = tg.CPTensor(np.ones(3), factors)
    for _ in range(2):
        for mode in range(3):
            others = [factors[m] for m in range(3) if m != mode]
            k = np.einsum("ir,jr->ijr", *others).reshape(-1, 3)
            unfolded = np.moveaxis(x, mode, 0).reshape(x.shape[mode], -1)
            factors[mode] = np.linalg.lstsq(k, unfolded.T, rcond=None)[0].T
    expected = np.einsum("ir,jr,kr->ijk", *factors)
    result = tg.cp_als(x, rank=3, init=start, max_sweeps=2, stall=0)
    np.testing.assert_allclose(result.tensor.to_dense(), expected, atol=1e-12 * np.linalg.norm(x))
    assert result.stop is tg.Stop.max_sweeps
    assert not result.converged


@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple),
    rank=st.integers(1, 9),
    kind=st.sampled_from(["gaussian", "low rank", "constant", "sparse"]),
    dtype=st.sampled_from(["float32", "float64", "complex64", "complex128"]),
    init=st.sampled_from(["hosvd", "random", "greedy"]),
    seed=st.integers(0, 99),
)
def test_errors_never_rise_and_nothing_is_nan(shape, rank, kind, dtype, init, seed) -> None:
    rng = np.random.default_rng(seed)
    x = {
        "gaussian": rng.standard_normal(shape),
        "low rank": tg.random.cp(shape, rank=2, rng=seed).to_dense(),
        "constant": np.ones(shape),
        "sparse": rng.standard_normal(shape) * (rng.random(shape) < 0.1),
    }[kind].astype(dtype)
    result = tg.cp_als(x, rank=rank, init=init, max_sweeps=30, rng=seed)
    check_result(x, result)
    # What sweeps report is right to rounding over the error, and the last one is measured anew.
    errors = np.array(result.errors or (0.0,))
    assert (np.diff(errors) <= 100 * EPS[dtype] / np.maximum(errors[:-1], 1e-3)).all()
    assert result.error == errors[-1]


@given(st.integers(0, 200))
def test_the_normal_form(seed) -> None:
    rng = np.random.default_rng(seed)
    dtype = ("float64", "complex128")[seed % 2]
    x = rng.standard_normal((4, 5, 6)) + (1j * rng.standard_normal((4, 5, 6)) if seed % 2 else 0)
    t = tg.cp_als(x, rank=3, rng=seed, init="random", max_sweeps=20).tensor
    assert t.dtype == dtype
    assert (np.diff(t.weights) <= 0).all()
    assert (t.weights >= 0).all()
    for mode, u in enumerate(t.factors):
        np.testing.assert_allclose(np.linalg.norm(u, axis=0), 1, atol=1e-13)
        largest = u[np.abs(u).argmax(axis=0), range(3)]
        if mode < 2:
            np.testing.assert_allclose(largest, np.abs(largest), atol=1e-14)


@pytest.mark.parametrize("init", ["hosvd", "random", "gevd", "greedy"])
def test_the_same_seed_gives_the_same_result(init, gaussian) -> None:
    x = noisy(gaussian, (7, 8, 9), 3, "float64")
    one, two = (tg.cp_als(x, rank=3, init=init, n_starts=3, rng=7) for _ in range(2))
    for a, b in zip(one.tensor.arrays, two.tensor.arrays, strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.errors == two.errors


@pytest.mark.parametrize("seed", range(6))
def test_ten_starts_recover_five_terms(seed) -> None:
    x = tg.random.cp((60, 60, 60), rank=5, rng=seed).to_dense()
    assert tg.cp_als(x, rank=5, n_starts=10, rng=seed, tol=1e-8).error <= 1e-8
    assert tg.cp_als(x, rank=5, init="gevd", tol=1e-8).error <= 1e-8


@pytest.mark.parametrize("seed", range(3))
def test_swamps_are_left(seed) -> None:
    """Collinear columns: plain sweeps stay above 7e-4 after 300, accelerated ones reach rounding."""
    x = collinear(20, 5, 0.9, np.random.default_rng(1))
    start = tg.random.cp(x.shape, rank=5, rng=seed)
    assert tg.cp_als(x, rank=5, init=start, stall=0, max_sweeps=300).error < 1e-9


def test_kernels_and_compression_give_what_plain_sweeps_give(monkeypatch, gaussian) -> None:
    """On the size where large tensors begin: with and without kernels, from a Tucker core and from x itself."""
    x = noisy(gaussian, (70, 64, 66), 4, "float64")
    start = tg.random.cp(x.shape, rank=4, rng=0)
    by_kernels = tg.cp_als(x, rank=4, init=start, stall=0, max_sweeps=5)
    monkeypatch.setattr(core, "COMPRESSED_FROM", 0)
    compressed = tg.cp_als(x, rank=4, stall=1e-10)
    monkeypatch.setattr(first_level, "_KERNELS_FROM", 2**40)
    monkeypatch.setattr(core, "COMPRESSED_FROM", 2**40)
    plain = tg.cp_als(x, rank=4, init=start, stall=0, max_sweeps=5)
    np.testing.assert_allclose(by_kernels.errors, plain.errors, rtol=1e-10)
    whole = tg.cp_als(x, rank=4, stall=1e-10)
    assert compressed.error == pytest.approx(whole.error, rel=1e-9)


def test_a_compressed_fit_is_refined_on_the_tensor(monkeypatch, gaussian) -> None:
    """The errors of sweeps on the core are those of the whole tensor, and the last sweeps are on the tensor."""
    monkeypatch.setattr(core, "COMPRESSED_FROM", 0)
    x = noisy(gaussian, (70, 64, 66), 6, "float32", noise=1.0)
    result = tg.cp_als(x, rank=3)
    check_result(x, result)
    t = result.tensor.astype("float64")
    factors = [t.factors[0] * t.weights, *t.factors[1:]]
    for mode in range(3):
        change = mttkrp(x.astype("float64") - t.to_dense(), factors, mode)
        assert np.linalg.norm(change) <= 3e-3 * np.linalg.norm(x) * max(1.0, np.linalg.norm(t.weights) ** (mode > 0))


def test_a_tolerance_ends_the_run(gaussian) -> None:
    x = noisy(gaussian, (8, 9, 10), 3, "float64")
    result = tg.cp_als(x, rank=3, tol=0.2)
    assert result.stop is tg.Stop.tol
    assert result.converged
    missed = tg.cp_als(x, rank=3, tol=0.01)
    assert missed.stop is tg.Stop.stall
    assert not missed.converged


def test_a_rank_beyond_use_is_lowered(gaussian) -> None:
    x = gaussian((3, 4, 5))
    result = tg.cp_als(x, rank=1000)
    assert result.tensor.rank == 12
    assert result.error < 1e-6


@pytest.mark.parametrize("shape", [(7,), (1,), (1, 1, 1), (1, 5, 1)])
def test_small_cases(shape, gaussian) -> None:
    x = gaussian(shape)
    check_result(x, tg.cp_als(x, rank=2))
    assert tg.cp_als(x, rank=2).error < 1e-14
    zero = tg.cp_als(np.zeros(shape), rank=2)
    assert (zero.error, zero.tensor.rank, zero.converged) == (0.0, 1, True)


@pytest.mark.parametrize(
    ("options", "error", "part"),
    [
        ({"rank": 0}, ValueError, "at least 1"),
        ({"rank": 2.5}, TypeError, "2.5"),
        ({"rank": (2, 2)}, TypeError, "one rank"),
        ({"rank": 2, "init": "svd"}, ValueError, "'hosvd', 'random', 'gevd', 'greedy'"),
        ({"rank": 2, "init": tg.random.cp((3, 4, 6), rank=2, rng=0)}, ValueError, "(3, 4, 6)"),
        ({"rank": 2, "init": tg.random.cp((3, 4, 5), rank=3, rng=0)}, ValueError, "rank 3"),
        ({"rank": 2, "init": tg.random.cp((3, 4, 5), rank=2, rng=0, dtype="complex128")}, ValueError, "complex init"),
        ({"rank": 2, "n_starts": 0}, ValueError, "n_starts=0"),
        (
            {"rank": 1, "init": tg.CPTensor(np.ones(1), (np.full((3, 1), np.nan), np.ones((4, 1)), np.ones((5, 1))))},
            ValueError,
            "NaN",
        ),
    ],
)
def test_arguments_out_of_range(options, error, part) -> None:
    with pytest.raises(error) as info:
        tg.cp_als(np.ones((3, 4, 5)), **options)
    assert part in str(info.value)


def test_the_start_given_is_not_written_to(gaussian) -> None:
    x, start = gaussian((4, 5, 6)), tg.random.cp((4, 5, 6), rank=2, rng=0)
    before = [array.copy() for array in start.arrays]
    tg.cp_als(x, rank=2, init=start, max_sweeps=5)
    for a, b in zip(before, start.arrays, strict=True):
        np.testing.assert_array_equal(a, b)
