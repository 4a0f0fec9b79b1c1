"""What every decomposition is asked: a tensor, a tolerance, ranks. Checked and scaled once, at entry."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorring._array import Array, as_dtype, compute_dtype_name, contiguous, dtype_name, is_array, namespace
from tensorring.linalg.rank import error_floor
from tensorring.linalg.scale import measure, scaled
from tensorring.tensors.low_rank import LowRankTensor
from tensorring.tensors.result import Candidate, Decomposition, Stop

Ranks = int | Sequence[int | None] | None
Caps = tuple[int | None, ...]


@dataclass(frozen=True)
class Problem:
    """A tensor ready to be decomposed, and the error allowed.

    `x` is in C order, in the dtype computed in, and divided by 2**exponent, so that its squares are safe; `norm` is its
    norm after that. Errors inside the methods are absolute, in that scale.
    """

    x: Array
    norm: float
    exponent: int
    tol: float | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return tuple(self.x.shape)

    @property
    def floor(self) -> float:
        """The relative error that rounding may add."""
        return error_floor(self.x.dtype, self.x.ndim)

    @property
    def allowed(self) -> float:
        """The squared error that may be made in all; a quarter of the floor lets ties at the tolerance pass."""
        return float((((self.tol or 0.0) + self.floor / 4) * self.norm) ** 2)

    def reserve(self, cuts: int) -> float:
        """The squared error that each of so many cuts may make in any case: what is zero to rounding goes."""
        return float((self.floor / 2 * self.norm) ** 2 / max(1, cuts))

    def result(
        self, tensor: LowRankTensor, squared_error: float, candidates: tuple[Candidate, ...] = ()
    ) -> Decomposition[Any]:
        """The result of a direct method: errors made relative, and the scale put back."""
        error = self.relative(squared_error)
        return Decomposition(self.restored(tensor), error, self.keeps(error), Stop.direct, candidates=candidates)

    def restored(self, tensor: LowRankTensor) -> LowRankTensor:
        """The tensor in the scale of the one that was given."""
        arrays = list(tensor.arrays)
        arrays[tensor.carrier] = scaled(arrays[tensor.carrier], self.exponent)
        return tensor.with_arrays(arrays)

    def relative(self, squared_error: float) -> float:
        """The relative error; 0 for a zero tensor."""
        return math.sqrt(squared_error) / self.norm if self.norm else 0.0

    def keeps(self, error: float) -> bool:
        """True where a relative error keeps the tolerance, or where none was asked."""
        return self.tol is None or error <= self.tol + self.floor


def prepare(x: Any, *, tol: float | None) -> Problem:
    """The tensor checked, in C order and in a safe scale: copied only where its order, dtype or scale asks for it.

    Raises
    ------
    TypeError
        For what is no array of numbers.
    ValueError
        For a tensor that is empty, has no modes, or holds NaN or inf.
    """
    x = checked_tensor(x)
    norm, exponent = measure(x)
    largest = float(np.finfo(dtype_name(x.dtype)).max)
    if norm > math.ldexp(largest, -max(exponent, 0)):
        raise ValueError(
            f"got a tensor whose norm is above {largest:.2g}, the largest {dtype_name(x.dtype)}, so that its parts "
            "could not be held; divide it by a power of two first"
        )
    return Problem(scaled(x, -exponent), norm, exponent, checked_tol(tol))


def checked_tensor(x: Any) -> Array:
    """An array in C order and in a dtype that is computed in."""
    if isinstance(x, (LowRankTensor, Decomposition)):
        way = "to_dense()" if isinstance(x, LowRankTensor) else "tensor.to_dense()"
        raise TypeError(f"got {x!r}; decompositions take a dense array: use its {way}")
    if not is_array(x):
        x = _from_sequence(x)
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("got a masked array, whose hidden entries a plain decomposition would read: fill them first")
    if x.ndim == 0 or 0 in x.shape:
        raise ValueError(f"got a tensor of shape {tuple(x.shape)}; it needs at least one mode and one entry")
    return contiguous(as_dtype(x, compute_dtype_name(x.dtype)))


def _from_sequence(x: Any) -> Array:
    try:
        array = np.asarray(x)
    except ValueError:
        raise TypeError(f"got a {type(x).__name__} whose parts differ in length; a tensor is a dense array") from None
    compute_dtype_name(array.dtype)
    return array


def checked_tol(tol: Any) -> float | None:
    """The tolerance as a float in [0, 1), or None."""
    if tol is None:
        return None
    if isinstance(tol, bool) or not isinstance(tol, (int, float, np.number)) or np.iscomplexobj(tol):
        raise TypeError(f"got tol={tol!r}; tol is the relative error allowed, a number in [0, 1)")
    if not 0 <= tol < 1:
        raise ValueError(f"got tol={tol}; tol is the relative error allowed, in [0, 1): 0.05 asks for 5 %")
    return float(tol)


def checked_ranks(ranks: Any, tol: float | None, count: int, meaning: str) -> Caps:
    """The caps as a tuple of `count` entries, None where there is no cap.

    Parameters
    ----------
    ranks
        None, one int for all, or a sequence of ints and None.
    tol
        The tolerance that came with them: one of the two is needed.
    count
        How many ranks the format has for this tensor.
    meaning
        What the ranks are, for messages.
    """
    if ranks is None:
        if tol is None:
            raise ValueError(
                "got neither tol nor ranks; give tol= for the relative error allowed, ranks= for caps, or both"
            )
        return (None,) * count
    order = 1 if isinstance(ranks, Sequence) else getattr(ranks, "ndim", 0)
    if isinstance(ranks, str) or order > 1:
        raise TypeError(f"got ranks={ranks!r}; ranks is one int, or a sequence of ints with None for no cap")
    entries = list(ranks) if order else [ranks] * count
    if len(entries) != count:
        raise ValueError(
            f"got {len(entries)} ranks, {tuple(entries)}; here ranks are {meaning}: {count} of them, without the "
            "redundant outer ones that other libraries ask for; or give one int for all"
        )
    caps = tuple(_checked_rank(rank) for rank in entries)
    if tol is None and count and all(cap is None for cap in caps):
        raise ValueError(f"got ranks={ranks!r} and no tol; cap at least one rank, or give tol=")
    return caps


def _checked_rank(rank: Any) -> int | None:
    if rank is None:
        return None
    try:
        value = operator.index(rank)
    except TypeError:
        raise TypeError(f"got a rank of {rank!r}; ranks are ints of at least 1, or None for no cap") from None
    if isinstance(rank, bool) or value < 1:
        raise ValueError(f"got a rank of {rank!r}; ranks are ints of at least 1, or None for no cap")
    return value


def checked_rank(rank: Any) -> int:
    """The rank of a CP: an int of at least 1."""
    if rank is None or isinstance(rank, Sequence) or getattr(rank, "shape", ()) != ():
        raise TypeError(f"got rank={rank!r}; a CP has one rank for all modes, not several ranks: an int of at least 1")
    if isinstance(rank, bool) or not isinstance(rank, (int, np.integer)) or rank < 1:
        kind = ValueError if isinstance(rank, (int, np.integer)) else TypeError
        raise kind(f"got rank={rank!r}; the rank of a CP is an int of at least 1")
    return int(rank)


def identity(n: int, *, like: Array) -> Array:
    """The n × n identity in the library, dtype and on the device of an array."""
    xp = namespace(like)
    return xp.eye(n, dtype=like.dtype, device=like.device)
