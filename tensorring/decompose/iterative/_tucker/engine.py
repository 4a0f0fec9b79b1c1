"""Sweeps of higher-order orthogonal iteration, by a dimension tree of mode products.

The modes are halved again and again. A node holds the tensor multiplied by Uᴴ in all modes but its own, so the tensor
itself is read twice a sweep, once for each half, and all the rest happens in what is left of it. Nothing is unfolded:
the first and the last mode are matrix products, those between them batched ones. Modes at full rank have the identity
as factor and take no part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from tensorring._array import (
    Array,
    adjoint,
    as_dtype,
    conj,
    contiguous,
    copy,
    dtype_name,
    eps,
    is_complex,
    is_host,
    matmul,
    namespace,
)
from tensorring._threads import all_blas_threads
from tensorring.contract.first_level import buffer, contract_after, contract_before, uses_kernels
from tensorring.contract.unfold import around, mode_product
from tensorring.decompose._arguments import Problem, identity
from tensorring.decompose.iterative._tucker.vectors import leading
from tensorring.linalg.project import residual_norm
from tensorring.linalg.scale import root_of_sum, squared_parts
from tensorring.tensors import TuckerTensor

Factors = tuple[Array, ...]
# Relative errors told by √(‖x‖² − ‖core‖²) are noise below 30·√eps, and right to a few eps from here up.
_CANCELLED, _CLEAR = 30.0, 0.05
# Partial results smaller than this are allocated as fast as they are looked up.
_LARGE = 2**16


def feasible(ranks: Sequence[int], shape: Sequence[int], modes: Sequence[int]) -> tuple[int, ...]:
    """The ranks without what no core can use: r_n ≤ n, and in `modes` r_n ≤ the product of all other ranks."""
    lowered = [min(pair) for pair in zip(ranks, shape, strict=True)]
    changed = True
    while changed:
        changed = False
        for k in modes:
            others = math.prod(lowered) // lowered[k]
            if lowered[k] > others:
                lowered[k], changed = others, True
    return tuple(lowered)


class Sweeper:
    """HOOI of one tensor at given ranks. Buffers belong to it, so one thread at a time.

    Parameters
    ----------
    problem
        The tensor, scaled, and its norm.
    ranks
        One for each mode, feasible; a mode whose rank is its size is left as it is.
    """

    def __init__(self, problem: Problem, ranks: Sequence[int]) -> None:
        self.problem, self.ranks = problem, tuple(ranks)
        self.modes = tuple(k for k, n in enumerate(problem.shape) if ranks[k] < n)
        self._identities = {k: identity(n, like=problem.x) for k, n in enumerate(problem.shape) if k not in self.modes}
        self._buffers: dict[Any, Array] = {}
        self._half: Array | None = None

    def from_hosvd(self) -> TuckerTensor:
        """The sequentially truncated HOSVD; by Gram matrices unless next to nothing is discarded."""
        # Gram matrices of the whole tensor are work for BLAS, whatever reads it afterwards.
        with all_blas_threads() if uses_kernels(self.problem.x) else nullcontext():
            tensor = self._hosvd(exact=False)
            if self._needs_digits(estimate(self.problem, tensor)):
                tensor = self._hosvd(exact=True)
        return tensor

    def from_factors(self, factors: Sequence[Array]) -> TuckerTensor:
        """The projection of the tensor onto what the factors span: they need not be orthonormal."""
        xp = namespace(self.problem.x)
        bases = {k: xp.linalg.qr(factors[k], mode="reduced").Q[:, : self.ranks[k]] for k in self.modes}
        left, right = _halves(self.modes)
        self._half = self._contract(self.problem.x, left, bases)
        # The core must not lie in a buffer that the next sweep writes to.
        return self._tensor(copy(self._contract(self._half, right, bases)), bases)

    def sweeps(self, tensor: TuckerTensor) -> Iterator[tuple[TuckerTensor, float]]:
        """The tensor and its relative error after each sweep, without end; errors never rise but by rounding."""
        if not self.modes:
            yield tensor, 0.0
            return
        factors, error = {k: tensor.factors[k] for k in self.modes}, estimate(self.problem, tensor)
        while True:
            last = self._visit(self.problem.x, self.modes, factors, self._needs_digits(error))
            tensor = self._tensor(self._product(last, self.modes[0], factors[self.modes[0]]), factors)
            error = _error(self.problem, tensor)
            yield tensor, error

    def _needs_digits(self, error: float) -> bool:
        """Gram matrices are of double precision: they blur what single precision cannot see."""
        single = eps(dtype_name(self.problem.x.dtype)) > eps("float64")
        return not single and error <= 2 * _CANCELLED * math.sqrt(eps("float64"))

    def _hosvd(self, *, exact: bool) -> TuckerTensor:
        y, bases = self.problem.x, {}
        half = len(_halves(self.modes)[0])
        for count, mode in enumerate(self.modes):
            if count == half:
                self._half = y
            bases[mode] = leading(y, mode, self.ranks[mode], exact=exact)
            y = self._product(y, mode, bases[mode])
        return self._tensor(y, bases)

    def _tensor(self, core: Array, factors: dict[int, Array]) -> TuckerTensor:
        core = core if self.modes else copy(core)
        return TuckerTensor(core, tuple((factors | self._identities)[k] for k in range(core.ndim)))

    def _visit(self, y: Array, modes: tuple[int, ...], factors: dict[int, Array], exact: bool) -> Array:
        """Updates the modes of a node, those of its right half first; returns what its first mode was updated from."""
        if len(modes) == 1:
            factors[modes[0]] = leading(y, modes[0], self.ranks[modes[0]], exact=exact, guess=factors[modes[0]])
            return y
        left, right = _halves(modes)
        half = self._half if y is self.problem.x and self._half is not None else self._contract(y, left, factors)
        self._half = None
        self._visit(half, right, factors, exact)
        return self._visit(self._contract(y, right, factors), left, factors, exact)

    def _contract(self, y: Array, modes: tuple[int, ...], factors: dict[int, Array]) -> Array:
        """The tensor times Uᴴ in several modes, what shrinks it most first."""
        if y is self.problem.x and uses_kernels(y):
            return self._read(modes, factors)
        for mode in sorted(modes, key=self._priority):
            y = self._product(y, mode, factors[mode], buffer=(modes, mode))
        return y

    def _read(self, modes: tuple[int, ...], factors: dict[int, Array]) -> Array:
        """The same for the tensor itself, read by a kernel, which puts the mode that it contracts in front."""
        x, (first, *others) = self.problem.x, sorted(modes, key=self._share)
        rows, out = adjoint(factors[first]), self._rows(first)
        if first == x.ndim - 1:
            y = contract_after(rows, x.reshape(-1, x.shape[first]), out)
        else:
            y = contract_before(rows, around(x, first), out)
        order = (first, *(k for k in range(x.ndim) if k != first))
        y = y.reshape([self.ranks[first], *(x.shape[k] for k in order[1:])])
        for mode in others:
            y = self._product(y, order.index(mode), factors[mode], buffer=(modes, mode))
        return contiguous(namespace(y).permute_dims(y, [order.index(k) for k in range(x.ndim)]))

    def _share(self, mode: int) -> float:
        """What is left of the tensor; kernels contract the last mode by dot products, at two thirds of the speed."""
        shape = self.problem.shape
        return self.ranks[mode] / shape[mode] * (1.5 if mode == len(shape) - 1 else 1)

    def _rows(self, mode: int) -> Array | None:
        """Room for the tensor with one mode contracted and in front."""
        x, key = self.problem.x, ("rows", mode)
        if key not in self._buffers:
            self._buffers[key] = buffer(x, self.ranks[mode], math.prod(x.shape) // x.shape[mode])
        return self._buffers[key]

    def _priority(self, mode: int) -> float:
        """What is left of the tensor; the first and the last mode are one matrix product, at up to twice the speed."""
        shape = self.problem.shape
        return self.ranks[mode] / shape[mode] / (2 if mode in (0, len(shape) - 1) else 1)

    def _product(self, y: Array, mode: int, basis: Array, buffer: Any = None) -> Array:
        """y ×_mode Uᴴ, into memory of our own where it is large: fresh pages cost as much as the product."""
        xp, (before, n, after), rank = namespace(y), around(y, mode).shape, basis.shape[1]
        out = self._buffer(buffer, before * rank * after) if buffer is not None else None
        if after == 1:
            out = None if out is None else xp.reshape(out, (before, rank))
            product = matmul(xp.reshape(y, (before, n)), conj(basis), out=out)
        elif before == 1:
            out = None if out is None else xp.reshape(out, (rank, after))
            product = matmul(adjoint(basis), xp.reshape(y, (n, after)), out=out)
        else:
            out = None if out is None else xp.reshape(out, (before, rank, after))
            product = matmul(adjoint(basis), xp.reshape(y, (before, n, after)), out=out)
        return xp.reshape(product, (*y.shape[:mode], rank, *y.shape[mode + 1 :]))

    def _buffer(self, key: Any, entries: int) -> Array | None:
        x = self.problem.x
        if entries < _LARGE or not is_host(x):
            return None
        if key not in self._buffers or self._buffers[key].shape[0] != entries:
            self._buffers[key] = namespace(x).empty((entries,), dtype=x.dtype)
        return self._buffers[key]


def estimate(problem: Problem, tensor: TuckerTensor) -> float:
    """√(‖x‖² − ‖core‖²) / ‖x‖: the relative error where the core is x projected; noise where it is small."""
    norm = problem.norm
    core = root_of_sum(_squares(tensor.core))
    return math.sqrt(max(0.0, (norm - core) * (norm + core))) / norm if norm else 0.0


def exact_error(problem: Problem, tensor: TuckerTensor) -> float:
    """The relative error to the error floor: √(‖x‖² − 2·‖core‖² + ‖tensor‖²), and where that is small, the residual."""
    norm, whole = problem.norm, tensor.core
    for mode, factor in enumerate(tensor.factors):
        if factor.shape[1] < factor.shape[0]:
            # Factors are orthonormal to rounding only: what they lack is most of what the estimate is off by.
            whole = mode_product(whole, adjoint(factor) @ factor, mode)
    core = root_of_sum(_squares(tensor.core)) ** 2
    square = norm**2 - 2 * core + _inner(tensor.core, whole)
    return math.sqrt(square) / norm if square > (_CLEAR * norm) ** 2 else residual(problem, tensor)


def _squares(core: Array) -> list[Array]:
    return squared_parts(namespace(core).reshape(core, (-1,)))


def _inner(a: Array, b: Array) -> float:
    """Re⟨a, b⟩, pairwise and in double precision."""
    xp = namespace(a)
    wide = "complex128" if is_complex(a) else "float64"
    product = conj(as_dtype(a, wide)) * as_dtype(b, wide)
    return float(xp.sum(xp.real(product) if is_complex(a) else product))


def _error(problem: Problem, tensor: TuckerTensor) -> float:
    """The relative error, from the residual itself where a difference of norms would be noise."""
    told = estimate(problem, tensor)
    limit = _CANCELLED * math.sqrt(eps(dtype_name(problem.x.dtype)))
    return told if told > limit else residual(problem, tensor)


def residual(problem: Problem, tensor: TuckerTensor) -> float:
    """‖x − tensor‖ / ‖x‖ from the residual itself, in blocks: the mode that grows most is never expanded.

    Modes at full rank have the identity as factor.
    """
    modes = sorted(range(tensor.ndim), key=lambda k: tensor.shape[k] / tensor.ranks[k])
    y = tensor.core
    for mode in modes[:-1]:
        if tensor.ranks[mode] < tensor.shape[mode]:
            y = mode_product(y, tensor.factors[mode], mode)
    lost = residual_norm(around(problem.x, modes[-1]), tensor.factors[modes[-1]], around(y, modes[-1]))
    return problem.relative(lost**2)


def _halves(modes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    middle = len(modes) // 2
    return modes[:middle], modes[middle:]
