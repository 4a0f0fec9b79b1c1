"""Damped Gauss–Newton steps for a CP, accepted or not by what they gain."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import NamedTuple

from tensorring._array import Array, as_dtype, dtype_name, is_complex, namespace
from tensorring.decompose.iterative._cp.lm_arc import arc
from tensorring.decompose.iterative._cp.lm_residual import Residual
from tensorring.decompose.iterative._cp.lm_step import Curvature, Solver, inner
from tensorring.tensors import Stop

Factors = tuple[Array, ...]

_FIRST_DAMPING = 1e-3
# The damping grows as 2^(k(k+1)/2): from the smallest to beyond all curvature.
_REJECTIONS = 14
# How many steps may count as one, and the share of `stall` that each of them takes off at least.
_TOGETHER, _CREEPS = 10, 0.01
_DIGITS = 2.0**-52
# The valley along which two terms cancel ever more, error ∝ ‖λ‖⁻², has a curvature of ‖λ‖⁻⁶ of the largest one: in JᴴJ
# it drowns in rounding beyond eps^(-1/6) = 400, in J itself beyond eps^(-1/3).
_DELICATE = 100.0


class Fit(NamedTuple):
    """Factors (n_k, R), in double precision, of the tensor that a residual is of."""

    residual: Residual
    factors: Factors

    def expanded(self) -> list[Array]:
        """The factors of the tensor given, where the residual is of a core of it."""
        if self.residual.bases is None:
            return list(self.factors)
        return [basis @ factor for basis, factor in zip(self.residual.bases, self.factors, strict=True)]


class Point(NamedTuple):
    """Factors (n_k, R) of equal norms in each term, ‖E‖², and the descent direction M of ½‖E‖²."""

    factors: Factors
    squared: float
    descent: list[Array]

    @classmethod
    def at(cls, factors: Sequence[Array], residual: Residual) -> Point:
        """Measured, then each term spread evenly over its factors: M follows without another pass."""
        squared, descent = residual(factors)
        scales = _balancing(factors)
        return cls(
            tuple(factor * scale for factor, scale in zip(factors, scales, strict=True)),
            squared,
            [block / scale for block, scale in zip(descent, scales, strict=True)],
        )


def sweeps(
    residual: Residual, start: Sequence[Array], norm: float, *, largest: float, stall: float
) -> Generator[tuple[Fit, float], None, Stop]:
    """Accepted steps, each with a smaller error than the one before; ends by itself where none is found.

    In a bottleneck steps take off next to nothing for a while, and then more and more; near a minimum what they take
    off falls fast. So that the first is not taken for the second, up to ten steps that take off less than `stall`
    together are yielded as one, while each takes off at least a hundredth of it.

    Parameters
    ----------
    residual
        Of the tensor to be fitted.
    start
        Factors (n_k, R) in double precision.
    norm
        ‖x‖: errors are relative to it.
    largest
        ‖weights‖/‖x‖ beyond which terms only cancel.
    stall
        The share of the error that a sweep must take off to go on.
    """
    point = Point.at(start, residual)
    pace = _Pace(stall, math.sqrt(point.squared))
    damping, growth, moved = 0.0, 2.0, False
    while True:
        ratio = _weight_norm(point.factors) / norm
        if moved and ratio > largest:
            return Stop.border_rank
        curvature = Curvature(point.factors, delicate=ratio > _DELICATE)
        floor = _DIGITS ** (2 if curvature.delicate else 1)
        peak = max(float(namespace(gamma).max(diagonal(gamma))) for gamma in curvature.singles)
        damping = damping or _FIRST_DAMPING * peak
        for _ in range(_REJECTIONS):
            solve = curvature.solver(damping, min(1e-2, math.sqrt(point.squared) / norm))
            found, gain = (None, 0.0) if solve is None else _tried(point, curvature, solve, damping, residual)
            if found is not None:
                break
            damping, growth = max(damping * growth, floor * peak), 2 * growth
        else:
            if pace.held or not moved:
                yield Fit(residual, point.factors), math.sqrt(point.squared) / norm
            return Stop.stall
        damping, growth = max(damping * _relaxation(gain, found.squared / point.squared), floor * peak), 2.0
        point, moved = found, True
        if pace.counts(math.sqrt(point.squared)):
            yield Fit(residual, point.factors), math.sqrt(point.squared) / norm


class _Pace:
    """Which steps count as a sweep of their own."""

    def __init__(self, stall: float, error: float) -> None:
        self._stall, self._counted, self._error, self.held = stall, error, error, 0

    def counts(self, error: float) -> bool:
        """Whether the step that led to this error ends a sweep."""
        gained, self._error, self.held = self._error - error, error, self.held + 1
        creeps = self._counted - error <= self._stall * self._counted and gained > _CREEPS * self._stall * error
        if creeps and self.held < _TOGETHER:
            return False
        self._counted, self.held = error, 0
        return True


def _relaxation(gain: float, fall: float) -> float:
    """What an accepted step multiplies the damping by (Nielsen 1999), from its gain and what is left of ‖E‖².

    Where the error itself falls fast, so may the damping: steps then converge faster than linearly.
    """
    rule = max(1 / 3, 1 - (2 * gain - 1) ** 3)
    return min(rule, math.sqrt(fall)) if rule < 1 else rule


def _tried(
    point: Point, curvature: Curvature, solve: Solver, damping: float, residual: Residual
) -> tuple[Point | None, float]:
    """The point that a step leads to, with actual over predicted decrease; None where the error does not fall."""
    first, step = arc(curvature, solve, point.descent)
    predicted = float(inner(first, [damping * d + m for d, m in zip(first, point.descent, strict=True)]))
    reached = Point.at([u + d for u, d in zip(point.factors, step, strict=True)], residual)
    # Not >=, or NaN would pass.
    if not reached.squared < point.squared:
        return None, 0.0
    return reached, (point.squared - reached.squared) / max(predicted, _DIGITS * point.squared)


def _balancing(factors: Sequence[Array]) -> list[Array]:
    """For each factor, the scales of its columns that bring all factors of a term to one norm; 1 for zero terms."""
    xp = namespace(*factors)
    norms = [xp.linalg.vector_norm(factor, axis=0) for factor in factors]
    shares = [norm ** (1 / len(norms)) for norm in norms]
    target = math.prod(shares[1:], start=shares[0])
    there = target > 0
    scales = [xp.where(there, target / xp.where(there, norm, xp.ones_like(norm)), xp.ones_like(norm)) for norm in norms]
    return [as_dtype(scale, dtype_name(factors[0].dtype)) for scale in scales]


def _weight_norm(factors: Sequence[Array]) -> float:
    """‖λ‖, of factors of equal norms."""
    xp = namespace(*factors)
    norms = [xp.linalg.vector_norm(factor, axis=0) for factor in factors]
    return float(xp.linalg.vector_norm(math.prod(norms[1:], start=norms[0])))


def diagonal(gram: Array) -> Array:
    """The real diagonal of a Hermitian matrix."""
    xp = namespace(gram)
    entries = xp.linalg.diagonal(gram)
    return xp.real(entries) if is_complex(entries) else entries
