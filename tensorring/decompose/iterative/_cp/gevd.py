"""CP by generalised eigenvalues: exact in one go where the CP is exact and two modes hold its rank."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.linalg

from tensorring._array import Array, as_dtype, dtype_name, eps, to_device, to_host
from tensorring.contract.unfold import khatri_rao
from tensorring.linalg.solve import least_squares

Dense = np.ndarray[Any, Any]
Groups = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

_PENCILS = 6


def gevd(core: Array, rank: int, rng: np.random.Generator) -> list[Array]:
    """Factors (n_k, R) of x = Σ_r ⊗_k u_k[:, r], from the generalised eigenvectors of two mixtures of slices.

    x is seen as a cube A × B × C of groups of modes, compressed to R × R × C. Two mixtures of its slices along C are
    A·D·Bᵀ and A·D'·Bᵀ with diagonal D and D', so that their generalised eigenvectors v_r are columns of B⁻ᵀ, and
    contracting B with v_r leaves one term alone, a_r ⊗ c_r, which is split into its modes. Then b_r follows by least
    squares. Of several pencils the one of least error wins; pairs of complex eigenvectors of a real tensor give their
    real and imaginary parts.

    Exact (to rounding times the condition numbers of A and B) where the CP is exact, R is at most the sizes of two
    groups whose factors have full rank, and no two columns of C are collinear. Else a start. On the host, in double
    precision: meant for Tucker cores.

    Raises
    ------
    ValueError
        If no two groups of modes that leave a third one hold the rank.

    References
    ----------
    R. A. Harshman 1970, "Foundations of the PARAFAC procedure" (with a proof by R. Jennrich); S. E. Leurgans,
    R. T. Ross, R. B. Abel 1993, doi 10.1137/0614071; I. Domanov, L. De Lathauwer 2014, doi 10.1137/130916084.
    """
    name = dtype_name(core.dtype)
    x = to_host(as_dtype(core, "complex128" if name.startswith("complex") else "float64"))
    best, least = None, math.inf
    for factors in _candidates(x, rank, _groups(tuple(x.shape), rank), rng):
        fitted, error = _fitted(x, factors)
        if error < least:
            best, least = fitted, error
        if error <= 100 * eps(name) * np.linalg.norm(x):
            break
    if best is None:
        best = [_gaussian(rng, (n, rank), x) for n in x.shape]
    return [to_device(factor.astype(name), like=core) for factor in best]


def _groups(shape: tuple[int, ...], rank: int) -> Groups:
    """Modes for A, B and C: A and B as large as they can both be, and C not trivial where it need not be."""
    long = [mode for mode, n in enumerate(shape) if n > 1]
    best, score = None, (0, 0)
    for places in itertools.product(range(3), repeat=len(long)):
        groups = tuple(tuple(m for m, place in zip(long, places, strict=True) if place == g) for g in range(3))
        a, b, c = (math.prod(shape[m] for m in group) for group in groups)
        if len(long) < 3 or all(groups):
            best, score = max((best, score), (groups, (min(a, b), c)), key=lambda pair: pair[1])
    if best is None or score[0] < rank:
        raise ValueError(
            f'got init="gevd" at rank {rank} for a tensor (or core) of shape {shape}; it needs a rank of at most two '
            f'of the dimensions, here at most {score[0]}: take init="hosvd" or init="random"'
        )
    trivial = tuple(mode for mode, n in enumerate(shape) if n == 1)
    return (best[0], best[1], (*best[2], *trivial))


def _candidates(x: Dense, rank: int, groups: Groups, rng: np.random.Generator) -> Iterator[list[Dense]]:
    """Factors by one pencil after the other; the mode solved for afterwards is left to be so."""
    a, b, c = (math.prod(x.shape[m] for m in group) for group in groups)
    cube = np.transpose(x, [m for group in groups for m in group]).reshape(a, b, c)
    left, middle = _range(cube.reshape(a, -1), rank), _range(cube.transpose(1, 0, 2).reshape(b, -1), rank)
    kept = min(left.shape[1], middle.shape[1])
    left, middle = left[:, :kept], middle[:, :kept]
    small = np.einsum("abc,ai,bj->ijc", cube, left.conj(), middle.conj(), optimize=True)
    for vectors in _eigenvectors(small, rng):
        terms = np.einsum("ai,ijc,jr->rac", left, small, vectors, optimize=True)
        yield _factors(x, cube, terms, groups, rank, rng)


def _range(matrix: Dense, rank: int) -> Dense:
    """Orthonormal columns that span the range, at most `rank` of them."""
    u, values, _ = np.linalg.svd(matrix, full_matrices=False)
    count = int((values > max(matrix.shape) * eps("float64") * values[0]).sum())
    return u[:, : max(1, min(count, rank))]


def _eigenvectors(small: Dense, rng: np.random.Generator) -> Iterator[Dense]:
    """Unit columns that diagonalise all slices at once, if anything does: from one pencil of mixtures after the other.

    First the two leading singular mixtures, then random ones. A single slice is diagonal as it is, by the compression.
    """
    kept = small.shape[0]
    _, values, mixtures = np.linalg.svd(small.reshape(kept * kept, -1), full_matrices=False)
    count = int((values > kept**2 * eps("float64") * values[0]).sum())
    if count < 2:
        yield np.eye(kept, dtype=small.dtype)
        return
    basis = mixtures[:count].conj().T
    for k in range(_PENCILS):
        pair = basis[:, :2] if k == 0 else basis @ _gaussian(rng, (count, 2), small)
        slices = small @ pair
        try:
            _, vectors = scipy.linalg.eig(slices[:, :, 0], slices[:, :, 1], check_finite=False)
        except np.linalg.LinAlgError:
            continue
        if not np.iscomplexobj(small) and np.iscomplexobj(vectors):
            vectors = _real(vectors)
        norms = np.linalg.norm(vectors, axis=0)
        if np.isfinite(norms).all() and norms.min() > 0:
            yield vectors / norms


def _real(vectors: Dense) -> Dense:
    """Real and imaginary parts in place of conjugate pairs, which LAPACK puts side by side."""
    real, k = vectors.real.copy(), 0
    while k < real.shape[1]:
        if np.abs(vectors[:, k].imag).max() > 0 and k + 1 < real.shape[1]:
            real[:, k + 1] = vectors[:, k].imag
            k += 1
        k += 1
    return real


def _factors(x: Dense, cube: Dense, terms: Dense, groups: Groups, rank: int, rng: np.random.Generator) -> list[Dense]:
    """The factors of A and C from the terms split, those of B by least squares; random columns beyond what there is."""
    a, b, c = groups
    factors: dict[int, Dense] = {}
    _split(terms, (*a, *c), x.shape, factors)
    ones = np.ones((1, len(terms)), terms.dtype)
    others = khatri_rao([ones, *(factors[m] for m in (*a, *c))])
    _split(least_squares(others, cube.transpose(0, 2, 1).reshape(len(others), -1)), b, x.shape, factors)
    missing = rank - len(terms)
    if missing:
        factors = {m: np.hstack([u, _gaussian(rng, (len(u), missing), x)]) for m, u in factors.items()}
    return [factors[m] for m in range(x.ndim)]


def _split(terms: Dense, modes: Sequence[int], shape: Sequence[int], factors: dict[int, Dense]) -> None:
    """Each of the terms (R, …) as a product of vectors, one a mode: leading singular vectors, mode after mode."""
    rest = terms.reshape(len(terms), -1)
    for mode in modes[:-1]:
        u, values, vh = np.linalg.svd(rest.reshape(len(rest), shape[mode], -1), full_matrices=False)
        factors[mode] = u[:, :, 0].T
        rest = values[:, :1] * vh[:, 0, :]
    if modes:
        factors[modes[-1]] = rest.T


def _fitted(x: Dense, factors: list[Dense]) -> tuple[list[Dense], float]:
    """The factors with the one of the longest mode solved for, and ‖x − x̂‖."""
    mode = int(np.argmax(x.shape))
    others = [u / np.where((norms := np.linalg.norm(u, axis=0)) > 0, norms, 1.0) for u in factors]
    rest = others[:mode] + others[mode + 1 :]
    matrix = khatri_rao([np.ones((1, factors[0].shape[1]), x.dtype), *rest])
    right = np.moveaxis(x, mode, -1).reshape(-1, x.shape[mode])
    others[mode] = np.ascontiguousarray(least_squares(matrix, right).T)
    return others, float(np.linalg.norm(right - matrix @ others[mode].T))


def _gaussian(rng: np.random.Generator, shape: tuple[int, ...], like: Dense) -> Dense:
    values = rng.standard_normal(shape)
    return values + 1j * rng.standard_normal(shape) if np.iscomplexobj(like) else values
