"""Where CP fits begin."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tensorring._array import Array, as_dtype, copy, dtype_name, is_complex, namespace, to_device
from tensorring.decompose._starts import checked_start
from tensorring.decompose.iterative._cp.gevd import gevd
from tensorring.decompose.iterative._cp.greedy import greedy
from tensorring.decompose.iterative._tucker.vectors import leading
from tensorring.tensors import CPTensor

NAMES = ("hosvd", "random", "gevd", "greedy")
Factors = list[Array]


def starts(x: Array, rank: int, init: CPTensor | str, n_starts: int, rng: Any) -> list[Callable[[], Factors]]:
    """Functions that make the starts, factors (n_k, R) of x: the one asked for, then others.

    A CP tensor and "hosvd" would give the same start each time, so random ones follow; the other names draw anew.
    """
    streams = np.random.default_rng(rng).spawn(n_starts)
    if isinstance(init, CPTensor):
        named: list[Callable[[], Factors]] = [partial(_given, init, x)]
    else:
        make = {"hosvd": _hosvd, "random": _random, "gevd": gevd, "greedy": greedy}[init]
        named = [partial(make, x, rank, stream) for stream in (streams[:1] if init == "hosvd" else streams)]
    return [*named, *(partial(_random, x, rank, stream) for stream in streams[len(named) :])]


def checked_init(init: Any, x: Array, rank: int) -> CPTensor | str:
    """A start by name, or a CP tensor that fits the tensor and the rank."""
    start: CPTensor | str = checked_start(init, x, CPTensor, NAMES)
    if isinstance(start, CPTensor) and start.rank != rank:
        raise ValueError(f"got an init of rank {start.rank} and rank={rank}; the two must agree")
    return start


def _given(init: CPTensor, x: Array) -> Factors:
    """The factors with unit columns: the scale of the tensor is found by the first update."""
    xp, factors = namespace(x), []
    for u in init.factors:
        norms = xp.linalg.vector_norm(u, axis=0, keepdims=True)
        factors.append(as_dtype(u / xp.where(norms > 0, norms, 1.0), dtype_name(x.dtype)))
    return factors


def _hosvd(x: Array, rank: int, stream: np.random.Generator) -> Factors:
    """The leading left singular vectors of each unfolding, and random columns where the mode is shorter than R."""
    xp, factors = namespace(x), []
    for mode, n in enumerate(x.shape):
        columns = leading(x, mode, min(rank, n, math.prod(x.shape) // n), exact=False)
        if columns.shape[1] < rank:
            columns = xp.concat([columns, gaussian(x, n, rank - columns.shape[1], stream)], axis=1)
        factors.append(columns)
    return factors


def _random(x: Array, rank: int, stream: np.random.Generator) -> Factors:
    return [gaussian(x, n, rank, stream) for n in x.shape]


def gaussian(x: Array, n: int, rank: int, stream: np.random.Generator) -> Array:
    """Unit-variance columns over √n, drawn on the host."""
    values = stream.standard_normal((n, rank))
    if is_complex(x):
        values = (values + 1j * stream.standard_normal((n, rank))) / np.sqrt(2)
    return to_device((values / np.sqrt(n)).astype(dtype_name(x.dtype)), like=x)


def exact_terms(x: Array) -> Factors:
    """x itself as a CP: one term for each index of all modes but the longest, R = Πn / max n."""
    xp, shape, long = namespace(x), tuple(x.shape), max(range(x.ndim), key=lambda mode: x.shape[mode])
    others = [n for mode, n in enumerate(shape) if mode != long]
    places = np.indices(others).reshape(len(others), -1)
    name, factors = dtype_name(x.dtype), []
    for mode, n in enumerate(shape):
        if mode == long:
            order = (*(m for m in range(x.ndim) if m != long), long)
            factors.append(copy(xp.reshape(xp.permute_dims(x, order), (-1, n)).T))
        else:
            at = places[mode - (mode > long)]
            factors.append(to_device((np.arange(n)[:, None] == at).astype(name), like=x))
    return factors
