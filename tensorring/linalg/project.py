"""Projections along the middle axis of (before, n, after), in place where the array is the caller's to lose."""

from __future__ import annotations

from tensorring._array import Array, adjoint, block_length, conj, is_host, namespace, slices
from tensorring.linalg.scale import root_of_sum, squared_parts

# Below this share of the array a new one is cheaper than working in place, and lets the old one go.
_IN_PLACE_SHARE = 0.25


def project(x: Array, basis: Array, *, overwrite: bool = False) -> Array:
    """Pᴴ·x along the middle axis: (before, n, after), (n, r) -> (before, r, after).

    With `overwrite` the result may lie in the memory of `x`, so that a large remainder is never held twice.
    """
    rank = basis.shape[1]
    share = rank / basis.shape[0]
    if not (overwrite and is_host(x) and x.flags.c_contiguous and x.flags.writeable and share >= _IN_PLACE_SHARE):
        return _product(x, basis)
    before, n, after = x.shape
    if before == 1:
        for columns in slices(after, block_length(x, n)):
            x[:, :rank, columns] = _product(x[:, :, columns], basis)
        return x[:, :rank, :]
    flat = x.reshape(-1)
    for rows in slices(before, block_length(x, n * after)):
        block = _product(x[rows], basis)
        # Slices become smaller, so what is written lies in front of all that is still to be read.
        flat[rows.start * rank * after : rows.stop * rank * after] = block.reshape(-1)
    return flat[: before * rank * after].reshape(before, rank, after)


def _product(x: Array, basis: Array) -> Array:
    if x.shape[2] == 1:
        return namespace(x).expand_dims(x[:, :, 0] @ conj(basis), axis=2)
    return adjoint(basis) @ x


def residual_norm(x: Array, basis: Array, coefficients: Array) -> float:
    """‖x − P·C‖_F in blocks, from the residual itself: a difference of norms would lose half the digits."""
    xp = namespace(x)
    before, n, after = x.shape
    squares: list[Array] = []
    for rows in slices(before, block_length(x, n * after)):
        for columns in slices(after, block_length(x, n * (rows.stop - rows.start))):
            part = coefficients[rows, :, columns]
            fitted = part[:, :, 0] @ basis.T if after == 1 else basis @ part
            block = xp.reshape(x[rows, :, columns], fitted.shape) - fitted
            squares += squared_parts(xp.reshape(block, (-1,)))
    return root_of_sum(squares)
