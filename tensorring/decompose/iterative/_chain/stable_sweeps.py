"""Sweeps over a ring that watch what cancels, and turn back before it grows without end."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from itertools import islice

from tensorring._array import Array, as_dtype, dtype_name
from tensorring.decompose._arguments import Problem
from tensorring.decompose.iterative._chain.bond_gauge import opened_squares, regauged, squared_norm
from tensorring.decompose.iterative._chain.correction import corrected_ring
from tensorring.decompose.iterative._chain.ring_sweep import ring_sweep
from tensorring.tensors import Stop

Cores = tuple[Array, ...]

# Amplification beyond which a ring is taken to be degenerate: 1 for orthogonal trains and for random rings, 5 where the
# noise of one core is felt fivefold.
LARGEST = 5.0
# An escape gives up the square of this share of what is explained, in so many sweeps of correction: with less than half
# most led back to the same valley. One that gains less than a share of the error was in vain: then a looser one is
# tried.
_ESCAPES, _ESCAPE_SWEEPS, _GAIN = (0.5, 0.7), 10, 0.01
# The last correction ends where a sweep takes off less than this share of the sensitivity.
_WORTH, _LAST_SWEEPS = 1e-3, 50


def amplification(cores: Sequence[Array], norm: float) -> float:
    """√mean_n ‖G_n‖²·‖the ring opened at n‖²/(r_n·r_{n+1}) / ‖x‖: how much the noise of one core is felt, as a share.

    In the best gauge it is at most 1 for a train, and about 1 for random rings; what cancels is felt more.
    """
    squares = [
        squared_norm(core) * opened / (core.shape[0] * core.shape[2])
        for core, opened in zip(cores, opened_squares(cores), strict=True)
    ]
    return math.sqrt(sum(squares) / len(squares)) / norm


def stable_sweeps(problem: Problem, cores: Cores, stall: float) -> Generator[tuple[Cores, float], None, Stop]:
    """Alternating least squares, sweep after sweep: the best ring so far that is not degenerate, and its error.

    Where a ring becomes degenerate it is corrected at a loose bound, and swept again from there. Ends where the error
    stalls, or at the border of the rings of these ranks: escapes led back to the same error, or to a larger one. A
    degenerate ring that keeps the tolerance counts as good: the last correction has room there.
    """
    best: Cores | None = None
    least = last = hit = math.inf
    levels = list(_ESCAPES)
    while True:
        cores, error = ring_sweep(problem.x, problem.norm, cores)
        cores = regauged(cores, "sensitivity")
        degenerate = amplification(cores, problem.norm) > LARGEST
        kept = problem.tol is not None and problem.keeps(error)
        if degenerate and best is None and not kept:
            cores, error = _escaped(problem, cores, error, levels[0])
            degenerate = False
        if best is None or (error < least and (kept or not degenerate)):
            best, least = cores, error
        yield best, least
        if stall > 0 and not degenerate and (error <= problem.floor / 4 or error >= (1 - stall) * last):
            return Stop.stall if error <= least else Stop.border_rank
        last = error
        if degenerate:
            levels = levels if error < (1 - _GAIN) * hit else levels[1:]
            if not levels:
                return Stop.border_rank
            hit, last = min(hit, error), math.inf
            cores, _ = _escaped(problem, cores, error, levels[0])


def _escaped(problem: Problem, cores: Cores, error: float, level: float) -> tuple[Cores, float]:
    """The ring corrected at a loose bound: a part of what it fits is given up, and with it what cancels."""
    bound = math.sqrt(error**2 + level**2 * (1 - min(1.0, error) ** 2))
    *_, found = islice(corrected_ring(problem, cores, bound), _ESCAPE_SWEEPS + 1)
    return as_computed(problem, found.cores), found.error


def last_correction(problem: Problem, cores: Cores, bound: float) -> Iterator[tuple[Cores, float]]:
    """The least sensitive ring within a relative error, sweep after sweep, while that gains."""
    before = math.inf
    for found in islice(corrected_ring(problem, cores, bound), _LAST_SWEEPS):
        yield as_computed(problem, found.cores), found.error
        if found.value > (1 - _WORTH) * before:
            return
        before = found.value


def as_computed(problem: Problem, cores: Cores) -> Cores:
    """Cores in the dtype of the tensor."""
    return tuple(as_dtype(core, dtype_name(problem.x.dtype)) for core in cores)
