"""The damped Gauss–Newton step of a CP: (JᴴJ + μI)·D = M, without J.

With W_n = U_nᵀ·conj(U_n), Γ_n the Hadamard product of all W but the n-th and Γ_{nm} that of all but two,

    (JᴴJ·D)_n = D_n·Γ_n + U_n·Σ_{m≠n} Γ_{nm} ∗ (D_mᵀ·conj(U_m)).

Let U_n = Q_n·R_n. The part of D_n outside the range of Q_n meets Γ_n + μI alone; the part inside it, D_n = Q_n·E_n,
obeys the same equation with R_n in place of U_n: Σ_n min(n_k, r)·r unknowns, however long the modes are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from tensorring._array import (
    Array,
    adjoint,
    cholesky_solver,
    conj,
    copy,
    is_complex,
    namespace,
    triangle,
    triangle_solver,
)
from tensorring.contract.unfold import khatri_rao
from tensorring.decompose._arguments import identity

# Unknowns up to which Cholesky is quicker than conjugate gradients at their best, a dozen steps; and up to which it
# takes over where they are slow. In between they get (n/110)² steps, which take as long.
SMALL, DENSE = 500, 4000
_CG_SHARE, _CG_STEPS, _CG_CHECKED = 110, 400, 8
# Entries of a Jacobian up to which its triangle is worth the wait.
_JACOBIAN = 2**20

Blocks = list[Array]
Solver = Callable[[Blocks], Blocks]


class Curvature:
    """JᴴJ of a CP at its factors."""

    def __init__(self, factors: Sequence[Array], *, delicate: bool = False) -> None:
        self.factors = factors
        self.grams = [factor.T @ conj(factor) for factor in factors]
        self.singles, self.pairs = _products(self.grams)
        self._bases, self._triangles = [], []
        for factor in factors:
            tall = factor.shape[0] > factor.shape[1]
            basis, inner = namespace(factor).linalg.qr(factor, mode="reduced") if tall else (None, factor)
            self._bases.append(basis)
            self._triangles.append(inner)
        entries = math.prod(inner.shape[0] for inner in self._triangles) * self.unknowns
        self.delicate = delicate and entries <= _JACOBIAN and self.unknowns <= DENSE
        self._hard = False

    @property
    def unknowns(self) -> int:
        """How many there are inside the ranges of the factors."""
        return sum(math.prod(inner.shape) for inner in self._triangles)

    def solver(self, damping: float, accuracy: float) -> Solver | None:
        """M -> D of the damped system; None where rounding leaves it indefinite.

        `accuracy` is the relative residual at which conjugate gradients stop, where the system is large.
        """
        iterates = self.unknowns > SMALL and not self.delicate and not self._hard
        needed = [iterates or basis is not None for basis in self._bases]
        inverses = [self._inverse(mode, damping) if need else None for mode, need in enumerate(needed)]
        if any(need and inverse is None for inverse, need in zip(inverses, needed, strict=True)):
            return None
        inner = self._iterative(inverses, damping, accuracy) if iterates else self._dense(damping)
        if inner is None:
            return None

        def solve(right: Blocks) -> Blocks:
            inside = [m if q is None else adjoint(q) @ m for q, m in zip(self._bases, right, strict=True)]
            return [
                e if q is None else q @ e + (m - q @ i) @ inverse
                for q, e, m, i, inverse in zip(self._bases, inner(inside), right, inside, inverses, strict=True)
            ]

        return solve

    @functools.cached_property
    def matrix(self) -> Array:
        """JᴴJ inside the ranges, dense and Hermitian; E_n is read row by row, one mode after the other."""
        xp, like = namespace(*self._triangles), self._triangles[0]
        ends = [0]
        for inner in self._triangles:
            ends.append(ends[-1] + math.prod(inner.shape))
        dense = xp.empty((ends[-1], ends[-1]), dtype=like.dtype, device=like.device)
        for n, inner in enumerate(self._triangles):
            rows = slice(ends[n], ends[n + 1])
            dense[rows, rows] = _kron(identity(inner.shape[0], like=like), self.singles[n].T)
            for m in range(n + 1, len(self._triangles)):
                block = _coupling(inner, self.pairs[n, m], self._triangles[m])
                columns = slice(ends[m], ends[m + 1])
                dense[rows, columns], dense[columns, rows] = block, adjoint(block)
        return dense

    def _iterative(self, inverses: Blocks, damping: float, accuracy: float) -> Solver:
        """By conjugate gradients, for about as long as the dense solution takes; and by that one from then on."""
        steps = _CG_STEPS if self.unknowns > DENSE else (self.unknowns // _CG_SHARE) ** 2

        def solve(right: Blocks) -> Blocks:
            found, converged = self._by_conjugate_gradients(inverses, damping, accuracy, steps, right)
            if converged or self.unknowns > DENSE:
                return found
            self._hard = True
            direct = self._dense(damping)
            return found if direct is None else direct(right)

        return solve

    def _dense(self, damping: float) -> Solver | None:
        """By Cholesky, or by the triangle of [J; √μ·I] where JᴴJ has lost what is to be seen."""
        solve = self._by_triangle(damping) if self.delicate else self._by_cholesky(damping)
        if solve is None:
            return None

        def solved(right: Blocks) -> Blocks:
            xp = namespace(*right)
            solution = solve(xp.concat([xp.reshape(block, (-1, 1)) for block in right]))
            parts, start = [], 0
            for block in right:
                size = math.prod(block.shape)
                parts.append(xp.reshape(solution[start : start + size, 0], block.shape))
                start += size
            return parts

        return solved

    def _by_cholesky(self, damping: float) -> Callable[[Array], Array] | None:
        xp, n = namespace(self.matrix), self.unknowns
        flat = xp.reshape(copy(self.matrix), (n * n,))
        flat[:: n + 1] = flat[:: n + 1] + damping
        return cholesky_solver(xp.reshape(flat, (n, n)))

    def _by_triangle(self, damping: float) -> Callable[[Array], Array]:
        ridge = math.sqrt(damping) * identity(self.unknowns, like=self.jacobian)
        return triangle_solver(triangle(namespace(ridge).concat([self.jacobian, ridge])))

    @functools.cached_property
    def jacobian(self) -> Array:
        """J inside the ranges, dense; the columns in the order of the rows of `matrix`."""
        xp, blocks = namespace(*self._triangles), []
        for n, inner in enumerate(self._triangles):
            size, rank = inner.shape
            ones = xp.ones((1, rank), dtype=inner.dtype, device=inner.device)
            before, after = khatri_rao([ones, *self._triangles[:n]]), khatri_rao([ones, *self._triangles[n + 1 :]])
            block = xp.reshape(before, (-1, 1, 1, 1, rank)) * xp.reshape(after, (1, 1, -1, 1, rank))
            block = block * xp.reshape(identity(size, like=inner), (1, size, 1, size, 1))
            blocks.append(xp.reshape(block, (-1, size * rank)))
        return xp.concat(blocks, axis=1)

    def _inverse(self, mode: int, damping: float) -> Array | None:
        """(Γ + μI)⁻¹ of a mode, for products from the right; None where rounding leaves Γ + μI indefinite."""
        gamma, xp = self.singles[mode], namespace(self.singles[mode])
        eye = identity(gamma.shape[0], like=gamma)
        if self.delicate:
            others = khatri_rao([inner for m, inner in enumerate(self._triangles) if m != mode])
            return triangle_solver(triangle(xp.concat([conj(others), math.sqrt(damping) * eye])))(eye)
        solve = cholesky_solver(gamma + damping * eye)
        return None if solve is None else solve(eye)

    def _by_conjugate_gradients(
        self, inverses: Blocks, damping: float, accuracy: float, steps: int, right: Blocks
    ) -> tuple[Blocks, bool]:
        """Preconditioned by the diagonal blocks Γ_n + μI; the solution, and whether it has the accuracy asked."""

        def preconditioned(blocks: Blocks) -> Blocks:
            return [block @ inverse for block, inverse in zip(blocks, inverses, strict=True)]

        solution = [0.0 * block for block in right]
        residual, direction = right, preconditioned(right)
        size = first = inner(residual, direction)
        for count in range(1, steps + 1):
            image = self.product(direction, damping)
            length = _ratio(size, inner(direction, image))
            solution = _sum(solution, direction, length)
            residual = _sum(residual, image, -length)
            towards = preconditioned(residual)
            before, size = size, inner(residual, towards)
            # Reading a number back stops a device: not at every step.
            if count % _CG_CHECKED == 0 and float(size) <= accuracy**2 * float(first):
                return solution, True
            direction = _sum(towards, direction, _ratio(size, before))
        return solution, False

    def product(self, blocks: Blocks, damping: float) -> Blocks:
        """(JᴴJ + μI)·E inside the ranges. Cost: 4·Σ_n min(n_k, r)·r²."""
        crossed = [block.T @ conj(inner) for block, inner in zip(blocks, self._triangles, strict=True)]
        images = []
        for n, inner in enumerate(self._triangles):
            others = [self.pairs[min(n, m), max(n, m)] * cross for m, cross in enumerate(crossed) if m != n]
            image = blocks[n] @ self.singles[n] + damping * blocks[n]
            images.append(image + inner @ sum(others[1:], others[0]) if others else image)
        return images


def _products(grams: Blocks) -> tuple[Blocks, dict[tuple[int, int], Array]]:
    """Hadamard products of all Gram matrices but one, and of all but two."""
    ones = namespace(*grams).ones_like(grams[0])
    after = [ones]
    for gram in reversed(grams):
        after.append(after[-1] * gram)
    after.reverse()
    singles, pairs, before = [], {}, ones
    for n, gram in enumerate(grams):
        singles.append(before * after[n + 1])
        between = before
        for m in range(n + 1, len(grams)):
            pairs[n, m] = between * after[m + 1]
            between = between * grams[m]
        before = before * gram
    return singles, pairs


def _coupling(a: Array, gamma: Array, b: Array) -> Array:
    """H[(i, r), (j, s)] = a[i, s]·Γ[s, r]·conj(b)[j, r]: what a change of mode m does to the gradient of mode n."""
    xp = namespace(a)
    scaled = xp.expand_dims(a, axis=1) * gamma.T  # (i, r, s)
    block = xp.expand_dims(scaled, axis=2) * xp.expand_dims(xp.expand_dims(conj(b).T, axis=-1), axis=0)
    return xp.reshape(block, (math.prod(a.shape), math.prod(b.shape)))


def _kron(a: Array, b: Array) -> Array:
    """H[(i, r), (j, s)] = a[i, j]·b[r, s]."""
    xp = namespace(a)
    block = xp.expand_dims(xp.expand_dims(a, axis=1), axis=-1) * xp.expand_dims(b, axis=1)
    return xp.reshape(block, (a.shape[0] * b.shape[0], a.shape[1] * b.shape[1]))


def inner(a: Blocks, b: Blocks) -> Array:
    """Re⟨a, b⟩ over all blocks, a number that stays where the blocks are."""
    xp = namespace(*a)
    terms = [xp.sum(xp.real(conj(x) * y)) if is_complex(x) else xp.sum(x * y) for x, y in zip(a, b, strict=True)]
    return sum(terms[1:], terms[0])


def _sum(a: Blocks, b: Blocks, scale: Array) -> Blocks:
    return [x + scale * y for x, y in zip(a, b, strict=True)]


def _ratio(a: Array, b: Array) -> Array:
    """a/b, and 0 where nothing is left."""
    xp = namespace(a, b)
    there = b > 0
    return xp.where(there, a / xp.where(there, b, xp.ones_like(b)), xp.zeros_like(a))
