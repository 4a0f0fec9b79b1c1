"""The secular equations of ridges: one scalar root of what is nearly a straight line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tensorring._array import eps

Vector = np.ndarray[Any, Any]

# Relative accuracy of a squared residual or norm, where rounding leaves that much.
ACCURACY = 1e-13
# What explains this share of all of it is all of it, to rounding.
ALL = 1 - 4 * float(np.finfo(np.float64).eps)
# Five steps are usual; spectra over 30 decades took 25.
_STEPS = 100


def spectral_root(sigma: Vector, squares: Vector, outside: float, bound: float) -> tuple[float, float]:
    """ν with outside + Σ c·(ν/(σ + ν))² = δ², and that sum, for σ and c on the host.

    0 where even ν = 0 leaves no less than δ, infinite where all may go.
    """
    room, whole = bound**2 - outside, float(squares.sum())
    if room >= whole * ALL:
        return math.inf, outside + whole
    if room <= eps("float64") * (outside + whole) * eps("float64"):
        return 0.0, outside

    # As shares of the largest and of all: products of these stay in range, whatever the scale.
    largest = float(sigma.max())
    sigma, squares, target = sigma / largest, squares / whole, math.sqrt(whole / room)

    def excess(inverse: float) -> tuple[float, None]:
        return float((squares / (1 + sigma * inverse) ** 2).sum()) ** -0.5, None

    first = (target - 1) / float((squares * sigma).sum())
    found = concave_root(excess, target, 1.0, first, ACCURACY)
    return largest / found.at, outside + whole * found.value**-2


class Root(NamedTuple):
    """μ, p(μ), what came with it, and the last slope of p."""

    at: float
    value: float
    payload: Any
    slope: float


def concave_root(
    function: Callable[[float], tuple[float, Any]],
    target: float,
    start: float,
    guess: float,
    accuracy: float,
    slope: float = 0.0,
) -> Root:
    """μ > 0 with p(μ) = target, p increasing and concave, p(0) = start < target.

    By secants: from the left they stay there. Kept within a bracket all the same, since p comes with rounding. The
    first step takes the `slope` at the guess, if there is one.
    """
    low, high, known = 0.0, math.inf, slope
    before, at = (0.0, start), guess
    best: tuple[float, Root] | None = None
    for _ in range(_STEPS):
        value, payload = function(at)
        off = abs(value / target - 1)
        usable = value not in (math.inf, before[1]) and at != before[0]
        slope = known or ((value - before[1]) / (at - before[0]) if usable else 0.0)
        if best is None or off < best[0]:
            best = (off, Root(at, value, payload, slope))
        if off <= accuracy or high - low <= 4 * eps("float64") * low:
            break
        low, high = (at, high) if value < target else (low, at)
        step = (target - value) / slope if usable and slope > 0 else 0.0
        before, at, known = (at, value), at + step, 0.0
        if not low < at < high:
            at = 8 * low if high == math.inf else math.sqrt(low * high) if low > 0 else high / 8
    assert best is not None
    return best[1]
