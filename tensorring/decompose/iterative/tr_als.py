"""Tensor rings by alternating least squares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import Any

from tensorring._array import Array, copy, namespace
from tensorring.contract.first_level import threads_for
from tensorring.decompose._arguments import Problem, Ranks, checked_ranks, prepare
from tensorring.decompose._metric.formats import Ring
from tensorring.decompose._metric.in_metric import Variant, in_metric
from tensorring.decompose._sweeps import Callback, Control, Run, Start, checked_count
from tensorring.decompose.direct._search import storage
from tensorring.decompose.direct.tr_reduced_storage import tr_reduced_storage
from tensorring.decompose.direct.tr_svd import tr_svd
from tensorring.decompose.iterative._chain.residual import relative_residual
from tensorring.decompose.iterative._chain.ring_search import RingSearch
from tensorring.decompose.iterative._chain.ring_starts import balanced, chain_of, checked_init, ring_starts
from tensorring.decompose.iterative._chain.ring_sweep import ring_sweeps
from tensorring.tensors import Decomposition, TRTensor, TTTensor

Cores = tuple[Array, ...]
# The search finds rings of small ranks from few random starts, or hardly at all.
_RANDOM_RINGS = 3


def tr_als(
    x: Any,
    *,
    ranks: Ranks = None,
    tol: float | None = None,
    metric: Mapping[Any, Array] | None = None,
    stall: float = 1e-8,
    max_sweeps: int = 500,
    init: TRTensor | TTTensor | str = "svd",
    n_starts: int = 1,
    rng: Any = None,
    callback: Callback | None = None,
) -> Decomposition[TRTensor]:
    """min ‖x − ring‖ at given ranks; with `tol` alone the ring of least storage found with ‖x − ring‖ ≤ tol·‖x‖.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; never written to.
    ranks
        The d bonds, `ranks[k]` the left rank of core k: an int for all, or a sequence, with None where `tr_svd` is to
        choose. What a ring of this shape cannot use is lowered.
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
        `"svd"` (`tr_svd`, filled up with small random numbers to the ranks asked), `"random"`, a ring, or a train,
        which is the ring whose closing bond is 1. In a search: another ring to begin with.
    n_starts
        How many starts, the first as named by `init`, the others random; the best is returned, or the first that keeps
        `tol`. In a search: random rings of each rank, three at least.
    rng
        Seed or generator of the random starts. A search without one takes a fixed seed: what it finds is found again.
    callback
        Called as callback(sweep, error) after every sweep; a true value from it ends the run.

    Returns
    -------
    Decomposition
        `.tensor` a `TRTensor` in the dtype of x, its norm spread evenly over the cores; `.error` measured from the
        residual where it is small; `.errors` one for each sweep; `.candidates` the rings that a search accepted.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, for neither tol nor ranks, and for options out of range.

    Notes
    -----
    A sweep takes two passes over x, as matrix products with the chain of either half of the modes, in blocks, and one
    and a half where there are three modes and small ranks, r² ≤ n/5, by a tree that lives from sweep to sweep; every
    core is then the least-squares solution for the others, by normal equations from transfer matrices, and where these
    are ill-conditioned from the chain of the other cores itself. Errors of a start never grow, up to rounding times
    the condition number. The search yields the error of the ring accepted, which may grow up to `tol`.

    With `tol` alone the search begins with the best of `tr_reduced_storage` and `tr_svd`, lowers one bond after another
    as long as a few sweeps bring the ring back within `tol`, measured from the residual, and tries random rings of
    small equal ranks; the result never stores more than the direct one.

    With a metric on a group of several modes the core of the mode n that stands alone is eliminated and L-BFGS moves
    the others (`cp_als` tells how): 2·N²·r_n·r_{n+1} flops a step, N the product of all other modes.

    Not guaranteed: the least error. Single random starts of an exact ring succeed about half the time: ask for several.

    Cost of a sweep, for ranks r: 4·r²·Πn and, for all cores, d·n·r⁴ + d·r⁶. Memory beyond x: a twentieth of it or a few
    megabytes, and partials of r²·Πn over the product of the modes of the other half and the first.

    References
    ----------
    Q. Zhao, G. Zhou, S. Xie, L. Zhang, A. Cichocki, "Tensor ring decomposition", 2016, arXiv 1606.05535, algorithm 2.
    Trees: A.-H. Phan, P. Tichavský, A. Cichocki 2013, arXiv 1204.1586. Why no step over two cores is exact: J. M.
    Landsberg, Y. Qi, K. Ye 2012, arXiv 1105.4449.

    Examples
    --------
    >>> import tensorring as tg
    >>> x = tg.random.tr((7, 8, 9), ranks=(2, 3, 2), rng=0).to_dense()
    >>> result = tg.tr_als(x, ranks=(2, 3, 2), n_starts=10, rng=0)
    >>> result.tensor, result.error < 1e-8
    (TRTensor(shape=(7, 8, 9), ranks=(2, 3, 2), parameters=126, dtype=float64), True)
    >>> tg.tr_als(x, tol=1e-6, rng=0).tensor.parameter_count <= tg.tr_svd(x, tol=1e-6).tensor.parameter_count
    True

    Random starts, fewer sweeps, and a result taken further:

    >>> rough = tg.tr_als(x, ranks=(2, 3, 2), init="random", n_starts=3, rng=0, stall=1e-2, max_sweeps=20)
    >>> fine = tg.tr_als(x, ranks=(2, 3, 2), init=rough.tensor, callback=lambda sweep, error: None)
    >>> fine.error <= rough.error + 1e-12
    True
    """
    problem = prepare(x, tol=tol)
    caps = checked_ranks(ranks, problem.tol, len(problem.shape), "the bonds of the ring, one for each mode")
    exact = partial(relative_residual, problem)
    control: Control[Cores] = Control(problem, stall=stall, max_sweeps=max_sweeps, callback=callback, exact=exact)
    ring = TRTensor(init.cores) if isinstance(init, TTTensor) else init
    start, count = checked_init(ring, problem.x, TRTensor, caps), checked_count(n_starts, "n_starts")
    if metric is not None:
        method = partial(tr_als, ranks=ranks)
        ranked = any(cap is not None for cap in caps)
        variant = Variant(method, method, partial(Ring, kind=TRTensor), _even, ranked)
        return in_metric(problem, metric, variant, start, count, rng, stall, max_sweeps, callback)
    if problem.norm == 0.0 or len(problem.shape) == 1:
        return _trivial(problem)
    if all(cap is None for cap in caps):
        return _searched(control, start, count, rng)
    with threads_for(problem.x):
        run = control.best_of([_start(problem, make) for make in ring_starts(problem, start, caps, count, rng)])
        return control.result(TRTensor(balanced(run.state)), run)


def _even(ring: TRTensor) -> TRTensor:
    return TRTensor(balanced(ring.cores))


def _start(problem: Problem, make: Callable[[], Cores]) -> Start[Cores]:
    def start() -> tuple[Cores, Any]:
        cores = make()
        return cores, ring_sweeps(problem.x, problem.norm, cores)

    return start


def _searched(control: Control[Cores], init: TRTensor | str, count: int, rng: Any) -> Decomposition[TRTensor]:
    problem = control.problem
    tol = problem.tol or 0.0
    found = [tr_reduced_storage(problem.x, tol=tol), tr_svd(problem.x, tol=tol)]
    direct = min(found, key=lambda result: result.tensor.parameter_count)
    search = RingSearch(problem, storage, direct.tensor.cores, direct.error)
    for result in found:
        search.note(result.tensor, result.error)
    phases: list[Iterator[Any]] = [search.try_ring(chain_of(init, problem))] if isinstance(init, TRTensor) else []
    phases.append(islice(search.shrink(), control.limits.max_sweeps // 2 or 1))
    phases.append(search.try_random(max(_RANDOM_RINGS, count), 0 if rng is None else rng))
    run = Run(search.cores)
    with threads_for(problem.x):
        control.drive(chain.from_iterable(phases), run, search=True)
    return control.result(TRTensor(balanced(run.state)), run, tuple(search.tried))


def _trivial(problem: Problem) -> Decomposition[TRTensor]:
    """A zero tensor, or one of one mode: ranks of 1, exactly."""
    xp, x = namespace(problem.x), problem.x
    if x.ndim == 1:
        return problem.result(TRTensor((copy(xp.reshape(x, (1, -1, 1))),)), 0.0)
    return problem.result(TRTensor(tuple(xp.zeros((1, n, 1), dtype=x.dtype, device=x.device) for n in x.shape)), 0.0)
