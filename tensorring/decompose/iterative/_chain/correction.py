"""Error-preserving correction of rings and trains: the least sensitive, or the smallest cores, at an error bound.

Every core in turn is replaced by the one of least measure that leaves a residual within the bound (Phan et al. 2022,
arXiv 2203.02617); after each sweep the gauge of every bond is set to the best. A train is the ring whose closing bond
is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tensorring._array import Array, adjoint, as_dtype, contiguous, copy, dtype_name, is_complex, namespace, to_host
from tensorring.contract.chain import ring_to_dense
from tensorring.contract.chain_tree import (
    Half,
    Transfers,
    Weighted,
    contract_core,
    first_partial,
    gram_of,
    halves,
    open_chain,
    project_on_chain,
    weighted_transfer,
)
from tensorring.decompose._arguments import Problem
from tensorring.decompose.iterative._chain.bond_gauge import regauged, squared_norm
from tensorring.decompose.iterative._chain.residual import residual_norm
from tensorring.linalg.ridge import Ridge, least_norm, least_norm_rows
from tensorring.linalg.scale import measure as scale_of

Cores = tuple[Array, ...]

# Below this share of ‖x‖ a residual told by a difference of norms has not the digits promised; up to so many entries
# the chain itself can be formed instead.
_CLOSE, _SMALL = 3e-3, 2**22
# Sweeps aim below the bound by this share of it, for rounding; one that is above is dropped, and a tighter one tried.
_SLACK, _ATTEMPTS = 1e-10, 4
# Directions of W below this share of its largest count as that: rounding makes them up, and where chains cancel they
# may come out negative.
_WEAKEST = 1e-12


class Corrected(NamedTuple):
    """Cores in double precision, the relative error that they make, and their measure."""

    cores: Cores
    error: float
    value: float


def corrected_ring(
    problem: Problem, cores: Sequence[Array], bound: float, measure: str = "sensitivity"
) -> Iterator[Corrected]:
    """Sweep after sweep, a ring of a measure that is no larger, within a relative error of `bound`.

    Parameters
    ----------
    problem
        The tensor. All is computed in double precision, whatever it is in: in single precision, on a copy of x.
    cores
        Where to begin. Where these make a larger error than the bound, it is theirs that is kept, to 1e-10 of it.
    bound
        The relative error allowed. No error yielded, measured from the residual, is above it.
    measure
        "sensitivity": ss = Σ_n I_n·‖the ring opened at core n‖², what noise in the cores does to the tensor.
        "norm": Σ_n ‖G_n‖², what weight decay sees; where norms are balanced it is d·(Π‖G_n‖)^(2/d).

    Yields
    ------
    Corrected
        What is yielded first is the start in its best gauge. Ends where rounding leaves no sweep that is within the
        bound and of a smaller measure. Of one mode there is nothing to correct.

    Notes
    -----
    With V the unfolded core (p·s, n), K the chain of the others, Γ = KᴴK and B = Kᴴx, a core is the solution of
    min Re tr(Vᴴ·W·V) s.t. ‖x − K·V‖ ≤ δ, where W comes exactly from transfer matrices: Re tr(Vᴴ·W·V) + n·tr Γ is the
    sensitivity of the whole. W is I for "norm". In the best gauge the multipliers of all cores are equal, so that where
    no core can be improved the Karush–Kuhn–Tucker conditions of the whole problem hold.

    Cost of a sweep: two passes over x as in `ring_sweep` and one for the residual, d·r⁶, and a Cholesky or eigenvalue
    decomposition of (r², r²) for each core. Memory beyond x: r²·Πn over the product of the modes of the other half.
    """
    x = as_dtype(problem.x, "complex128" if is_complex(problem.x) else "float64")
    norm = scale_of(x).norm
    state = tuple(as_dtype(core, "complex128" if is_complex(x) else "float64") for core in cores)
    if len(cores) == 1:
        size, exponent = scale_of(x - ring_to_dense(state))
        yield Corrected(state, math.ldexp(size, exponent) / norm, value_of(state, measure))
        return
    error = residual_norm(x, state) / norm
    allowed = max(bound, error * (1 + _SLACK))
    now = Corrected(state, error, value_of(state, measure))
    gauged = _measured(x, norm, regauged(state, measure), measure, allowed)
    now = gauged if gauged is not None and gauged.value <= now.value else now
    yield now
    aim, failed = allowed * (1 - _SLACK), 0
    sweep = _Sweep(x, norm, measure)
    while failed < _ATTEMPTS:
        swept = sweep(now.cores, aim)
        found = _measured(x, norm, regauged(swept, measure), measure, allowed)
        found = found or _measured(x, norm, swept, measure, allowed)
        if found is not None and found.value > now.value:
            return
        if found is None:
            made = residual_norm(x, swept) / norm
            aim -= max(2 * (made - allowed), 4.0**failed * _SLACK * aim)
            failed += 1
            continue
        now, failed = found, 0
        yield now


def _measured(x: Array, norm: float, cores: Cores, measure: str, allowed: float) -> Corrected | None:
    """The cores with their error and measure; None where the error is not allowed."""
    error = residual_norm(x, cores) / norm
    return Corrected(cores, error, value_of(cores, measure)) if error <= allowed else None


def value_of(cores: Sequence[Array], measure: str) -> float:
    """The measure of a ring: `sensitivity` from transfer matrices, O(d·r⁶), or Σ‖G_n‖²."""
    xp = namespace(*cores)
    if measure == "norm":
        return sum(map(squared_norm, cores))
    whole: Weighted | None = None
    for core in cores:
        z = weighted_transfer(core)
        whole = z if whole is None else whole @ z
    assert whole is not None
    return abs(complex(to_host(xp.linalg.trace(whole.derivative))))


class _Sweep:
    """One core after another; remembers the multipliers, where the next sweep looks first."""

    def __init__(self, x: Array, norm: float, measure: str) -> None:
        self._x, self._norm, self._measure = x, norm, measure
        self._found: list[Ridge | None] = [None] * x.ndim

    def __call__(self, cores: Sequence[Array], bound: float) -> Cores:
        xp, x, done = namespace(self._x), self._x, list(cores)
        transfers = Transfers(done, weighted_transfer)
        for half in halves(x.shape):
            partial = _whole_partial(x, half, done)
            for n in range(half.lo, half.hi):
                chain = open_chain(done[n + 1 : half.hi]) if n + 1 < half.hi else None
                environment, weights = transfers.weighted_environment(n)
                right = project_on_chain(partial, chain)
                done[n] = self._solved(done, n, gram_of(environment), right, gram_of(weights), bound)
                transfers.told(n, done[n])
                if chain is not None:
                    following = contract_core(partial, done[n])
                    partial = xp.reshape(following, (*following.shape[:2], x.shape[n + 1], -1))
        return tuple(done)

    def _solved(self, cores: list[Array], n: int, gram: Array, right: Array, weights: Array, bound: float) -> Array:
        """The core of least measure within the bound; the one that is there where rounding finds none."""
        xp, (p, size, s) = namespace(right), cores[n].shape
        form = _definite(weights) if self._measure == "sensitivity" else None
        found = self._ridge(cores, n, gram, right, form, bound)
        self._found[n] = found
        old = xp.reshape(xp.permute_dims(cores[n], (0, 2, 1)), (p * s, size))
        if not bool(xp.all(xp.isfinite(found.solution))) or _quadratic(found.solution, form) > _quadratic(old, form):
            return cores[n]
        return contiguous(xp.permute_dims(xp.reshape(found.solution, (p, s, size)), (0, 2, 1)))

    def _ridge(self, cores: list[Array], n: int, gram: Array, right: Array, form: Array | None, bound: float) -> Ridge:
        delta, entries = bound * self._norm, math.prod(self._x.shape) // self._x.shape[n]
        if bound < _CLOSE and entries * max(gram.shape[0], self._x.shape[n]) <= _SMALL:
            xp, order = namespace(right), len(cores)
            others = [*range(n + 1, order), *range(n)]
            chain = open_chain([cores[k] for k in others])  # s, p, entries
            matrix = xp.reshape(xp.permute_dims(chain, (2, 1, 0)), (entries, -1))
            rows = xp.reshape(xp.permute_dims(self._x, (*others, n)), (entries, -1))
            return least_norm_rows(matrix, rows, bound=delta, weights=form)
        return least_norm(gram, right, squared_norm=self._norm**2, bound=delta, weights=form, guess=self._found[n])


def _whole_partial(x: Array, half: Half, cores: Sequence[Array]) -> Array:
    """X against the chain of the cores outside a half, all rows of its first mode at once."""
    xp = namespace(x)
    outside = cores[half.hi :] if half.lo == 0 else cores[: half.lo]
    blocks = []
    for part in first_partial(x, half, outside):
        whole = part.rows.stop - part.rows.start == x.shape[half.lo]
        blocks.append(part.partial if whole else copy(part.partial))
    return blocks[0] if len(blocks) == 1 else xp.concat(blocks, axis=2)


def _definite(weights: Array) -> Array:
    xp = namespace(weights)
    values, vectors = xp.linalg.eigh(weights)
    least = max(_WEAKEST * float(to_host(values)[-1]), float(np.finfo(np.float64).tiny))
    if float(to_host(values)[0]) >= least:
        return weights
    lifted = xp.maximum(values, xp.full_like(values, least))
    return (vectors * as_dtype(lifted, dtype_name(weights.dtype))) @ adjoint(vectors)


def _quadratic(v: Array, form: Array | None) -> float:
    """Re tr(Vᴴ·W·V)."""
    xp = namespace(v)
    value = xp.vecdot(xp.reshape(v, (-1,)), xp.reshape(v if form is None else form @ v, (-1,)))
    return float(to_host(xp.real(value) if is_complex(v) else value))
