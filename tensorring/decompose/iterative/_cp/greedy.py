"""CP by rank-one terms, one after another: the tensor power method on what is left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorring._array import Array, as_dtype, conj, copy, dtype_name, is_complex, namespace, to_device, to_host
from tensorring.contract.unfold import khatri_rao
from tensorring.decompose.iterative._cp.lm_residual import contracted

# Power steps from several starts at once, then from the best of them until it stands still.
_STARTS, _FIRST_STEPS, _STEPS = 5, 10, 50
_STANDS_STILL = 1e-10


def greedy(x: Array, rank: int, rng: np.random.Generator) -> list[Array]:
    """Factors (n_k, R): each term the best rank-one approximation found of what the terms before it left.

    CP-TPM without its final fine-tuning. A baseline, and a start: for matrices it is the SVD, but for tensors of order
    three and more subtracting the best rank-one term can raise the rank. From a generic 2 × 2 × 2 tensor of rank 2 it
    leaves one of rank 3, whose hyperdeterminant is 0, so that no number of terms need ever be enough (Stegeman & Comon
    2010).

    Memory: one copy of x, from which the terms are taken. Cost of a term: about 60 passes over it, ten of them with
    five columns.

    References
    ----------
    M. Astrid, S.-I. Lee 2017, "CP-decomposition with tensor power method for convolutional neural networks
    compression", arXiv 1701.07148; A. Stegeman, P. Comon 2010, "Subtracting a best rank-1 approximation may increase
    tensor rank", doi 10.1016/j.laa.2010.06.027.
    """
    xp, shape = namespace(x), tuple(x.shape)
    half = max(1, len(shape) // 2)
    matrix = xp.reshape(copy(x), (int(np.prod(shape[:half])), -1))
    terms: list[list[Array]] = []
    for _ in range(rank):
        vectors = [_gaussian(rng, n, like=x) for n in shape]
        for _ in range(_FIRST_STEPS):
            vectors, sizes = _power_step(matrix, vectors, half)
        best = int(np.argmax(to_host(sizes)))
        vectors, size = [v[:, best : best + 1] for v in vectors], 0.0
        for _ in range(_STEPS):
            before = size
            vectors, sizes = _power_step(matrix, vectors, half)
            size = float(sizes[0])
            if size - before <= _STANDS_STILL * size:
                break
        vectors[-1] = vectors[-1] * as_dtype(sizes, dtype_name(x.dtype))
        matrix -= khatri_rao(vectors[:half]) @ _right(vectors, half).T
        terms.append(vectors)
    return [xp.concat([term[mode] for term in terms], axis=1) for mode in range(len(shape))]


def _power_step(matrix: Array, vectors: Sequence[Array], half: int) -> tuple[list[Array], Array]:
    """Each vector of each of s starts, (n_k, s), replaced by x contracted with the others; the sizes of the terms.

    Two passes over x: the modes of either half follow from x contracted with the other half.
    """
    left, first = _swept(matrix @ conj(_right(vectors, half)), vectors[:half])
    if half == len(vectors):
        return left, first
    right, sizes = _swept(matrix.T @ conj(khatri_rao(left)), vectors[half:])
    return [*left, *right], sizes


def _swept(partial: Array, vectors: Sequence[Array]) -> tuple[list[Array], Array]:
    """Unit vectors of these modes, one after another, and the sizes at the last."""
    xp, updated = namespace(partial), list(vectors)
    for mode in range(len(updated)):
        vector = contracted(partial, updated)[mode]
        sizes = xp.linalg.vector_norm(vector, axis=0)
        # A vector of zeros stays: nothing is left in its direction.
        updated[mode] = xp.where(
            sizes > 0, vector / as_dtype(xp.where(sizes > 0, sizes, 1.0), dtype_name(vector.dtype)), updated[mode]
        )
    return updated, sizes


def _right(vectors: Sequence[Array], half: int) -> Array:
    if half < len(vectors):
        return khatri_rao(vectors[half:])
    return namespace(*vectors).ones_like(vectors[0][:1, :])


def _gaussian(rng: np.random.Generator, n: int, *, like: Array) -> Array:
    values = rng.standard_normal((n, _STARTS))
    if is_complex(like):
        values = values + 1j * rng.standard_normal((n, _STARTS))
    values = values / np.linalg.norm(values, axis=0)
    return to_device(values.astype(dtype_name(like.dtype)), like=like)
