"""Strategies: tensors of every shape, dtype, spectrum, scale and memory layout, and low-rank tensors of every format.

What hypothesis draws is small - sizes, names and a seed - and a NumPy generator makes the entries of it, so that a
failing example shrinks to a small shape and a plain spectrum. Options are values, strategies, or None for any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tensorring import random
from tensorring._array import FLOATS
from tensorring.tensors import CPTensor, CutTensor, LowRankTensor, TRTensor, TTTensor, TuckerTensor
from tensorring.testing.samples import LAYOUTS, VALUES, Dense, gaussian

Draw = st.DrawFn

_MAX_ENTRIES = 3000


@st.composite
def tensors(
    draw: Draw,
    *,
    shape: Any = None,
    ndim: Any = None,
    dtype: Any = None,
    values: Any = None,
    layout: Any = None,
    scale: Any = None,
    max_size: int = 7,
) -> Dense:
    """Dense NumPy tensors: all that a decomposition may be given, but for NaN, inf and empty ones.

    Parameters
    ----------
    shape, ndim
        The shape, or the number of modes (1 to 5).
    dtype
        `"float32"`, `"float64"`, `"complex64"` or `"complex128"`.
    values
        `"gaussian"`, `"low_rank"` (plus noise), `"decaying"` (all multilinear spectra), `"equal"` (all singular values
        of the middle unfolding equal), `"sparse"`, `"constant"` or `"zeros"`.
    layout
        `"C"`, `"F"`, `"strided"`, `"reversed"` (negative strides) or `"readonly"`.
    scale
        A factor: 1, or the smallest or largest that every method stands (1e±150, in single precision 1e±30).
    max_size
        The largest size of a mode.

    Examples
    --------
    >>> from hypothesis import given
    >>> from tensorring.testing import tensors
    >>> @given(tensors(ndim=3, max_size=4))
    ... def test(x):
    ...     assert x.ndim == 3 and max(x.shape) <= 4
    >>> test()
    """
    shape = draw(_shapes(shape=shape, ndim=ndim, max_size=max_size))
    name = draw(_dtypes(dtype))
    make = VALUES[draw(_choice(values, tuple(VALUES)))]
    x: Dense = make(shape, "complex" in name, np.random.default_rng(draw(_seeds())))
    extreme = 30 if name in ("float32", "complex64") else 150
    factor = draw(_choice(scale, (1.0, 10.0**-extreme, 10.0**extreme)))
    return LAYOUTS[draw(_choice(layout, tuple(LAYOUTS)))]((x * factor).astype(name))


@st.composite
def cp_tensors(
    draw: Draw, *, shape: Any = None, ndim: Any = None, dtype: Any = None, max_size: int = 7, max_rank: int = 4
) -> CPTensor:
    """CP tensors of Gaussian factors.

    Parameters
    ----------
    shape, ndim, dtype, max_size
        As those of `tensors`.
    max_rank
        The largest rank.

    Examples
    --------
    >>> from hypothesis import given
    >>> from tensorring.testing import cp_tensors
    >>> @given(cp_tensors(dtype="float32", max_rank=2))
    ... def test(t):
    ...     assert t.to_dense().dtype == "float32" and t.rank <= 2
    >>> test()
    """
    shape = draw(_shapes(shape=shape, ndim=ndim, max_size=max_size))
    rank = draw(st.integers(1, max_rank))
    return random.cp(shape, rank=rank, dtype=draw(_dtypes(dtype)), rng=draw(_seeds()))


@st.composite
def tucker_tensors(
    draw: Draw, *, shape: Any = None, ndim: Any = None, dtype: Any = None, max_size: int = 7, max_rank: int = 4
) -> TuckerTensor:
    """Tucker tensors of a Gaussian core and Gaussian factors.

    Parameters
    ----------
    shape, ndim, dtype, max_size
        As those of `tensors`.
    max_rank
        The largest multilinear rank; a rank may be larger than its mode.

    Examples
    --------
    >>> from hypothesis import given
    >>> from tensorring.testing import tucker_tensors
    >>> @given(tucker_tensors(shape=(3, 4)))
    ... def test(t):
    ...     assert t.shape == (3, 4)
    >>> test()
    """
    shape = draw(_shapes(shape=shape, ndim=ndim, max_size=max_size))
    ranks = draw(_ranks(len(shape), max_rank))
    return random.tucker(shape, ranks=ranks, dtype=draw(_dtypes(dtype)), rng=draw(_seeds()))


@st.composite
def tt_tensors(
    draw: Draw, *, shape: Any = None, ndim: Any = None, dtype: Any = None, max_size: int = 7, max_rank: int = 4
) -> TTTensor:
    """Tensor trains of Gaussian cores.

    Parameters
    ----------
    shape, ndim, dtype, max_size
        As those of `tensors`.
    max_rank
        The largest bond.

    Examples
    --------
    >>> from hypothesis import given
    >>> from tensorring.testing import tt_tensors
    >>> @given(tt_tensors(ndim=4))
    ... def test(t):
    ...     assert len(t.ranks) == 3
    >>> test()
    """
    shape = draw(_shapes(shape=shape, ndim=ndim, max_size=max_size))
    ranks = draw(_ranks(len(shape) - 1, max_rank))
    return random.tt(shape, ranks=ranks, dtype=draw(_dtypes(dtype)), rng=draw(_seeds()))


@st.composite
def tr_tensors(
    draw: Draw, *, shape: Any = None, ndim: Any = None, dtype: Any = None, max_size: int = 7, max_rank: int = 4
) -> TRTensor:
    """Tensor rings of Gaussian cores.

    Parameters
    ----------
    shape, ndim, dtype, max_size
        As those of `tensors`.
    max_rank
        The largest bond.

    Examples
    --------
    >>> from hypothesis import given
    >>> from tensorring.testing import tr_tensors
    >>> @given(tr_tensors(ndim=4))
    ... def test(t):
    ...     assert t.rotate(1).rotate(-1).ranks == t.ranks
    >>> test()
    """
    shape = draw(_shapes(shape=shape, ndim=ndim, max_size=max_size))
    ranks = draw(_ranks(len(shape), max_rank))
    return random.tr(shape, ranks=ranks, dtype=draw(_dtypes(dtype)), rng=draw(_seeds()))


@st.composite
def cut_tensors(
    draw: Draw, *, shape: Any = None, ndim: Any = None, dtype: Any = None, max_size: int = 7, max_rank: int = 4
) -> CutTensor:
    """Cuts of two Gaussian cores, along any modes.

    Parameters
    ----------
    shape, ndim, dtype, max_size
        As those of `tensors`, with at least two modes.
    max_rank
        The largest bond.

    Examples
    --------
    >>> from hypothesis import given
    >>> from tensorring.testing import cut_tensors
    >>> @given(cut_tensors(ndim=4))
    ... def test(t):
    ...     assert 1 <= len(t.modes) <= 3
    >>> test()
    """
    ndim = st.integers(2, 5) if ndim is None else ndim
    shape = draw(_shapes(shape=shape, ndim=ndim, max_size=max_size))
    modes = sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape) - 1)))
    rank, dtype, generator = draw(st.integers(1, max_rank)), draw(_dtypes(dtype)), np.random.default_rng(draw(_seeds()))
    first = [shape[k] for k in modes]
    second = [size for k, size in enumerate(shape) if k not in modes]
    left = gaussian([*first, rank], "complex" in dtype, generator).astype(dtype)
    right = gaussian([rank, *second], "complex" in dtype, generator).astype(dtype)
    return CutTensor(left, right, tuple(modes))


def low_rank_tensors(
    *, shape: Any = None, ndim: Any = None, dtype: Any = None, max_size: int = 7, max_rank: int = 4
) -> st.SearchStrategy[LowRankTensor]:
    """Low-rank tensors of any format; cuts where the order is not left to a strategy and is above one.

    Parameters
    ----------
    shape, ndim, dtype, max_size
        As those of `tensors`.
    max_rank
        The largest rank.

    Examples
    --------
    >>> from hypothesis import given
    >>> from tensorring.testing import low_rank_tensors
    >>> @given(low_rank_tensors(max_size=3))
    ... def test(t):
    ...     assert t.to_dense().shape == t.shape
    >>> test()
    """
    options = {"shape": shape, "ndim": ndim, "dtype": dtype, "max_size": max_size, "max_rank": max_rank}
    formats = [cp_tensors, tt_tensors, tr_tensors, tucker_tensors]
    strategies = [strategy(**options) for strategy in formats]
    order = ndim if shape is None else np.size(shape)
    if order is None or (isinstance(order, int) and order > 1):
        strategies.append(cut_tensors(**options))
    return st.one_of(strategies)


def tolerances(*, min_value: float = 0.0, max_value: float = 0.99) -> st.SearchStrategy[float]:
    """Relative errors to ask for: the round ones that people ask for, and any between.

    Parameters
    ----------
    min_value, max_value
        The smallest and the largest, both included.

    Examples
    --------
    >>> from hypothesis import given
    >>> from tensorring.testing import tolerances
    >>> @given(tolerances(max_value=0.5))
    ... def test(tol):
    ...     assert 0 <= tol <= 0.5
    >>> test()
    """
    usual = [tol for tol in (0.5, 0.1, 1e-2, 1e-4, 1e-8, 1e-12, 0.0, 0.99) if min_value <= tol <= max_value]
    anything = st.floats(min_value, max_value)
    return st.one_of(st.sampled_from(usual), anything) if usual else anything


def _option(option: Any, default: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What an option stands for: any, a strategy, or one value."""
    if option is None:
        return default
    return option if isinstance(option, st.SearchStrategy) else st.just(option)


def _choice(option: Any, among: Sequence[Any]) -> st.SearchStrategy[Any]:
    return _option(option, st.sampled_from(among))


def _dtypes(option: Any) -> st.SearchStrategy[str]:
    return _choice(option, ("float64", *(name for name in FLOATS if name != "float64"))).map(lambda d: np.dtype(d).name)


def _seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 99)


def _ranks(count: int, max_rank: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, max_rank), min_size=count, max_size=count)


@st.composite
def _shapes(draw: Draw, *, shape: Any, ndim: Any, max_size: int) -> tuple[int, ...]:
    if shape is not None:
        return tuple(draw(_option(shape, st.nothing())))
    sizes: list[int] = []
    for _ in range(draw(_option(ndim, st.integers(1, 5)))):
        sizes.append(draw(st.integers(1, max(1, min(max_size, _MAX_ENTRIES // math.prod(sizes))))))
    return tuple(sizes)
