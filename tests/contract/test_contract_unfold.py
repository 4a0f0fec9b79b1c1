"""Mode products and Khatri–Rao products."""

import numpy as np
import pytest

from tensorring import _array
from tensorring.contract.unfold import khatri_rao, mode_product


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 4, 1), (6,), (3, 7)])
@pytest.mark.parametrize("rows", [1, 4])
def test_mode_products_along_every_mode(xp, dtype, gaussian, shape, rows) -> None:
    x = gaussian(shape, dtype)
    for mode, size in enumerate(shape):
        matrix = gaussian((rows, size), dtype)
        expected = np.moveaxis(np.tensordot(matrix, x, axes=(1, mode)), 0, mode)
        result = xp.to_numpy(mode_product(xp.asarray(x), xp.asarray(matrix), mode))
        tolerance = float(50 * _array.eps(dtype) * np.linalg.norm(x) * np.linalg.norm(matrix))
        np.testing.assert_allclose(result, expected, atol=tolerance)
        assert result.dtype == dtype


@pytest.mark.parametrize("sizes", [(3,), (2, 5), (4, 1, 3)])
def test_khatri_rao_is_the_columnwise_kronecker_product(xp, dtype, gaussian, sizes) -> None:
    factors = [gaussian((n, 3), dtype) for n in sizes]
    result = xp.to_numpy(khatri_rao([xp.asarray(factor) for factor in factors]))
    for r in range(3):
        column = factors[0][:, r]
        for factor in factors[1:]:
            column = np.kron(column, factor[:, r])
        np.testing.assert_allclose(result[:, r], column, rtol=20 * _array.eps(dtype))
