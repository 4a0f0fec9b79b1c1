"""Balance: the same tensor, the least sensitivity, and the same again."""

import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring import _array
from tensorring.testing import cp_tensors, low_rank_tensors


def parts(t) -> float:
    """The norm of the parts, which rounding is measured by."""
    return math.prod(float(np.linalg.norm(array.astype("complex128"))) for array in t.arrays)


def unbalanced(t, seed):
    """The same format with arrays, and CP columns, of wildly different scales; now and then zeros."""
    rng = np.random.default_rng(seed)
    arrays = [array * np.asarray(10.0 ** rng.uniform(-3, 3)).astype(array.real.dtype) for array in t.arrays]
    if t.format == "cp":
        arrays = [
            array * (10.0 ** rng.uniform(-2, 2, t.rank) * (rng.random(t.rank) > 0.1)).astype(array.real.dtype)
            for array in arrays
        ]
        arrays[0] = arrays[0] * rng.choice([-1, 1], t.rank).astype(arrays[0].dtype)
    return t.with_arrays(arrays)


@given(low_rank_tensors(), st.integers(0, 99))
def test_the_tensor_stays_and_the_sensitivity_never_rises(t, seed) -> None:
    t = unbalanced(t, seed)
    before = [array.copy() for array in t.arrays]
    b = tg.balance(t)
    eps = _array.eps(_array.dtype_name(t.dtype))
    assert type(b) is type(t)
    assert (b.shape, b.ranks, b.dtype) == (t.shape, t.ranks, t.dtype)
    wide = (b.astype("complex128").to_dense(), t.astype("complex128").to_dense())
    assert np.linalg.norm(wide[0] - wide[1]) <= 20 * t.ndim * eps * parts(t)
    assert tg.sensitivity(b) <= tg.sensitivity(t) * (1 + 50 * t.ndim * eps)
    again = tg.balance(b)
    for one, two in zip(b.arrays, again.arrays, strict=True):
        np.testing.assert_allclose(two, one, rtol=100 * t.ndim * eps, atol=0)
    assert all(np.array_equal(x, y) for x, y in zip(t.arrays, before, strict=True))
    assert not any(np.may_share_memory(x, y) for x in t.arrays for y in b.arrays)


@given(cp_tensors(dtype=st.sampled_from(["float64", "complex128"])), st.integers(0, 99))
def test_cp_columns_have_norms_in_proportion_to_the_roots_of_the_sizes(t, seed) -> None:
    t = unbalanced(t, seed)
    b = tg.balance(t)
    np.testing.assert_array_equal(b.weights, 1.0)
    squares = [np.linalg.norm(u, axis=0) ** 2 / n for u, n in zip(b.factors, t.shape, strict=True)]
    for square in squares:
        np.testing.assert_allclose(square, squares[0], rtol=1e-12)
    terms = np.abs(t.weights) * math.prod(np.linalg.norm(u, axis=0) for u in t.factors)
    np.testing.assert_allclose(math.prod(np.linalg.norm(u, axis=0) for u in b.factors), terms, rtol=1e-12)
    d = t.ndim
    least = d * math.prod(t.shape) ** (1 / d) * np.sum(terms ** (2 * (d - 1) / d))
    assert tg.sensitivity(b) == pytest.approx(least, rel=1e-12)


def test_phases_of_weights_go_to_the_last_factor() -> None:
    t = tg.random.cp((3, 4, 5), rank=3, rng=0)
    signed = tg.CPTensor(np.array([-2.0, 0.0, 3.0]), t.factors)
    b = tg.balance(signed)
    np.testing.assert_allclose(b.to_dense(), signed.to_dense(), atol=1e-14)
    assert all((u[:, 1] == 0).all() for u in b.factors)
    for u, v in zip(b.factors[:-1], t.factors[:-1], strict=True):
        assert (np.sum(u * v, axis=0)[[0, 2]] > 0).all()
    phased = tg.CPTensor(np.array([-2.0, 1j, 3.0 - 4j]), t.factors)
    b = tg.balance(phased)
    np.testing.assert_allclose(b.to_dense(), phased.to_dense(), atol=1e-14)
    assert [u.dtype for u in b.factors] == ["float64", "float64", "complex128"]
    assert b.weights.dtype == "float64"


