"""Tensors and starts of the comparisons, as arrays, the same for every library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np

import tensorring as tg

Arrays = list[np.ndarray]


def cp_dense(factors: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of the rank-one terms."""
    first, *others = factors
    rest = reduce(lambda a, b: (a[:, None] * b).reshape(-1, a.shape[1]), others)
    return (first @ rest.T).reshape([factor.shape[0] for factor in factors])


def with_noise(x: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Relative white noise added."""
    white = rng.standard_normal(x.shape)
    white *= noise * np.linalg.norm(x) / np.linalg.norm(white)
    white += x
    return white


def gaussian_factors(shape: Sequence[int], rank: int, rng: np.random.Generator) -> Arrays:
    """Gaussian factors."""
    return [rng.standard_normal((n, rank)) for n in shape]


def cp_start(shape: Sequence[int], rank: int, seed: int = 1) -> Arrays:
    """Unit weights and Gaussian factors."""
    return [np.ones(rank), *gaussian_factors(shape, rank, np.random.default_rng(seed))]


def cp_problem(shape: Sequence[int], rank: int, dtype: str = "float64") -> tuple[np.ndarray, Arrays]:
    """A random CP tensor with 10 % noise, and a random start of its rank."""
    rng = np.random.default_rng(0)
    x = with_noise(cp_dense(gaussian_factors(shape, rank, rng)), 0.1, rng)
    return x.astype(dtype), [array.astype(dtype) for array in cp_start(shape, rank)]


def tr_problem(n: int, rank: int, seed: int = 1) -> tuple[np.ndarray, Arrays]:
    """A random ring n³ with 10 % noise; the start that tensorly draws from the seed (it takes no other)."""
    x = tg.random.tr((n, n, n), ranks=rank, rng=0).to_dense()
    draws = np.random.RandomState(seed)
    return with_noise(x, 0.1, np.random.default_rng(1)), [draws.random_sample((rank, n, rank)) for _ in range(3)]


def tucker_start(shape: Sequence[int], rank: int, seed: int = 1) -> Arrays:
    """A core of zeros but for ones on its diagonal, and random orthonormal factors."""
    rng = np.random.default_rng(seed)
    core = np.zeros([rank] * len(shape))
    core[tuple([np.arange(rank)] * len(shape))] = 1
    return [core, *(np.linalg.qr(rng.standard_normal((n, rank))).Q for n in shape)]


def collinear(shape: Sequence[int], rank: int, cosine: float, rng: np.random.Generator, count: int) -> Arrays:
    """Unit columns of which the first `count` stand at one cosine to each other in every mode, the others anywhere."""
    gram = np.full((count, count), cosine) + (1 - cosine) * np.eye(count)
    together = np.linalg.cholesky(gram).T
    factors = []
    for n in shape:
        frame = np.linalg.qr(rng.standard_normal((n, count))).Q
        alone = rng.standard_normal((n, rank - count))
        factors.append(np.hstack([frame @ together, alone / np.linalg.norm(alone, axis=0)]))
    return factors


def swamps() -> dict[str, tuple[np.ndarray, int, float]]:
    """Tensors on which alternating least squares crawls: (tensor, rank, error to be reached)."""
    rng = np.random.default_rng(5)
    eps = 0.05
    nearly_border = np.stack([np.eye(2), np.array([[0.0, 1.0], [eps, 0.0]])], axis=2)
    for _ in range(3):  # each mode in a random frame of 10 dimensions, and round to the next
        frame = np.linalg.qr(rng.standard_normal((10, 2))).Q
        nearly_border = np.moveaxis(np.tensordot(frame, nearly_border, axes=1), 0, -1)
    return {
        "swamp (Mitchell & Burdick's kind): 20³, R 3, columns at cosine 0.95": (
            cp_dense(collinear((20, 20, 20), 3, 0.95, rng, 3)),
            3,
            1e-4,
        ),
        "two-factor degeneracy (Paatero's kind): 10³, R 2, terms nearly opposed": (nearly_border, 2, 1e-3),
        "collinear: 4³, R 5, four columns at cosine 0.99": (
            cp_dense(collinear((4, 4, 4), 5, 0.99, rng, 4)),
            5,
            1e-3,
        ),
    }


def kept(folder: Path, name: str, x: np.ndarray, start: Arrays | None = None) -> tuple[Path, Path | None]:
    """The paths of a tensor and of its start, written as files."""
    tensor, init = folder / f"{name}.npy", folder / f"{name}_start.npz"
    np.save(tensor, x)
    if start is not None:
        np.savez(init, *start)
    return tensor, None if start is None else init
