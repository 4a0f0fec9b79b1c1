"""Trees give the MTTKRPs of the definition, with the newest factors; kernels give what matrix products give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorring.contract import first_level
from tensorring.contract.mttkrp import mttkrp
from tensorring.contract.tree import MultiSweepTree, TwoPassTree, tree
from tensorring.contract.unfold import khatri_rao

SHAPES = [(4, 5), (4, 5, 6), (1, 3, 1), (7, 2, 3), (3, 4, 2, 5), (2, 3, 2, 3, 2)]


def unfolding(x: np.ndarray, mode: int) -> np.ndarray:
    return np.moveaxis(x, mode, 0).reshape(x.shape[mode], -1)


@pytest.mark.parametrize("shape", [(5,), *SHAPES])
def test_mttkrp_is_the_unfolding_times_the_khatri_rao_product(shape, dtype, gaussian) -> None:
    x, factors = gaussian(shape, dtype), [gaussian((n, 3), dtype) for n in shape]
    for mode in range(len(shape)):
        others = factors[:mode] + factors[mode + 1 :]
        k = khatri_rao(others) if others else np.ones((1, 3))
        expected = unfolding(x, mode) @ np.conj(k)
        tolerance = 50 * np.finfo(dtype).eps * np.linalg.norm(x) * np.linalg.norm(k)
        np.testing.assert_allclose(mttkrp(x, factors, mode), expected, atol=tolerance)


@pytest.mark.parametrize("kind", [TwoPassTree, MultiSweepTree])
@pytest.mark.parametrize("shape", SHAPES)
def test_trees_follow_the_newest_factors_through_sweeps(kind, shape, dtype, xp, gaussian) -> None:
    """Every factor is replaced by random numbers in each update, so a stale partial result would show."""
    x, rank = gaussian(shape, dtype), 3
    sweeper = kind(xp.asarray(x), rank)
    current = [xp.asarray(gaussian((rank, n), dtype)) for n in shape]

    def update(mode, product):
        expected = mttkrp(x, [xp.to_numpy(v).T for v in current], mode).T
        np.testing.assert_allclose(xp.to_numpy(product), expected, atol=1e4 * np.finfo(dtype).eps)
        current[mode] = xp.asarray(gaussian((rank, shape[mode]), dtype))
        return current[mode]

    for _ in range(4):
        sweeper.sweep(current, update)


def test_a_multi_sweep_tree_notices_factors_replaced_between_sweeps(gaussian) -> None:
    x = gaussian((4, 5, 6))
    sweeper, factors = MultiSweepTree(x, 2), [gaussian((2, n)) for n in x.shape]
    sweeper.sweep(factors, lambda mode, product: product)
    factors = [gaussian((2, n)) for n in x.shape]
    seen = []
    sweeper.sweep(list(factors), lambda mode, product: (seen.append(product.copy()), product)[1])
    np.testing.assert_allclose(seen[0], mttkrp(x, [factors[0].T, factors[1].T, factors[2].T], 0).T)


def test_passes_over_x(monkeypatch, gaussian) -> None:
    """At most two a sweep; with the multi-sweep tree N for N − 1 sweeps."""
    import tensorring.contract.tree as module

    passes = []
    for name in ("contract_before", "contract_after"):
        one = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, one=one: (passes.append(1), one(*args))[1])
    for shape, expected in (((4, 5, 6), 6), ((3, 4, 2, 5), 8), ((2, 3, 2, 3, 2), 8), ((40, 41, 42, 43), 6)):
        passes.clear()
        sweeper, factors = tree(gaussian(shape), 2), [gaussian((2, n)) for n in shape]
        for _ in range(4):
            sweeper.sweep(factors, lambda mode, product: product / np.linalg.norm(product))
        assert len(passes) == expected


def test_large_partials_choose_two_passes() -> None:
    x = np.zeros((64, 64, 64))
    assert isinstance(tree(x, 4), MultiSweepTree)
    assert isinstance(tree(x, 40), TwoPassTree)
    x = np.zeros((30, 30, 30, 30))
    assert isinstance(tree(x, 2), MultiSweepTree)
    assert isinstance(tree(x, 6), TwoPassTree)


@pytest.mark.skipif(first_level._kernels() is None, reason="no AVX-512, so the twin runs")
@given(
    rank=st.integers(1, 23),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(64, 200)),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_kernels_give_what_matrix_products_give(rank, shape, dtype, seed) -> None:
    rng = np.random.default_rng(seed)
    x, v = rng.standard_normal(shape).astype(dtype), rng.standard_normal((rank, shape[1])).astype(dtype)
    k = rng.standard_normal((rank, shape[2])).astype(dtype)
    x.flags.writeable = False
    out = first_level.buffer(x, rank, max(shape[0] * shape[2], shape[0] * shape[1]))
    tolerance = 4 * np.finfo(dtype).eps * shape[2]
    flat = x.reshape(-1, shape[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_level, "_KERNELS_FROM", 0)
        assert first_level.uses_kernels(x)
        out[:] = np.nan
        got = first_level.contract_before(v, x, out)
        np.testing.assert_allclose(got, first_level.contract_before(v, x), atol=tolerance)
        out[:] = np.nan
        got = first_level.contract_after(k, flat, out)
        np.testing.assert_allclose(got, first_level.contract_after(k, flat), atol=tolerance)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_kernels_are_for_real_numbers(dtype) -> None:
    assert not first_level.uses_kernels(np.zeros(2**18, dtype=dtype))


def test_without_kernels_the_twins_run_and_say_so(monkeypatch, gaussian) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorring._kernels.first_level", None)
    monkeypatch.delattr("tensorring._kernels.first_level", raising=False)
    monkeypatch.setattr(first_level, "_kernels", first_level._kernels.__wrapped__)
    x, rows = gaussian((1, 40, 1000)), gaussian((3, 40))
    with pytest.warns(UserWarning, match="read by BLAS.*numba cannot be loaded"):
        got = first_level.contract_before(rows, x, first_level.buffer(x, 3, 1000))
    np.testing.assert_allclose(got, rows @ x[0], atol=1e-12)
