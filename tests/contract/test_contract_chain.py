"""Chains and rings of cores against the plain sum over all bonds."""

import numpy as np
import pytest

from tensorring import _array
from tensorring.contract.chain import chain_product, ring_to_dense

BONDS = [(2, 3, 4, 2), (1, 3, 2, 1), (3, 1, 1, 3), (1, 1, 1, 1), (4, 2, 1, 4)]


def _cores(sizes, bonds, dtype, gaussian) -> list[np.ndarray]:
    return [gaussian((bonds[k], n, bonds[k + 1]), dtype) for k, n in enumerate(sizes)]


@pytest.mark.parametrize("bonds", BONDS)
@pytest.mark.parametrize("sizes", [(2, 3, 5), (7, 1, 1), (1, 1, 6)])
def test_three_cores(xp, dtype, gaussian, bonds, sizes) -> None:
    cores = _cores(sizes, bonds, dtype, gaussian)
    arrays = [xp.asarray(core) for core in cores]
    expected = np.einsum("aib,bjc,ckd->aijkd", *cores)
    tolerance = 50 * _array.eps(dtype) * np.prod([np.linalg.norm(core) for core in cores])
    chain = xp.to_numpy(chain_product(arrays))
    np.testing.assert_allclose(chain, expected.reshape(bonds[0], -1, bonds[-1]), atol=tolerance)
    ring = xp.to_numpy(ring_to_dense(arrays))
    np.testing.assert_allclose(ring, np.einsum("aijka->ijk", expected), atol=tolerance)
    assert ring.dtype == dtype


def test_one_core(xp, dtype, gaussian) -> None:
    core = gaussian((3, 5, 3), dtype)
    tolerance = 50 * _array.eps(dtype) * np.linalg.norm(core)
    np.testing.assert_allclose(
        xp.to_numpy(ring_to_dense([xp.asarray(core)])), np.einsum("aia->i", core), atol=tolerance
    )
    np.testing.assert_array_equal(xp.to_numpy(chain_product([xp.asarray(core)])), core)


@pytest.mark.parametrize("order", [2, 4, 5, 6])
def test_rings_of_other_orders(gaussian, order) -> None:
    letters = "abcdef"
    cores = _cores([2, 3, 2, 1, 3, 2][:order], [*[2, 3, 1, 2, 3, 2][:order], 2], "float64", gaussian)
    terms = [f"{letters[k]}{'ijklmn'[k]}{letters[(k + 1) % order]}" for k in range(order)]
    expected = np.einsum(",".join(terms) + "->" + "ijklmn"[:order], *cores)
    np.testing.assert_allclose(ring_to_dense(cores), expected, atol=1e-13 * np.prod([np.linalg.norm(c) for c in cores]))
