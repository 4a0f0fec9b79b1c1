"""Fits in a metric whose groups leave one mode out: L-BFGS over all arrays but that mode's, which is eliminated."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from tensorring._array import Array, as_dtype, conj, dtype_name, is_complex
from tensorring.algebra.metric import Metric
from tensorring.decompose._arguments import Problem
from tensorring.decompose._metric.formats import Format
from tensorring.decompose._metric.lbfgs import Vector, lbfgs
from tensorring.decompose._metric.projection import Point, Projection
from tensorring.decompose._sweeps import Callback, Control, Start
from tensorring.tensors import Decomposition, LowRankTensor, Stop

T = TypeVar("T", bound=LowRankTensor)
# By which a penalty rises or falls; it falls where it costs more than this share of the squared error, down to an error
# that differences of squares still tell.
_FACTOR, _DEAR, _RESOLVED = 10.0, 0.3, 1e-6


class Price(NamedTuple):
    """μ, what Σ λ_r²/‖x‖² costs next to the squared error, and the largest ‖λ‖/‖x‖ allowed."""

    penalty: float = 0.0
    max_norm: float = math.inf


PLAIN = Price()


def leg_of(metric: Metric) -> int:
    """The largest mode outside all groups: the one to eliminate."""
    taken = {mode for group in metric.groups for mode in group.modes}
    free = [mode for mode in range(len(metric.shape)) if mode not in taken]
    if not free:
        raise ValueError(
            f"got metric groups {[group.modes for group in metric.groups]} for {len(metric.shape)} modes, which leave "
            "none out; next to a group of several modes one stands alone, with a matrix of its own or with none"
        )
    return max(free, key=lambda mode: metric.shape[mode])


def fit_groups(
    problem: Problem,
    metric: Metric,
    form: Format,
    starts: Sequence[Callable[[], Decomposition[Any]]],
    finish: Callable[[Any], T],
    *,
    stall: float,
    max_sweeps: int,
    callback: Callback | None,
    price: Price,
) -> Decomposition[T]:
    """The best of several starts, tensors of the format in the scale of the problem, each taken to a minimum."""
    x = problem.x
    name = dtype_name(x.dtype)

    def built(point: Point) -> T:
        tensor = form.tensor(point.basis, point.a * problem.norm, [conj(u) for u in point.theta])
        return finish(tensor).astype(name)

    control: Control[Point] = Control(
        problem,
        stall=stall,
        max_sweeps=max_sweeps,
        callback=callback,
        exact=lambda point, _: metric.relative_error(x, built(point)),
    )
    wide = as_dtype(x, "complex128" if is_complex(x) else "float64")
    fit = _Fit(control, Projection(wide, problem.norm, metric, form), price)
    run = control.best_of([fit.start(make) for make in starts], search=True)
    return control.result(built(run.state), run)


class _Fit:
    """What the starts of one fit share; none of it changes."""

    def __init__(self, control: Control[Point], projection: Projection, price: Price) -> None:
        self.control, self.projection, self.price = control, projection, price

    def start(self, make: Callable[[], Decomposition[Any]]) -> Start[Point]:
        """A start, from a tensor that is made when its turn comes; who interrupts that ends the fit."""

        def start() -> tuple[Point, Any]:
            plain = make()
            theta = self.projection.begun(plain.tensor)
            return self.projection.at(theta, self.price.penalty)[2], self._sweeps(theta, plain.stop is Stop.interrupted)

        return start

    def _sweeps(self, theta: list[Array], interrupted: bool) -> Generator[tuple[Point, float], None, Stop]:
        """Descents at one price after another: higher where terms outgrow the bound, lower where it costs too much."""
        if interrupted:
            raise KeyboardInterrupt
        penalty, raised = self.price.penalty, False
        while True:
            point, stop = yield from self._stage(theta, penalty)
            if stop is None:
                penalty, raised = penalty * _FACTOR, True
            elif stop is Stop.stall and not raised and _is_dear(point, penalty):
                penalty /= _FACTOR
            else:
                return stop
            theta = point.theta

    def _stage(
        self, theta: list[Array], penalty: float
    ) -> Generator[tuple[Point, float], None, tuple[Point, Stop | None]]:
        """One descent: the point where it ended, and why; None: terms outgrew the bound."""
        floor, stall, before = self.control.problem.floor, self.control.limits.stall, math.inf
        for value, point in self._descent(theta, penalty):
            if point.size > self.price.max_norm:
                return point, None
            yield point, point.error
            if self._kept(point):
                return point, Stop.tol
            now = math.sqrt(max(value, 0.0))
            if stall > 0 and (point.error <= floor / 4 or now >= (1 - stall) * before):
                break
            before = now
        return point, Stop.stall

    def _descent(self, theta: list[Array], penalty: float) -> Iterator[tuple[float, Point]]:
        shapes = [tuple(u.shape) for u in theta]

        def evaluate(vector: Vector) -> tuple[float, Vector, Point]:
            value, gradient, point = self.projection.at(self.projection.unpack(vector, shapes), penalty)
            return value, self.projection.pack(gradient), point

        return lbfgs(evaluate, self.projection.pack(theta))

    def _kept(self, point: Point) -> bool:
        problem = self.control.problem
        if problem.tol is None or not problem.keeps(point.error):
            return False
        return problem.keeps(self.control.exact(point, point.error))


def _is_dear(point: Point, penalty: float) -> bool:
    return penalty * point.size**2 > _DEAR * point.error**2 and point.error > _RESOLVED
