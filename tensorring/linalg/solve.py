"""Least squares by normal equations where they are well conditioned, and what to do where they are not."""

from __future__ import annotations

from collections.abc import Callable

from tensorring._array import (
    Array,
    adjoint,
    as_dtype,
    cholesky_solve,
    conj,
    dtype_name,
    eps,
    is_complex,
    namespace,
    svd,
    to_host,
)

# Above this condition number of a Gram matrix in double precision its solutions have fewer than half their digits.
ILL_CONDITIONED = 1e10


def solve_gram(
    gram: Array,
    right: Array,
    least_squares: Callable[[], Array] | None = None,
    *,
    limit: float = ILL_CONDITIONED,
) -> Array:
    """V with Γ·V = B for Γ Hermitian and positive semidefinite: (r, r), (r, n) -> (r, n). Finite whatever Γ is.

    Γ in double precision, whatever B is in; the solution comes in B's dtype. After its diagonal is scaled to one, see
    `solve_unit_gram`. Cost: r³/3 + 2·r²·n.
    """
    xp = namespace(gram)
    diagonal = xp.linalg.diagonal(gram)
    scale = _inverse_roots(xp.real(diagonal) if is_complex(gram) else diagonal)[:, None]
    name = dtype_name(right.dtype)
    exact = None if least_squares is None else lambda: as_dtype(least_squares(), dtype_name(gram.dtype)) / scale
    solution = solve_unit_gram(
        gram * scale * scale.T, as_dtype(right, dtype_name(gram.dtype)) * scale, exact, limit=limit
    )
    return as_dtype(solution * scale, name)


def solve_unit_gram(
    gram: Array,
    right: Array,
    least_squares: Callable[[], Array] | None = None,
    *,
    limit: float = ILL_CONDITIONED,
) -> Array:
    """V with Γ·V = B for Γ with ones on its diagonal (or zeros, where a component is not there).

    Three routes: Cholesky; above the condition number `limit`, `least_squares()`, which solves from the matrix that Γ
    is the Gram matrix of and keeps the digits that Γ lost; without it, or where its answer is not finite, (Γ + νI)⁻¹·B
    with a ridge ν of r·eps of the largest eigenvalue. A component that is not there gets exactly zero: of the rounding
    that it would get, the next solution with a unit diagonal would make a component. Γ is in double precision, B in
    any; V comes in B's dtype.
    """
    name = dtype_name(right.dtype)
    solution, condition = cholesky_solve(gram, as_dtype(right, dtype_name(gram.dtype)))
    if condition > limit:
        xp, exact = namespace(gram), least_squares() if least_squares is not None else None
        if exact is not None and bool(xp.all(xp.isfinite(exact))):
            solution = exact
        else:
            solution = _ridge(gram, as_dtype(right, dtype_name(gram.dtype)))
        solution = xp.where((xp.linalg.diagonal(gram) == 0)[:, None], xp.zeros_like(solution), solution)
    return as_dtype(solution, name)


def _inverse_roots(diagonal: Array) -> Array:
    """1/√d, and 1 where d is zero: a component that is not there."""
    xp = namespace(diagonal)
    there = diagonal > 0
    return xp.where(there, 1 / xp.sqrt(xp.where(there, diagonal, 1.0)), 1.0)


def _ridge(gram: Array, right: Array) -> Array:
    """(Γ + νI)⁻¹·B by eigenvalues, ν = r·eps·σ_max: directions that rounding made up get nothing."""
    xp = namespace(gram)
    vectors, values, _ = svd(gram)
    ridge = gram.shape[0] * eps(dtype_name(gram.dtype)) * float(to_host(values)[0])
    if ridge == 0.0:
        return xp.zeros_like(right)
    return vectors @ ((adjoint(vectors) @ right) / (values + ridge)[:, None])


def least_squares(matrix: Array, right: Array, *, cutoff: float = 1.0) -> Array:
    """V of least norm with ‖K·V − B‖ least, by QR and the SVD of R: (m, r), (m, n) -> (r, n). Keeps the digits of K.

    Singular values below cutoff·max(m, r)·eps of the largest count as zero. Cost: 2·m·r² + 20·r³.
    """
    xp = namespace(matrix, right)
    if matrix.shape[0] > matrix.shape[1]:
        q, triangle = xp.linalg.qr(matrix, mode="reduced")
        right = adjoint(q) @ right
        matrix = triangle
    u, values, vh = svd(matrix)
    host = to_host(values)
    rank = int((host > cutoff * max(matrix.shape) * eps(dtype_name(matrix.dtype)) * host[0]).sum())
    if rank == 0:
        return xp.zeros((matrix.shape[1], right.shape[1]), dtype=right.dtype, device=right.device)
    coefficients = (adjoint(u[:, :rank]) @ right) / values[:rank][:, None]
    return conj(vh[:rank, :]).T @ coefficients
