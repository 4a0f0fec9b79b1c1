"""What a format makes of all modes but one: x̂_(leg) = A·Gᴴ, G = G(θ) a matrix (N, q) made of small arrays θ.

A kernel says what variable projection asks of G: M·G, Gᴴ·(M·G), and what a derivative for G is for θ. None but the
first needs G itself, and a Kronecker product never is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from tensorring._array import Array, adjoint, conj, is_complex, namespace
from tensorring.contract.chain import chain_product
from tensorring.contract.unfold import khatri_rao, mode_product


class Kernel(Protocol):
    """G(θ)."""

    def times(self, matrix: Array) -> Array:
        """M·G: (m, N) -> (m, q)."""

    def gram(self, product: Array) -> Array:
        """Gᴴ·P: (N, q) -> (q, q)."""

    def pull(self, t: Array, a: Array) -> list[Array]:
        """The derivatives for θ of Re⟨T·A, G⟩: (N, m), (m, q)."""


class _Dense:
    """A kernel that is formed."""

    def __init__(self, matrix: Array) -> None:
        self.matrix = matrix

    def times(self, matrix: Array) -> Array:
        return matrix @ self.matrix

    def gram(self, product: Array) -> Array:
        return adjoint(self.matrix) @ product


class KhatriRao(_Dense):
    """G[(i_1 … i_m), r] = Π_k U_k[i_k, r]: the terms of a CP."""

    def __init__(self, factors: Sequence[Array]) -> None:
        super().__init__(khatri_rao(factors))
        self.factors = list(factors)

    def pull(self, t: Array, a: Array) -> list[Array]:
        xp, d = namespace(t), t @ a
        sizes, rank, parts = [u.shape[0] for u in self.factors], d.shape[1], []
        for k, n in enumerate(sizes):
            before, after = self.factors[:k], self.factors[k + 1 :]
            part = xp.reshape(d, (math.prod(sizes[:k]), n, -1, rank))
            part = xp.sum(part * conj(khatri_rao(after)), axis=2) if after else part[:, :, 0, :]
            parts.append(xp.sum(part * conj(khatri_rao(before))[:, None, :], axis=0) if before else part[0, :, :])
        return parts

    def sizes(self) -> tuple[Array, list[Array]]:
        """Π_k ‖u_{k,r}‖² of each term (R,), and (R,) for each mode the same without it."""
        xp = namespace(*self.factors)
        squares = [xp.sum(squared(u), axis=0) for u in self.factors]
        one = xp.ones_like(squares[0])
        others = [math.prod(squares[:k] + squares[k + 1 :], start=one) for k in range(len(squares))]
        return others[0] * squares[0], others


class Chain(_Dense):
    """G[(i_1 … i_m), (b, a)] = (G_1(i_1) ⋯ G_m(i_m))[b, a]: what closes onto one core of a ring or a train."""

    def __init__(self, cores: Sequence[Array]) -> None:
        xp, self.cores = namespace(*cores), list(cores)
        product = chain_product(cores)
        super().__init__(xp.reshape(xp.permute_dims(product, (1, 0, 2)), (product.shape[1], -1)))

    def pull(self, t: Array, a: Array) -> list[Array]:
        xp, cores, parts = namespace(t), self.cores, []
        first, last = cores[0].shape[0], cores[-1].shape[2]
        d = xp.permute_dims(xp.reshape(t @ a, (-1, first, last)), (1, 0, 2))
        for k, core in enumerate(cores):
            r, n, s = core.shape
            part = xp.reshape(d, (first * math.prod(c.shape[1] for c in cores[:k]), -1))
            if k > 0:
                part = adjoint(xp.reshape(chain_product(cores[:k]), (-1, r))) @ part
            part = xp.reshape(part, (r * n, -1))
            if k + 1 < len(cores):
                part = part @ adjoint(xp.reshape(chain_product(cores[k + 1 :]), (s, -1)))
            parts.append(xp.reshape(part, (r, n, s)))
        return parts


class Kronecker:
    """G = ⊗_k V_k, (n_k, r_k) each, None for an identity: the subspaces of a Tucker tensor; never formed."""

    def __init__(self, shape: Sequence[int], factors: Sequence[Array | None]) -> None:
        self.shape, self.factors = tuple(shape), {k: v for k, v in enumerate(factors) if v is not None}

    def times(self, matrix: Array) -> Array:
        xp = namespace(matrix)
        x = xp.reshape(matrix, (matrix.shape[0], *self.shape))
        for k in reversed(self.factors):
            x = mode_product(x, self.factors[k].T, k + 1)
        return xp.reshape(x, (matrix.shape[0], -1))

    def gram(self, product: Array) -> Array:
        xp = namespace(product)
        x = self._projected(xp.reshape(product, (*self.shape, -1)), self.factors)
        return xp.reshape(x, (product.shape[1], product.shape[1]))

    def pull(self, t: Array, a: Array) -> list[Array]:
        xp, order, parts = namespace(t), len(self.shape), []
        t = xp.reshape(t, (*self.shape, -1))
        ranks = [self.factors[k].shape[1] if k in self.factors else n for k, n in enumerate(self.shape)]
        a = xp.reshape(a, (-1, *ranks))
        for k in self.factors:
            part = self._projected(t, [j for j in self.factors if j != k])
            others = [j for j in range(order) if j != k]
            axes = ([*others, order], [*(j + 1 for j in others), 0])
            parts.append(xp.tensordot(part, a, axes=axes))
        return parts

    def _projected(self, x: Array, modes: Iterable[int]) -> Array:
        for k in modes:
            x = mode_product(x, adjoint(self.factors[k]), k)
        return x


def squared(u: Array) -> Array:
    """|u|² of every entry."""
    if not is_complex(u):
        return u * u
    xp = namespace(u)
    return xp.real(u) ** 2 + xp.imag(u) ** 2
