"""Formats as x̂_(leg) = A·G(θ)ᴴ: which modes stand where, what θ is, and the tensor that A and θ make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from tensorring._array import Array, namespace
from tensorring.decompose._arguments import identity
from tensorring.decompose._metric.kernels import Chain, Kernel, KhatriRao, Kronecker
from tensorring.tensors import CPTensor, CutTensor, LowRankTensor, TRTensor, TTTensor, TuckerTensor

Arrays = list[Array]


class Format(Protocol):
    """A format with a core of its own for the leg.

    `order` are the modes, the leg first; `cap` is the rank of A, None where it has no bond but those of G. Arrays are
    those of the tensor itself: θ, of which G is made, are their conjugates.
    """

    order: tuple[int, ...]
    cap: int | None

    def parts(self, tensor: Any) -> Arrays:
        """The arrays of all modes but the leg."""

    def kernel(self, theta: Sequence[Array]) -> Kernel:
        """G of θ."""

    def tensor(self, basis: Array | None, a: Array, parts: Arrays) -> LowRankTensor:
        """The tensor with A = basis·a (or a)."""


def rotated(leg: int, order: int) -> tuple[int, ...]:
    """The modes in turn, the leg first."""
    return (*range(leg, order), *range(leg))


class CP:
    """A holds the leg's factor, weights included."""

    cap: int | None = None

    def __init__(self, leg: int, shape: Sequence[int]) -> None:
        self.order = rotated(leg, len(shape))

    def parts(self, tensor: CPTensor) -> Arrays:
        """Columns whose norms share that of their term evenly: steps then move all factors alike."""
        xp = namespace(*tensor.factors)
        norms = [xp.linalg.vector_norm(u, axis=0) for u in tensor.factors]
        shares = math.prod(norms, start=abs(tensor.weights)) ** (1 / tensor.ndim)
        shares = xp.where(shares > 0, shares, xp.ones_like(shares))
        safe = [xp.where(norm > 0, norm, xp.ones_like(norm)) for norm in norms]
        return [tensor.factors[k] * (shares / safe[k]) for k in self.order[1:]]

    def kernel(self, theta: Sequence[Array]) -> KhatriRao:
        return KhatriRao(theta)

    def tensor(self, basis: Array | None, a: Array, parts: Arrays) -> CPTensor:
        xp, factors = namespace(a), dict(zip(self.order, [a, *parts], strict=True))
        weights = xp.ones(a.shape[1], dtype=xp.float64, device=a.device)
        return CPTensor(weights, tuple(factors[k] for k in range(len(factors))))


class Ring:
    """A holds the leg's core, its two bonds as columns; a train is the ring whose closing bond is 1."""

    cap: int | None = None

    def __init__(self, leg: int, shape: Sequence[int], kind: type[TTTensor] | type[TRTensor]) -> None:
        self.order, self.kind = rotated(leg, len(shape)), kind

    def parts(self, tensor: TTTensor | TRTensor) -> Arrays:
        return [tensor.cores[k] for k in self.order[1:]]

    def kernel(self, theta: Sequence[Array]) -> Chain:
        return Chain(theta)

    def tensor(self, basis: Array | None, a: Array, parts: Arrays) -> TTTensor | TRTensor:
        xp = namespace(a)
        leg = xp.permute_dims(xp.reshape(a, (-1, parts[0].shape[0], parts[-1].shape[2])), (2, 0, 1))
        cores = dict(zip(self.order, [leg, *parts], strict=True))
        return self.kind(tuple(cores[k] for k in range(len(cores))))


class Tucker:
    """A holds the leg's factor and the core; modes that are whole come before those truncated, for long products."""

    def __init__(self, leg: int, shape: Sequence[int], ranks: Sequence[int], modes: Sequence[int]) -> None:
        others = [k for k in range(len(shape)) if k != leg]
        self.whole = [k for k in others if k not in modes]
        self.cut = [k for k in others if k in modes]
        self.order = (leg, *self.whole, *self.cut)
        self.sizes, self.ranks = [shape[k] for k in self.order], tuple(ranks)
        self.cap = ranks[leg] if leg in modes and ranks[leg] < shape[leg] else None

    def parts(self, tensor: TuckerTensor) -> Arrays:
        return [tensor.factors[k] for k in self.cut]

    def kernel(self, theta: Sequence[Array]) -> Kronecker:
        return Kronecker(self.sizes[1:], [*(None for _ in self.whole), *theta])

    def tensor(self, basis: Array | None, a: Array, parts: Arrays) -> TuckerTensor:
        xp, order = namespace(a), self.order
        bonds = [a.shape[0], *self.sizes[1 : 1 + len(self.whole)], *(v.shape[1] for v in parts)]
        core = xp.permute_dims(xp.reshape(a, tuple(bonds)), tuple(order.index(k) for k in range(len(order))))
        ones = [identity(n, like=a) for n in bonds[: 1 + len(self.whole)]]
        factors = dict(zip(order, [ones[0] if basis is None else basis, *ones[1:], *parts], strict=True))
        return TuckerTensor(core, tuple(factors[k] for k in range(len(order))))


class Cut:
    """A holds the side of the leg; the other side is θ."""

    cap: int | None = None

    def __init__(self, leg: int, shape: Sequence[int], modes: tuple[int, ...]) -> None:
        columns = tuple(k for k in range(len(shape)) if k not in modes)
        self.modes, self.left = modes, leg in modes
        self.own, self.far = (modes, columns) if self.left else (columns, modes)
        self.order = (leg, *(k for k in self.own if k != leg), *self.far)
        self.shape = tuple(shape)

    def parts(self, tensor: CutTensor) -> Arrays:
        far, bond = tensor.right if self.left else tensor.left, tensor.ranks[0]
        xp = namespace(far)
        return [xp.reshape(far, (bond, -1)).T if self.left else xp.reshape(far, (-1, bond))]

    def kernel(self, theta: Sequence[Array]) -> Kronecker:
        (v,) = theta
        beside = math.prod(self.shape[k] for k in self.own) // self.shape[self.order[0]]
        return Kronecker((beside, v.shape[0]), [None, v])

    def tensor(self, basis: Array | None, a: Array, parts: Arrays) -> CutTensor:
        xp, (v,), shape = namespace(a), parts, self.shape
        inner = self.order[: len(self.own)]
        own = xp.reshape(a, (*(shape[k] for k in inner), v.shape[1]))
        own = xp.permute_dims(own, (*(inner.index(k) for k in self.own), len(inner)))
        if self.left:
            return CutTensor(own, xp.reshape(v.T, (v.shape[1], *(shape[k] for k in self.far))), self.modes)
        far = xp.reshape(v, (*(shape[k] for k in self.far), v.shape[1]))
        return CutTensor(far, xp.permute_dims(own, (len(inner), *range(len(inner)))), self.modes)
