"""The gauge of a ring in which it is least sensitive, or its cores are smallest: bond after bond, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorring._array import Array, adjoint, as_dtype, conj, dtype_name, is_complex, namespace, svd, to_host
from tensorring.contract.chain_tree import Transfers, gram_of, transfer

Cores = tuple[Array, ...]

# Directions of a bond that carry less than this share of the strongest count as if they carried so much: what cancels
# by their inverse would cost more digits than they are worth.
_WEAKEST = 1e-10


def regauged(cores: Sequence[Array], measure: str) -> Cores:
    """The same ring, G_{k−1}·M and M⁻¹·G_k at every bond k, with a `measure` that is no larger.

    The measure is tr(M⁻¹·A·M⁻ᴴ) + tr(Mᵀ·B·conj(M)) and what does not depend on M: for "sensitivity", A and B are the
    Gram matrices of the ring opened at core k − 1 and at core k, times the sizes of these modes; for "norm", those of
    core k and core k − 1. It is least where M·Mᴴ is the geometric mean of A and conj(B)⁻¹, and then A = conj(B) = Σ,
    as in the balanced truncation of linear systems. The scales of the cores come first. In double precision. Cost:
    O(d²·r⁴).
    """
    given, wide = dtype_name(cores[0].dtype), "complex128" if is_complex(cores[0]) else "float64"
    done = _evened([as_dtype(core, wide) for core in cores], measure)
    z = [transfer(core) for core in done]
    for k in range(len(done)):
        of = (_opened if measure == "sensitivity" else _own)(done, z, k)
        matrix = _balancing(*of)
        done[k - 1] = _times(done[k - 1], matrix)
        done[k] = _divided(matrix, done[k])
        z[k - 1], z[k] = transfer(done[k - 1]), transfer(done[k])
    return tuple(as_dtype(core, given) for core in done)


def _evened(cores: Sequence[Array], measure: str) -> list[Array]:
    """Scaled so that the measure is least over scalings: c_n² ∝ I_n·‖ring opened at n‖², or c_n ∝ 1/‖G_n‖.

    What the bonds do then depends no more on how the scale was shared out before.
    """
    if measure == "sensitivity" and len(cores) > 1:
        opened = zip(cores, opened_squares(cores), strict=True)
        shares = [core.shape[1] * square for core, square in opened]
    else:
        shares = [1 / square if square > 0 else 0.0 for square in map(squared_norm, cores)]
    if min(shares) <= 0.0:
        return list(cores)
    level = math.exp(sum(map(math.log, shares)) / len(shares))
    return [core * math.sqrt(share / level) for core, share in zip(cores, shares, strict=True)]


def opened_squares(cores: Sequence[Array]) -> list[float]:
    """‖the ring opened at core n‖² for every n, from transfer matrices."""
    transfers, squares = Transfers(cores), []
    for n, core in enumerate(cores):
        gram = gram_of(transfers.environment(n))
        squares.append(abs(complex(to_host(namespace(gram).linalg.trace(gram)))))
        transfers.told(n, core)
    return squares


def squared_norm(core: Array) -> float:
    """‖G‖²."""
    return float(to_host(namespace(core).linalg.vector_norm(core))) ** 2


def _opened(cores: Sequence[Array], z: Sequence[Array], k: int) -> tuple[Array, Array]:
    """A: of the chain k … k − 2, over its left bond; B: of the chain k + 1 … k − 1, over its right bond."""
    order = len(cores)
    before, after = cores[k - 1], cores[k]
    a, b = _identity(before, before.shape[0]), _identity(after, after.shape[2])
    for j in range(order - 1):
        a, b = z[(k - 2 - j) % order] @ a, b @ z[(k + 1 + j) % order]
    xp, shape = namespace(after), (after.shape[0], after.shape[0])
    return before.shape[1] * xp.reshape(a, shape), after.shape[1] * xp.reshape(b, shape)


def _own(cores: Sequence[Array], z: Sequence[Array], k: int) -> tuple[Array, Array]:
    """A: of core k over its left bond; B: of core k − 1 over its right bond."""
    before, after = cores[k - 1], cores[k]
    xp, shape = namespace(after), (after.shape[0], after.shape[0])
    a, b = z[k] @ _identity(after, after.shape[2]), _identity(before, before.shape[0]) @ z[k - 1]
    return xp.reshape(a, shape), xp.reshape(b, shape)


def _identity(like: Array, n: int) -> Array:
    xp = namespace(like)
    wide = getattr(xp, "complex128" if is_complex(like) else "float64")
    return xp.reshape(xp.eye(n, dtype=wide, device=like.device), (-1,))


def _balancing(a: Array, b: Array) -> Array:
    """M with M⁻¹·A·M⁻ᴴ = Mᵀ·B·conj(M), diagonal: with A = S·Sᴴ, conj(B) = T·Tᴴ, Tᴴ·S = U·Σ·Vᴴ, M = T⁻ᴴ·U·√Σ."""
    xp = namespace(a)
    (s, _), (t, inverse) = _roots(a), _roots(conj(b))
    u, values, _ = svd(adjoint(t) @ s)
    return adjoint(inverse) @ (u * as_dtype(xp.sqrt(values), dtype_name(u.dtype)))


def _roots(gram: Array) -> tuple[Array, Array]:
    """S and S⁻¹ with S·Sᴴ a Gram matrix; its weakest directions lifted, and the identity for zero."""
    xp = namespace(gram)
    values, vectors = xp.linalg.eigh(gram)
    largest = float(to_host(values)[-1])
    if largest <= 0.0 or not math.isfinite(largest):
        return vectors, adjoint(vectors)
    roots = as_dtype(xp.sqrt(xp.maximum(values, xp.full_like(values, largest * _WEAKEST))), dtype_name(gram.dtype))
    return vectors * roots, adjoint(vectors / roots)


def _times(core: Array, matrix: Array) -> Array:
    return namespace(core).tensordot(core, matrix, axes=1)


def _divided(matrix: Array, core: Array) -> Array:
    xp, (r, n, s) = namespace(core), core.shape
    return xp.reshape(xp.linalg.solve(matrix, xp.reshape(core, (r, n * s))), (r, n, s))
