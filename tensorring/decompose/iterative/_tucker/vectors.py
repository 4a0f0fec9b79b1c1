"""Leading singular vectors of an unfolding that has few columns, or whose vectors are nearly known."""

from __future__ import annotations

import math

from tensorring._array import Array, adjoint, as_dtype, copy, dtype_name, eps, is_complex, namespace, to_host
from tensorring.contract.unfold import around
from tensorring.linalg.basis import mode_basis

# From this size on, and for ranks this far below it, steps from a guess are cheaper than all eigenvectors.
_SIZE, _SHARE, _STEPS = 96, 4, 4
# The angle that is left; the energy that it costs is its square.
_ANGLE = {"float32": 1e-6, "float64": 1e-10, "complex64": 1e-6, "complex128": 1e-10}


def leading(y: Array, mode: int, rank: int, *, exact: bool, guess: Array | None = None) -> Array:
    """The leading left singular vectors (n, rank) of the unfolding of a mode.

    From the Gram matrix of its shorter side, in double precision, which blurs what is below √eps of the norm; with
    `exact` from the unfolding itself. A `guess` saves work where it is nearly right, and changes nothing else.
    """
    y = around(y, mode)
    before, n, after = y.shape
    near = guess is not None and not exact and n >= _SIZE and _SHARE * rank <= n <= before * after
    if (exact or n <= before * after) and not near:
        basis = mode_basis(y, max_error=0.0, norm=1.0, max_rank=rank, route="exact" if exact else "gram")
        return copy(basis.vectors[:, :rank])
    xp, name = namespace(y), dtype_name(y.dtype)
    matrix = xp.reshape(y if before == 1 else xp.permute_dims(y, (1, 0, 2)), (n, before * after))
    wide = as_dtype(matrix, "complex128" if is_complex(y) else "float64")
    if near:
        gram = wide @ adjoint(wide)
        vectors = _from_guess(gram, as_dtype(guess, dtype_name(wide.dtype)), _ANGLE[name])
        vectors = _eigenvectors(gram, rank) if vectors is None else vectors
        return as_dtype(vectors, name)
    image = matrix @ as_dtype(_eigenvectors(adjoint(wide) @ wide, rank), name)
    return xp.linalg.qr(image, mode="reduced").Q


def _eigenvectors(gram: Array, rank: int) -> Array:
    xp = namespace(gram)
    return copy(xp.flip(xp.linalg.eigh(gram)[1], axis=1)[:, :rank])


def _from_guess(gram: Array, guess: Array, angle: float) -> Array | None:
    """The leading eigenvectors by a few block power steps from a guess; None unless they are known to be leading.

    With Γ·Q = Q·Θ to rounding, no other eigenvalue exceeds √(‖Γ‖² − ‖Θ‖²): where that is below the least of Θ, these
    are the leading ones, whatever the guess was.
    """
    xp = namespace(gram)
    total, image, previous = xp.reshape(xp.linalg.matrix_norm(gram), (1,)), gram @ guess, math.inf
    for _ in range(_STEPS):
        q = xp.linalg.qr(image, mode="reduced").Q
        image = gram @ q
        small = adjoint(q) @ image
        values, turn = xp.linalg.eigh(small)
        defect = xp.reshape(xp.linalg.matrix_norm(image - q @ small), (1,))
        # One transfer to the host a step.
        norm, left, *thetas = (float(value) for value in to_host(xp.concat([total, defect, values])))
        others = math.sqrt(max(norm**2 - math.fsum(t * t for t in thetas), 0.0) + 64 * eps("float64") * norm**2)
        gap = thetas[0] - others
        if gap <= 0 or left > previous / 4:
            return None
        if left <= angle * gap:
            return q @ xp.flip(turn, axis=1)
        previous = left
    return None
