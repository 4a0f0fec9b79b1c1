"""CP: input 1×1 to R channels, each filtered by itself (depthwise h×w), output 1×1. Also CP of a Tucker core.

The outer kernels are the factors of the input and output modes, the filters are the third factor. Those of a tensor of
order 3, (O, I, h·w), are any; those of (O, I, h, w) are products of a column and a row, which may stand apart. With
more axes or fewer accordingly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

import tensorring as tg
from tensorring_torch.geometry import Size
from tensorring_torch.modules import Kernel, along, pointwise, to_torch

Caps = int | Sequence[int | None] | None
Cost = Callable[..., float]

# How much of the squared error the Tucker part of "tucker-cp" may make, where only a tolerance is given. Small shares
# leave its matrices wide: on ResNet-20's kernels 0.5 to 0.7 store least, ever more the looser the tolerance.
SHARES = (0.5, 0.8)


@dataclass(frozen=True, eq=False, repr=False)
class TuckerCPTensor(tg.LowRankTensor):
    """x = core ×_1 output ×_2 entry, the core a CP: a CP whose first two factors are products of two thin matrices.

    Parameters
    ----------
    core
        A CPTensor (r_out, r_in, h·w) or (r_out, r_in, *size).
    output, entry
        Matrices (O, r_out) and (I, r_in) of the same library. With orthonormal columns the core is as well conditioned
        as the whole, and as well approximated.

    Raises
    ------
    TypeError, ValueError
        If `core` is no CPTensor of three or more modes, or the matrices do not fit to it.

    References
    ----------
    A.-H. Phan et al. 2020, "Stable low-rank tensor decomposition for compression of convolutional neural network",
    arXiv 2008.05441.

    Examples
    --------
    >>> import numpy as np, tensorring as tg, tensorring_torch as tgt
    >>> core = tg.random.cp((4, 3, 9), rank=5, rng=0)
    >>> tgt.TuckerCPTensor(core, np.ones((16, 4)), np.ones((8, 3)))
    TuckerCPTensor(shape=(16, 8, 9), ranks=(4, 3, 5), parameters=173, dtype=float64)
    """

    format: ClassVar[str] = "tucker-cp"
    core: tg.CPTensor
    output: Any
    entry: Any

    def __post_init__(self) -> None:
        if not isinstance(self.core, tg.CPTensor) or self.core.ndim < 3:
            raise TypeError(f"got {self.core!r} for the core; it is a CPTensor of three or more modes")
        got = [tuple(matrix.shape) for matrix in (self.output, self.entry)]
        if [shape[1:] for shape in got] != [(self.core.shape[0],), (self.core.shape[1],)]:
            raise ValueError(
                f"got matrices of shapes {got} for a core {self.core.shape}; they are (O, r_out), (I, r_in)"
            )

    @property
    def cp(self) -> tg.CPTensor:
        """The same tensor as a CP, the matrices multiplied."""
        first, second, *rest = self.core.factors
        return tg.CPTensor(self.core.weights, (self.output @ first, self.entry @ second, *rest))

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Those of the core, then the matrices."""
        return (*self.core.arrays, self.output, self.entry)

    @property
    def shape(self) -> tuple[int, ...]:
        """(O, I, h·w) or (O, I, *size)."""
        return (self.output.shape[0], self.entry.shape[0], *self.core.shape[2:])

    @property
    def ranks(self) -> tuple[int, ...]:
        """(r_out, r_in, terms)."""
        return (*self.core.shape[:2], self.core.rank)

    def to_dense(self) -> Any:
        """The dense tensor."""
        return self.cp.to_dense()

    def with_arrays(self, arrays: Sequence[Any]) -> Self:
        """The same with other arrays."""
        weights, *factors, output, entry = arrays
        return type(self)(tg.CPTensor(weights, tuple(factors)), output, entry)

    def rows(self, start: int, stop: int) -> Self:
        """The tensor of x[start:stop]."""
        return type(self)(self.core, self.output[start:stop, :], self.entry)


