"""Sweeps of alternating least squares over a sum of Tucker terms: each factor, then the cores, of all terms at once.

The tensor has its whole modes merged into a last one: x (n_1, …, n_m, s), cores (R, L_1, …, L_m, s). The factors of a
term always have orthonormal columns, so the norm of a term is that of its core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from tensorring._array import Array, adjoint, as_dtype, conj, dtype_name, eps, is_complex, namespace, to_host
from tensorring.contract.block_terms import each_mode_product, known_side, side_by_side
from tensorring.contract.residual import product_residual
from tensorring.linalg.solve import solve_gram

# A system of all cores together up to this many unknowns (a column); above, one term after another.
_JOINT = 2048
# Passes over the terms that make the first cores, where it is one after another.
_FIRST = 10
# An error told by a difference of squares is noise below so many √eps.
_NEAR = 30.0


class Terms(NamedTuple):
    """Cores (R, L_1, …, L_m, s), and a factor (R, n_k, L_k) with orthonormal columns for each mode but the last."""

    cores: Array
    factors: tuple[Array, ...]


def sweeps(x: Array, norm: float, factors: tuple[Array, ...], ridge: float) -> Iterator[tuple[Terms, float]]:
    """The terms, and √(‖x − Σ_r T_r‖² + ridge·Σ_r ‖T_r‖²)/‖x‖, after each sweep, without end.

    It never rises, but by rounding: each step is its minimum, or goes towards it from where it is. The latter where
    little is left: normal equations of x would lose half of the digits of a small error.
    """
    cores, error = _cores(x, norm, factors, None, ridge)
    while True:
        near = error < _NEAR * math.sqrt(eps(dtype_name(x.dtype)))
        for mode in range(len(factors)):
            factor, turn = orthonormal(_factor(x, Terms(cores, factors), mode, ridge, near))
            factors = (*factors[:mode], factor, *factors[mode + 1 :])
            cores = each_mode_product(cores, turn, mode)
        cores, error = _cores(x, norm, factors, cores, ridge, near)
        yield Terms(cores, factors), math.hypot(error, math.sqrt(ridge * _dot(cores, cores)) / norm)


def orthonormal(factor: Array) -> tuple[Array, Array]:
    """U_r = Q_r·T_r: bases (R, n, L) and what the cores are to be multiplied by, (R, L, L)."""
    q, triangle = namespace(factor).linalg.qr(factor, mode="reduced")
    return q, triangle


def _factor(x: Array, terms: Terms, mode: int, ridge: float, near: bool) -> Array:
    """The factors (R, n, L) of one mode, by least squares: x_(mode) ≈ Σ_r U_r·K_r."""
    xp, (cores, factors) = namespace(x), terms
    count, rank, n = cores.shape[0], cores.shape[mode + 1], x.shape[mode]
    known = known_side(cores, dict(enumerate(factors)), mode)  # (R·L, rest)
    rows = xp.reshape(xp.moveaxis(x, mode, 0), (n, -1))
    wide = as_dtype(conj(known), _wide(x))
    gram = wide @ adjoint(wide)
    own = gram * _same_term(count, rank, like=gram)
    gram = gram + _damping(x, ridge) * own
    if near:
        now = side_by_side(factors[mode])
        right = conj(known) @ (rows - now @ known).T - ridge * as_dtype(own, dtype_name(x.dtype)) @ now.T
        solution = now.T + solve_gram(gram, right)
    else:
        solution = solve_gram(gram, conj(known) @ rows.T)
    return xp.permute_dims(xp.reshape(solution, (count, rank, n)), (0, 2, 1))


def _damping(x: Array, ridge: float) -> float:
    """At least the machine's epsilon: rounding would make up terms without it."""
    return max(ridge, eps(dtype_name(x.dtype)))


def _same_term(terms: int, rank: int, *, like: Array) -> Array:
    """Ones where row and column are of the same term: (R·L, R·L)."""
    xp = namespace(like)
    term = xp.reshape(xp.broadcast_to(xp.arange(terms, device=like.device)[:, None], (terms, rank)), (terms * rank,))
    return xp.astype(term[:, None] == term[None, :], like.dtype)


