"""Tucker: input 1×1, the core as h×w, output 1×1. The factors of the spatial modes are multiplied into the core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import tensorring as tg
from tensorring_torch.geometry import Size
from tensorring_torch.modules import Kernel, pointwise, to_torch


def kernels(tensor: tg.TuckerTensor, size: Size) -> list[Kernel]:
    """The three kernels of a Tucker tensor of shape (O, I, *size)."""
    core, output, entry, *spatial = (to_torch(array) for array in tensor.arrays)
    for factor in spatial:  # the mode that comes first among those left goes last, multiplied
        core = torch.tensordot(core, factor, dims=([2], [1]))
    return [pointwise(entry.T, len(size)), Kernel(core), pointwise(output, len(size))]


def fit(
    weight: np.ndarray, *, tol: float | None, ranks: int | Sequence[int | None] | None, cost: Callable[..., float]
) -> list[tg.Decomposition[Any]]:
    """Tucker-2, ranks (r_out, r_in): only the channels are compressed."""
    caps = None if ranks is None else _pair(ranks)
    return [tg.tucker_hosvd(weight, ranks=caps, tol=tol, modes=(0, 1))]


def _pair(ranks: int | Sequence[int | None]) -> tuple[int | None, int | None]:
    pair = (ranks, ranks) if isinstance(ranks, int) else tuple(ranks)
    if len(pair) != 2:
        raise ValueError(f"got ranks={ranks!r}; the Tucker form takes two, (r_out, r_in), or one int for both")
    return pair