def kernels(tensor: tg.CPTensor, size: Size) -> list[Kernel]:
    """Three kernels of a CP of shape (O, I, h·w), one more for each axis of its own. The scales are shared out."""
    balanced = tg.balance(tensor)
    output, entry, *filters = (to_torch(factor) for factor in balanced.factors)
    # The weights are ones, unless someone's CP had a sign or a phase in them.
    last = output * to_torch(balanced.weights)
    return [pointwise(entry.T, len(size)), *_depthwise(filters, size), pointwise(last, len(size))]


def kernels_around_core(tensor: TuckerCPTensor, size: Size) -> list[Kernel]:
    """Those of the core, between the two matrices."""
    return [
        pointwise(to_torch(tensor.entry).T, len(size)),
        *kernels(tensor.core, size),
        pointwise(to_torch(tensor.output), len(size)),
    ]


def _depthwise(filters: Sequence[Tensor], size: Size) -> list[Kernel]:
    """One kernel of all axes for each channel, or one axis after the other; none for a matrix."""
    if len(filters) == 1:
        rank = filters[0].shape[1]
        return [Kernel(filters[0].T.reshape(rank, 1, *size), rank)]
    return [along(f.T[:, None], axis, len(size), groups=f.shape[1]) for axis, f in enumerate(filters)]


def fit(weight: np.ndarray, *, tol: float | None, ranks: Caps, cost: Cost) -> list[tg.Decomposition[Any]]:
    """The stable CP of (O, I, h·w)."""
    return _stable(_merged(weight), tol, _caps(ranks, 1, "one: the number of terms")[0])


def fit_split(weight: np.ndarray, *, tol: float | None, ranks: Caps, cost: Cost) -> list[tg.Decomposition[Any]]:
    """The stable CP of (O, I, *size)."""
    return _stable(weight, tol, _caps(ranks, 1, "one: the number of terms")[0])


def fit_core(weight: np.ndarray, *, tol: float | None, ranks: Caps, cost: Cost) -> list[tg.Decomposition[Any]]:
    """Tucker-2 of (O, I, h·w), then the stable CP of its core, with what Tucker left of the tolerance."""
    x, caps = _merged(weight), _caps(ranks, 3, "three: (r_out, r_in, terms)")
    if tol is None:
        return _around_core(x, tg.tucker_hosvd(x, ranks=caps[:2], modes=(0, 1)), None, caps[2])
    outer = [tg.tucker_hosvd(x, ranks=caps[:2], tol=tol * math.sqrt(share), modes=(0, 1)) for share in SHARES]
    return [found for each in outer for found in _around_core(x, each, tol, caps[2])]


def _around_core(
    x: np.ndarray, outer: tg.Decomposition[tg.TuckerTensor], tol: float | None, rank: int | None
) -> list[tg.Decomposition[Any]]:
    core, output, entry, last = outer.tensor.arrays
    # ‖x − x̂‖² = ‖x‖² − ‖core‖² + ‖core − ĉore‖², for the matrices have orthonormal columns.
    kept = 1.0 - outer.error**2
    left = None if tol is None else math.sqrt(max(tol**2 - outer.error**2, 0.0) / kept)
    built = []
    for found in _stable(core @ last.T, left, rank):
        tensor = TuckerCPTensor(found.tensor, output, entry)
        error = math.hypot(outer.error, math.sqrt(kept) * found.error)
        built.append(replace(found, tensor=tensor, error=error))
    return built


def _stable(x: np.ndarray, tol: float | None, rank: int | None) -> list[tg.Decomposition[Any]]:
    """The core's stable CP; none where the tolerance alone was asked for, and not reached."""
    found = tg.cp_stable(x, rank=rank, tol=tol, rng=0)
    if found.stop is tg.Stop.interrupted:
        raise KeyboardInterrupt  # the best so far of one layer is no network
    return [found] if found.converged or rank is not None else []


def _merged(weight: np.ndarray) -> np.ndarray:
    """(O, I, h·w)."""
    return weight.reshape(*weight.shape[:2], -1)


def _caps(ranks: Caps, count: int, meaning: str) -> tuple[int | None, ...]:
    caps = (ranks,) * count if ranks is None or isinstance(ranks, int) else tuple(ranks)
    if len(caps) != count:
        raise ValueError(f"got ranks={ranks!r}; this form takes {meaning}, or one int for all")
    return caps
