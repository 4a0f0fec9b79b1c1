"""The kernel whose output comes nearest to a target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorring._array import Array, adjoint, as_dtype, compute_dtype_name, conj, is_array, is_complex, namespace
from tensorring._threads import blas_threads
from tensorring.algebra.metric import checked_matrix
from tensorring.linalg.scale import measure, scaled
from tensorring.linalg.solve import least_squares, solve_gram


def retarget(x: Array, metric: Array, cross: Array, *, ridge: float = 1e-3) -> Array:
    """W* = W + (C − W·S)·(S + ridge·mean(diag S)·I)⁻¹: the kernel that on inputs of moments S is nearest to a target.

    A layer whose inputs have changed (since those before it were compressed) does best with other weights: those of
    least squares from its inputs u to the outputs z wanted. The ridge keeps them near W where inputs tell little.

    Parameters
    ----------
    x
        The kernel (O, …), W as a matrix (O, N).
    metric
        S (N, N), S[i, j] the mean of conj(u_i)·u_j, as in `metric={modes: S}` on all modes but the first.
    cross
        C (O, N), C[o, j] the mean of z_o·conj(u_j).
    ridge
        Of the mean of S's diagonal, at least 0.

    Returns
    -------
    Array
        W* in the shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        For matrices of another size, library or kind of numbers, that are not finite, or an S that is not Hermitian
        and positive semidefinite.

    Notes
    -----
    Computed in double precision; N³/3 + 2·N²·O flops. A singular S without a ridge leaves W where S sees nothing.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> rng = np.random.default_rng(0)
    >>> kernel, other, inputs = rng.standard_normal((4, 6)), rng.standard_normal((4, 6)), rng.standard_normal((100, 6))
    >>> outputs = inputs @ other.T
    >>> s, c = inputs.T @ inputs / 100, outputs.T @ inputs / 100
    >>> bool(np.allclose(tg.retarget(kernel, s, c, ridge=0.0), other))
    True
    """
    xp, name = namespace(x), compute_dtype_name(x.dtype)
    wide = "complex128" if name.startswith("complex") else "float64"
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(f"got a kernel of shape {tuple(x.shape)}; its modes are the outputs, then those of the inputs")
    if isinstance(ridge, bool) or not isinstance(ridge, (int, float, np.number)) or not 0 <= ridge < math.inf:
        raise ValueError(f"got ridge={ridge!r}; it is a share of the mean of S's diagonal, at least 0")
    measure(as_dtype(x, name))
    w = xp.reshape(as_dtype(as_dtype(x, name), wide), (x.shape[0], -1))
    s, exponent = checked_matrix(metric, x, x.shape[1:], "metric")
    c = _checked_cross(cross, x, tuple(w.shape), wide)
    s = conj(as_dtype(s, wide))
    diagonal = xp.linalg.diagonal(s)
    level = ridge * float(xp.mean(xp.real(diagonal) if is_complex(s) else diagonal))
    missing = adjoint(scaled(c, -exponent) - w @ s)
    gram = s + level * xp.eye(s.shape[0], dtype=s.dtype, device=s.device)
    with blas_threads(math.prod(x.shape)):
        change = adjoint(solve_gram(gram, missing, lambda: least_squares(gram, missing)))
    return as_dtype(xp.reshape(w + change, tuple(x.shape)), name)


def _checked_cross(cross: Any, x: Array, shape: tuple[int, int], name: str) -> Array:
    if not is_array(cross) or namespace(cross) is not namespace(x):
        raise TypeError("got a cross that is no array of the library of x: make it with that library")
    if tuple(cross.shape) != shape:
        raise ValueError(f"got a cross of shape {tuple(cross.shape)}; for this kernel it is (outputs, inputs), {shape}")
    if is_complex(cross) and not is_complex(x):
        raise ValueError(f"got a complex cross for a kernel of dtype {x.dtype}; make it real first")
    cross = as_dtype(as_dtype(cross, compute_dtype_name(cross.dtype)), name)
    measure(cross, name="cross")
    return cross