def _cores(
    x: Array, norm: float, factors: tuple[Array, ...], cores: Array | None, ridge: float, near: bool = False
) -> tuple[Array, float]:
    """The cores of least squares for those factors, and the error.

    From `cores` where little is left, and above _JOINT unknowns, where it is done for one term after another.
    """
    xp = namespace(x)
    shape = (factors[0].shape[0], *(factor.shape[2] for factor in factors), x.shape[-1])
    passes = 1 if cores is not None else _FIRST
    if cores is None:
        cores = xp.zeros(shape, dtype=x.dtype, device=x.device)
    together = math.prod(shape[:-1])
    if together > _JOINT:
        projected = _projected(x, factors)
        for _ in range(passes):
            cores = _one_by_one(projected, cores, factors, ridge)
        return _with_error(x, norm, Terms(cores, factors))
    gram = _gram(factors)
    damped = gram + _damping(x, ridge) * xp.eye(together, dtype=gram.dtype, device=x.device)
    if near:
        right = _projected(x - _dense(Terms(cores, factors), x.shape), factors) - ridge * cores
        step = solve_gram(damped, xp.reshape(right, (together, shape[-1])))
        return _with_error(x, norm, Terms(cores + xp.reshape(step, shape), factors))
    right = as_dtype(xp.reshape(_projected(x, factors), (together, shape[-1])), _wide(x))
    solution = solve_gram(damped, right)
    fitted = xp.reshape(as_dtype(solution, dtype_name(x.dtype)), shape)
    squared = norm**2 - 2 * _dot(solution, right) + _dot(solution, gram @ solution)
    # Terms that cancel are as large as they are, and so is their rounding.
    size = norm**2 + shape[0] * _dot(solution, solution)
    if squared > _NEAR**2 * eps(dtype_name(x.dtype)) * size:
        return fitted, math.sqrt(squared) / norm
    return _with_error(x, norm, Terms(fitted, factors))


def _projected(x: Array, factors: tuple[Array, ...]) -> Array:
    """x ×_k U_{r,k}ᴴ for every term: (R, L_1, …, L_m, s)."""
    xp, first = namespace(x), factors[0]
    part = adjoint(side_by_side(first)) @ xp.reshape(x, (x.shape[0], -1))
    part = xp.reshape(part, (first.shape[0], first.shape[2], *x.shape[1:]))
    for mode, factor in enumerate(factors[1:], 1):
        part = each_mode_product(part, xp.permute_dims(conj(factor), (0, 2, 1)), mode)
    return part


def _gram(factors: tuple[Array, ...]) -> Array:
    """Γ[(r, l_1 … l_m), (s, l'_1 … l'_m)] = Π_k (U_{r,k}ᴴ·U_{s,k})[l_k, l'_k], in double precision."""
    xp, m = namespace(*factors), len(factors)
    product: Array = 1.0
    for k, factor in enumerate(factors):
        sides = [1] * m
        sides[k] = factor.shape[2]
        columns = as_dtype(side_by_side(factor), _wide(factor))
        part = xp.reshape(adjoint(columns) @ columns, (factor.shape[0], *sides, factor.shape[0], *sides))
        product = part * product
    together = math.prod(product.shape[: m + 1])
    return xp.reshape(product, (together, together))


def _one_by_one(projected: Array, cores: Array, factors: tuple[Array, ...], ridge: float) -> Array:
    """Each core in turn, by least squares, the others held: a projection, since its factors are orthonormal."""
    xp, terms = namespace(projected), [cores[r, ...] for r in range(cores.shape[0])]
    for r, right in enumerate(terms.copy()):
        seen = xp.stack(terms)
        for mode, factor in enumerate(factors):
            own = xp.permute_dims(conj(factor[r, :, :]), (1, 0))
            seen = each_mode_product(seen, own @ factor, mode)
        terms[r] = right + (projected[r, ...] - xp.sum(seen, axis=0) - ridge * right) / (1 + ridge)
    return xp.stack(terms)


def _with_error(x: Array, norm: float, terms: Terms) -> tuple[Array, float]:
    """The cores, and the error from the residual itself."""
    xp, (cores, factors) = namespace(x), terms
    right = known_side(cores, dict(enumerate(factors)), 0)
    error = product_residual(xp.reshape(x, (x.shape[0], -1)), side_by_side(factors[0]), right)
    return cores, error / norm


def _dense(terms: Terms, shape: tuple[int, ...]) -> Array:
    xp, (cores, factors) = namespace(terms.cores), terms
    return xp.reshape(side_by_side(factors[0]) @ known_side(cores, dict(enumerate(factors)), 0), shape)


def _dot(a: Array, b: Array) -> float:
    """Re ⟨a, b⟩."""
    xp = namespace(a, b)
    product = conj(a) * b
    return float(to_host(xp.sum(xp.real(product) if is_complex(product) else product)))


def _wide(x: Array) -> str:
    return "complex128" if is_complex(x) else "float64"
