"""From a tolerance to a rank: the only place where singular values are compared with anything."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorring._array import compute_dtype_name, eps

Values = np.ndarray[Any, np.dtype[np.float64]]


def error_floor(dtype: Any, order: int, *, returned: Any = None) -> float:
    """floor = 50·eps·order: the relative error that rounding alone may add to a decomposition.

    A tolerance is kept when error ≤ tol + floor, measured on what is returned.

    Parameters
    ----------
    dtype
        The dtype computed in: of an array, of NumPy or of another library, or its name.
    order
        The number of modes of the tensor.
    returned
        The dtype of the result, where it is shorter: rounding to it adds 4 eps of that dtype.

    Examples
    --------
    >>> from tensorring.linalg import error_floor
    >>> error_floor("float64", 3) == 150 * 2.0**-52
    True
    """
    name = compute_dtype_name(dtype)
    floor = 50 * eps(name) * max(1, order)
    if returned is not None and eps(compute_dtype_name(returned)) > eps(name):
        floor += 4 * eps(compute_dtype_name(returned))
    return floor


def tails(values: Values) -> Values:
    """t[r] = ‖values[r:]‖ for r = 0 … len(values): the error that rank r makes.

    Summed from the smallest up, after division by the largest: no digits are lost and nothing overflows.
    """
    result = np.zeros(len(values) + 1)
    peak = float(values[0]) if len(values) else 0.0
    if peak > 0.0:
        np.cumsum((values[::-1] / peak) ** 2, out=result[-2::-1])
        np.sqrt(result, out=result)
        result *= peak
    return result


def rank_for(values: Values, *, max_error: float, max_rank: int | None = None) -> int:
    """The smallest rank r ≥ 1 with ‖values[r:]‖ ≤ max_error, but at most `max_rank`.

    Parameters
    ----------
    values
        Singular values, descending, on the host.
    max_error
        Absolute Frobenius error allowed.
    max_rank
        A cap; it wins over `max_error`.
    """
    return first_within(tails(values), max_error, max_rank)


def first_within(errors: Values, max_error: float, max_rank: int | None = None) -> int:
    """The smallest rank r ≥ 1 with errors[r] ≤ max_error, but at most `max_rank`: `errors` descends from rank 0."""
    # What is too large comes first, so the number of such entries is the rank; the last is never too large.
    rank = max(1, int(np.count_nonzero(errors[:-1] > max_error)))
    return rank if max_rank is None else min(rank, max_rank)
