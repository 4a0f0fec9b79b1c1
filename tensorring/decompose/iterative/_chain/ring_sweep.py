"""One sweep of alternating least squares over the cores of a ring."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from tensorring._array import Array, adjoint, as_dtype, conj, contiguous, dtype_name, eps, namespace, to_host
from tensorring.contract.chain_tree import (
    Part,
    ThreeCores,
    Transfers,
    contract_core,
    first_partial,
    gram_of,
    halves,
    open_chain,
    project_on_chain,
    three_cores,
)
from tensorring.contract.unfold import mode_product
from tensorring.decompose.iterative._chain.residual import error_from
from tensorring.linalg.solve import least_squares, solve_gram

Cores = tuple[Array, ...]

# Up to so many entries a subchain may be formed, and x permuted, for least squares without normal equations; larger
# tensors are first reduced by the cores, to an eighth at least.
_SMALL = 2**20
# Cores carry the rounding of many sweeps: directions of a subchain that are this near to it are none.
_CUTOFF = 100.0

# Squared errors below this share of ‖x‖² are asked whether rounding in cancelling chains could be all they are.
_CLOSE = 1e-3


def ring_sweeps(x: Array, norm: float, cores: Cores, *, ridge: float = 0.0) -> Iterator[tuple[Cores, float]]:
    """Sweep after sweep, for ever: the cores, which are never written to again, and their relative error."""
    tree = three_cores(x, cores)
    while True:
        cores, error = ring_sweep(x, norm, cores, ridge=ridge, tree=tree)
        yield cores, error


def ring_sweep(
    x: Array, norm: float, cores: Sequence[Array], *, ridge: float = 0.0, tree: ThreeCores | None = None
) -> tuple[Cores, float]:
    """Every core in turn the least-squares solution for the others, and the relative error after the last.

    With `ridge` each solution pays ridge·tr(Γ)·‖core‖² too, which keeps small what cancels. A `tree` that lives from
    sweep to sweep saves a quarter of the passes over x.
    """
    done, transfers, fitted, terms = list(cores), Transfers(cores), 0.0, 0.0
    parts: Iterable[Part] = ()
    for half in halves(x.shape):
        outside = done[half.hi :] if half.lo == 0 else done[: half.lo]
        if tree is None:
            parts = first_partial(x, half, outside)
        for n in range(half.lo, half.hi):
            update = _Update(x, done, n, half.hi, gram_of(transfers.environment(n)), ridge)
            if tree is None:
                done[n], parts = update.run(parts)
            else:
                done[n] = update.solved(tree.product(n, done), slice(0, x.shape[n]))
            transfers.told(n, done[n])
            fitted, terms = update.fitted, update.terms
    if norm**2 - fitted < _CLOSE * norm**2:
        terms = max(terms, _rounded_in_transfers(x, done))
    return tuple(done), error_from(x, norm, fitted, done, terms)


def _rounded_in_transfers(x: Array, cores: Sequence[Array]) -> float:
    """Π‖core‖²: what Gram matrices of cancelling chains are rounded by, in double precision, as a share of x's."""
    xp = namespace(x)
    sizes = to_host(xp.stack([xp.linalg.vector_norm(core) for core in cores])).astype("float64")
    return float((sizes**2).prod()) * eps("float64") / eps(dtype_name(x.dtype))


def _ridged(gram: Array, ridge: float) -> Array:
    if ridge == 0.0:
        return gram
    xp = namespace(gram)
    return gram + ridge * xp.linalg.trace(gram) * xp.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)


class _Update:
    """The new core of one mode, from partials that come in blocks of its rows."""

    def __init__(self, x: Array, cores: list[Array], n: int, stop: int, gram: Array, ridge: float) -> None:
        self._x, self._cores, self._n, self._gram = x, cores, n, gram
        self._ridged = _ridged(gram, ridge)
        self._chain = open_chain(cores[n + 1 : stop]) if n + 1 < stop else None
        self._last = n == len(cores) - 1
        self.fitted, self.terms = 0.0, 0.0

    def run(self, parts: Iterable[Part]) -> tuple[Array, list[Part]]:
        """The core, and the partial of the modes after it."""
        xp = namespace(self._x)
        rows, following = [], None
        for part in parts:
            block = self.solved(project_on_chain(part.partial, self._chain), part.rows)
            rows.append(block)
            if self._chain is not None:
                more = contract_core(part.partial, block)
                following = more if following is None else following + more
        core = rows[0] if len(rows) == 1 else xp.concat(rows, axis=1)
        if following is None:
            return core, []
        size = self._x.shape[self._n + 1]
        shape = (following.shape[0], following.shape[1], size, -1)
        return core, [Part(slice(0, size), xp.reshape(following, shape))]

    def solved(self, right: Array, rows: slice) -> Array:
        """These rows of the core, from the right-hand side of their normal equations."""
        xp = namespace(self._x)
        exact = partial(subchain_solution, self._x, self._cores, self._n, rows)
        solution = solve_gram(self._ridged, right, exact)
        if self._last:
            self._count(solution, right)
        p, _, s = self._cores[self._n].shape
        return contiguous(xp.permute_dims(xp.reshape(solution, (p, s, right.shape[1])), (0, 2, 1)))

    def _count(self, solution: Array, right: Array) -> None:
        """Adds what these rows explain of ‖x‖²: 2·Re⟨G, B⟩ − ⟨G, Γ·G⟩, right for any G, and how large that could be."""
        xp, wide = namespace(solution), as_dtype(solution, dtype_name(self._gram.dtype))
        explained = 2 * right - as_dtype(self._gram @ wide, dtype_name(right.dtype))
        self.fitted += float(to_host(xp.sum(xp.real(conj(solution) * explained))))
        size, weight = xp.linalg.vector_norm(wide), abs(xp.linalg.trace(self._gram))
        self.terms += float(to_host(size)) ** 2 * float(to_host(weight))


def subchain_solution(x: Array, cores: Sequence[Array], n: int, rows: slice) -> Array | None:
    """Core n by least squares on the subchain of the others itself, ((p, s), rows); None where that would be too large.

    The other cores are replaced by the R factors of their unfoldings, and x by its projection on the Q factors, which
    leaves the problem as it is and its matrix much shorter.
    """
    xp, order = namespace(x), x.ndim
    x = x[(slice(None),) * n + (rows,)] if rows.stop - rows.start < x.shape[n] else x
    reduced, entries = list(cores), math.prod(x.shape)
    saving = sorted((math.prod(cores[k].shape[::2]) / cores[k].shape[1], k) for k in range(order) if k != n)
    if entries > _SMALL and saving[0][0] > 1 / 8:
        return None
    for share, k in saving:
        if share < 1:
            p, size, s = cores[k].shape
            q, r = xp.linalg.qr(xp.reshape(xp.permute_dims(cores[k], (1, 0, 2)), (size, p * s)), mode="reduced")
            x = mode_product(x, adjoint(q), k)
            reduced[k] = xp.permute_dims(xp.reshape(r, (-1, p, s)), (1, 0, 2))
    others = [*range(n + 1, order), *range(n)]
    chain = open_chain([reduced[k] for k in others])  # s, p, entries
    if math.prod(chain.shape) > 4 * _SMALL:
        return None
    matrix = xp.reshape(xp.permute_dims(chain, (2, 1, 0)), (chain.shape[2], -1))
    right = xp.reshape(xp.permute_dims(x, (*others, n)), (chain.shape[2], -1))
    return least_squares(matrix, right, cutoff=_CUTOFF)
