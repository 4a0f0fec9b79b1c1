"""Any method in a metric: its single modes by a change of coordinates, groups of modes by a fit of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tensorring._array import dtype_name, namespace
from tensorring._threads import blas_threads
from tensorring.algebra.metric import Metric, checked_metric
from tensorring.decompose._arguments import Problem
from tensorring.decompose._metric.coordinates import Coordinates
from tensorring.decompose._metric.fit import PLAIN, Price, fit_groups, leg_of
from tensorring.decompose._metric.formats import Format
from tensorring.decompose._sweeps import Callback
from tensorring.tensors import Decomposition, LowRankTensor, Stop

Method = Callable[..., Decomposition[Any]]
# Of the plain sweeps before a fit: they are to bring it near, not to an end.
_SWEEPS, _STALL = 30, 1e-4


@dataclass(frozen=True)
class Variant:
    """What a method is in a metric.

    `method` is the method itself and `start` a plain one to begin with, both with their ranks bound; `form` is the
    format for a leg and a shape, and `finish` brings a tensor into the one form that the method returns. `ranked` tells
    whether there are ranks: a search has none.
    """

    method: Method
    start: Method
    form: Callable[[int, Sequence[int]], Format]
    finish: Callable[[Any], Any]
    ranked: bool = True
    price: Price = PLAIN


def in_metric(
    problem: Problem,
    metric: Any,
    variant: Variant,
    init: Any,
    n_starts: int,
    rng: Any,
    stall: float,
    max_sweeps: int,
    callback: Callback | None,
) -> Decomposition[Any]:
    """The method's result in the metric; the other options are the method's own, checked before."""
    with blas_threads(math.prod(problem.shape)):  # also for what is done with S before the sweeps: much, for a small x
        own = checked_metric(metric, problem.x)
        limits: dict[str, Any] = {"stall": stall, "max_sweeps": max_sweeps, "callback": callback}
        options = {"n_starts": n_starts, "rng": rng, **limits}
        if own.norm(problem.x)[0] == 0.0:  # nothing of it is seen
            return variant.method(namespace(problem.x).zeros_like(problem.x), tol=problem.tol, **options)
        if own.singles:
            inner = partial(variant.method, tol=problem.tol, **options)
            return by_coordinates(problem, own, inner, variant.finish, init)
        leg = leg_of(own)
        if not variant.ranked:
            raise ValueError(
                "got tol and a metric on a group of several modes; ranks are searched in metrics on single modes only: "
                "give the rank or ranks too"
            )
        starts = list(_starts(problem, variant.start, init, n_starts, rng))
        form = variant.form(leg, problem.shape)
        return fit_groups(problem, own, form, starts, variant.finish, price=variant.price, **limits)


def by_coordinates(
    problem: Problem, metric: Metric, method: Method, finish: Callable[[Any], Any], init: Any = None
) -> Decomposition[Any]:
    """method(y, metric=the other groups), y being x in coordinates in which single modes have the plain norm."""
    coordinates, name = Coordinates.of(metric), dtype_name(problem.x.dtype)
    options: dict[str, Any] = {} if init is None else {"init": init}
    if isinstance(init, LowRankTensor):
        options["init"] = coordinates.low_rank_into(init).astype(name)
    y = coordinates.into(problem.x)
    if metric.several:
        options["metric"] = Metric(tuple(y.shape), metric.several)
    found = method(y, **options)
    return remeasured(problem, metric, found, finish(coordinates.back(found.tensor)).astype(name))


def remeasured(
    problem: Problem, metric: Metric, found: Decomposition[Any], tensor: LowRankTensor
) -> Decomposition[Any]:
    """What was found in other coordinates, as the tensor that it is of x, with the error that this makes."""
    error = metric.relative_error(problem.x, tensor)
    errors = (*found.errors[:-1], error) if found.errors else ()
    converged = problem.keeps(error) if problem.tol is not None else found.converged
    return replace(found, tensor=problem.restored(tensor), error=error, errors=errors, converged=converged)


def _starts(
    problem: Problem, method: Method, init: Any, count: int, rng: Any
) -> Iterator[Callable[[], Decomposition[Any]]]:
    """The one asked for, as it is where it is a tensor, and random ones."""
    for k, stream in enumerate(np.random.default_rng(rng).spawn(count)):
        if k == 0 and isinstance(init, LowRankTensor):
            yield partial(Decomposition, init, 0.0, False, Stop.direct)
        else:
            name = init if k == 0 else "random"
            yield partial(method, problem.x, init=name, rng=stream, max_sweeps=_SWEEPS, stall=_STALL)
