"""A path of ridges: alternating least squares that never enters the valleys in which terms cancel."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from enum import Enum, auto

from tensorring._array import Array
from tensorring.decompose.iterative._cp.space import CPSpace, Fit, sweeps

# The first ridge, relative to the unit diagonal of Γ, and what the next one is of it: less where the error follows the
# ridge down, as it does towards an exact fit, and where it no longer depends on it.
FIRST, _NEXT, _FAST = 0.1, 0.5, 0.1
_FOLLOWS, _INDIFFERENT = 0.2, 1e-3
# A ridge has done its work when a sweep takes off less than this share of the objective.
_SLOW = 1e-5
# On the path d‖error‖² = −ν·dΣλ². It is at its end where 1 % more of ‖λ‖ would gain less than this many % of the error,
# if terms are larger than the second times ‖x‖ (above the third, four times that for terms twice as large); or where a
# ridge took off less than this share of the error.
_PAYS, HARMLESS, _LARGE = 0.04, 1.2, 2.0
_FLAT, _LEAST = 1e-6, 1e-13


class End(Enum):
    """Why a path ended."""

    kept = auto()  # the error asked for is reached
    flat = auto()  # smaller ridges gain nothing
    large = auto()  # terms outgrew the norm allowed while the error still fell
    used_up = auto()  # no sweeps left


def ridge_path(
    space: CPSpace,
    start: Sequence[Array],
    *,
    enough: float,
    largest: float,
    count: int,
    first: float = FIRST,
    stall: float = 0.0,
) -> Generator[Fit, None, End]:
    """Sweeps of min ‖x − x̂‖² + ν·Σ λ_r², ν ever smaller: errors fall, and terms grow only for what they gain.

    With ν > 0 there always is a best fit, and no sweep creeps; from one ridge to the next it moves a little. What plain
    sweeps find in thousands of steps at ‖λ‖ ≫ ‖x‖ is thus found at ‖λ‖ of one or two ‖x‖.

    Parameters
    ----------
    space
        The tensor.
    start
        Factors, rank first (R, n).
    enough, largest
        The relative error at which to stop, and the ‖λ‖/‖x‖.
    count
        Sweeps allowed.
    first
        The first ridge; smaller ones for starts that are to be kept.
    stall
        A ridge has done its work when a sweep takes off less than this share of the objective, or than 1e-5.
    """
    factors, done, before, space.ridge = start, 0, float("inf"), first
    most = max(10, count // 10)
    while True:
        objective, settled = float("inf"), False
        for k, (fit, error) in enumerate(sweeps(space, factors)):
            done += 1
            yield fit
            if error <= enough and fit.size <= largest:
                return End.kept
            if done >= count:
                return End.used_up
            settled = objective - fit.objective < max(_SLOW, stall) * objective
            price = _PAYS * max(1.0, fit.size / _LARGE) ** 2
            pays = fit.size <= HARMLESS or space.ridge * fit.size**2 > price * fit.error**2
            if settled or (pays and k + 1 >= most):
                break
            objective = fit.objective
        if fit.size > largest:
            return End.large
        gain, before, factors = (before - fit.error) / max(fit.error, 1e-300), fit.error, fit.factors
        if (settled and (gain < _FLAT or not pays)) or space.ridge == 0.0:
            return End.flat
        fast = _FOLLOWS < gain < float("inf") or (settled and gain < _INDIFFERENT)
        space.ridge *= _FAST if fast else _NEXT
        if space.ridge < _LEAST:
            if fit.size > HARMLESS:
                return End.flat
            space.ridge = 0.0
