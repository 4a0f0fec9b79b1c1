"""Inner products and norms in the format."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorring._array import (
    Array,
    as_dtype,
    compute_dtype_name,
    conj,
    dtype_name,
    is_array,
    namespace,
    to_host,
)
from tensorring.contract.block_terms import each_mode_product
from tensorring.contract.unfold import mode_product
from tensorring.linalg.scale import largest_entry, measure
from tensorring.tensors import (
    BlockTermTensor,
    CPTensor,
    CutTensor,
    LowRankTensor,
    TRTensor,
    TTTensor,
    TuckerTensor,
)


class _Scaled:
    """An array and the power of two taken out of it, so that products of many factors stay in range."""

    def __init__(self, array: Array, exponent: int = 0) -> None:
        peak = largest_entry(namespace(array).reshape(array, (-1,)))
        shift = math.frexp(peak)[1] if math.isfinite(peak) and peak > 0 else 0
        self.array = (array * 2.0 ** (-(shift // 2))) * 2.0 ** (-(shift - shift // 2))
        self.exponent = exponent + shift


def inner(a: LowRankTensor, b: LowRankTensor) -> Any:
    """⟨a, b⟩ = Σ conj(a[i])·b[i] over all entries, computed in the format.

    Parameters
    ----------
    a, b
        Two low-rank tensors of one format, one shape and one library. `a` is conjugated.

    Returns
    -------
    float or complex
        A Python number; infinite where it lies beyond the range of a double.

    Raises
    ------
    TypeError
        If the two are not low-rank tensors of one format.
    ValueError
        If their shapes differ.

    Notes
    -----
    Cost, for order d, mode sizes n and ranks r: CP d·n·r², Tucker d·n·r² + d·r^{d+1}, trains d·n·r³, rings
    d·n·r_0²·r³ (by transfer matrices, with the smallest bond left open), cuts Πn_left·r² + Πn_right·r², R block terms
    R²·(d·n·r² + d·r^{d+1}). Nothing dense is formed. The result is right to rounding times ‖a‖·‖b‖: a difference of
    norms below √eps is noise, for which `relative_error` is the function.

    Examples
    --------
    >>> import tensorring as tg
    >>> t = tg.random.tt((4, 5, 6), ranks=2, rng=0)
    >>> abs(tg.inner(t, t) - tg.norm(t) ** 2) < 1e-10 * tg.norm(t) ** 2
    True
    """
    value, exponent = _inner(a, b)
    if isinstance(value, complex):
        return complex(_ldexp(value.real, exponent), _ldexp(value.imag, exponent))
    return _ldexp(value, exponent)


def norm(t: Any) -> float:
    """‖t‖_F of a low-rank tensor, computed in the format, or of an array.

    Parameters
    ----------
    t
        A low-rank tensor, or an array of finite numbers.

    Returns
    -------
    float
        Right to about eps·‖cores‖: where terms cancel, digits are lost as they are in the dense tensor.

    Raises
    ------
    TypeError
        If `t` is neither.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> tg.norm(tg.CPTensor([3.0], [np.eye(2)[:, :1], np.eye(2)[:, 1:]]))
    3.0
    """
    if is_array(t):
        size, exponent = measure(as_dtype(t, compute_dtype_name(t.dtype)), name="t")
        return _ldexp(size, exponent)
    value, exponent = _inner(t, t)
    odd = exponent % 2
    return _ldexp(math.sqrt(max(0.0, value.real) * 2**odd), (exponent - odd) // 2)


def _ldexp(value: float, exponent: int) -> float:
    """value · 2**exponent; infinite where that is beyond a double."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)


def _inner(a: LowRankTensor, b: LowRankTensor) -> tuple[Any, int]:
    """The inner product as (mantissa, exponent of two)."""
    for t in (a, b):
        if not isinstance(t, LowRankTensor):
            raise TypeError(f"got {type(t).__name__}; inner products are of low-rank tensors such as TTTensor")
    if a.format != b.format or getattr(a, "modes", None) != getattr(b, "modes", None):
        raise TypeError(f"got {a!r} and {b!r}; the two must have one format: use to_dense() on both")
    if a.shape != b.shape:
        raise ValueError(f"got shapes {a.shape} and {b.shape}; the two must have one shape")
    (a, shift), (b, other) = _scaled(a), _scaled(b)
    product = _CONTRACTIONS[type(a)](a, b)
    value = to_host(product.array).reshape(())[()]
    return (complex(value) if np.iscomplexobj(value) else float(value)), product.exponent + shift + other


def _scaled(t: LowRankTensor) -> tuple[LowRankTensor, int]:
    """The tensor with entries of order 1 in all its arrays, and the power of two taken out of them together."""
    parts = [_Scaled(array) for array in t.arrays]
    return t.with_arrays([part.array for part in parts]), sum(part.exponent for part in parts)


