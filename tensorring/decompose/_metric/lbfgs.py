"""Limited-memory BFGS, as an iterator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

Vector = np.ndarray[Any, np.dtype[np.float64]]
Point = TypeVar("Point")
Evaluate = Callable[[Vector], tuple[float, Vector, Point]]

_MEMORY = 20
# A step is taken that keeps this share of the slope's promise, and where the slope has fallen to this share.
_DECREASE, _CURVATURE = 1e-4, 0.9
_TRIALS = 15
# The first step goes by this share of ‖θ‖: there is no curvature yet to tell.
_FIRST = 0.05
# Of the product of a step and the change of the gradient: its inverse must be a number.
_LEAST = 1e-200


class _Pair(NamedTuple):
    step: Vector
    change: Vector
    inverse: float


def lbfgs(evaluate: Evaluate[Point], start: Vector) -> Iterator[tuple[float, Point]]:
    """(value, point) after every step, `start` first; values never rise. Ends where no step lowers the value.

    Parameters
    ----------
    evaluate
        θ -> (value, gradient, point): `point` is whatever the caller wants to have at θ.
    start
        θ, a vector of doubles.

    References
    ----------
    J. Nocedal 1980, "Updating quasi-Newton matrices with limited storage", doi 10.1090/S0025-5718-1980-0572855-7. The
    line search: A. Lewis, M. Overton 2013, doi 10.1007/s10107-012-0514-2.
    """
    theta = start
    value, gradient, point = evaluate(theta)
    yield value, point
    pairs: deque[_Pair] = deque(maxlen=_MEMORY)
    while True:
        direction = -_scaled(gradient, pairs)
        slope = float(direction @ gradient)
        if not pairs and slope < 0:
            direction *= _FIRST * float(np.linalg.norm(theta)) / float(np.linalg.norm(direction))
            slope = float(direction @ gradient)
        found = _searched(evaluate, theta, value, direction, slope) if slope < 0 else None
        if found is None:
            if not pairs:
                return
            pairs.clear()
            continue
        value, new, point, step = found
        moved, change = step * direction, new - gradient
        product = float(moved @ change)
        if product > _LEAST:
            pairs.append(_Pair(moved, change, 1 / product))
        theta, gradient = theta + moved, new
        yield value, point


def _scaled(gradient: Vector, pairs: deque[_Pair]) -> Vector:
    """The gradient times the inverse Hessian that the pairs tell, by two loops over them."""
    result, shares = gradient.copy(), []
    for step, change, inverse in reversed(pairs):
        share = inverse * float(step @ result)
        result -= share * change
        shares.append(share)
    if pairs:
        _, change, inverse = pairs[-1]
        result /= inverse * float(change @ change)
    for (step, change, inverse), share in zip(pairs, reversed(shares), strict=True):
        result += (share - inverse * float(change @ result)) * step
    return result


def _searched(
    evaluate: Evaluate[Point], theta: Vector, value: float, direction: Vector, slope: float
) -> tuple[float, Vector, Point, float] | None:
    """A step that lowers the value and flattens the slope: doubled, or halved between too short and too long."""
    short, long, step, best = 0.0, np.inf, 1.0, None
    for _ in range(_TRIALS):
        new, gradient, point = evaluate(theta + step * direction)
        if not new <= value + _DECREASE * step * slope:
            long = step
        else:
            best = new, gradient, point, step
            if float(direction @ gradient) >= _CURVATURE * slope:
                return best
            short = step
        step = 2 * step if long == np.inf else (short + long) / 2
    return best if best is not None and best[0] < value else None
