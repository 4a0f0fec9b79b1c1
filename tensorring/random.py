"""Layer 4: random low-rank tensors, for tests, starts and examples.

Cores and factors are Gaussian, scaled so that the entries of the dense tensor have unit variance. Numbers are drawn on
the host, so a seed gives the same tensor everywhere; `like=` brings it to the library and device of an array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorring._array import Array, compute_dtype_name, to_device
from tensorring.tensors import BlockTermTensor, CPTensor, TRTensor, TTTensor, TuckerTensor

Seed = Any  # what numpy.random.default_rng takes: None, an int, a Generator, … (SPEC 7)


def cp(shape: Sequence[int], *, rank: int, dtype: Any = "float64", rng: Seed = None, like: Array = None) -> CPTensor:
    """A CP tensor of Gaussian factors and equal weights.

    Examples
    --------
    >>> import tensorring as tg
    >>> tg.random.cp((4, 5, 6), rank=2, rng=0)
    CPTensor(shape=(4, 5, 6), ranks=(2,), parameters=32, dtype=float64)
    """
    draw = _draws(dtype, rng, like)
    weights = np.full(rank, 1 / math.sqrt(rank)).astype(_real(dtype))
    factors = [draw((size, rank), 1.0) for size in shape]
    return CPTensor(weights if like is None else to_device(weights, like=like), tuple(factors))


def tucker(
    shape: Sequence[int],
    *,
    ranks: int | Sequence[int],
    dtype: Any = "float64",
    rng: Seed = None,
    like: Array = None,
) -> TuckerTensor:
    """A Tucker tensor of a Gaussian core and Gaussian factors.

    Examples
    --------
    >>> import tensorring as tg
    >>> tg.random.tucker((4, 5, 6), ranks=2, rng=0)
    TuckerTensor(shape=(4, 5, 6), ranks=(2, 2, 2), parameters=38, dtype=float64)
    """
    ranks = _ranks(ranks, len(shape))
    draw = _draws(dtype, rng, like)
    core = draw(tuple(ranks), 1.0)
    return TuckerTensor(core, tuple(draw((n, r), 1 / math.sqrt(r)) for n, r in zip(shape, ranks, strict=True)))


def btd(
    shape: Sequence[int],
    *,
    terms: int,
    ranks: int | Sequence[int],
    dtype: Any = "float64",
    rng: Seed = None,
    like: Array = None,
) -> BlockTermTensor:
    """A sum of so many Tucker terms of Gaussian cores and Gaussian factors; `ranks` are those of each term.

    Examples
    --------
    >>> import tensorring as tg
    >>> tg.random.btd((4, 5, 6), terms=2, ranks=(2, 2, 1), rng=0)
    BlockTermTensor(shape=(4, 5, 6), ranks=(2, 2, 2, 1), parameters=56, dtype=float64)
    """
    ranks = _ranks(ranks, len(shape))
    draw = _draws(dtype, rng, like)
    cores = draw((terms, *ranks), 1 / math.sqrt(terms))
    factors = [draw((terms, n, r), 1 / math.sqrt(r)) for n, r in zip(shape, ranks, strict=True)]
    return BlockTermTensor(cores, tuple(factors))


def tt(
    shape: Sequence[int],
    *,
    ranks: int | Sequence[int],
    dtype: Any = "float64",
    rng: Seed = None,
    like: Array = None,
) -> TTTensor:
    """A tensor train of Gaussian cores; `ranks` are the d − 1 bonds.

    Examples
    --------
    >>> import tensorring as tg
    >>> tg.random.tt((4, 5, 6), ranks=2, rng=0)
    TTTensor(shape=(4, 5, 6), ranks=(2, 2), parameters=40, dtype=float64)
    """
    bonds = [1, *_ranks(ranks, len(shape) - 1), 1]
    return TTTensor(tuple(_cores(shape, bonds, _draws(dtype, rng, like))))


def tr(
    shape: Sequence[int],
    *,
    ranks: int | Sequence[int],
    dtype: Any = "float64",
    rng: Seed = None,
    like: Array = None,
) -> TRTensor:
    """A tensor ring of Gaussian cores; `ranks[k]` is the left rank of core k.

    Examples
    --------
    >>> import tensorring as tg
    >>> tg.random.tr((4, 5, 6), ranks=2, rng=0)
    TRTensor(shape=(4, 5, 6), ranks=(2, 2, 2), parameters=60, dtype=float64)
    """
    bonds = _ranks(ranks, len(shape))
    return TRTensor(tuple(_cores(shape, [*bonds, bonds[0]], _draws(dtype, rng, like))))


def _cores(shape: Sequence[int], bonds: list[int], draw: Callable[[tuple[int, ...], float], Array]) -> list[Array]:
    """Each bond is summed over once: the core on its right carries 1/√r."""
    return [draw((bonds[k], n, bonds[k + 1]), 1 / math.sqrt(bonds[k])) for k, n in enumerate(shape)]


def _ranks(ranks: int | Sequence[int], count: int) -> list[int]:
    result = [ranks] * count if isinstance(ranks, int) else list(ranks)
    if len(result) != count or min(result, default=1) < 1:
        raise ValueError(f"got ranks={ranks!r}; {count} ranks of at least 1 are needed here, or one int for all")
    return result


def _real(dtype: Any) -> str:
    return "float32" if compute_dtype_name(dtype) in ("float32", "complex64") else "float64"


def _draws(dtype: Any, rng: Seed, like: Array) -> Callable[[tuple[int, ...], float], Array]:
    generator, name = np.random.default_rng(rng), compute_dtype_name(dtype)

    def draw(shape: tuple[int, ...], scale: float) -> Array:
        values = generator.standard_normal(shape)
        if "complex" in name:
            values = (values + 1j * generator.standard_normal(shape)) / math.sqrt(2)
        values = (scale * values).astype(name)
        return values if like is None else to_device(values, like=like)

    return draw
