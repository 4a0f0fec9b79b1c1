"""Two kernels with one bond. The part with the output channels comes last.

If the other part has not the input channels either, those ride along: it sees each channel by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

import tensorring as tg
from tensorring_torch.geometry import Size
from tensorring_torch.modules import Kernel, to_torch

OUTPUT, INPUT, HEIGHT, WIDTH = range(4)

# At the output channels, at the input channels, and the two that separate height from width.
MODES = ((OUTPUT,), (INPUT,), (OUTPUT, WIDTH), (OUTPUT, HEIGHT))


def kernels(tensor: tg.CutTensor, size: Size) -> list[Kernel]:
    """The two kernels of a cut of shape (O, I, h, w), along any of its modes."""
    left, right = to_torch(tensor.left).movedim(-1, 0), to_torch(tensor.right)
    others = tuple(k for k in range(4) if k not in tensor.modes)
    last, first = ((left, tensor.modes), (right, others))
    if OUTPUT in others:
        last, first = first, last
    riders = 1 if INPUT in first[1] else tensor.shape[INPUT]
    return [Kernel(_first(*first)), Kernel(_last(*last, riders=riders))]


def _first(part: Tensor, modes: tuple[int, ...]) -> Tensor:
    """(r, I, h, w), with size 1 for each mode that the part has not."""
    return _spread(part, modes)[:, 0]


def _last(part: Tensor, modes: tuple[int, ...], *, riders: int) -> Tensor:
    """(O, r, h, w), or (O, I·r, h, w) where the input channels rode along."""
    part = _spread(part, modes)  # (r, O, I or 1, h, w)
    return part.permute(1, 2, 0, 3, 4).reshape(part.shape[1], riders * part.shape[0], *part.shape[3:])


def _spread(part: Tensor, modes: tuple[int, ...]) -> Tensor:
    """(r, O, I, h, w), with size 1 for each mode that the part has not."""
    sizes = dict(zip(modes, part.shape[1:], strict=True))
    return part.reshape(part.shape[0], *(sizes.get(mode, 1) for mode in range(4)))


def fit(
    weight: np.ndarray, *, tol: float | None, ranks: int | None, cost: Callable[..., float]
) -> list[tg.Decomposition[Any]]:
    """All four cuts: which one costs least depends on where the layer stands."""
    return [tg.cut_svd(weight, modes=modes, ranks=ranks, tol=tol) for modes in MODES]
