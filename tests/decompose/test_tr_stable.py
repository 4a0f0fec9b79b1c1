"""Stable rings: nothing cancels where plain sweeps let it grow, errors as good, and valleys that are escaped."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_networks import kernels
from test_tr_als import noisy

import tensorring as tg
from tensorring import Stop
from tensorring.contract.chain import chain_product
from tensorring.decompose.iterative._chain import stable_sweeps as module
from tensorring.decompose.iterative._chain.bond_gauge import regauged
from tensorring.decompose.iterative._chain.stable_sweeps import LARGEST
from tensorring.linalg import error_floor
from tensorring.testing import check_result, tensors, tolerances
from tensorring.testing.checks import check_backend


def amplification(x, ring):
    """By dense chains, in the best gauge: how much the noise of one core, a share of it, is felt in the tensor."""
    cores = ring.cores
    for _ in range(3):
        cores = regauged(cores, "sensitivity")
    squares = []
    for n, core in enumerate(cores):
        opened = chain_product([*cores[n + 1 :], *cores[:n]])
        bonds = core.shape[0] * core.shape[2]
        squares.append((np.linalg.norm(core) * np.linalg.norm(opened) / np.linalg.norm(x)) ** 2 / bonds)
    return float(np.sqrt(np.mean(squares)))


def border(dtype="float64"):
    """A tensor that no ring of ranks 2 reaches, and some come as near to as one likes (Landsberg, Qi & Ye 2012).

    Of trace(A(i)·B(j)·C(k)), all A, B and C being 2 × 2, the part with one diagonal and two off-diagonal matrices: ε
    times the diagonal ones, over ε, leaves ε² of the part with three, and the norms of the cores grow like ε^(−1/3).
    """
    units = np.zeros((4, 2, 2))
    units[[0, 1, 2, 3], [0, 1, 0, 1], [0, 1, 1, 0]] = 1
    x = np.einsum("iab,jbc,kca->ijk", units, units, units)
    x[:2, :2, :2] = 0
    rng = np.random.default_rng(0)
    for mode in range(3):
        white = rng.standard_normal((4, 4)) + (1j * rng.standard_normal((4, 4)) if "complex" in dtype else 0)
        x = np.moveaxis(np.tensordot(np.linalg.qr(white).Q, x, axes=(1, mode)), 0, mode)
    return x.astype(dtype)


def plain(x, sweeps, seed=1):
    return tg.tr_als(x, ranks=2, init="random", rng=seed, stall=0, max_sweeps=sweeps)


def test_the_border_tensor_is_the_limit_of_rings() -> None:
    units = np.zeros((4, 2, 2))
    units[[0, 1, 2, 3], [0, 1, 0, 1], [0, 1, 1, 0]] = 1
    x = np.einsum("iab,jbc,kca->ijk", units, units, units)
    x[:2, :2, :2] = 0
    for epsilon in (0.1, 0.01):
        core = np.moveaxis(units * np.array([epsilon, epsilon, 1, 1])[:, None, None], 0, 1)
        ring = tg.TRTensor((core / epsilon, core, core)).to_dense()
        assert np.linalg.norm(ring - x) == pytest.approx(np.sqrt(2) * epsilon**2, rel=1e-10)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_cores_grow_without_end_at_the_border_under_plain_sweeps(dtype) -> None:
    """Like the fourth root of their number, while the error falls like its square root."""
    x = border(dtype)
    few, many = (plain(x, sweeps) for sweeps in (300, 1200))
    assert amplification(x, many.tensor) >= 1.35 * amplification(x, few.tensor)
    assert 0.45 <= many.error / few.error <= 0.55


def test_a_gaussian_tensor_on_which_plain_sweeps_blow_up() -> None:
    """Amplification doubles from 500 to 2,000 sweeps, for a tenth of a percent of the error: there is no best ring."""
    x = np.random.default_rng(2).standard_normal((4, 4, 4))
    few, many = plain(x, 500), plain(x, 2000)
    assert 0.998 * few.error <= many.error <= few.error
    assert amplification(x, many.tensor) >= 1.8 * amplification(x, few.tensor) >= 1.8 * 7
    result = tg.tr_stable(x, ranks=2, init="random", rng=1, max_sweeps=2000)
    assert (result.stop, result.converged) == (Stop.border_rank, False)
    assert "rank + 1" in result.stop.help
    assert result.error <= 1.02 * many.error
    assert amplification(x, result.tensor) <= 0.6 * LARGEST
    again = tg.tr_stable(x, ranks=2, init="random", rng=1, max_sweeps=8000)
    assert amplification(x, again.tensor) == pytest.approx(amplification(x, result.tensor))


@pytest.mark.parametrize(("shape", "ranks"), [((7, 8, 9), (2, 3, 2)), ((20, 18, 19), (3, 2, 4))])
def test_rings_that_plain_sweeps_miss_half_the_time_are_found(shape, ranks) -> None:
    """Single random starts: the other half ends where cores cancel, and is led out of there."""
    x = tg.random.tr(shape, ranks=ranks, rng=3).to_dense()
    options = [{"ranks": ranks, "init": "random", "rng": seed, "max_sweeps": 300} for seed in range(8)]
    missed = [tg.tr_als(x, **some).error > 1e-6 for some in options]
    found = [tg.tr_stable(x, **some) for some in options]
    assert sum(missed) >= 3
    assert sum(result.error < 1e-6 for result in found) >= 7
    assert all(amplification(x, result.tensor) < 1.2 for result in found if result.error < 1e-6)


def test_kernels_of_a_network_are_stable_at_the_error_of_plain_sweeps() -> None:
    for kernel in list(kernels("resnet20"))[1:6:2]:
        x = kernel.reshape(*kernel.shape[:2], -1).astype("float64")
        one, two = (method(x, ranks=4, max_sweeps=100) for method in (tg.tr_als, tg.tr_stable))
        assert two.error <= 1.015 * one.error
        assert amplification(x, two.tensor) <= 2
        assert amplification(x, one.tensor) >= 1.5 * amplification(x, two.tensor)


@pytest.mark.parametrize("tol", [0.02, 0.2])
def test_the_correction_uses_the_tolerance(tol, dtype) -> None:
    x = noisy((7, 8, 9), (2, 3, 2), dtype, noise=0.01)
    result = tg.tr_stable(x, ranks=(2, 3, 2), tol=tol, n_starts=3, rng=0)
    assert (result.stop, result.converged) == (Stop.tol, True)
    assert 0.98 * tol <= result.error <= tol + error_floor(dtype, 3)
    check_result(x, result, tol=tol)
    free = tg.tr_als(x, ranks=(2, 3, 2), tol=tol, n_starts=3, rng=0)
    assert tg.sensitivity(result.tensor) < tg.sensitivity(tg.balance(free.tensor))


@given(x=tensors(ndim=st.integers(1, 4)), tol=tolerances())
def test_a_tolerance_alone_stores_what_tr_als_stores(x, tol) -> None:
    plain, stable = (method(x, tol=tol, max_sweeps=10) for method in (tg.tr_als, tg.tr_stable))
    assert stable.tensor.ranks == plain.tensor.ranks
    check_result(x, stable, tol=tol)
    assert stable.converged
    assert stable.errors[-1:] in ((), (stable.error,))


@given(x=tensors(ndim=st.integers(1, 4)), cap=st.integers(1, 4), init=st.sampled_from(["svd", "random"]))
def test_the_error_reported_is_the_error_made(x, cap, init) -> None:
    result = tg.tr_stable(x, ranks=cap, init=init, max_sweeps=8, rng=0)
    check_result(x, result, caps=cap)
    assert result.errors[-1:] in ((), (result.error,))


def test_a_degenerate_start_is_left_at_once() -> None:
    x = np.random.default_rng(2).standard_normal((4, 4, 4))
    start = plain(x, 2000).tensor
    assert amplification(x, start) > 3 * LARGEST
    result = tg.tr_stable(x, ranks=2, init=start, max_sweeps=300)
    assert amplification(x, result.tensor) <= LARGEST
    assert result.error <= 1.02 * tg.relative_error(x, start)


@pytest.mark.parametrize("options", [{"ranks": (3, 2, 2)}, {"tol": 0.3}])
def test_libraries_agree(options, xp, dtype) -> None:
    check_backend(tg.tr_stable, xp.asarray, (6, 7, 8), dtype, {**options, "max_sweeps": 10, "rng": 0}, spread=1e8)


@pytest.mark.parametrize("options", [{"ranks": 2}, {"ranks": 2, "n_starts": 3, "rng": 0}, {"tol": 0.3}])
def test_a_callback_or_an_interrupt_ends_the_run_with_the_best(options) -> None:
    x = noisy((6, 7, 8), (3, 2, 3))

    def interrupt(sweep: int, error: float) -> None:
        if sweep == 3:
            raise KeyboardInterrupt

    for callback, stop in ((lambda sweep, error: sweep == 3, Stop.budget), (interrupt, Stop.interrupted)):
        result = tg.tr_stable(x, **options, stall=0, callback=callback)
        assert result.stop is stop
        check_result(x, result)


def test_an_interrupt_in_the_last_correction_keeps_what_it_has(monkeypatch) -> None:
    x, corrected = noisy((6, 7, 8), (2, 2, 2)), module.corrected_ring

    def broken_off(*arguments):
        yield next(corrected(*arguments))
        raise KeyboardInterrupt

    for options in ({"ranks": 2, "max_sweeps": 20}, {"tol": 0.3}):
        whole = tg.tr_stable(x, **options)
        with monkeypatch.context() as patch:
            patch.setattr(module, "corrected_ring", broken_off)
            result = tg.tr_stable(x, **options)
        assert result.stop is Stop.interrupted
        assert result.error <= whole.error
        check_result(x, result)


def test_the_same_seed_gives_the_same_result_and_starts_are_not_written_to() -> None:
    x, start = noisy((6, 7, 8), (3, 2, 3)), tg.random.tt((6, 7, 8), ranks=2, rng=0)
    for array in start.arrays:
        array.flags.writeable = False
    for options in ({"ranks": 2, "init": "random", "n_starts": 3, "rng": 1}, {"ranks": 2, "init": start}):
        one, two = (tg.tr_stable(x, max_sweeps=30, **options) for _ in range(2))
        for a, b in zip(one.tensor.arrays, two.tensor.arrays, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "error", "part"),
    [
        ({}, ValueError, "neither tol nor ranks"),
        ({"ranks": 2, "init": "hosvd"}, ValueError, "'svd', 'random', or a TRTensor"),
        ({"ranks": 2, "n_starts": 0}, ValueError, "n_starts=0"),
        ({"ranks": 2, "max_sweeps": 0}, ValueError, "max_sweeps=0"),
        ({"ranks": 2, "stall": 1}, ValueError, "stall=1"),
    ],
)
def test_arguments_out_of_range(options, error, part) -> None:
    with pytest.raises(error) as info:
        tg.tr_stable(np.ones((3, 4, 5)), **options)
    assert part in str(info.value)
