"""Where higher-order orthogonal iteration begins: HOSVD, chance, or a Tucker tensor that somebody has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorring import random
from tensorring._array import Array, dtype_name
from tensorring.decompose._arguments import Caps, Problem
from tensorring.decompose._starts import checked_start
from tensorring.decompose._sweeps import Start
from tensorring.decompose.iterative._tucker.engine import Sweeper, feasible
from tensorring.tensors import TuckerTensor

NAMES = ("hosvd", "random")
Init = TuckerTensor | str


def checked_init(init: Any, problem: Problem) -> Init:
    """The name of a start, or a Tucker tensor that fits, in the dtype of x."""
    start: Init = checked_start(init, problem.x, TuckerTensor, NAMES)
    return start if isinstance(start, str) else start.astype(dtype_name(problem.x.dtype))


def fixed_ranks(problem: Problem, caps: Caps, modes: Sequence[int], init: Init) -> tuple[int, ...]:
    """The ranks to sweep at: the caps, or those of `init`; whole for the other modes, lowered where nothing uses them.

    A zero tensor has ranks 1.
    """
    shape = problem.shape
    if isinstance(init, TuckerTensor):
        _check_init_ranks(init, caps, modes)
        caps = init.ranks
    whole = [cap if cap is not None and k in modes else shape[k] for k, cap in enumerate(caps)]
    if problem.norm == 0.0:
        whole = [1 if k in modes else n for k, n in enumerate(shape)]
    return feasible(whole, shape, modes)


def _check_init_ranks(init: TuckerTensor, caps: Caps, modes: Sequence[int]) -> None:
    for k, (rank, n, cap) in enumerate(zip(init.ranks, init.shape, caps, strict=True)):
        if k not in modes and rank != n:
            raise ValueError(f"got init of rank {rank} in mode {k}, which is not among modes: it must be whole, {n}")
        if k in modes and cap is not None and min(cap, n) != min(rank, n):
            raise ValueError(
                f"got init of ranks {init.ranks} and ranks={caps}; they must agree: leave out ranks to take those of "
                "init, or give another init"
            )


def starts(sweeper: Callable[[], Sweeper], init: Init, count: int, rng: Any) -> list[Start[TuckerTensor]]:
    """So many starts: the first as `init` says, the others random, each from its own generator."""
    generators = np.random.default_rng(rng).spawn(count)
    return [_start(sweeper, init if k == 0 else "random", generators[k]) for k in range(count)]


def _start(sweeper: Callable[[], Sweeper], init: Init, generator: np.random.Generator) -> Start[TuckerTensor]:
    def start() -> tuple[TuckerTensor, Any]:
        own = sweeper()
        tensor = own.from_hosvd() if init == "hosvd" else own.from_factors(_factors(own, init, generator))
        return tensor, own.sweeps(tensor)

    return start


def _factors(sweeper: Sweeper, init: Init, generator: np.random.Generator) -> Sequence[Array]:
    if isinstance(init, TuckerTensor):
        return init.factors
    x = sweeper.problem.x
    drawn = random.tucker(x.shape, ranks=sweeper.ranks, dtype=dtype_name(x.dtype), rng=generator, like=x)
    return drawn.factors