def _inner_chain(a: TTTensor | TRTensor, b: TTTensor | TRTensor) -> _Scaled:
    """S[(p, p'), s, s'] = Σ over the modes so far of conj(chain_a[p, …, s])·chain_b[p', …, s']."""
    xp = namespace(*a.cores, *b.cores)
    start = min(range(a.ndim), key=lambda k: a.cores[k].shape[0] * b.cores[k].shape[0])
    cores_a = [conj(core) for core in a.cores[start:] + a.cores[:start]]
    cores_b = b.cores[start:] + b.cores[:start]
    p, q = cores_a[0].shape[0], cores_b[0].shape[0]
    first = xp.tensordot(cores_a[0], cores_b[0], axes=((1,), (1,)))  # p, s, p', s'
    first = xp.permute_dims(first, (0, 2, 1, 3))
    state = _Scaled(xp.reshape(first, (p * q, first.shape[2], first.shape[3])))
    for core_a, core_b in zip(cores_a[1:], cores_b[1:], strict=True):
        half = xp.tensordot(state.array, core_a, axes=((1,), (0,)))  # (p p'), s', n, s
        array = xp.tensordot(half, core_b, axes=((1, 2), (0, 1)))  # (p p'), s, s'
        state = _Scaled(array, state.exponent)
    closed = xp.linalg.trace(xp.reshape(state.array, (p * q, p * q)))
    return _Scaled(xp.reshape(closed, (1,)), state.exponent)


def _inner_cp(a: CPTensor, b: CPTensor) -> _Scaled:
    xp = namespace(*a.arrays, *b.arrays)
    dtype = dtype_name(xp.result_type(a.dtype, b.dtype))
    left, right = as_dtype(a.weights, dtype), as_dtype(b.weights, dtype)
    gram = _Scaled(xp.expand_dims(conj(left), axis=1) * xp.expand_dims(right, axis=0))
    for u, v in zip(a.factors, b.factors, strict=True):
        gram = _Scaled(gram.array * (conj(u).T @ v), gram.exponent)
    return _Scaled(xp.reshape(xp.sum(gram.array), (1,)), gram.exponent)


def _inner_tucker(a: TuckerTensor, b: TuckerTensor) -> _Scaled:
    state = _Scaled(b.core)
    for mode, (u, v) in enumerate(zip(a.factors, b.factors, strict=True)):
        state = _Scaled(mode_product(state.array, conj(u).T @ v, mode), state.exponent)
    return _dot(a.core, state)


def _inner_block_terms(a: BlockTermTensor, b: BlockTermTensor) -> _Scaled:
    """Each term of one with each of the other."""
    xp, pairs = namespace(*a.arrays, *b.arrays), a.cores.shape[0] * b.cores.shape[0]
    first = xp.broadcast_to(b.cores[None, ...], (a.cores.shape[0], *b.cores.shape))
    state = _Scaled(xp.reshape(first, (pairs, *b.cores.shape[1:])))
    for mode, u, v in zip(a.modes, a.factors, b.factors, strict=True):
        gram = xp.permute_dims(conj(u), (0, 2, 1))[:, None, :, :] @ v[None, ...]
        grams = xp.reshape(gram, (pairs, *gram.shape[2:]))
        state = _Scaled(each_mode_product(state.array, grams, mode), state.exponent)
    summed = xp.sum(xp.reshape(state.array, (a.cores.shape[0], -1, *state.array.shape[1:])), axis=1)
    return _dot(a.cores, _Scaled(summed, state.exponent))


def _inner_cut(a: CutTensor, b: CutTensor) -> _Scaled:
    xp = namespace(*a.arrays, *b.arrays)
    axes = tuple(range(a.left.ndim - 1))
    gram = _Scaled(xp.tensordot(conj(a.left), b.left, axes=(axes, axes)))
    right = _Scaled(xp.tensordot(gram.array, b.right, axes=1), gram.exponent)
    return _dot(a.right, right)


def _dot(a: Array, b: _Scaled) -> _Scaled:
    """⟨a, b⟩ of two arrays of one shape."""
    xp = namespace(a, b.array)
    part = _Scaled(a)
    value = conj(xp.reshape(part.array, (-1,))) @ xp.reshape(b.array, (-1,))
    return _Scaled(xp.reshape(value, (1,)), part.exponent + b.exponent)


_CONTRACTIONS: dict[type, Any] = {
    TTTensor: _inner_chain,
    TRTensor: _inner_chain,
    CPTensor: _inner_cp,
    TuckerTensor: _inner_tucker,
    CutTensor: _inner_cut,
    BlockTermTensor: _inner_block_terms,
}
