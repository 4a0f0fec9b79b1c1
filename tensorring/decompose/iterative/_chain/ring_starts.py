"""Where sweeps over a ring begin: ranks that can be had, and rings of these ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from tensorring import random
from tensorring._array import Array, as_dtype, copy, dtype_name, namespace, to_host
from tensorring.decompose._arguments import Caps, Problem
from tensorring.decompose._starts import checked_start
from tensorring.decompose.direct.tr_svd import tr_svd
from tensorring.tensors import LowRankTensor

Cores = tuple[Array, ...]

STARTS = ("svd", "random")
# What is missing to the ranks asked comes in at this share of the cores that are there.
_PADDING = 0.03


def feasible_ranks(shape: Sequence[int], ranks: Sequence[int]) -> tuple[int, ...]:
    """The ranks lowered to what a ring of this shape can use.

    A bond above r·n of a neighbouring core is redundant; and from r_k·r_{k+1} ≥ Π of the other mode sizes on, core k
    alone can hold the whole tensor, so that more is of no use.
    """
    order, low = len(shape), list(ranks)
    while True:
        before = tuple(low)
        for k in range(order):
            j = (k + 1) % order
            others = math.prod(shape) // shape[k]
            large, small = (k, j) if low[k] >= low[j] else (j, k)
            low[large] = min(low[large], -(-others // low[small]))
            low[k] = min(low[k], shape[k] * low[j])
            low[j] = min(low[j], shape[k] * low[k])
        if tuple(low) == before:
            return before


def checked_init(init: Any, x: Array, kind: type[LowRankTensor], caps: Caps) -> Any:
    """The start as it was given: a name, or a chain of that kind that fits the tensor and the caps."""
    start = checked_start(init, x, kind, STARTS)
    if isinstance(start, str):
        return start
    if any(cap is not None and rank > cap for rank, cap in zip(start.ranks, caps, strict=True)):
        raise ValueError(
            f"got init of ranks {start.ranks} under ranks={caps}; a start keeps the caps: raise them, or round it"
        )
    return start


def chain_of(init: LowRankTensor, problem: Problem) -> Cores:
    """Copies of the cores of a start, in the dtype of the tensor, with their norms spread evenly."""
    dtype = dtype_name(problem.x.dtype)
    return balanced(tuple(copy(as_dtype(core, dtype)) for core in init.arrays))


def ring_starts(problem: Problem, init: Any, caps: Caps, count: int, rng: Any) -> Iterator[Callable[[], Cores]]:
    """So many starts, each to be called where it is used; the first is the one that was named."""
    generators = np.random.default_rng(rng).spawn(count)
    # Before the direct ring is split: caps that no ring can use would let it split elsewhere, and be cut off.
    known = None if None in caps else feasible_ranks(problem.shape, [cap or 1 for cap in caps])
    if not isinstance(init, str):
        ranks, named = init.ranks, partial(chain_of, init, problem)
    elif init == "svd" or known is None:
        direct = tr_svd(problem.x, ranks=known or caps, tol=problem.tol).tensor
        wanted = [rank if cap is None else cap for cap, rank in zip(known or caps, direct.ranks, strict=True)]
        ranks = feasible_ranks(problem.shape, wanted)
        named = partial(fitted_to, direct.cores, ranks)
    else:
        ranks = known
    for k, generator in enumerate(generators):
        if k > 0 or init == "random":
            yield partial(random_ring, problem.x, ranks, generator)
        else:
            yield named


def random_ring(x: Array, ranks: Sequence[int], rng: np.random.Generator) -> Cores:
    """Gaussian cores whose ring has entries of unit variance, their norms spread evenly."""
    ring = random.tr(tuple(x.shape), ranks=list(ranks), dtype=dtype_name(x.dtype), rng=rng, like=x)
    return balanced(ring.cores)


def fitted_to(cores: Sequence[Array], ranks: Sequence[int]) -> Cores:
    """The same ring at other ranks: cut off where it has more, filled up with small random numbers elsewhere.

    These come from a fixed seed: the start has a name, and is the same each time.
    """
    cores, rng = balanced(cores), np.random.default_rng(0)
    xp, result = namespace(*cores), []
    noise = random.tr(
        [core.shape[1] for core in cores], ranks=list(ranks), dtype=cores[0].dtype, rng=rng, like=cores[0]
    )
    for core, fill in zip(cores, noise.cores, strict=True):
        p, _, s = (min(a, b) for a, b in zip(core.shape, fill.shape, strict=True))
        if core.shape == fill.shape:
            result.append(core)
            continue
        share = _PADDING * _norm(core) / (_norm(fill) or 1.0)
        kept = core[:p, :, :s]
        row = xp.concat([kept, share * fill[:p, :, s:]], axis=2)
        result.append(xp.concat([row, share * fill[p:, :, :]], axis=0))
    return tuple(result)


def balanced(cores: Sequence[Array]) -> Cores:
    """The same chain with its norm spread evenly over the cores, by powers of two, so that no digit changes."""
    exponents = [math.frexp(_norm(core))[1] for core in cores]
    share, extra = divmod(sum(exponents), len(cores))
    wanted = [share + (k < extra) for k in range(len(cores))]
    return tuple(core * 2.0 ** (to - now) for core, to, now in zip(cores, wanted, exponents, strict=True))


def _norm(core: Array) -> float:
    return float(to_host(namespace(core).linalg.vector_norm(core)))
