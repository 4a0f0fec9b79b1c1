"""Projections, in place and not."""

import numpy as np
import pytest

from tensorring import _array
from tensorring.linalg import project as module
from tensorring.linalg.project import project, residual_norm

SHAPES = [(1, 5, 9), (9, 5, 1), (4, 5, 6), (1, 3, 1)]


@pytest.fixture(params=[10.0, 1e-6], ids=["one block", "blocks of one"])
def _blocks(request, monkeypatch) -> None:
    """The same with blocks so small that every loop runs many times."""
    monkeypatch.setattr(
        module, "block_length", lambda x, entries: _array.block_length(x, entries, megabytes=request.param)
    )


def _norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x.astype("complex128")))


def _basis(n: int, rank: int, dtype: str, gaussian) -> np.ndarray:
    return np.linalg.qr(gaussian((n, rank), dtype)).Q


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_projection_and_residual(xp, dtype, gaussian, shape, rank) -> None:
    x, p = gaussian(shape, dtype), _basis(shape[1], rank, dtype, gaussian)
    tolerance = 50 * _array.eps(dtype) * _norm(x)
    expected = np.einsum("nr,anb->arb", p.conj(), x)
    result = project(xp.asarray(x), xp.asarray(p))
    np.testing.assert_allclose(xp.to_numpy(result), expected, atol=tolerance)
    residual = _norm(x - np.einsum("nr,arb->anb", p, expected))
    assert residual_norm(xp.asarray(x), xp.asarray(p), result) == pytest.approx(residual, abs=tolerance)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("shape", SHAPES)
def test_in_place_gives_the_same_in_the_same_memory(dtype, gaussian, shape) -> None:
    x, p = gaussian(shape, dtype), _basis(shape[1], 2, dtype, gaussian)
    expected, own = project(x, p), x.copy()
    result = project(own, p, overwrite=True)
    np.testing.assert_allclose(result, expected, atol=50 * _array.eps(dtype) * _norm(x))
    assert np.shares_memory(result, own)


@pytest.mark.parametrize("overwrite", [False, True])
def test_readonly_and_small_shares_are_left_alone(gaussian, overwrite) -> None:
    x, p = gaussian((4, 20, 6)), _basis(20, 2, "float64", gaussian)
    before = x.copy()
    project(x, p, overwrite=overwrite)
    np.testing.assert_array_equal(x, before)
    fixed = gaussian((4, 3, 6))
    fixed.flags.writeable = False
    project(fixed, _basis(3, 2, "float64", gaussian), overwrite=overwrite)


def test_a_residual_of_equal_entries_does_not_round_to_one_side(dtype) -> None:
    value = np.asarray(0.7182818, dtype)
    x, p, c = np.full((1, 1, 10**6), value), np.zeros((1, 1), dtype), np.zeros((1, 1, 10**6), dtype)
    exact = float(abs(value.astype("complex128"))) * 1000
    assert residual_norm(x, p, c) == pytest.approx(exact, rel=5 * _array.eps(dtype))


def test_a_tiny_residual_keeps_its_digits(gaussian) -> None:
    p = np.linalg.qr(gaussian((6, 6))).Q
    x = (p[:, :2] @ gaussian((2, 30)) + 1e-10 * p[:, 2:3] @ np.ones((1, 30))).reshape(1, 6, 30)
    residual = residual_norm(x, p[:, :2], project(x, p[:, :2]))
    assert residual == pytest.approx(1e-10 * np.sqrt(30), rel=1e-4)