@given(st.sampled_from(["tt", "tr"]), st.integers(1, 4), st.integers(0, 50))
def test_chains_have_equal_shares_of_the_sensitivity(kind, order, seed) -> None:
    shape = (3, 5, 2, 4)[:order]
    t = unbalanced(getattr(tg.random, kind)(shape, ranks=2, dtype="complex128", rng=seed), seed)
    b = tg.balance(t)
    shares = []
    for n in range(order):
        # One core zero but for one entry after the other: the derivative by that entry.
        total = 0.0
        for index in np.ndindex(b.cores[n].shape):
            core = np.zeros_like(b.cores[n])
            core[index] = 1
            total += np.linalg.norm(b.with_arrays([*b.cores[:n], core, *b.cores[n + 1 :]]).to_dense()) ** 2
        shares.append(total)
    np.testing.assert_allclose(shares, shares[0], rtol=1e-9)
    assert sum(shares) == pytest.approx(tg.sensitivity(b), rel=1e-9)
    assert sum(shares) == pytest.approx(order * math.prod(shares) ** (1 / order), rel=1e-9)


def scalings(t):
    """How many free scalings there are, and the tensor by their logarithms."""
    if t.format == "cp":
        free = t.rank * (t.ndim - 1)

        def scaled(logs):
            logs = logs.reshape(t.ndim - 1, t.rank)
            logs = np.concatenate([logs, -logs.sum(axis=0, keepdims=True)])
            return tg.CPTensor(t.weights, [u * np.exp(row) for u, row in zip(t.factors, logs, strict=True)])
    elif t.format == "tucker":
        free = sum(t.ranks)

        def scaled(logs):
            core, factors = t.core, []
            for n, row in enumerate(np.split(logs, np.cumsum(t.ranks)[:-1])):
                factors.append(t.factors[n] * np.exp(row))
                core = np.moveaxis(np.moveaxis(core, n, -1) * np.exp(-row), -1, n)
            return tg.TuckerTensor(core, factors)
    elif t.format == "cut":
        free = t.ranks[0]

        def scaled(logs):
            return t.with_arrays([t.left * np.exp(logs), t.right * np.exp(-logs)[:, None, None]])
    else:
        free = t.ndim - 1

        def scaled(logs):
            logs = [*logs, -logs.sum()]
            return t.with_arrays([core * np.exp(log) for core, log in zip(t.cores, logs, strict=True)])

    return free, scaled


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["cp", "tucker", "tt", "tr", "cut"])
def test_no_other_scaling_is_less_sensitive(kind, seed) -> None:
    """Against a general minimiser over the same scalings, which works on the sensitivity alone."""
    if kind == "cut":
        rng = np.random.default_rng(seed)
        t = tg.CutTensor(rng.standard_normal((3, 2)), rng.standard_normal((2, 4, 2)) * 30, (1,))
    elif kind == "cp":
        t = tg.random.cp((3, 4, 2), rank=2, rng=seed)
    else:
        t = getattr(tg.random, kind)((3, 4, 2), ranks=2, rng=seed)
    free, scaled = scalings(t)
    found = scipy.optimize.minimize(lambda logs: math.log(tg.sensitivity(scaled(logs))), np.zeros(free), tol=1e-12)
    least = math.log(tg.sensitivity(tg.balance(t)))
    # The minimiser reaches it, up to its own accuracy, and never goes below.
    assert least - 1e-12 <= found.fun <= least + 1e-7


def test_the_balanced_higher_order_svd_is_least_over_all_gauges() -> None:
    """ss ≥ (d+1)·(ΠI_n·‖X_(n)‖_*²)^{1/(d+1)} for a Tucker tensor in any bases; singular bases attain it."""
    x = tg.random.tucker((4, 5, 6), ranks=(2, 3, 3), rng=0).to_dense()
    t = tg.tucker_hosvd(x, tol=1e-12).tensor
    unfoldings = [np.moveaxis(x, n, 0).reshape(x.shape[n], -1) for n in range(3)]
    nuclear = [n * np.linalg.svd(m, compute_uv=False).sum() ** 2 for n, m in zip(x.shape, unfoldings, strict=True)]
    least = 4 * math.prod(nuclear) ** 0.25
    assert tg.sensitivity(tg.balance(t)) == pytest.approx(least, rel=1e-10)
    rng = np.random.default_rng(1)
    for _ in range(5):
        core, factors = t.core, []
        for n, u in enumerate(t.factors):
            gauge = rng.standard_normal((u.shape[1], u.shape[1]))
            factors.append(u @ gauge)
            core = np.moveaxis(np.tensordot(np.linalg.inv(gauge), core, axes=(1, n)), 0, n)
        other = tg.TuckerTensor(core, factors)
        np.testing.assert_allclose(other.to_dense(), x, atol=1e-10)
        assert tg.sensitivity(tg.balance(other)) >= least


