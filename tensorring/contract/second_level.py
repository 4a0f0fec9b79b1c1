"""Second-level contractions: partial results (R, …) with one vector for each component."""

from __future__ import annotations

from tensorring._array import Array, namespace


def contract_last(partial: Array, rows: Array, n: int) -> Array:
    """y[r, i] = Σ_c P[r, (i, c)]·w[r, c]: (R, n·c), (R, c) -> (R, n)."""
    xp = namespace(partial)
    rank, after = rows.shape
    return xp.reshape(xp.reshape(partial, (rank, n, after)) @ rows[:, :, None], (rank, n))


def contract_first(partial: Array, rows: Array) -> Array:
    """y[r, c] = Σ_i w[r, i]·P[r, (i, c)]: (R, n·c), (R, n) -> (R, c)."""
    xp = namespace(partial)
    rank, n = rows.shape
    return xp.reshape(rows[:, None, :] @ xp.reshape(partial, (rank, n, -1)), (rank, -1))
