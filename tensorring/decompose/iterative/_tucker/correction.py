"""Error-preserving correction of the core of a Tucker tensor, in closed form but for one scalar root."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorring._array import (
    Array,
    adjoint,
    as_dtype,
    dtype_name,
    eps,
    is_complex,
    namespace,
    svd,
    to_device,
    to_host,
)
from tensorring.contract.unfold import mode_product
from tensorring.decompose._arguments import Problem
from tensorring.linalg.rank import Values
from tensorring.linalg.scale import measure as scale_of
from tensorring.linalg.secular import spectral_root
from tensorring.tensors import TuckerTensor


def corrected_core(problem: Problem, t: TuckerTensor, bound: float, measure: str = "sensitivity") -> TuckerTensor:
    """The same factors with the core of least measure whose relative error is at most `bound`.

    Parameters
    ----------
    problem
        The tensor; all is computed in double precision, whatever it is in.
    t
        Its approximation, in the scale of the problem.
    bound
        The relative error allowed. Where no core for these factors keeps it, the core is the least-squares solution.
    measure
        "sensitivity": ss = Σ_n I_n·‖core ×_{m≠n} U_m‖² + Π‖U_n‖², of which the core decides the first part. "norm": the
        norm of the core.

    Returns
    -------
    TuckerTensor
        In double precision; its scalings are those of t.

    Notes
    -----
    With U_n = Q_n·S_n·V_nᴴ the core H in the basis of the V_n is felt entry by entry: ‖x − t‖² is Σ|y − s·h|², s being
    the products of the S_n and y = x ×_n Q_nᴴ, and what x has outside the Q_n; the measure is Σ w·|h|², where
    w = Σ_n I_n·Π_{m≠n} s_m². So h = s·y/(s² + νw), with the ν that meets the bound.
    """
    wide = "complex128" if is_complex(problem.x) else "float64"
    x = as_dtype(problem.x, wide)
    decomposed = [svd(as_dtype(factor, wide)) for factor in t.factors]
    y, outside = x, 0.0
    for mode, (q, _, _) in enumerate(decomposed):
        inside = mode_product(y, adjoint(q), mode)
        # What a mode leaves out is orthogonal to what the others do: squares add up, and nothing cancels.
        outside += _norm(y - mode_product(inside, q, mode)) ** 2
        y = inside
    singular = [to_host(values).astype(np.float64) for _, values, _ in decomposed]
    scale = _outer([values**2 for values in singular])
    weights = np.ones_like(scale) if measure == "norm" else _weights(t.shape, singular)
    h = _solved(y, scale, weights, outside, bound * scale_of(x).norm)
    for mode, (_, _, vh) in enumerate(decomposed):
        h = mode_product(h, adjoint(vh), mode)
    return TuckerTensor(h, tuple(as_dtype(factor, wide) for factor in t.factors))


def _solved(y: Array, scale: Values, weights: Values, outside: float, bound: float) -> Array:
    """min Σ w·|h|² s.t. outside + Σ|y − s·h|² ≤ δ², for s² and w on the host: h = s·y/(s² + νw)."""
    xp = namespace(y)
    kept = scale > (y.ndim * eps("float64")) ** 2 * scale.max()
    squares = to_host(xp.abs(y)).astype(np.float64) ** 2
    outside += float(squares[~kept].sum())
    sigma = np.where(kept, scale, 1.0) / weights
    nu, _ = spectral_root(sigma, np.where(kept, squares, 0.0), outside, bound)
    if math.isinf(nu):
        return 0.0 * y
    factors = np.where(kept, np.sqrt(scale) / (np.where(kept, scale, 1.0) + nu * weights), 0.0)
    return y * as_dtype(to_device(factors, like=y), dtype_name(y.dtype))


def _weights(shape: Sequence[int], singular: Sequence[Values]) -> Values:
    """Σ_n I_n·Π_{m≠n} s_m², positive: lifted where all of it is rounding."""
    weights = np.zeros([len(values) for values in singular])
    for n, size in enumerate(shape):
        weights += size * _outer([values**0 if m == n else values**2 for m, values in enumerate(singular)])
    largest = float(weights.max())
    return np.maximum(weights, eps("float64") * largest) if largest > 0 else weights + 1.0


def _outer(vectors: Sequence[Values]) -> Values:
    """Π_n v_n[i_n] as an array of as many modes."""
    product = vectors[0]
    for vector in vectors[1:]:
        product = product[..., None] * vector
    return product


def _norm(x: Array) -> float:
    size, exponent = scale_of(x)
    return math.ldexp(size, exponent)
