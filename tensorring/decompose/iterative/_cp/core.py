"""Fitting the Tucker core first, and tensors that need no fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from tensorring._array import Array, namespace
from tensorring.decompose._arguments import Problem
from tensorring.decompose._sweeps import Control, Limits, Run, Start
from tensorring.decompose.direct.tucker_hosvd import tucker_hosvd
from tensorring.decompose.iterative._cp.normal import normalized
from tensorring.tensors import CPTensor, Decomposition, Stop

# A compression reads x about four times; sweeps on the core are nearly free below this share of x, and on tensors of
# fewer entries than this sweeps cost less than the compression.
_SHARE = 1 / 8
COMPRESSED_FROM = 2**21
# Gram matrices resolve it, and sweeps on x go below it.
_TOLERANCE = 1e-6
# Of sweeps on the core, where a finer one was asked.
_STALL = 1e-6

State = TypeVar("State")


class Core(NamedTuple):
    """A Tucker core, its orthonormal bases (n_k, r_k), and the squared error of the compression."""

    x: Array
    bases: tuple[Array, ...]
    lost: float


def compressed(problem: Problem, rank: int) -> Core | None:
    """The core at multilinear rank R (no rank-R tensor needs more), where sweeps on it are far cheaper than on x."""
    shape = problem.shape
    ranks = tuple(min(n, rank) for n in shape)
    if math.prod(shape) < COMPRESSED_FROM or math.prod(ranks) > _SHARE * math.prod(shape):
        return None
    result = tucker_hosvd(problem.x, ranks=ranks, tol=_TOLERANCE)
    return Core(result.tensor.core, result.tensor.factors, (result.error * problem.norm) ** 2)


def fit_core(control: Control[State], starts: Sequence[Start[State]], core: Core) -> Run[State]:
    """The best of several starts on the core: to a coarser stall, with half of the sweeps; x is to have its own."""
    if _is_exact(control, core.lost):
        return control.best_of(starts, entries=math.prod(core.x.shape))
    stall, max_sweeps = control.limits
    limits = Limits(max(stall, min(_STALL, 100 * stall)), -(-max_sweeps // 2))
    return control.best_of(starts, entries=math.prod(core.x.shape), limits=limits)


def needs_refining(control: Control[Any], run: Run[Any], lost: float) -> bool:
    """Whether the fit of a core goes on as one of x: the best subspaces for the fit are not those of x."""
    return not (
        control.ended
        or _is_exact(control, lost)
        or len(run.errors) >= control.limits.max_sweeps
        or run.stop is Stop.tol
    )


def _is_exact(control: Control[Any], lost: float) -> bool:
    """True where a core is x in other coordinates."""
    return lost <= (control.problem.floor / 4 * control.problem.norm) ** 2


def is_trivial(problem: Problem) -> bool:
    """True for a zero tensor, and for one of one mode."""
    return problem.norm == 0.0 or len(problem.shape) == 1


def trivial(problem: Problem) -> Decomposition[CPTensor]:
    """Rank 1, exactly."""
    xp, x = namespace(problem.x), problem.x
    if x.ndim == 1:
        factors = [xp.reshape(x, (-1, 1))]
    else:
        factors = [xp.zeros((n, 1), dtype=x.dtype, device=x.device) for n in x.shape]
    return problem.result(normalized(factors), 0.0)
