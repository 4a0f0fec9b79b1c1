"""Layer 0: what the library needs to know of an array, whatever library made it.

The only file that imports array_api_compat. Everything above asks the array for its namespace and stays
inside the array API standard; what the standard lacks is offered here, and nothing else tests for a namespace.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import array_api_compat
import array_api_compat.numpy
import numpy as np
import scipy.linalg

Array: TypeAlias = Any
Namespace: TypeAlias = Any

FLOATS = ("float32", "float64", "complex64", "complex128")
# Computed in float32 and returned in float32: they have neither LAPACK routines nor digits to spare.
HALF_FLOATS = ("float16", "bfloat16")


def namespace(*arrays: Array) -> Namespace:
    """The array API namespace of the arrays: NumPy's, CuPy's or another's."""
    # Small tensors make many calls, and the general look-up costs as much as one of their contractions.
    if all(type(x) is np.ndarray for x in arrays):
        return array_api_compat.numpy
    return array_api_compat.array_namespace(*arrays)


def is_array(x: object) -> bool:
    """True for an array of a library that follows the array API standard."""
    return bool(array_api_compat.is_array_api_obj(x))


def device_of(x: Array) -> Any:
    """The device that holds the array."""
    return array_api_compat.device(x)


def dtype_name(dtype: Any) -> str:
    """`"float32"`, `"complex128"`, …: the name of a dtype of any library, of a scalar type, or its name."""
    if isinstance(dtype, type):
        dtype = np.dtype(dtype)
    if isinstance(dtype, np.dtype):
        return _numpy_dtype_name(dtype)
    name = getattr(dtype, "name", None) or str(dtype)
    return str(name).rsplit(".", maxsplit=1)[-1]


@functools.lru_cache(maxsize=64)
def _numpy_dtype_name(dtype: np.dtype[Any]) -> str:
    """NumPy makes the name anew at each look-up, which costs as much as a small matrix product."""
    return dtype.name


def compute_dtype_name(dtype: Any) -> str:
    """The dtype that an input is computed and returned in, by name; TypeError where there is none."""
    name = dtype_name(dtype)
    if name in FLOATS:
        return name
    if name in HALF_FLOATS:
        return "float32"
    if name == "bool" or name.startswith(("int", "uint")):
        return "float64"
    raise TypeError(
        f"got an array of dtype {name}; tensors hold {', '.join(FLOATS)} (integers and bool become float64, "
        "float16 and bfloat16 become float32): convert it first, with x.astype"
    )


def as_dtype(x: Array, name: str) -> Array:
    """The array in the dtype of that name; itself where it has it already."""
    if dtype_name(x.dtype) == name and getattr(x.dtype, "isnative", True):
        return x
    xp = namespace(x)
    return xp.astype(x, getattr(xp, name))


@functools.lru_cache(maxsize=16)
def eps(name: str) -> float:
    """The machine epsilon of a dtype, by name."""
    return float(np.finfo(name).eps)


def is_complex(x: Array) -> bool:
    """True for complex arrays."""
    return dtype_name(x.dtype).startswith("complex")


def conj(x: Array) -> Array:
    """The complex conjugate; real arrays come back as they are, uncopied."""
    return namespace(x).conj(x) if is_complex(x) else x


def adjoint(a: Array) -> Array:
    """aᴴ of a matrix: a view where a is real."""
    return conj(a).T


def to_host(x: Array) -> np.ndarray[Any, Any]:
    """The array as a NumPy array; a view where it is one already."""
    if isinstance(x, np.ndarray):
        return x
    xp = namespace(x)
    if array_api_compat.is_array_api_strict_namespace(xp):
        return np.asarray(x.to_device(xp.Device("CPU_DEVICE")))
    return np.asarray(array_api_compat.to_device(x, "cpu"))


def to_device(x: np.ndarray[Any, Any], *, like: Array) -> Array:
    """A NumPy array brought to the namespace and the device of `like`, its dtype kept."""
    if isinstance(like, np.ndarray):
        return x
    xp = namespace(like)
    return xp.asarray(x, dtype=getattr(xp, dtype_name(x.dtype)), device=device_of(like))


def copy(x: Array) -> Array:
    """A new array with the same entries, in C order where the library knows of orders."""
    if isinstance(x, np.ndarray):
        return np.array(x, order="C", copy=True, subok=False)
    return namespace(x).asarray(x, copy=True)


def contiguous(x: Array) -> Array:
    """The array in C order: itself where it is so already, else one copy.

    Reshapes of the result are free of copies, which the sweeps above count on.
    """
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(x)
    flags = getattr(x, "flags", None)
    return x if getattr(flags, "c_contiguous", True) else copy(x)


def is_host(x: Array) -> bool:
    """True for NumPy arrays: work in place and per block pays there, and calls are cheap."""
    return isinstance(x, np.ndarray)


def block_length(x: Array, row_entries: int, *, megabytes: float = 4.0) -> int:
    """How many rows of `row_entries` entries make a block: a few megabytes on the host, 64 times that elsewhere."""
    itemsize = np.dtype(dtype_name(x.dtype)).itemsize
    budget = megabytes * 2**20 * (1 if is_host(x) else 64)
    return max(1, math.floor(budget / (itemsize * max(1, row_entries))))


