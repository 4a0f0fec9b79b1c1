"""Refined rings, and the smallest of all formats: never more than the direct result, whatever is counted."""

import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_networks import kernels

import tensorring as tg
from tensorring import Stop
from tensorring.decompose.direct import tr_reduced_storage as module
from tensorring.testing import check_result, tensors, tolerances
from tensorring.testing.checks import check_backend


def bonds_only(shape, ranks):
    return sum(rank**2 for rank in ranks)


def of_a_layer(shape, ranks):
    """Multiply–adds, say, of a layer whose last mode is large in the activations."""
    return sum(n * n * ranks[k] * ranks[(k + 1) % len(shape)] for k, n in enumerate(shape))


FORMATS = importlib.import_module("tensorring.compress")._METHODS
COSTS = {
    "storage": lambda shape, ranks: sum(n * ranks[k] * ranks[(k + 1) % len(shape)] for k, n in enumerate(shape)),
    "bonds": bonds_only,
    "layer": of_a_layer,
    "largest": lambda shape, ranks: max(ranks),
}


def noisy(shape, ranks, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    x = tg.random.tr(shape, ranks=ranks, rng=seed).to_dense()
    white = rng.standard_normal(shape)
    return x + noise * np.linalg.norm(x) / np.linalg.norm(white) * white


@given(x=tensors(ndim=st.integers(1, 5)), tol=tolerances(), cost=st.sampled_from([None, *COSTS]))
def test_never_costs_more_and_keeps_the_tolerance(x, tol, cost) -> None:
    options = {"tol": tol} if cost is None else {"tol": tol, "cost": COSTS[cost]}
    counted = COSTS[cost or "storage"]
    direct, refined = (tg.tr_reduced_storage(x, refine=refine, **options) for refine in (False, True))
    check_result(x, refined, tol=tol)
    assert refined.converged
    assert counted(x.shape, refined.tensor.ranks) <= counted(x.shape, direct.tensor.ranks)
    assert refined.errors[-1:] in ((), (refined.error,))


@pytest.mark.parametrize(("noise", "tol"), [(0.11, 0.2), (1.0, 0.3), (1.0, 0.5)])
@pytest.mark.parametrize("cost", COSTS)
def test_costs_less_on_noise(noise, tol, cost) -> None:
    """By a margin, in the quantity that is counted: a refinement that did nothing would fail here."""
    x = noisy((8, 7, 6, 5), (2, 3, 2, 3), noise)
    direct, refined = (tg.tr_reduced_storage(x, tol=tol, cost=COSTS[cost], refine=r) for r in (False, True))
    before, after = (COSTS[cost](x.shape, result.tensor.ranks) for result in (direct, refined))
    # The largest rank is another only where all of the large ones are lowered, one after another: no step saves.
    assert after <= (before if cost == "largest" else 0.95 * before)
    check_result(x, refined, tol=tol)


def test_candidates_go_on_from_the_direct_ones() -> None:
    x = noisy((8, 7, 6, 5), (2, 3, 2, 3))
    direct, refined = (tg.tr_reduced_storage(x, tol=0.2, refine=refine) for refine in (False, True))
    assert {c.ranks for c in direct.candidates} <= {c.ranks for c in refined.candidates}
    mine = [candidate for candidate in refined.candidates if candidate.ranks == refined.tensor.ranks]
    assert mine
    assert mine[-1].error == pytest.approx(refined.error, rel=1e-6)


def test_refinement_repeats_itself_and_writes_to_nothing(gaussian) -> None:
    x = gaussian((7, 6, 5, 4))
    x.flags.writeable = False
    one, two = (tg.tr_reduced_storage(x, tol=0.4, refine=True) for _ in range(2))
    for a, b in zip(one.tensor.arrays, two.tensor.arrays, strict=True):
        np.testing.assert_array_equal(a, b)


def test_libraries_agree(xp, dtype) -> None:
    check_backend(tg.tr_reduced_storage, xp.asarray, (6, 5, 4), dtype, {"tol": 0.5, "refine": True}, spread=1e6)


def test_an_interrupt_keeps_the_best(monkeypatch) -> None:
    """In the middle of the sweeps: the ring accepted last, or the direct one, and it says so."""
    x = noisy((8, 7, 6, 5), (2, 3, 2, 3), 1.0)
    direct = tg.tr_reduced_storage(x, tol=0.3)
    whole = tg.tr_reduced_storage(x, tol=0.3, refine=True)
    assert whole.stop is not Stop.interrupted
    found = []
    for sweeps in (1, 20, 80):
        with monkeypatch.context() as patch:
            patch.setattr(module.RingSearch, "_swept", interrupted_after(sweeps))
            result = tg.tr_reduced_storage(x, tol=0.3, refine=True)
        assert result.stop is Stop.interrupted
        check_result(x, result, tol=0.3)
        found.append(result.tensor.parameter_count)
    assert found[0] == direct.tensor.parameter_count
    assert found == sorted(found, reverse=True)
    assert whole.tensor.parameter_count <= found[-1] < found[0]


def interrupted_after(count):
    """Sweeps of a search, of which so many are done and the next is broken off."""
    swept, done = module.RingSearch._swept, []

    def sweep(search, cores):
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(1)
        return swept(search, cores)

    return sweep


def test_kernels_of_a_network_store_a_tenth_less() -> None:
    direct, refined, tol = 0, 0, 0.5
    for kernel in kernels("resnet20"):
        one, two = (tg.tr_reduced_storage(kernel, tol=tol, refine=refine) for refine in (False, True))
        assert two.converged
        assert two.error <= tol + 1e-5
        direct += min(one.tensor.parameter_count, kernel.size)
        refined += min(two.tensor.parameter_count, kernel.size)
    assert refined <= 0.9 * direct


@given(x=tensors(ndim=st.integers(1, 4)), tol=tolerances())
def test_compress_stores_no_more_than_any_direct_method(x, tol) -> None:
    result = tg.compress(x, tol=tol)
    check_result(x, result, tol=tol)
    for direct in (tg.tt_svd, tg.tucker_hosvd, tg.tr_reduced_storage):
        assert result.tensor.parameter_count <= direct(x, tol=tol).tensor.parameter_count
    # A CP is listed only where it is the smallest.
    assert [candidate.format for candidate in result.candidates][:3] == ["tt", "tucker", "tr"]
    assert result.tensor.parameter_count == min(candidate.parameter_count for candidate in result.candidates)


def test_compress_refines_the_ring() -> None:
    x = noisy((8, 7, 6, 5), (2, 3, 2, 3), 0.11)
    result = tg.compress(x, tol=0.2)
    assert result.tensor.format == "tr"
    assert result.tensor.parameter_count == tg.tr_reduced_storage(x, tol=0.2, refine=True).tensor.parameter_count
    assert result.tensor.parameter_count <= 0.9 * tg.tr_reduced_storage(x, tol=0.2).tensor.parameter_count


@pytest.mark.parametrize("done", [0, 1, 2])
def test_compress_interrupted_between_formats_keeps_the_best(done, monkeypatch) -> None:
    x, names = noisy((6, 5, 4), (2, 3, 2)), list(FORMATS)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, names[done], stopped)
    if done == 0:
        with pytest.raises(KeyboardInterrupt):
            tg.compress(x, tol=0.3)
        return
    result = tg.compress(x, tol=0.3)
    assert result.stop is Stop.interrupted
    assert [candidate.format for candidate in result.candidates] == names[:done]
    check_result(x, result, tol=0.3)


def test_compress_interrupted_in_the_refinement_keeps_the_best(monkeypatch) -> None:
    x = noisy((8, 7, 6, 5), (2, 3, 2, 3), 1.0)
    monkeypatch.setattr(module.RingSearch, "_swept", interrupted_after(20))
    result = tg.compress(x, tol=0.3)
    assert result.stop is Stop.interrupted
    assert len(result.candidates) == 3
    check_result(x, result, tol=0.3)
    direct = tg.tr_reduced_storage(x, tol=0.3)
    assert result.tensor.parameter_count <= direct.tensor.parameter_count


def test_what_takes_too_long_is_left_as_it_is(monkeypatch, gaussian) -> None:
    x = gaussian((7, 6, 5, 4))
    direct = tg.tr_reduced_storage(x, tol=0.4)
    monkeypatch.setattr(module, "_FLOPS", 1.0)
    result = tg.tr_reduced_storage(x, tol=0.4, refine=True)
    assert (result.stop, result.errors) == (Stop.direct, ())
    assert result.tensor.ranks == direct.tensor.ranks
