"""Sensitivity against its definition: random noise, and the derivative entry by entry."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring.testing import cp_tensors, low_rank_tensors

FORMATS = ["cp", "tucker", "tt", "tr", "cut"]


def drawn(kind, dtype, seed=0):
    if kind == "cut":
        rng = np.random.default_rng(seed)
        left, right = rng.standard_normal((3, 5, 2)), rng.standard_normal((2, 4))
        return tg.CutTensor((left * (1 + 1j)).astype(dtype) if "complex" in dtype else left, right, (0, 2))
    rank = {"rank": 3} if kind == "cp" else {"ranks": {"tucker": (2, 5, 3), "tt": (2, 3), "tr": (4, 2, 3)}[kind]}
    return getattr(tg.random, kind)((3, 4, 5), **rank, dtype=dtype, rng=seed)


def absorbed(t):
    """A CP with weights shared out evenly over the columns, phases in the last factor; other formats as they are."""
    if t.format != "cp":
        return t
    sizes = np.abs(t.weights)
    phases = np.where(sizes > 0, t.weights / np.where(sizes > 0, sizes, 1), 1)
    factors = [u * sizes ** (1 / t.ndim) for u in t.factors]
    return tg.CPTensor(np.ones(t.rank), [*factors[:-1], factors[-1] * phases])


def jacobian(t) -> np.ndarray:
    """Columns ∂x/∂θ: the tensor is linear in each of its arrays, so a unit array in its place is the derivative."""
    t, columns = absorbed(t), []
    for k in range(1 if t.format == "cp" else 0, len(t.arrays)):
        for index in np.ndindex(t.arrays[k].shape):
            arrays = list(t.arrays)
            arrays[k] = np.zeros_like(arrays[k])
            arrays[k][index] = 1
            columns.append(t.with_arrays(arrays).to_dense().reshape(-1))
    return np.stack(columns, axis=1)


@given(low_rank_tensors(dtype=st.sampled_from(["float64", "complex128"]), max_size=4, max_rank=3))
def test_it_is_the_squared_norm_of_the_jacobian(t) -> None:
    expected = np.linalg.norm(jacobian(t)) ** 2
    bound = math.prod(np.linalg.norm(array) for array in t.arrays) ** 2
    assert tg.sensitivity(t) == pytest.approx(expected, rel=1e-12, abs=1e-13 * bound)


@given(cp_tensors(dtype=st.sampled_from(["float64", "complex128"]), max_size=4), st.integers(0, 99))
def test_weights_are_shared_out_evenly(t, seed) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.choice([-1.0, 0.0, 1.0], t.rank) * 10.0 ** rng.uniform(-3, 3, t.rank)
    weights = weights * np.exp(1j * seed) if np.iscomplexobj(t.factors[0]) else weights
    t = tg.CPTensor(weights, t.factors)
    assert tg.sensitivity(t) == pytest.approx(np.linalg.norm(jacobian(t)) ** 2, rel=1e-12)
    assert tg.sensitivity(t) == pytest.approx(tg.sensitivity(absorbed(t)), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("kind", FORMATS)
def test_it_is_what_noise_does(kind, dtype) -> None:
    """The definition: 2,000 draws of noise with E|noise|² = 1, within four standard errors."""
    t, rng, step, draws = absorbed(drawn(kind, dtype)), np.random.default_rng(1), 1e-5, []
    x = t.to_dense()
    for _ in range(2000):
        arrays = []
        for k, array in enumerate(t.arrays):
            noise = rng.standard_normal(array.shape)
            if "complex" in dtype:
                noise = (noise + 1j * rng.standard_normal(array.shape)) / math.sqrt(2)
            arrays.append(array if kind == "cp" and k == 0 else array + step * noise)
        draws.append(np.linalg.norm(t.with_arrays(arrays).to_dense() - x) ** 2 / step**2)
    z = (np.mean(draws) - tg.sensitivity(t)) / (np.std(draws) / math.sqrt(len(draws)))
    assert abs(z) <= 4
    assert np.std(draws) / math.sqrt(len(draws)) <= 0.02 * tg.sensitivity(t)


@pytest.mark.parametrize("kind", FORMATS)
def test_all_dtypes_and_libraries_agree(kind, dtype, xp) -> None:
    t = drawn(kind, dtype)
    wide = t.astype("complex128")
    assert tg.sensitivity(xp.tensor(t)) == pytest.approx(tg.sensitivity(wide), rel=1e-12)
    assert isinstance(tg.sensitivity(xp.tensor(t)), float)


@given(low_rank_tensors(dtype="float64"), st.floats(0.01, 100))
def test_how_it_scales(t, c) -> None:
    arrays = [array if t.format == "cp" and k == 0 else array * c for k, array in enumerate(t.arrays)]
    power = 2 * {"tucker": t.ndim, "cut": 1}.get(t.format, t.ndim - 1)
    assert tg.sensitivity(t.with_arrays(arrays)) == pytest.approx(tg.sensitivity(t) * c**power, rel=1e-11)


@pytest.mark.parametrize("kind", FORMATS)
def test_extreme_scales(kind) -> None:
    t = drawn(kind, "float64")
    *rest, last = t.arrays
    # All arrays but the first and the last one are always there, in a term of any of them.
    assert tg.sensitivity(t.with_arrays([*rest, last * 1e150])) == pytest.approx(
        tg.sensitivity(t.with_arrays([*rest, last * 1e100])) * 1e100, rel=1e-9
    )
    assert tg.sensitivity(t.with_arrays([array * 1e150 for array in t.arrays])) > 1e299
    assert tg.sensitivity(t.with_arrays([array * 1e-150 for array in t.arrays])) < 1e-297


def test_beyond_a_double_it_is_infinite_or_zero() -> None:
    t = drawn("tr", "float64")
    assert tg.sensitivity(t.with_arrays([core * 1e150 for core in t.cores])) == math.inf
    assert tg.sensitivity(t.with_arrays([core * 1e-150 for core in t.cores])) == 0.0
    apart = t.with_arrays([t.cores[0] * 1e150, t.cores[1] * 1e-150, t.cores[2]])
    assert math.isfinite(tg.sensitivity(apart))
    assert tg.sensitivity(tg.balance(apart)) == pytest.approx(tg.sensitivity(tg.balance(t)), rel=1e-11)


def test_zeros_and_single_modes() -> None:
    assert tg.sensitivity(tg.CPTensor([0.0], [np.ones((2, 1))] * 3)) == 0.0
    assert tg.sensitivity(tg.CPTensor([5.0, 0.0], [np.ones((7, 2))])) == 14.0
    assert tg.sensitivity(tg.TTTensor([np.ones((1, 7, 1))])) == 7.0
    assert tg.sensitivity(tg.TRTensor([np.ones((3, 7, 3))])) == 21.0
    assert tg.sensitivity(tg.TuckerTensor(np.ones(2), [np.eye(2)])) == 6.0


def test_the_identity_tensor() -> None:
    """ss = Σ_n n·R·1 = d·n²."""
    assert tg.sensitivity(tg.CPTensor(np.ones(4), [np.eye(4)] * 3)) == 48.0


def test_what_is_no_low_rank_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match=r"got ndarray; .* CPTensor, TuckerTensor"):
        tg.sensitivity(np.ones((2, 3)))
