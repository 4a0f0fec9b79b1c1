"""The condition number of a CP: how far its terms move when the tensor does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorring._array import eps, svd, triangle
from tensorring.diagnostics.terms import Terms, compressed
from tensorring.linalg.sizes import Values

# Multiply-adds of the QR decomposition of Terracini's matrix, and its entries: tenths of a second, and 128 MiB.
_MOST_WORK, _MOST_ENTRIES = 2 * 10**9, 2**24


def condition_number(terms: Terms) -> float | None:
    """κ = 1/σ_min(T), T = (T_1 … T_R): orthonormal bases of the tangent spaces of the rank-one terms, side by side.

    For small changes of the tensor, (Σ_r ‖Δterm_r‖²)^½ ≤ κ·‖Δtensor‖, and no smaller number will do. At least 1, which
    orthogonal terms of three modes or more have. Infinite where the tangent spaces are dependent, to rounding: the
    terms are not determined by the tensor, not even locally. None where T is too large: above 2^24 entries, or
    2·10^9 multiply-adds.

    Notes
    -----
    T has Πq_n rows and R·(1 + Σ(q_n − 1)) columns, q_n = min(I_n, R): factors are first brought to bases of their span,
    which leaves κ as it is (the directions outside are no worse: they belong to Γ_n alone, whose least singular value
    T has too). Cost: rows·columns²; memory: rows·columns.

    References
    ----------
    N. Vannieuwenhoven 2017, "Condition numbers for the tensor rank decomposition", doi 10.1016/j.laa.2017.08.014;
    P. Breiding, N. Vannieuwenhoven 2018, "The condition number of join decompositions", doi 10.1137/17M1142880.
    """
    if terms.rank == 0:
        return 1.0
    units = compressed(terms.units)
    rows = math.prod(u.shape[0] for u in units)
    columns = terms.rank * (1 + sum(u.shape[0] - 1 for u in units))
    if columns > rows:
        return math.inf
    if rows * columns**2 > _MOST_WORK or rows * columns > _MOST_ENTRIES:
        return None
    matrix = np.concatenate([_tangent_basis([u[:, r] for u in units]) for r in range(terms.rank)], axis=1)
    values = svd(triangle(matrix))[1]
    least = float(values[-1])
    return math.inf if least <= columns * eps("float64") * float(values[0]) else max(1.0, 1 / least)


def _tangent_basis(columns: Sequence[Values]) -> Values:
    """Orthonormal: the unit term a ⊗ b ⊗ …, and A⊥ ⊗ b ⊗ …, a ⊗ B⊥ ⊗ …, …: (Πq, 1 + Σ(q − 1))."""
    blocks = [_kron(columns)[:, None]]
    for n, column in enumerate(columns):
        before, after = _kron(columns[:n]), _kron(columns[n + 1 :])
        across = np.linalg.qr(column[:, None], mode="complete").Q[:, 1:]
        block = before[:, None, None, None] * across[:, None, :] * after[:, None]
        blocks.append(block.reshape(math.prod(block.shape[:3]), across.shape[1]))
    return np.concatenate(blocks, axis=1)


def _kron(columns: Sequence[Values]) -> Values:
    """a ⊗ b ⊗ …, and 1 of none."""
    product: Values = np.ones(1)
    for column in columns:
        product = np.kron(product, column)
    return product
