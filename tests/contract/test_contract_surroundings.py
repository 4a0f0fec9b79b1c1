"""Norms of all arrays but one, against chains that are formed."""

import numpy as np
import pytest
from hypothesis import given

import tensorring as tg
from tensorring.contract import surroundings
from tensorring.contract.chain import chain_product
from tensorring.contract.surroundings import ring_norm, ring_norms, tucker_norms
from tensorring.testing import tr_tensors, tucker_tensors


def formed(cores) -> np.ndarray:
    return chain_product([core.astype("complex128") for core in cores])


@given(tr_tensors(max_size=4))
def test_subchains_and_open_chains_of_rings(t) -> None:
    found = ring_norms(t.cores)
    bound = np.prod([np.linalg.norm(core.astype("complex128")) for core in t.cores]) ** 2
    for n, core in enumerate(t.cores):
        others = (*t.cores[n + 1 :], *t.cores[:n])
        bond = core.shape[0]
        expected = np.linalg.norm(formed(others)) ** 2 if others else float(bond)
        # Right to eps times the norms of the cores that it is made of.
        allowed = 1e-13 * max(bound / np.linalg.norm(core.astype("complex128")) ** 2, 1.0)
        assert found.subchains[n].values() == pytest.approx(expected, abs=allowed)
        opened = (*t.cores[n:], *t.cores[:n])
        assert found.chains[n].values() == pytest.approx(np.linalg.norm(formed(opened)) ** 2, abs=1e-13 * bound)


@given(tr_tensors(max_size=4))
def test_the_norm_of_a_ring(t) -> None:
    dense = t.astype("complex128").to_dense()
    bound = np.prod([np.linalg.norm(core.astype("complex128")) for core in t.cores])
    assert float(ring_norm(t.cores)) == pytest.approx(np.linalg.norm(dense), abs=1e-13 * bound)


def test_the_norm_of_a_ring_keeps_the_digits_that_cancel(monkeypatch) -> None:
    """Two chains, equal but for 1e-12, summed over with opposite signs by the closing bond."""
    t = tg.random.tr((4, 5, 6), ranks=(1, 3, 3), rng=0)
    first, middle, last = t.cores
    cores = [np.concatenate([first, first]), middle, np.concatenate([last, -(1 + 1e-12) * last], axis=2)]
    size = float(ring_norm(t.cores))
    assert float(ring_norm(cores)) == pytest.approx(1e-12 * size, rel=1e-2)
    # Transfer matrices resolve less, and never say that there is nothing.
    monkeypatch.setattr(surroundings, "_MOST_ENTRIES", 0)
    assert 1e-9 * size < float(ring_norm(cores)) < 1e-6 * size
    assert float(ring_norm(t.cores)) == pytest.approx(size, rel=1e-13)


@given(tucker_tensors(max_size=4))
def test_norms_around_a_tucker_core(t) -> None:
    found, wide = tucker_norms(t.core, t.factors), t.astype("complex128")
    bound = np.prod([np.linalg.norm(array) for array in wide.arrays])
    assert float(found.whole) == pytest.approx(np.linalg.norm(wide.to_dense()) ** 2, abs=1e-13 * bound**2)
    for n, factor in enumerate(wide.factors):
        np.testing.assert_allclose(found.columns[n].values(), np.linalg.norm(factor, axis=0) ** 2, rtol=1e-13)
        factors = [np.eye(r) if m == n else u for m, (u, r) in enumerate(zip(wide.factors, t.ranks, strict=True))]
        others = np.moveaxis(tg.TuckerTensor(wide.core, factors).to_dense(), n, 0).reshape(t.ranks[n], -1)
        np.testing.assert_allclose(
            found.slices[n].values(), np.linalg.norm(others, axis=1) ** 2, rtol=1e-12, atol=1e-13 * bound**2
        )