@pytest.mark.parametrize("power", [150, -150])
def test_extreme_scales(power) -> None:
    for t in (
        tg.random.cp((3, 4, 5), rank=2, rng=0),
        tg.random.tucker((3, 4, 5), ranks=2, rng=0),
        tg.random.tt((3, 4, 5), ranks=2, rng=0),
        tg.random.tr((3, 4, 5), ranks=2, rng=0),
    ):
        first, second, *rest = t.arrays
        big = t.with_arrays([first * 10.0**power, second * 10.0**-power, *rest])
        for one, two in zip(tg.balance(big).arrays, tg.balance(t).arrays, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-12)
        whole = tg.balance(t.with_arrays([first * 10.0**power, second, *rest]))
        np.testing.assert_allclose(whole.to_dense() * 10.0**-power, t.to_dense(), atol=1e-13)


def test_columns_far_apart_in_single_precision() -> None:
    scales = np.array([1e-30, 1.0, 1e30], dtype="float32")
    t = tg.random.cp((3, 4, 5), rank=3, dtype="float32", rng=0)
    apart = tg.CPTensor(t.weights, [t.factors[0] * scales, t.factors[1] / scales, t.factors[2]])
    for one, two in zip(tg.balance(apart).factors, tg.balance(t).factors, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


@pytest.mark.parametrize("mode", range(3))
def test_zero_tensors(mode) -> None:
    for t in (
        tg.random.cp((3, 4, 5), rank=2, rng=0),
        tg.random.tucker((3, 4, 5), ranks=2, rng=0),
        tg.random.tt((3, 4, 5), ranks=2, rng=0),
        tg.random.tr((3, 4, 5), ranks=2, rng=0),
    ):
        arrays = list(t.arrays)
        arrays[mode] = arrays[mode] * 0.0
        b = tg.balance(t.with_arrays(arrays))
        assert not b.to_dense().any()
        assert tg.sensitivity(b) == 0.0
        assert all(np.isfinite(array).all() for array in b.arrays)


def test_cores_whose_product_is_rounding_do_not_become_zero() -> None:
    """A gauge of condition 1e12: the norm of a subchain is lost to rounding, the tensor is not."""
    t = tg.random.tt((3, 4, 5), ranks=2, rng=0)
    gauge = np.array([[1.0, 1.0], [1.0, 1.0 + 1e-12]])
    first, middle, last = t.cores
    bad = tg.TTTensor([first, np.tensordot(middle, gauge, 1), np.tensordot(np.linalg.inv(gauge), last, 1)])
    b = tg.balance(bad)
    assert np.linalg.norm(b.to_dense() - bad.to_dense()) <= 1e-14 * parts(bad)
    assert b.to_dense().any()


def test_other_libraries(xp) -> None:
    for t in (
        tg.random.cp((3, 4, 5), rank=2, dtype="complex64", rng=0),
        tg.random.tucker((3, 4, 5), ranks=2, dtype="complex64", rng=0),
        tg.random.tt((3, 4, 5), ranks=2, dtype="complex128", rng=0),
        tg.random.tr((3, 4, 5), ranks=2, dtype="float32", rng=0),
        tg.CutTensor(np.arange(6.0).reshape(3, 2), np.ones((2, 4, 5)), modes=(0,)),
        tg.CPTensor(np.array([1j, -2.0]), tg.random.cp((3, 4, 5), rank=2, rng=0).factors),
    ):
        ours, theirs = tg.balance(t), tg.balance(xp.tensor(t))
        for one, two in zip(ours.arrays, theirs.arrays, strict=True):
            assert xp.to_numpy(two).dtype == one.dtype
            np.testing.assert_allclose(xp.to_numpy(two), one, rtol=1e-5)


def test_what_is_no_low_rank_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match=r"got ndarray; .* CPTensor"):
        tg.balance(np.ones((2, 3)))
