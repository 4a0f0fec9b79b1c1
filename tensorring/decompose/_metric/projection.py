"""Variable projection: the leg is eliminated, and an error of the other arrays alone is left, with its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorring._array import (
    Array,
    adjoint,
    as_dtype,
    cholesky_solver,
    conj,
    dtype_name,
    is_complex,
    namespace,
    to_device,
    to_host,
)
from tensorring.algebra.metric import Metric
from tensorring.decompose._arguments import identity
from tensorring.decompose._metric.formats import Format
from tensorring.decompose._metric.kernels import KhatriRao, squared
from tensorring.decompose._metric.lbfgs import Vector
from tensorring.linalg.solve import solve_gram
from tensorring.tensors import LowRankTensor

# Of what x itself weighs, or of the mean of the diagonal where that is less, added to the diagonal of S: what it does
# not see must not make the normal equations singular.
_RIDGE = 1e-5


class Point(NamedTuple):
    """The best leg for some θ, A = basis·a (basis None: a), the relative error, and ‖λ‖/‖x‖ where it has a price."""

    basis: Array | None
    a: Array
    theta: list[Array]
    error: float
    size: float


class Projection:
    """min_A ‖W − A·G(θ)ᴴ‖²_M + μ·Σ_r ‖a_r‖²·Π_k ‖u_{k,r}‖², as a function of θ; W of norm 1, divided by ‖W‖²_M.

    W (n, N) is x with the leg's mode as rows, M (N, N) the conjugate of S on all other modes. With T = M·(W − A·Gᴴ)ᴴ,
    which the elimination leaves, the derivative for G is −2·T·A (the leg is at its minimum: it does not contribute).

    Parameters
    ----------
    x, norm
        The tensor, in double precision, and its Frobenius norm.
    metric
        Groups that leave out the leg.
    form
        The format.
    """

    def __init__(self, x: Array, norm: float, metric: Metric, form: Format) -> None:
        xp, self.form = namespace(x), form
        n = x.shape[form.order[0]]
        w = xp.reshape(xp.permute_dims(x, form.order), (n, -1)) / norm
        m = conj(metric.dense(form.order[1:], like=w))
        seen = w @ m
        weight = _inner(w, seen)
        diagonal = xp.linalg.diagonal(m)
        ridge = _RIDGE * min(weight, float(xp.mean(xp.real(diagonal) if is_complex(diagonal) else diagonal)))
        one = identity(m.shape[0], like=m)
        while cholesky_solver(m + ridge * one) is None:  # moments in single precision may have eigenvalues below zero
            ridge *= 10
        self._total = weight + ridge
        self._both = xp.concat([m + ridge * one, seen + ridge * w], axis=0)
        self._sought = adjoint(seen + ridge * w)
        self._like = w

    def pack(self, arrays: Sequence[Array]) -> Vector:
        """Arrays as one vector of doubles, on the host: complex numbers as pairs."""
        name = dtype_name(self._like.dtype)
        flat = np.concatenate([to_host(u).astype(name, copy=False).reshape(-1) for u in arrays])
        return flat.view(np.float64)

    def unpack(self, vector: Vector, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """The arrays of a vector."""
        flat, arrays, start = vector.view(dtype_name(self._like.dtype)), [], 0
        for shape in shapes:
            stop = start + int(np.prod(shape))
            arrays.append(to_device(flat[start:stop].reshape(shape), like=self._like))
            start = stop
        return arrays

    def begun(self, tensor: LowRankTensor) -> list[Array]:
        """θ of a tensor, in double precision; its scale is the leg's, which is not asked."""
        theta, name = [], dtype_name(self._like.dtype)
        for part in self.form.parts(tensor):
            part = conj(as_dtype(part, name))
            size = float(namespace(part).linalg.vector_norm(part))
            theta.append(part / size if size > 0 else part)
        return theta

    def at(self, theta: list[Array], penalty: float) -> tuple[float, list[Array], Point]:
        """The value at a penalty μ (for a CP; 0: none), its derivatives for θ, and the point."""
        xp, kernel = namespace(self._like), self.form.kernel(theta)
        n = self._sought.shape[0]
        both = kernel.times(self._both)
        product, y = both[:n, :], both[n:, :]
        gram = kernel.gram(product)
        prices, others = self._prices(kernel, penalty)
        priced = gram if prices is None else gram + xp.eye(gram.shape[0], dtype=gram.dtype, device=gram.device) * prices
        a = adjoint(solve_gram(priced, adjoint(y)))
        basis, sought = None, self._sought
        if self.form.cap is not None:
            basis = xp.linalg.eigh(a @ adjoint(y))[1][:, -self.form.cap :]
            a, y, sought = adjoint(basis) @ a, adjoint(basis) @ y, sought @ basis
        square = (self._total - 2 * _inner(a, y) + _inner(a, a @ gram)) / self._total
        parts = kernel.pull(sought - product @ adjoint(a), a)
        gradient = [part * (-2 / self._total) for part in parts]
        size = 0.0
        if prices is not None:
            columns = xp.sum(squared(a), axis=0)
            size = float(xp.sum(columns * prices)) / self._total / penalty
            gradient = [
                g + 2 * penalty * columns * other * u for g, other, u in zip(gradient, others, theta, strict=True)
            ]
        point = Point(basis, a, theta, max(square, 0.0) ** 0.5, size**0.5)
        return square + penalty * size, gradient, point

    def _prices(self, kernel: Any, penalty: float) -> tuple[Array | None, list[Array]]:
        if not (penalty and isinstance(kernel, KhatriRao)):
            return None, []
        sizes, others = kernel.sizes()
        return penalty * self._total * sizes, others


def _inner(a: Array, b: Array) -> float:
    xp = namespace(a)
    product = conj(a) * b
    return float(xp.sum(xp.real(product) if is_complex(product) else product))
