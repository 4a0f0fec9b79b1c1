"""Dense arrays by name: kinds of entries, and memory layouts. Each maker takes (shape, is_complex, generator)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from tensorring import random

Dense: TypeAlias = np.ndarray[Any, Any]

# Complex data always have noise: on exactly low-rank data a missing conjugate hides.
_NOISE, _COMPLEX_NOISE = (0.0, 1e-9, 1e-3, 0.3), (1e-3, 0.3)


def gaussian(shape: Sequence[int], is_complex: bool, generator: np.random.Generator) -> Dense:
    """Independent entries: every unfolding has full rank."""
    x = generator.standard_normal(tuple(shape))
    return x + 1j * generator.standard_normal(tuple(shape)) if is_complex else x


def low_rank(shape: Sequence[int], is_complex: bool, generator: np.random.Generator) -> Dense:
    """A ring of bonds up to 3, with relative noise from none to 0.3."""
    bonds = [int(rank) for rank in generator.integers(1, 4, size=len(shape))]
    noise = generator.choice(_COMPLEX_NOISE if is_complex else _NOISE)
    t = random.tr(shape, ranks=bonds, dtype="complex128" if is_complex else "float64", rng=generator)
    return np.asarray(t.to_dense() + noise * gaussian(shape, is_complex, generator))


def decaying(shape: Sequence[int], is_complex: bool, generator: np.random.Generator) -> Dense:
    """Entries that decay as i^-power along each mode, in rotated bases: all multilinear spectra decay."""
    x, power = gaussian(shape, is_complex, generator), generator.choice([0.5, 1.0, 3.0, 10.0])
    for mode, size in enumerate(shape):
        basis = np.linalg.qr(gaussian((size, size), is_complex, generator)).Q * np.arange(1.0, size + 1) ** -power
        x = np.moveaxis(np.tensordot(basis, x, axes=(1, mode)), 0, mode)
    return np.ascontiguousarray(x)


def equal(shape: Sequence[int], is_complex: bool, generator: np.random.Generator) -> Dense:
    """The middle unfolding has orthonormal rows or columns: its singular values are all 1."""
    matrix = gaussian((math.prod(shape[: len(shape) // 2]), math.prod(shape[len(shape) // 2 :])), is_complex, generator)
    tall = matrix.shape[0] >= matrix.shape[1]
    q = np.linalg.qr(matrix if tall else matrix.T).Q
    return np.ascontiguousarray(q if tall else q.T).reshape(tuple(shape))


def sparse(shape: Sequence[int], is_complex: bool, generator: np.random.Generator) -> Dense:
    """One entry in five is not zero; now and then none is."""
    return np.where(generator.random(tuple(shape)) < 0.2, gaussian(shape, is_complex, generator), 0.0)


def constant(shape: Sequence[int], is_complex: bool, generator: np.random.Generator) -> Dense:
    """One value everywhere: all ranks are 1."""
    return np.full(tuple(shape), gaussian((1,), is_complex, generator)[0])


def zeros(shape: Sequence[int], is_complex: bool, generator: np.random.Generator) -> Dense:
    """Nothing."""
    return np.zeros(tuple(shape), dtype="complex128" if is_complex else "float64")


def _strided(x: Dense) -> Dense:
    padded = np.full(tuple(2 * size for size in x.shape), 7, dtype=x.dtype)
    every_other = (slice(None, None, 2),) * x.ndim
    padded[every_other] = x
    return padded[every_other]


def _readonly(x: Dense) -> Dense:
    x = x.copy()
    x.flags.writeable = False
    return x


VALUES: dict[str, Callable[[Sequence[int], bool, np.random.Generator], Dense]] = {
    "gaussian": gaussian,
    "low_rank": low_rank,
    "decaying": decaying,
    "equal": equal,
    "sparse": sparse,
    "constant": constant,
    "zeros": zeros,
}
LAYOUTS: dict[str, Callable[[Dense], Dense]] = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "strided": _strided,
    "reversed": lambda x: np.flip(np.flip(x).copy()),
    "readonly": _readonly,
}
