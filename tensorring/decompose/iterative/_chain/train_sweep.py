"""Sweeps of alternating least squares over a train in orthogonal gauge: no normal equations anywhere.

Where all cores on the left of one have orthonormal columns and all on its right orthonormal rows, x contracted with
them is the least-squares solution itself. A sweep goes to the end and back: on the way there x is projected on one core
after another, and the partials serve the way back, so that x is read twice, for core 0 and for its projection on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tensorring._array import Array, adjoint, conj, contiguous, namespace, to_host
from tensorring.decompose.iterative._chain.residual import error_from
from tensorring.linalg.rank import rank_for
from tensorring.linalg.scale import root_of_sum, squared_parts

Cores = tuple[Array, ...]


def train_sweeps(x: Array, norm: float, cores: Cores) -> Iterator[tuple[Cores, float]]:
    """One core after another, to the end and back, for ever: the cores and their relative error, which never grows."""
    cores = right_orthogonal(cores)
    while True:
        cores = train_sweep(x, cores)
        yield cores, error_from(x, norm, _squared(cores[0]), cores)


def train_sweep(x: Array, cores: Cores) -> Cores:
    """Every core the least-squares solution for the others, there and back; core 0 last, the others orthonormal."""
    xp, done, rights = namespace(x), list(cores), _rights(cores, 2)
    partials = [xp.reshape(x, (x.shape[0], -1))]
    for k in range(x.ndim - 1):
        p, n, _ = done[k].shape
        q = xp.linalg.qr(xp.reshape(done[k], (p * n, -1)), mode="reduced").Q
        done[k] = xp.reshape(q, (p, n, -1))
        partials.append(_projected(partials[k], q, x.shape[k + 1]))
        done[k + 1] = _core(partials[k + 1], rights.get(k + 2), x.shape[k + 1])
    right = None
    for k in reversed(range(1, x.ndim)):
        done[k], right = _orthonormal_rows(done[k], right)
        done[k - 1] = _core(partials[k - 1], right, x.shape[k - 1])
    return tuple(done)


def two_core_sweep(x: Array, cores: Cores, norm: float, bound: float) -> Cores:
    """Every bond the least rank, not above the present one, at which the two cores around it keep ‖x − train‖ ≤ bound.

    With T the contraction of x with all other cores, ‖x − train‖² = ‖x‖² − ‖T‖² + ‖T − G_k·G_{k+1}‖², so a truncated
    SVD of T is the best step, and what it may discard is known (Phan et al. 2020).
    """
    xp, done, rights = namespace(x), list(cores), _rights(cores, 2)
    partials = [xp.reshape(x, (x.shape[0], -1))]
    for k in range(x.ndim - 1):
        u, _ = _two_cores(partials[k], rights.get(k + 2), x.shape[k + 1], (norm, bound, done[k].shape[2]))
        done[k] = xp.reshape(u, (-1, x.shape[k], u.shape[1]))
        partials.append(_projected(partials[k], u, x.shape[k + 1]))
    right = None
    for k in reversed(range(1, x.ndim)):
        _, vh = _two_cores(partials[k - 1], right, x.shape[k], (norm, bound, done[k - 1].shape[2]))
        rank = vh.shape[0]
        right = _prepended(xp.reshape(vh, (rank * x.shape[k], -1)), right, rank)
        done[k] = xp.reshape(vh, (rank, x.shape[k], -1))
    done[0] = _core(partials[0], right, x.shape[0])
    return tuple(done)


def right_orthogonal(cores: Sequence[Array]) -> Cores:
    """The same train with orthonormal rows in all cores but core 0."""
    xp, done = namespace(*cores), list(cores)
    for k in reversed(range(1, len(done))):
        rank, n, s = done[k].shape
        q, r = xp.linalg.qr(adjoint(xp.reshape(done[k], (rank, n * s))), mode="reduced")
        done[k] = xp.reshape(contiguous(adjoint(q)), (-1, n, s))
        done[k - 1] = xp.tensordot(done[k - 1], adjoint(r), axes=1)
    return tuple(done)


def _rights(cores: Sequence[Array], first: int) -> dict[int, Array]:
    """The chains of the cores k, k + 1, … to the end, (r_k, entries), for every k from `first` on."""
    xp, chains = namespace(*cores), {}
    chain = None
    for k in reversed(range(first, len(cores))):
        chain = chains[k] = _prepended(xp.reshape(cores[k], (-1, cores[k].shape[2])), chain, cores[k].shape[0])
    return chains


def _prepended(core: Array, chain: Array | None, rank: int) -> Array:
    product = core if chain is None else core @ chain
    return namespace(core).reshape(product, (rank, -1))


def _orthonormal_rows(core: Array, chain: Array | None) -> tuple[Array, Array]:
    """The core with its rows made orthonormal, and the chain that begins with it."""
    xp = namespace(core)
    _, n, s = core.shape
    q = contiguous(adjoint(xp.linalg.qr(adjoint(xp.reshape(core, (core.shape[0], n * s))), mode="reduced").Q))
    rank = q.shape[0]
    return xp.reshape(q, (rank, n, s)), _prepended(xp.reshape(q, (rank * n, s)), chain, rank)


def _core(partial: Array, right: Array | None, size: int) -> Array:
    """x against all cores but one: (p·n, rest), (s, rest) -> (p, n, s)."""
    product = partial if right is None else (conj(right) @ partial.T).T
    return namespace(partial).reshape(contiguous(product), (partial.shape[0] // size, size, -1))


def _projected(partial: Array, q: Array, size: int) -> Array:
    """The partial of the next mode: (p·n, rest) -> (r·n', rest')."""
    return namespace(partial).reshape(adjoint(q) @ partial, (q.shape[1] * size, -1))


def _two_cores(partial: Array, right: Array | None, size: int, limits: tuple[float, float, int]) -> tuple[Array, Array]:
    """Both cores around a bond by a truncated SVD of x against all others: (p·n, r), (r, n'·s)."""
    xp, (norm, bound, most) = namespace(partial), limits
    shape = (partial.shape[0], -1)
    merged = xp.reshape(partial, (partial.shape[0] * size, -1))
    if right is not None:
        merged = contiguous((conj(right) @ merged.T).T)
    merged = xp.reshape(merged, shape)
    u, values, vh = xp.linalg.svd(merged, full_matrices=False)
    host = to_host(values).astype("float64")
    allowed = bound**2 - norm**2 + float((host**2).sum())
    rank = rank_for(host, max_error=math.sqrt(max(0.0, allowed)), max_rank=most)
    return u[:, :rank], vh[:rank, :]


def _squared(core: Array) -> float:
    return root_of_sum(squared_parts(namespace(core).reshape(core, (-1,)))) ** 2
