"""Least squares with a say about the size of the solution: the smallest within a residual, the best within a norm."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tensorring._array import (
    Array,
    adjoint,
    as_dtype,
    cholesky_solve,
    cholesky_solver,
    conj,
    copy,
    dtype_name,
    eps,
    is_complex,
    namespace,
    svd,
    to_device,
    to_host,
)
from tensorring.linalg.secular import ACCURACY, ALL, Vector, concave_root, spectral_root
from tensorring.linalg.solve import ILL_CONDITIONED


class Ridge(NamedTuple):
    """A solution V (r, n), the squared residual that it leaves, its multiplier ν, and the secular slope there."""

    solution: Array
    squared_error: float
    multiplier: float
    slope: float = 0.0


def least_norm(
    gram: Array,
    right: Array,
    *,
    squared_norm: float,
    bound: float,
    weights: Array | None = None,
    guess: Ridge | None = None,
    accuracy: float = ACCURACY,
) -> Ridge:
    """min Re tr(Vᴴ·W·V) subject to ‖x‖² − 2·Re⟨V, B⟩ + ⟨V, Γ·V⟩ ≤ δ²: the smallest V within a residual.

    V solves (Γ + νW)·V = B, where ν ≥ 0 is the root of φ(ν) = δ², the residual, which grows with ν.

    Parameters
    ----------
    gram
        Γ = KᴴK, (r, r), Hermitian, in double precision.
    right
        B = Kᴴx, (r, n), in any precision; V comes in it.
    squared_norm
        ‖x‖² of what K·V is to be near to.
    bound
        δ. At ‖x‖ and beyond V = 0. Where no V leaves less than δ, the one of the least residual is returned, with
        ν = 0: its `squared_error` tells.
    weights
        W: None for I; (r,), positive; or (r, r), Hermitian and positive definite.
    guess
        What was found for nearly the same problem, such as a sweep ago: where to look for ν first.
    accuracy
        To which φ(ν) − φ(0) is δ² − φ(0), relatively, where rounding leaves that much.

    Notes
    -----
    Found by the secular equation of trust regions: (φ(1/μ) − φ(0))^(−1/2) is concave and nearly linear in μ = 1/ν
    (Moré & Sorensen 1983, doi 10.1137/0904038). An evaluation costs a Cholesky solution, r³/3 + 2·r²·n, of which five
    are usual; where Γ is ill-conditioned (above 1e10) one eigen-decomposition serves all. Residuals are differences of
    norms, right to about r·eps·‖x‖²: below δ of 1e-3·‖x‖ ask `least_norm_rows`.

    References
    ----------
    A.-H. Phan, P. Tichavský, A. Cichocki 2019, "Error preserving correction: a method for CP decomposition at a target
    error bound", arXiv 1709.08349.
    """
    change, bound, squared_norm = _Change.of(weights, gram), float(bound), float(squared_norm)
    gram, unscaled = change.gram(gram), right
    right = change.right(as_dtype(right, dtype_name(gram.dtype)))
    if bound**2 >= squared_norm:
        return Ridge(change.back(0.0 * right, unscaled), squared_norm, math.inf)
    solution, condition = cholesky_solve(gram, right)
    if condition > ILL_CONDITIONED:
        return _by_eigenvalues(gram, right, squared_norm, bound, change, unscaled)
    fitted = _explained(gram, solution, right)
    least, room = max(0.0, squared_norm - fitted), bound**2 - (squared_norm - fitted)
    noise = eps("float64") * squared_norm
    if room <= 8 * noise:
        return Ridge(change.back(solution, unscaled), least, 0.0)
    if room >= fitted * ALL:
        return Ridge(change.back(0.0 * solution, unscaled), squared_norm, math.inf)

    def excess(inverse: float) -> tuple[float, Array]:
        solve = cholesky_solver(ridged(gram, 1 / inverse))
        if solve is None:
            return math.inf, solution
        v = solve(right)
        gained = fitted - _inner(v, right) - _inner(v, v) / inverse  # Γ·V = B − νV saves a product
        return (gained**-0.5 if gained > 0 else math.inf), v

    # At μ = 0 all is known: V vanishes, and the slope is ‖B‖².
    start = fitted**-0.5
    first = (room**-0.5 - start) * fitted**1.5 / _inner(right, right)
    accuracy = max(accuracy, 2 * noise / room)
    slope = 0.0
    if guess is not None and guess.slope > 0:
        first, slope = 1 / guess.multiplier, guess.slope
    found = concave_root(excess, room**-0.5, start, first, accuracy, slope)
    squared = squared_norm - fitted + (found.value**-2 if found.value < math.inf else 0.0)
    return Ridge(change.back(found.payload, unscaled), squared, 1 / found.at, found.slope)


def least_norm_rows(matrix: Array, right: Array, *, bound: float, weights: Array | None = None) -> Ridge:
    """min Re tr(Vᴴ·W·V) subject to ‖x − K·V‖ ≤ δ, from K (m, r) and x (m, n) themselves: every digit of small δ.

    By the SVD of K·W^(−1/2), which Gram matrices lose half the digits of; arguments and promises are those of
    `least_norm`. Cost: 6·m·r² + 20·r³ + 4·m·r·n.
    """
    xp, change = namespace(matrix, right), _Change.of(weights, matrix)
    u, values, vh = svd(change.columns(matrix))
    inside = adjoint(u) @ right
    sigma, squares = to_host(values).astype(np.float64), _row_squares(inside)
    outside = float(xp.linalg.vector_norm(right - u @ inside)) ** 2
    kept = sigma > max(matrix.shape) * eps(dtype_name(matrix.dtype)) * sigma[0]
    outside += float(squares[~kept].sum())
    nu, squared = spectral_root(np.where(kept, sigma, 1.0) ** 2, np.where(kept, squares, 0.0), outside, bound)
    factors = np.where(kept, sigma / (np.where(kept, sigma, 1.0) ** 2 + nu), 0.0)
    solution = conj(vh).T @ (inside * _column(factors, right))
    return Ridge(change.back(solution, right), squared, nu)


def bounded_norm(gram: Array, right: Array, *, max_norm: float) -> Ridge:
    """min ‖x − K·V‖ subject to ‖V‖ ≤ ξ, from Γ = KᴴK and B = Kᴴx: the best within a norm, the dual of `least_norm`.

    V solves (Γ + νI)·V = B, with ν = 0 where that is short enough. `squared_error` is −2·Re⟨V, B⟩ + ⟨V, Γ·V⟩: what is
    to be added to ‖x‖². Cost: an eigen-decomposition of Γ.
    """
    xp, wide = namespace(gram), as_dtype(right, dtype_name(gram.dtype))
    values, vectors = xp.linalg.eigh(gram)
    sigma, inside = to_host(values).astype(np.float64), adjoint(vectors) @ wide
    squares = _row_squares(inside)
    kept = sigma > gram.shape[0] * eps("float64") * max(sigma[-1], 0.0)
    sigma, squares = np.where(kept, sigma, 1.0), np.where(kept, squares, 0.0)
    # 1/‖V‖ is concave in ν (and 1/‖V‖ = ∞ without a solution: B = 0).
    length = math.sqrt(float((squares / sigma**2).sum()))
    nu = 0.0
    if length > max_norm:

        def inverse_length(nu: float) -> tuple[float, None]:
            return float((squares / (sigma + nu) ** 2).sum()) ** -0.5, None

        slope = length**-3 * float((squares / sigma**3).sum())
        first = (1 / max_norm - 1 / length) / slope
        nu = concave_root(inverse_length, 1 / max_norm, 1 / length, first, ACCURACY).at
    squared = -float((squares * (sigma + 2 * nu) / (sigma + nu) ** 2).sum())
    solution = vectors @ (inside * _column(np.where(kept, 1 / (sigma + nu), 0.0), wide))
    return Ridge(as_dtype(solution, dtype_name(right.dtype)), squared, nu)


def _by_eigenvalues(
    gram: Array, right: Array, squared_norm: float, bound: float, change: _Change, unscaled: Array
) -> Ridge:
    xp = namespace(gram)
    values, vectors = xp.linalg.eigh(gram)
    sigma, inside = to_host(values).astype(np.float64), adjoint(vectors) @ right
    squares = _row_squares(inside)
    kept = sigma > gram.shape[0] * eps("float64") * max(sigma[-1], 0.0)
    sigma, squares = np.where(kept, sigma, 1.0), np.where(kept, squares, 0.0)
    nu, squared = spectral_root(sigma, squares / sigma, max(0.0, squared_norm - float((squares / sigma).sum())), bound)
    solution = vectors @ (inside * _column(np.where(kept, 1 / (sigma + nu), 0.0), right))
    return Ridge(change.back(solution, unscaled), squared, nu)


class _Change(NamedTuple):
    """The change of variables V = T·V′ after which W is I: T = W^(−1/2) of a diagonal W, L⁻ᴴ of W = L·Lᴴ."""

    roots: Array | None
    triangle: Array | None

    @classmethod
    def of(cls, weights: Array | None, like: Array) -> _Change:
        if weights is None:
            return cls(None, None)
        xp, name = namespace(weights), dtype_name(like.dtype)
        if weights.ndim == 1:
            return cls(as_dtype(1 / xp.sqrt(weights), name), None)
        lower = xp.linalg.cholesky(as_dtype(weights, name))
        # r is small, and inverses of triangles are as accurate as solutions with them.
        return cls(None, xp.linalg.inv(lower))

    def gram(self, gram: Array) -> Array:
        """TᴴΓT."""
        if self.roots is not None:
            return gram * self.roots[:, None] * self.roots
        return gram if self.triangle is None else self.triangle @ gram @ adjoint(self.triangle)

    def right(self, right: Array) -> Array:
        """TᴴB."""
        if self.roots is not None:
            return right * self.roots[:, None]
        return right if self.triangle is None else self.triangle @ right

    def columns(self, matrix: Array) -> Array:
        """K·T."""
        if self.roots is not None:
            return matrix * self.roots
        return matrix if self.triangle is None else matrix @ adjoint(self.triangle)

    def back(self, solution: Array, like: Array) -> Array:
        """T·V′, in the dtype of B."""
        if self.roots is not None:
            solution = solution * self.roots[:, None]
        elif self.triangle is not None:
            solution = adjoint(self.triangle) @ solution
        return as_dtype(solution, dtype_name(like.dtype))


def ridged(gram: Array, nu: float) -> Array:
    """Γ + νI, a new matrix."""
    xp, n = namespace(gram), gram.shape[0]
    flat = xp.reshape(copy(gram), (n * n,))
    flat[:: n + 1] = flat[:: n + 1] + nu
    return xp.reshape(flat, (n, n))


def _explained(gram: Array, v: Array, right: Array) -> float:
    """2·Re⟨V, B⟩ − ⟨V, Γ·V⟩: rounding in V shows in second order only, for V that nearly solve Γ·V = B."""
    return _inner(v, 2 * right - gram @ v)


def _inner(a: Array, b: Array) -> float:
    """Re⟨a, b⟩."""
    xp = namespace(a, b)
    value = xp.vecdot(xp.reshape(a, (-1,)), xp.reshape(b, (-1,)))
    return float(xp.real(value) if is_complex(a) else value)


def _row_squares(rows: Array) -> Vector:
    xp = namespace(rows)
    return to_host(xp.linalg.vector_norm(rows, axis=1)).astype(np.float64) ** 2


def _column(factors: Vector, like: Array) -> Array:
    real = "float32" if dtype_name(like.dtype) in ("float32", "complex64") else "float64"
    return to_device(factors.astype(real), like=like)[:, None]
