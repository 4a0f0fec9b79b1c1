"""The relative error of an approximation, from the residual itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tensorring._array import (
    Array,
    as_dtype,
    block_length,
    compute_dtype_name,
    is_array,
    is_complex,
    slices,
)
from tensorring.algebra.metric import checked_metric
from tensorring.linalg.scale import measure
from tensorring.tensors import LowRankTensor


def relative_error(x: Any, a: LowRankTensor, *, metric: Mapping[Any, Array] | None = None) -> float:
    """‖x − a‖_F / ‖x‖_F, or in a metric ‖x − a‖_S / ‖x‖_S, from the residual itself; 0 where both are zero.

    Parameters
    ----------
    x
        The tensor approximated: an array, or a low-rank tensor of any format.
    a
        Its approximation, of the same shape and library.
    metric
        {modes: S}, for ‖x‖_S² = ⟨x, S x⟩: S Hermitian and positive semidefinite on these modes, as for `cp_als`.

    Returns
    -------
    float
        Right to a few eps of the longer of the two dtypes, however small it is: nothing cancels but in x − a.
        Infinite where x is zero and a is not.

    Raises
    ------
    TypeError
        If `a` is no low-rank tensor.
    ValueError
        If the shapes differ, `x` holds NaN or inf, or the metric is none.

    Notes
    -----
    Costs the contraction of the dense tensor; memory is a few blocks of some megabytes along the first mode, with a
    metric three dense tensors.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> t = tg.random.tr((4, 5, 6), ranks=2, rng=0)
    >>> tg.relative_error(t.to_dense(), t) < 1e-14
    True
    >>> x = t.to_dense() + 0.1
    >>> weights = np.diag(np.linspace(0.1, 1.0, 30))
    >>> tg.relative_error(x, t, metric={(1, 2): weights}) < 1
    True
    """
    if not isinstance(a, LowRankTensor):
        raise TypeError(f"got {type(a).__name__} for the approximation; it is a low-rank tensor such as TTTensor")
    shape = tuple(x.shape)
    if shape != a.shape:
        raise ValueError(f"got x of shape {shape} and an approximation of shape {a.shape}; the two must agree")
    if is_array(x):
        x = as_dtype(x, compute_dtype_name(x.dtype))
    if metric is not None:
        dense = x.to_dense() if isinstance(x, LowRankTensor) else x
        return checked_metric(metric, dense).relative_error(dense, a)
    errors, norms = [], []
    for rows in slices(shape[0], block_length(a.arrays[0], math.prod(shape[1:]))):
        block, approximation = _rows(x, rows), a.rows(rows.start, rows.stop).to_dense()
        errors.append(_block_norm(block, approximation))
        norms.append(_block_norm(block))
    error, norm = _total(errors), _total(norms)
    if norm == 0.0:
        return 0.0 if error == 0.0 else math.inf
    return error / norm


def _rows(x: Any, rows: slice) -> Array:
    if isinstance(x, LowRankTensor):
        return x.rows(rows.start, rows.stop).to_dense()
    return x[rows, ...]


def _block_norm(x: Array, y: Array | None = None) -> float:
    """‖x − y‖, computed in double precision, scaled."""
    x = as_dtype(x, "complex128" if is_complex(x) else "float64")
    if y is not None:
        x = x - as_dtype(y, "complex128" if is_complex(y) else "float64")
    size, exponent = measure(x)
    return math.ldexp(size, exponent)


def _total(norms: list[float]) -> float:
    peak = max(norms)
    return 0.0 if peak == 0.0 else peak * math.sqrt(sum((size / peak) ** 2 for size in norms))
