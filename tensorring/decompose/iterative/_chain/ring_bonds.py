"""One bond of a ring lowered: what that saves, what it costs in error, and the ring that it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tensorring._array import Array, adjoint, as_dtype, conj, dtype_name, is_complex, namespace, svd, to_host
from tensorring.contract.chain_tree import transfer
from tensorring.linalg.rank import Values, tails
from tensorring.tensors import TRTensor

Cores = tuple[Array, ...]

# Directions in which the rest of the ring is weaker than this share of its strongest are weighted as if they were not.
_WEAKEST = 1e-12


class Bond(NamedTuple):
    """The bond on the left of core k, and the two cores around it in a gauge that shows what it carries.

    `errors[r]` is the error, relative to the whole ring, that rank r of this bond is expected to add: the metric of a
    merged pair is the rest of the ring, and is taken as the Kronecker product of its two partial traces, which is exact
    where the ring is a train.
    """

    k: int
    errors: Values
    left: Array
    right: Array

    def lowered(self, cores: Sequence[Array], rank: int) -> Cores:
        """The ring with this bond cut to a rank."""
        xp, result = namespace(*cores), list(cores)
        before, after = cores[self.k - 1], cores[self.k]
        result[self.k - 1] = xp.reshape(self.left[:, :rank], (*before.shape[:2], rank))
        result[self.k] = xp.reshape(self.right[:rank, :], (rank, *after.shape[1:]))
        return tuple(result)


def bonds(cores: Sequence[Array]) -> list[Bond]:
    """All bonds of a ring that could be lowered, from transfer matrices alone: O(d·n·r³ + d²·r⁴)."""
    order, z = len(cores), [transfer(core) for core in cores]
    found = []
    for k in range(order):
        if cores[k].shape[0] > 1:
            found.append(_bond(cores, z, k))
    return found


def _bond(cores: Sequence[Array], z: Sequence[Array], k: int) -> Bond:
    xp, order = namespace(*cores), len(cores)
    before, after = pair = cores[k - 1], cores[k]
    rest = [z[(k + 1 + j) % order] for j in range(order - 2)]
    on_left, off_left = _roots(_traced(rest, pair, over_right=True))
    on_right, off_right = _roots(_traced(rest, pair, over_right=False))
    (p, n, r), m, s = before.shape, after.shape[1], after.shape[2]
    wide, name = dtype_name(on_left.dtype), dtype_name(before.dtype)
    left = xp.reshape(on_left @ xp.reshape(as_dtype(before, wide), (p, n * r)), (p * n, r))
    right = xp.reshape(xp.reshape(as_dtype(after, wide), (r * m, s)) @ on_right.T, (r, m * s))
    q_left, r_left = xp.linalg.qr(left, mode="reduced")
    q_right, r_right = xp.linalg.qr(right.T, mode="reduced")
    u, values, vh = svd(r_left @ r_right.T)
    root = as_dtype(xp.expand_dims(xp.sqrt(values), axis=1), wide)
    left, right = (q_left @ u) * root.T, root * (vh @ q_right.T)
    left = xp.reshape(off_left @ xp.reshape(left, (p, -1)), (p * n, -1))
    right = xp.reshape(xp.reshape(right, (-1, s)) @ off_right.T, (-1, m * s))
    host = to_host(values)
    errors = tails(host) / (float((host**2).sum()) ** 0.5 or 1.0)
    return Bond(k, errors, as_dtype(left, name), as_dtype(right, name))


def _traced(rest: Sequence[Array], pair: tuple[Array, Array], *, over_right: bool) -> Array:
    """The environment P[b, b', a, a'] of a pair, traced over its right bond b, or over its left bond a."""
    xp, (before, after) = namespace(*pair), pair
    traced, kept = (after.shape[2], before.shape[0]) if over_right else (before.shape[0], after.shape[2])
    wide = getattr(xp, "complex128" if is_complex(before) else "float64")
    vector = xp.reshape(xp.eye(traced, dtype=wide, device=before.device), (-1,))
    for matrix in rest if over_right else reversed(rest):
        vector = vector @ matrix if over_right else matrix @ vector
    return xp.reshape(vector, (kept, kept))


def _roots(gram: Array) -> tuple[Array, Array]:
    """W and W⁻¹ with WᴴW the conjugate of a Gram matrix: ‖W·m‖² = mᵀ·A·conj(m)."""
    xp = namespace(gram)
    values, vectors = xp.linalg.eigh(conj(gram))
    largest = xp.max(values)
    values = xp.sqrt(xp.maximum(values, xp.where(largest > 0, largest * _WEAKEST, xp.ones_like(largest))))
    column = xp.expand_dims(values, axis=1)
    if is_complex(gram):
        column = as_dtype(column, dtype_name(gram.dtype))
    return column * adjoint(vectors), vectors / column.T


def ranks_of(cores: Sequence[Array]) -> tuple[int, ...]:
    """The bonds of a ring."""
    return TRTensor(tuple(cores)).ranks
