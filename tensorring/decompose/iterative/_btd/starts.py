"""Where block-term fits begin: what HOSVD finds, term after term, or chance, or block terms that somebody has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tensorring._array import Array, as_dtype, compute_dtype_name, dtype_name, is_complex, namespace, to_device
from tensorring.decompose._starts import checked_start
from tensorring.decompose.direct.tucker_hosvd import tucker_hosvd
from tensorring.decompose.iterative._btd.sweep import orthonormal
from tensorring.tensors import BlockTermTensor

NAMES = ("svd", "random")
Factors = tuple[Array, ...]


def checked_init(init: Any, x: Array, modes: tuple[int, ...], ranks: tuple[int, ...]) -> BlockTermTensor | str:
    """A start by name, or block terms that fit the tensor, the modes, and (R, L_1, …)."""
    start: BlockTermTensor | str = checked_start(init, x, BlockTermTensor, NAMES)
    if isinstance(start, BlockTermTensor):
        own = (start.ranks[0], *(start.ranks[mode + 1] for mode in start.modes))
        if start.modes != modes or own != ranks:
            raise ValueError(
                f"got an init of modes {start.modes} with terms and ranks {own}, where modes {modes} and {ranks} were "
                "asked for; they must agree"
            )
    return start


def starts(
    x: Array, ranks: tuple[int, ...], init: BlockTermTensor | str, count: int, rng: Any
) -> list[Callable[[], Factors]]:
    """Functions that make the starts, factors (R, n_k, L_k) with orthonormal columns: the one named, then random."""
    streams = np.random.default_rng(rng).spawn(count)
    if isinstance(init, BlockTermTensor):
        named: Callable[[], Factors] = partial(_given, init, x)
    else:
        named = partial({"svd": _deflated, "random": _random}[init], x, ranks, streams[0])
    return [named, *(partial(_random, x, ranks, stream) for stream in streams[1:])]


def _given(init: BlockTermTensor, x: Array) -> Factors:
    return tuple(orthonormal(as_dtype(factor, dtype_name(x.dtype)))[0] for factor in init.factors)


def _random(x: Array, ranks: Sequence[int], stream: np.random.Generator) -> Factors:
    terms, *sizes = ranks
    shapes = [(terms, n, rank) for n, rank in zip(x.shape, sizes, strict=False)]
    return tuple(orthonormal(_gaussian(x, shape, stream))[0] for shape in shapes)


def _deflated(x: Array, ranks: Sequence[int], stream: np.random.Generator) -> Factors:
    """The HOSVD of x at the ranks of one term, then that of what it left, and so on."""
    xp, (terms, *sizes), left = namespace(x), ranks, x
    modes, found = tuple(range(len(sizes))), []
    for _ in range(terms):
        term = tucker_hosvd(left, ranks=sizes, modes=modes).tensor
        left = left - term.to_dense()
        found.append([_filled(term.factors[k], sizes[k], stream) for k in modes])
    return tuple(orthonormal(xp.stack([term[k] for term in found]))[0] for k in modes)


def _filled(factor: Array, rank: int, stream: np.random.Generator) -> Array:
    """(n, L), with random columns where there was nothing left to find."""
    n, there = factor.shape
    if there == rank:
        return factor
    return namespace(factor).concat([factor, _gaussian(factor, (n, rank - there), stream)], axis=1)


def _gaussian(like: Array, shape: tuple[int, ...], stream: np.random.Generator) -> Array:
    values = stream.standard_normal(shape)
    if is_complex(like):
        values = values + 1j * stream.standard_normal(shape)
    return to_device(values.astype(compute_dtype_name(like.dtype)), like=like)
