"""The one form in which CP tensors come back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorring._array import Array, as_dtype, dtype_name, to_device, to_host
from tensorring.tensors import CPTensor


def normalized(factors: Sequence[Array]) -> CPTensor:
    """Σ_r ⊗_k u_k[:, r] with unit columns, weights descending, deterministic signs: factors (n_k, R) -> CPTensor.

    The largest entry of each column but the last mode's is real and positive; the last mode takes the phases. A term
    that is zero has weight 0 and first unit vectors. On the host, in double precision: factors are small.
    """
    dtype = dtype_name(factors[0].dtype)
    wide = "complex128" if dtype.startswith("complex") else "float64"
    columns, weights, exponents = [], np.ones(factors[0].shape[1]), np.zeros(factors[0].shape[1], dtype=int)
    for factor in factors:
        u = to_host(factor).astype(wide)
        norms = np.linalg.norm(u, axis=0)
        there = norms > 0
        columns.append(np.where(there, u / np.where(there, norms, 1.0), np.eye(*u.shape)[:, :1]))
        mantissas, powers = np.frexp(norms)
        weights, exponents = weights * mantissas, exponents + powers
    weights = np.ldexp(weights, exponents)
    order = np.argsort(-weights, kind="stable")
    phases = np.ones(len(weights), dtype=wide)
    for u in columns[:-1]:
        largest = u[np.argmax(np.abs(u), axis=0), np.arange(u.shape[1])]
        phase = largest / np.abs(largest)
        u /= phase
        phases *= phase
    columns[-1] *= phases
    like, real = factors[0], "float32" if dtype in ("float32", "complex64") else "float64"
    arrays = [np.ascontiguousarray(u[:, order]).astype(dtype) for u in columns]
    return CPTensor(to_device(weights[order].astype(real), like=like), tuple(to_device(u, like=like) for u in arrays))


def renormalized(t: CPTensor) -> CPTensor:
    """The same tensor in that form."""
    first, *others = t.factors
    return normalized([first * as_dtype(t.weights, dtype_name(first.dtype)), *others])