def slices(length: int, step: int) -> Iterator[slice]:
    """range(length) in slices of `step`, the last one shorter: the standard has no slices beyond the end."""
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def triangle(a: Array) -> Array:
    """R of the QR decomposition of a tall matrix, Q never formed: (m, n) -> (min(m, n), n)."""
    if is_host(a):
        return np.linalg.qr(a, mode="r")
    return namespace(a).linalg.qr(a, mode="reduced").R


def svd(a: Array) -> tuple[Array, Array, Array]:
    """U, s, Vᴴ with a = U·diag(s)·Vᴴ: LAPACK's divide and conquer, and QR iteration where that fails.

    Raises
    ------
    numpy.linalg.LinAlgError
        If neither converges, which a finite matrix has not been seen to cause.
    """
    xp = namespace(a)
    if not is_host(a):
        u, s, vh = xp.linalg.svd(a, full_matrices=False)
        return u, s, vh
    try:
        u, s, vh = np.linalg.svd(a, full_matrices=False)
    except np.linalg.LinAlgError:
        u, s, vh = scipy.linalg.svd(a, full_matrices=False, lapack_driver="gesvd", check_finite=False)
    return u, s, vh


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """a @ b, written into `out` where the library can: NumPy, into an array whose matrices have unit-stride rows."""
    if out is None or not is_host(a):
        return a @ b
    return np.matmul(a, b, out=out)


def cholesky_solve(gram: Array, right: Array) -> tuple[Array, float]:
    """Γ⁻¹·B by Cholesky, and an estimate of Γ's condition number: infinite, with B itself, where Γ is not definite."""
    if not is_host(gram):
        return _cholesky_solve_standard(gram, right)
    factorize, condition, triangular = _lapack(gram.dtype.char)
    # Row-major to us is the transpose to LAPACK: it factors Γᵀ = Rᴴ·R, and Vᵀ·Γᵀ = Bᵀ is solved where B lies.
    factor, info = factorize(gram.T, lower=False, clean=False)
    if info != 0:
        return right, math.inf
    pivots = factor.diagonal().real
    ratio = float(pivots.max() / pivots.min())
    estimate = ratio * ratio  # infinite where a power would raise
    if estimate > 1e6:  # pivots see most ill-conditioning; a sharper estimate costs as much as the factorisation
        reciprocal, _ = condition(factor, float(np.abs(gram).sum(axis=0).max()))
        estimate = max(estimate, 1 / reciprocal) if reciprocal > 0 else math.inf
    half = triangular(1.0, factor, right.T, side=1)
    return triangular(1.0, factor, half, side=1, trans_a=2, overwrite_b=1).T, estimate


def cholesky_solver(gram: Array) -> Callable[[Array], Array] | None:
    """B -> Γ⁻¹·B, from one factorisation; None where Γ is not definite."""
    if not is_host(gram):
        xp = namespace(gram)
        _, condition = _cholesky_solve_standard(gram, gram[:, :1])
        return None if math.isinf(condition) else lambda right: xp.linalg.solve(gram, right)
    factorize, _, triangular = _lapack(gram.dtype.char)
    factor, info = factorize(gram.T, lower=False, clean=False)

    def solve(right: Array) -> Array:
        half = triangular(1.0, factor, right.T, side=1)
        return triangular(1.0, factor, half, side=1, trans_a=2, overwrite_b=1).T

    return solve if info == 0 else None


def triangle_solver(factor: Array) -> Callable[[Array], Array]:
    """B -> (RᴴR)⁻¹·B for an upper triangle R: all that RᴴR itself would have rounded away is still in it."""
    if not is_host(factor):
        xp = namespace(factor)
        return lambda right: xp.linalg.solve(factor, xp.linalg.solve(adjoint(factor), right))
    *_, triangular = _lapack(factor.dtype.char)

    def solve(right: Array) -> Array:
        half = triangular(1.0, factor.T, right.T, side=1, lower=1, trans_a=2)
        return triangular(1.0, factor.T, half, side=1, lower=1, overwrite_b=1).T

    return solve


@functools.lru_cache(maxsize=8)
def _lapack(char: str) -> tuple[Any, Any, Any]:
    """Cholesky, the condition number from it, triangular solves."""
    dtype = np.dtype(char)
    factorize, condition = scipy.linalg.get_lapack_funcs(("potrf", "pocon"), dtype=dtype)
    return factorize, condition, scipy.linalg.get_blas_funcs("trsm", dtype=dtype)


def _cholesky_solve_standard(gram: Array, right: Array) -> tuple[Array, float]:
    """The standard has no triangular solve, and CuPy's Cholesky returns NaN where NumPy's raises."""
    xp = namespace(gram)
    try:
        pivots = to_host(xp.linalg.diagonal(xp.linalg.cholesky(gram)))
    except np.linalg.LinAlgError:
        return right, math.inf
    pivots = np.real(pivots)
    if not (np.isfinite(pivots).all() and pivots.min() > 0):
        return right, math.inf
    ratio = float(pivots.max() / pivots.min())
    return xp.linalg.solve(gram, right), ratio * ratio
