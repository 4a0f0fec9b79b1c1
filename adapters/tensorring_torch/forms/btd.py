"""Block terms: input 1×1, h×w in as many groups as there are terms, output 1×1. Between CP (depthwise) and Tucker-2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tensorring as tg
from tensorring_torch.geometry import Size
from tensorring_torch.modules import Kernel, pointwise, to_torch

Cost = Callable[..., float]

# Ranks of a term that are tried where only a tolerance is given. Groups of fewer channels than a processor's lanes run
# slowly, and one term alone is Tucker-2.
SIZES = (4, 8, 16, 32)
# Terms that grow and cancel would spoil any training that follows.
RIDGE = 1e-3
SWEEPS = 100


def kernels(tensor: tg.BlockTermTensor, size: Size) -> list[Kernel]:
    """The three kernels of block terms of shape (O, I, *size), or (O, I, h·w). Scales are shared out among them."""
    cores, *factors = (to_torch(array) for array in tensor.arrays)
    by_mode = dict(zip(tensor.modes, factors, strict=True))
    for mode in (mode for mode in by_mode if mode > 1):
        moved = cores.movedim(mode + 1, -1).flatten(1, -2) @ by_mode[mode].mT
        others = [n for k, n in enumerate(cores.shape[1:]) if k != mode]
        cores = moved.reshape(len(cores), *others, -1).movedim(-1, mode + 1)
    output, entry = (_factor(by_mode.get(mode), cores, mode) for mode in (0, 1))
    output, cores, entry = _shared(output, cores, entry)
    terms, out_rank, in_rank = cores.shape[:3]
    return [
        pointwise(entry.permute(0, 2, 1).flatten(0, 1), len(size)),
        Kernel(cores.reshape(terms * out_rank, in_rank, *size), terms),
        pointwise(output.permute(1, 0, 2).flatten(1), len(size)),
    ]


def _factor(factor: Tensor | None, cores: Tensor, mode: int) -> Tensor:
    """(R, n, L); the identity for a mode that is whole in the cores."""
    if factor is not None:
        return factor
    n = cores.shape[mode + 1]
    return torch.eye(n, dtype=cores.dtype, device=cores.device).expand(len(cores), n, n)


def _shared(output: Tensor, cores: Tensor, entry: Tensor) -> list[Tensor]:
    """The same terms with equal norms of the three parts of each: training asks for parts of one scale."""
    parts = [output, cores, entry]
    norms = torch.stack([part.flatten(1).norm(dim=1) for part in parts])
    there = (norms > 0).all(0)
    safe = torch.where(there, norms, torch.ones_like(norms))
    scales = torch.where(there, safe.log().mean(0).exp() / safe, torch.ones_like(norms))
    return [
        part * scale.reshape(-1, *(1,) * (part.ndim - 1)).to(part.dtype)
        for part, scale in zip(parts, scales, strict=True)
    ]


def fit(
    weight: np.ndarray, *, tol: float | None, ranks: int | Sequence[int] | None, cost: Cost
) -> list[tg.Decomposition[Any]]:
    """Block terms of (O, I, *size): of ranks (terms, L_out, L_in), or for each of some sizes the fewest at `tol`."""
    if ranks is not None:
        terms, *sizes = _three(ranks)
        return [_fitted(weight, terms, sizes, tol)]
    found = []
    for sizes in dict.fromkeys((min(n, weight.shape[0]), min(n, weight.shape[1])) for n in SIZES):
        best = _fewest(weight, sizes, tol)
        if best is not None:
            found.append(best)
    return found


def _fewest(weight: np.ndarray, sizes: Sequence[int], tol: float | None) -> tg.Decomposition[Any] | None:
    """The fewest terms that keep the tolerance, by doubling and bisection; None where they outgrow the dense kernel."""
    (o, i, *_), area = weight.shape, weight[0, 0].size
    most = weight.size // (o * sizes[0] + i * sizes[1] + sizes[0] * sizes[1] * area)
    best, low, high = None, 0, most
    for terms in _doubled(most):
        found = _fitted(weight, terms, sizes, tol)
        if found.converged:
            best, high = found, terms
            break
        low = terms
    while best is not None and high - low > 1:
        found = _fitted(weight, middle := (low + high) // 2, sizes, tol)
        if found.converged:
            best, high = found, middle
        else:
            low = middle
    return best


def _doubled(most: int) -> list[int]:
    """1, 2, 4, … and the last one `most`; nothing where that is none."""
    powers = [2**k for k in range(most.bit_length()) if 2**k < most]
    return [*powers, most] if most else []


def _fitted(weight: np.ndarray, terms: int, sizes: Sequence[int], tol: float | None) -> tg.Decomposition[Any]:
    found = tg.btd_als(
        weight, terms=terms, ranks=tuple(sizes), modes=(0, 1), tol=tol, ridge=RIDGE, max_sweeps=SWEEPS, rng=0
    )
    if found.stop is tg.Stop.interrupted:
        raise KeyboardInterrupt  # the best so far of one layer is no network
    return found


def _three(ranks: int | Sequence[int]) -> tuple[int, int, int]:
    three = (ranks,) * 3 if isinstance(ranks, int) else tuple(ranks)
    if len(three) != 3 or not all(isinstance(rank, int) for rank in three):
        raise ValueError(f"got ranks={ranks!r}; block terms take three, (terms, L_out, L_in), or one int for all")
    return three
