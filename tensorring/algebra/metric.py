"""Norms in which some directions weigh more than others: ‖x‖_S² = ⟨x, S x⟩ with S on groups of modes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tensorring._array import (
    Array,
    adjoint,
    as_dtype,
    cholesky_solver,
    compute_dtype_name,
    conj,
    device_of,
    dtype_name,
    eps,
    is_array,
    is_complex,
    namespace,
)
from tensorring.linalg.scale import measure, scaled
from tensorring.tensors.low_rank import LowRankTensor, checked_modes

# Moments that were summed up in another order on either side of the diagonal differ by so many eps, times their size.
_ROUNDING = 10


class Group(NamedTuple):
    """Some modes, ascending, and the matrix on them (Πn, Πn): in double precision, its largest entry near 1."""

    modes: tuple[int, ...]
    matrix: Array


@dataclass(frozen=True)
class Metric:
    """‖x‖_S² = ⟨x, S x⟩ for tensors of one shape, S = ⊗ of the groups' matrices and of the identity elsewhere.

    Every matrix is scaled by a power of two, since all that is asked for are ratios of norms.
    """

    shape: tuple[int, ...]
    groups: tuple[Group, ...]

    @property
    def singles(self) -> tuple[Group, ...]:
        """The groups of one mode."""
        return tuple(group for group in self.groups if len(group.modes) == 1)

    @property
    def several(self) -> tuple[Group, ...]:
        """The groups of more than one mode."""
        return tuple(group for group in self.groups if len(group.modes) > 1)

    def applied(self, x: Array) -> Array:
        """S x, a tensor of the same shape."""
        xp = namespace(x)
        for modes, matrix in self.groups:
            order = (*(k for k in range(x.ndim) if k not in modes), *modes)
            moved = xp.permute_dims(x, order)
            product = xp.reshape(moved, (-1, matrix.shape[0])) @ matrix.T
            back = tuple(order.index(k) for k in range(x.ndim))
            x = xp.permute_dims(xp.reshape(product, moved.shape), back)
        return x

    def dense(self, modes: Sequence[int], *, like: Array) -> Array:
        """S on these modes, in this order: the Kronecker product of the groups, and of identities where there is none.

        All groups lie among these modes. Of the dtype of `like`, in double precision.
        """
        xp = namespace(like)
        name = "complex128" if is_complex(like) else "float64"
        rest = [mode for mode in modes if all(mode not in group.modes for group in self.groups)]
        now = [*(mode for group in self.groups for mode in group.modes), *rest]
        whole = xp.eye(math.prod(self.shape[mode] for mode in rest), dtype=getattr(xp, name), device=device_of(like))
        for _, matrix in reversed(self.groups):
            size = matrix.shape[0] * whole.shape[0]
            whole = xp.reshape(matrix[:, None, :, None] * whole[None, :, None, :], (size, size))
        sizes, order = [self.shape[mode] for mode in now], [now.index(mode) for mode in modes]
        axes = (*order, *(k + len(now) for k in order))
        return xp.reshape(xp.permute_dims(xp.reshape(whole, (*sizes, *sizes)), axes), whole.shape)

    def norm(self, x: Array) -> tuple[float, int]:
        """(norm, exponent) with ‖x‖_S = norm·2**exponent; what S sees of x only by rounding counts as nothing."""
        xp = namespace(x)
        x = as_dtype(x, "complex128" if is_complex(x) else "float64")
        size, exponent = measure(x)
        x = scaled(x, -exponent)
        square = conj(x) * self.applied(x)
        value = float(xp.sum(xp.real(square) if is_complex(square) else square))
        return (math.sqrt(value) if value > self._rounding() * size * size else 0.0), exponent

    def relative_error(self, x: Array, a: LowRankTensor) -> float:
        """‖x − a‖_S / ‖x‖_S; 0 where both are zero, infinite where x alone is."""
        wide = "complex128" if is_complex(x) or "complex" in dtype_name(a.dtype) else "float64"
        x = as_dtype(x, wide)
        (error, shift), (norm, exponent) = self.norm(x - as_dtype(a.to_dense(), wide)), self.norm(x)
        if norm == 0.0:
            return 0.0 if error == 0.0 else math.inf
        return math.ldexp(error / norm, shift - exponent)

    def _rounding(self) -> float:
        """What rounding makes of ⟨x, S x⟩, for ‖x‖ = 1: an eps of the largest that it can be."""
        bounds = [float(namespace(s).max(namespace(s).sum(abs(s), axis=1))) for _, s in self.groups]
        return eps("float64") * math.prod(bounds)


def checked_metric(metric: Any, x: Array) -> Metric:
    """The metric of `metric={modes: S, …}` for a tensor; one that was checked before as it is.

    Raises
    ------
    TypeError
        If it is no mapping, or a matrix is of another library, or complex where x is real.
    ValueError
        If groups overlap or lie outside the tensor, or a matrix is not Hermitian, positive semidefinite and finite, or
        of another size than its group.
    """
    if isinstance(metric, Metric):
        return metric
    if not isinstance(metric, Mapping):
        raise TypeError(
            f"got a metric of type {type(metric).__name__}; it maps groups of modes to matrices: {{(1, 2): S}}"
        )
    shape, groups, taken = tuple(x.shape), [], set[int]()
    for key, matrix in metric.items():
        modes = checked_modes(key, len(shape))
        if taken & set(modes):
            raise ValueError(f"got metric groups {list(metric)} that share a mode; a mode belongs to one group at most")
        taken |= set(modes)
        scaled_matrix, _ = checked_matrix(matrix, x, [shape[k] for k in modes], f"metric[{key!r}]")
        groups.append(Group(modes, scaled_matrix))
    return Metric(shape, tuple(sorted(groups)))


def checked_matrix(matrix: Any, x: Array, sizes: Sequence[int], name: str) -> tuple[Array, int]:
    """(M, e) with S = M·2**e Hermitian and positive semidefinite on these modes; M double, of entries up to 1."""
    n = math.prod(sizes)
    if not is_array(matrix) or namespace(matrix) is not namespace(x):
        raise TypeError(f"got a {name} that is no array of the library of x: make it with that library")
    if tuple(matrix.shape) != (n, n):
        raise ValueError(
            f"got a {name} of shape {tuple(matrix.shape)}; on modes of sizes {tuple(sizes)} it is a matrix ({n}, {n})"
        )
    own = compute_dtype_name(matrix.dtype)
    if own.startswith("complex") and not is_complex(x):
        raise ValueError(f"got a complex {name} for a tensor of dtype {dtype_name(x.dtype)}; make it real first")
    xp = namespace(matrix)
    matrix = as_dtype(as_dtype(matrix, own), "complex128" if own.startswith("complex") else "float64")
    exponent = measure(matrix, name=name).exponent
    matrix = scaled(matrix, -exponent)
    largest = float(xp.max(abs(matrix)))
    if largest == 0.0:
        raise ValueError(f"got a {name} of zeros; no error would be seen: leave the group out, or give its moments")
    near = math.frexp(largest)[1]
    matrix = scaled(matrix, -near)
    rounding = _ROUNDING * n * eps(own)
    if float(xp.max(abs(matrix - adjoint(matrix)))) > rounding:
        raise ValueError(f"got a {name} that is not {_kind(matrix)}; take (S + Sᴴ)/2 if that is what is meant")
    matrix = (matrix + adjoint(matrix)) / 2
    if cholesky_solver(matrix + rounding * xp.eye(n, dtype=matrix.dtype, device=matrix.device)) is None:
        raise ValueError(
            f"got a {name} with eigenvalues below zero; a metric is positive semidefinite, as second moments are"
        )
    return matrix, exponent + near


def _kind(matrix: Array) -> str:
    return "Hermitian" if is_complex(matrix) else "symmetric"
