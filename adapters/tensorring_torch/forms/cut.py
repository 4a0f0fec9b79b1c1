"""Two kernels with one bond. The part with the output channels comes last.

If the other part has not the input channels either, those ride along: it sees each channel by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor

import tensorring as tg
from tensorring_torch.geometry import Size
from tensorring_torch.modules import Kernel, to_torch

OUTPUT, INPUT, AXES = 0, 1, 2


def modes(order: int) -> list[tuple[int, ...]]:
    """At the output channels, at the input channels, and all that separate some axes from the others.

    The two halves of a matrix are the same cut.
    """
    if order == AXES:
        return [(OUTPUT,)]
    axes = range(AXES, order)
    apart = [(OUTPUT, *some) for count in range(1, len(axes)) for some in combinations(axes, count)]
    return [(OUTPUT,), (INPUT,), *reversed(apart)]


def kernels(tensor: tg.CutTensor, size: Size) -> list[Kernel]:
    """The two kernels of a cut of shape (O, I, *size), along any of its modes."""
    left, right = to_torch(tensor.left).movedim(-1, 0), to_torch(tensor.right)
    others = tuple(k for k in range(tensor.ndim) if k not in tensor.modes)
    last, first = ((left, tensor.modes), (right, others))
    if OUTPUT in others:
        last, first = first, last
    riders = 1 if INPUT in first[1] else tensor.shape[INPUT]
    # (r, I, *size), and (O, r, *size) or (O, I·r, *size) where the input channels rode along.
    front, back = _spread(*first, tensor.ndim)[:, 0], _spread(*last, tensor.ndim).movedim(0, 2)
    return [Kernel(front), Kernel(back.reshape(len(back), riders * back.shape[2], *back.shape[3:]))]


def _spread(part: Tensor, modes: tuple[int, ...], order: int) -> Tensor:
    """(r, O, I, *size), with size 1 for each mode that the part has not."""
    sizes = dict(zip(modes, part.shape[1:], strict=True))
    return part.reshape(part.shape[0], *(sizes.get(mode, 1) for mode in range(order)))


def fit(
    weight: np.ndarray, *, tol: float | None, ranks: int | None, cost: Callable[..., float]
) -> list[tg.Decomposition[Any]]:
    """All cuts: which one costs least depends on where the layer stands."""
    return [tg.cut_svd(weight, modes=each, ranks=ranks, tol=tol) for each in modes(weight.ndim)]
