"""Tensor trains by alternating least squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from tensorring import random
from tensorring._array import Array, copy, dtype_name, namespace
from tensorring.contract.first_level import threads_for
from tensorring.decompose._arguments import Caps, Problem, Ranks, checked_ranks, prepare
from tensorring.decompose._metric.formats import Ring
from tensorring.decompose._metric.in_metric import Variant, in_metric
from tensorring.decompose._sweeps import Callback, Control, Run, Start, checked_count
from tensorring.decompose.direct._search import storage
from tensorring.decompose.direct.tt_svd import tt_svd
from tensorring.decompose.iterative._chain.residual import relative_residual
from tensorring.decompose.iterative._chain.ring_search import RingSearch
from tensorring.decompose.iterative._chain.ring_starts import chain_of, checked_init
from tensorring.decompose.iterative._chain.train_sweep import right_orthogonal, train_sweeps, two_core_sweep
from tensorring.tensors import Decomposition, TTTensor

Cores = tuple[Array, ...]
# Below this share of the error left, another sweep at the bound is not worth its time.
_WORTH = 1e-3


def tt_als(
    x: Any,
    *,
    ranks: Ranks = None,
    tol: float | None = None,
    metric: Mapping[Any, Array] | None = None,
    stall: float = 1e-8,
    max_sweeps: int = 500,
    init: TTTensor | str = "svd",
    n_starts: int = 1,
    rng: Any = None,
    callback: Callback | None = None,
) -> Decomposition[TTTensor]:
    """min ‖x − train‖ at given ranks; with `tol` alone a train of less storage than `tt_svd` finds, within tol·‖x‖.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; never written to.
    ranks
        The d − 1 bonds (no outer ones): an int for all, or a sequence, with None where `tt_svd` is to choose. What no
        train of this shape can use is lowered.
    tol
        Relative Frobenius error allowed, in [0, 1). With `ranks`: where to stop. Alone: the ranks are searched.
    metric
        {modes: S}, as for `cp_als`: errors are measured by ‖x‖_S² = ⟨x, S x⟩. On a group of several modes at given
        ranks only, one mode of x standing alone.
    stall
        Sweeps end when the error falls by less than this share of itself.
    max_sweeps
        Sweeps of one start; in a search, of all that it tries together.
    init
        `"svd"` (`tt_svd`), `"random"`, or a train. In a search, which begins with `tt_svd`: another train to try.
    n_starts
        How many starts, the first as named by `init`, the others random; the best is returned, or the first that keeps
        `tol`. A search has one.
    rng
        Seed or generator of the random starts.
    callback
        Called as callback(sweep, error) after every sweep; a true value from it ends the run.

    Returns
    -------
    Decomposition
        `.tensor` a `TTTensor` in the dtype of x, all cores but the first with orthonormal rows; `.error` measured from
        the residual where it is small; `.errors` one for each sweep; `.candidates` the trains that a search accepted.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, for neither tol nor ranks, and for options out of range.

    Notes
    -----
    A sweep updates every core on the way to the end and again on the way back, in orthogonal gauge, where x contracted
    with the other cores is the least-squares solution: no normal equations, two passes over x. Errors never grow.

    With `tol` alone: sweeps over two cores at a time, from `tt_svd`, give every bond the least rank that keeps the
    bound (where tol is above 30·√eps, below which the room left is not known); then one bond after another is lowered
    as long as a few sweeps bring the train back within `tol`. The error reported is that of the train accepted, which
    may grow up to `tol`; `tol` is always kept, by the residual itself, and never is more stored than by `tt_svd`.

    With a metric on a group of several modes the core of the mode n that stands alone is eliminated and L-BFGS moves
    the others (`cp_als` tells how): 2·N²·r_n·r_{n+1} flops a step, N the product of all other modes.

    Not guaranteed: the least error. `tt_svd` is within √(d−1) of it, and the gain over it is largest under noise.

    Cost of a sweep: 4·r·Πn, and less for what is left after the first core. Memory beyond x: r_1/n_1 of it twice.

    References
    ----------
    S. Holtz, T. Rohwedder, R. Schneider, "The alternating linear scheme for tensor optimization in the tensor train
    format", SIAM J. Sci. Comput. 34 (2012), doi 10.1137/100818893. Two cores at a bound: A.-H. Phan, A. Cichocki, A.
    Uschmajew, P. Tichavský, G. Luta, D. Mandic, "Tensor networks for latent variable analysis", IEEE Trans. Neural
    Netw. Learn. Syst. 31 (2020), arXiv 1609.09230.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> x = tg.random.tt((8, 9, 10), ranks=(3, 2), rng=0).to_dense()
    >>> x += 0.01 * np.random.default_rng(1).standard_normal(x.shape)
    >>> result = tg.tt_als(x, ranks=(3, 2))
    >>> result.tensor, result.error <= tg.tt_svd(x, ranks=(3, 2)).error
    (TTTensor(shape=(8, 9, 10), ranks=(3, 2), parameters=98, dtype=float64), True)
    >>> tg.tt_als(x, tol=0.02).tensor.parameter_count <= tg.tt_svd(x, tol=0.02).tensor.parameter_count
    True

    Random starts, fewer sweeps, and a result taken further:

    >>> rough = tg.tt_als(x, ranks=(3, 2), init="random", n_starts=3, rng=0, stall=1e-2, max_sweeps=20)
    >>> fine = tg.tt_als(x, ranks=(3, 2), init=rough.tensor, callback=lambda sweep, error: None)
    >>> fine.error <= rough.error + 1e-12
    True
    """
    problem = prepare(x, tol=tol)
    caps = checked_ranks(ranks, problem.tol, len(problem.shape) - 1, "the bonds between neighbours")
    exact = partial(relative_residual, problem)
    control: Control[Cores] = Control(problem, stall=stall, max_sweeps=max_sweeps, callback=callback, exact=exact)
    init, count = checked_init(init, problem.x, TTTensor, caps), checked_count(n_starts, "n_starts")
    if metric is not None:
        method = partial(tt_als, ranks=ranks)
        ranked = any(cap is not None for cap in caps)
        variant = Variant(method, method, partial(Ring, kind=TTTensor), _right, ranked)
        return in_metric(problem, metric, variant, init, count, rng, stall, max_sweeps, callback)
    if problem.norm == 0.0 or len(problem.shape) == 1:
        return _trivial(problem)
    if all(cap is None for cap in caps):
        return _searched(control, init)
    with threads_for(problem.x):
        run = control.best_of([_start(problem, make) for make in _starts(problem, init, caps, count, rng)])
        return control.result(TTTensor(run.state), run)


def _right(train: TTTensor) -> TTTensor:
    return TTTensor(right_orthogonal(train.cores))


def _start(problem: Problem, make: Callable[[], Cores]) -> Start[Cores]:
    def start() -> tuple[Cores, Any]:
        cores = make()
        return cores, train_sweeps(problem.x, problem.norm, cores)

    return start


def _starts(problem: Problem, init: Any, caps: Caps, count: int, rng: Any) -> Iterator[Callable[[], Cores]]:
    """So many starts, each to be called where it is used; the first is the one that was named."""
    if not isinstance(init, str):
        ranks, named = init.ranks, partial(chain_of, init, problem)
    elif init == "svd" or None in caps:
        direct = tt_svd(problem.x, ranks=caps, tol=problem.tol).tensor
        ranks, named = direct.ranks, partial(_cores_of, direct)
    else:
        ranks = _feasible(problem.shape, caps)
    for k, generator in enumerate(np.random.default_rng(rng).spawn(count)):
        yield named if k == 0 and init != "random" else partial(_random_train, problem.x, ranks, generator)


def _cores_of(train: TTTensor) -> Cores:
    return train.cores


def _random_train(x: Array, ranks: Sequence[int], rng: np.random.Generator) -> Cores:
    return random.tt(tuple(x.shape), ranks=list(ranks), dtype=dtype_name(x.dtype), rng=rng, like=x).cores


def _feasible(shape: Sequence[int], caps: Caps) -> tuple[int, ...]:
    """The caps lowered to the ranks that the unfoldings can have."""
    sides = [(math.prod(shape[: k + 1]), math.prod(shape[k + 1 :])) for k in range(len(caps))]
    return tuple(min(cap or 1, *side) for cap, side in zip(caps, sides, strict=True))


def _searched(control: Control[Cores], init: TTTensor | str) -> Decomposition[TTTensor]:
    problem = control.problem
    direct = tt_svd(problem.x, tol=problem.tol)
    search = RingSearch(problem, storage, direct.tensor.cores, direct.error, tried=list(direct.candidates))
    run = Run(search.cores)
    phases = [_at_the_bound(problem, search), search.shrink()]
    if isinstance(init, TTTensor):
        phases.insert(0, search.try_ring(chain_of(init, problem)))
    with threads_for(problem.x):
        control.drive(chain.from_iterable(phases), run, search=True)
    return control.result(TTTensor(right_orthogonal(run.state)), run, tuple(search.tried))


def _at_the_bound(problem: Problem, search: RingSearch) -> Iterator[tuple[Cores, float]]:
    """Sweeps over two cores at a time, as long as they lower the storage, or at the same storage the error."""
    cores, bound = right_orthogonal(search.cores), (problem.tol or 0.0) * problem.norm
    while True:
        cores = two_core_sweep(problem.x, cores, problem.norm, bound)
        better = search.accept_if_better(cores, _WORTH)
        yield search.cores, search.error
        if not better:
            return


def _trivial(problem: Problem) -> Decomposition[TTTensor]:
    """A zero tensor, or one of one mode: ranks of 1, exactly."""
    xp, x = namespace(problem.x), problem.x
    if x.ndim == 1:
        return problem.result(TTTensor((copy(xp.reshape(x, (1, -1, 1))),)), 0.0)
    return problem.result(TTTensor(tuple(xp.zeros((1, n, 1), dtype=x.dtype, device=x.device) for n in x.shape)), 0.0)
