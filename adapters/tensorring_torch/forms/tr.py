"""Rings and trains: input 1×1, one axis after the other, output 1×1; the bond between output and input rides along.

With cores G_O(a, O, b), G_I(b, I, c), G_H(c, h, d), G_W(d, w, a) the channels go I -> (b, c) -> (b, d) -> (b, a) -> O;
with more axes or fewer accordingly.
Nothing but the first and the last kernel touches b. A train is the ring whose closing bond is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

import tensorring as tg
from tensorring_torch.geometry import Calls, Geometry, Size
from tensorring_torch.modules import Kernel, along, pointwise, to_torch
from tensorring_torch.plan import Link, Plan

Cost = Callable[[tuple[int, ...], tuple[int, ...]], float]
Caps = int | Sequence[int | None] | None


def kernels(tensor: tg.TRTensor | tg.TTTensor, size: Size) -> list[Kernel]:
    """The kernels of a ring of shape (O, I, *size), as many as it has modes."""
    output, entry, *spatial = (to_torch(core) for core in tensor.cores)
    axes = len(size)
    return [
        pointwise(entry.permute(0, 2, 1).flatten(0, 1), axes),
        *(along(core.permute(2, 0, 1), axis, axes) for axis, core in enumerate(spatial)),
        pointwise(output.permute(1, 2, 0).flatten(1), axes),
    ]


def links(shape: Sequence[int], ranks: Sequence[int]) -> tuple[Link, ...]:
    """The shapes of those kernels, from the ranks (a, b, c, d) alone."""
    out_channels, in_channels, *size = shape
    a, b, *bonds = ranks
    bonds = [*bonds, a]
    axes = len(size)
    ones = (1,) * axes
    along = [
        Link(right, left, (*ones[:axis], n, *ones[axis + 1 :]))
        for axis, (n, (left, right)) in enumerate(zip(size, pairwise(bonds), strict=True))
    ]
    return (Link(b * bonds[0], in_channels, ones), *along, Link(out_channels, b * a, ones))


def cost(geometry: Geometry, calls: Calls, minimize: str) -> Cost:
    """(shape, ranks) -> what the cheapest plan of such a ring costs: it never falls where a rank grows."""

    @cache
    def of_ranks(shape: tuple[int, ...], ranks: tuple[int, ...]) -> float:
        return Plan(geometry, links(shape, ranks)).cheapest(calls, minimize)[0][0]

    return of_ranks


def fit_ring(weight: np.ndarray, *, tol: float | None, ranks: Caps, cost: Cost) -> list[tg.Decomposition[Any]]:
    """The ring that costs least among those the core finds at `tol`; with caps, the core's plain ring."""
    if ranks is not None or tol is None:
        return [tg.tr_svd(weight, ranks=ranks, tol=tol)]
    return [tg.tr_reduced_storage(weight, tol=tol, cost=cost)]


def fit_train(weight: np.ndarray, *, tol: float | None, ranks: Caps, cost: Cost) -> list[tg.Decomposition[Any]]:
    """The train of (I, *size, O), as a ring of (O, I, *size): begun at the input channels, it needs no fold."""
    found: Any = tg.tt_svd(np.moveaxis(weight, 0, -1), ranks=ranks, tol=tol)
    *others, output = found.tensor.cores
    return [replace(found, tensor=tg.TRTensor((output, *others)))]
