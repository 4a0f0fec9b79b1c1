"""Projections along the middle axis of (before, n, after), in place where the array is the caller's to lose."""

from __future__ import annotations

from collections.abc import Iterator

from tensorring._array import Array, adjoint, block_length, conj, is_host, namespace, slices
from tensorring.linalg.scale import root_of_sum, squared_parts

# Below this share of the array a new one is cheaper than working in place, and lets the old one go.
_IN_PLACE_SHARE = 0.25


def project(x: Array, basis: Array, *, overwrite: bool = False, squares: list[Array] | None = None) -> Array:
    """Pᴴ·x along the middle axis: (before, n, after), (n, r) -> (before, r, after).

    With `overwrite` the result may lie in the memory of `x`, so that a large remainder is never held twice. With
    `squares`, what is lost, Σ|x − P·Pᴴ·x|², is appended in terms, measured before anything is overwritten.
    """
    if not (overwrite and _fits_in_place(x, basis)):
        product = _product(x, basis)
        if squares is not None:
            squares += _residual_squares(x, basis, product)
        return product
    (before, _, after), rank = x.shape, basis.shape[1]
    flat = x.reshape(-1)
    for part in _parts(x):
        block = _product(x[part], basis)
        if squares is not None:
            squares += _residual_squares(x[part], basis, block)
        if before == 1:
            x[:, :rank, part[2]] = block
        else:
            # Slices become smaller, so what is written lies in front of all that is still to be read.
            flat[part[0].start * rank * after : part[0].stop * rank * after] = block.reshape(-1)
    return x[:, :rank, :] if before == 1 else flat[: before * rank * after].reshape(before, rank, after)


def _fits_in_place(x: Array, basis: Array) -> bool:
    if not (is_host(x) and x.flags.c_contiguous and x.flags.writeable):
        return False
    return bool(basis.shape[1] >= _IN_PLACE_SHARE * basis.shape[0])


def _parts(x: Array) -> Iterator[tuple[slice, slice, slice]]:
    """Blocks of some megabytes: columns where there is one matrix, whole slices of the first axis otherwise."""
    before, n, after = x.shape
    whole = slice(0, n)
    if before == 1:
        for columns in slices(after, block_length(x, n)):
            yield slice(0, 1), whole, columns
    else:
        for rows in slices(before, block_length(x, n * after)):
            yield rows, whole, slice(0, after)


def _product(x: Array, basis: Array) -> Array:
    if x.shape[2] == 1:
        return namespace(x).expand_dims(x[:, :, 0] @ conj(basis), axis=2)
    return adjoint(basis) @ x


def residual_norm(x: Array, basis: Array, coefficients: Array) -> float:
    """‖x − P·C‖_F, from the residual itself: a difference of norms would lose half the digits."""
    return root_of_sum(_residual_squares(x, basis, coefficients))


def _residual_squares(x: Array, basis: Array, coefficients: Array) -> list[Array]:
    xp = namespace(x)
    squares: list[Array] = []
    for rows, whole, columns in _parts(x):
        part = coefficients[rows, :, columns]
        fitted = part[:, :, 0] @ basis.T if x.shape[2] == 1 else basis @ part
        block = xp.reshape(x[rows, whole, columns], fitted.shape) - fitted
        squares += squared_parts(xp.reshape(block, (-1,)))
    return squares
