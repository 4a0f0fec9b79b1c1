"""Tensor rings whose cores do not cancel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tensorring._array import Array
from tensorring.contract.first_level import threads_for
from tensorring.decompose._arguments import Problem, Ranks, checked_ranks, prepare
from tensorring.decompose._sweeps import Callback, Control, Limits, Run, Start, checked_count
from tensorring.decompose.iterative._chain.residual import relative_residual
from tensorring.decompose.iterative._chain.ring_starts import checked_init, ring_starts
from tensorring.decompose.iterative._chain.stable_sweeps import last_correction, stable_sweeps
from tensorring.decompose.iterative.tr_als import tr_als
from tensorring.linalg.scale import scaled
from tensorring.tensors import Decomposition, Stop, TRTensor, TTTensor

Cores = tuple[Array, ...]
# What the last correction may add to the error where no tolerance says what is allowed.
_SHARE = 1.01


def tr_stable(
    x: Any,
    *,
    ranks: Ranks = None,
    tol: float | None = None,
    stall: float = 1e-8,
    max_sweeps: int = 500,
    init: TRTensor | TTTensor | str = "svd",
    n_starts: int = 1,
    rng: Any = None,
    callback: Callback | None = None,
) -> Decomposition[TRTensor]:
    """min ‖x − ring‖ over rings that do not cancel, and of these, within the error reached, the least sensitive.

    The set of rings of fixed ranks is not closed: there may be no best one, and then `tr_als` follows cores that grow
    and cancel without end. This method turns back before that, and finishes every ring with an error-preserving
    correction, which costs 1 % of the error, or none where `tol` leaves room.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; never written to.
    ranks
        The d bonds, `ranks[k]` the left rank of core k: an int for all, or a sequence, with None where `tr_svd` is to
        choose. What a ring of this shape cannot use is lowered.
    tol
        Relative Frobenius error allowed, in [0, 1). With `ranks`: where to stop. Alone: the ring of least storage that
        `tr_als` finds, corrected within `tol`.
    stall
        Sweeps end when the error falls by less than this share of itself.
    max_sweeps
        Sweeps of one start, or of the whole search; the last correction takes up to 50 more.
    init
        `"svd"`, `"random"`, a ring or a train, as for `tr_als`.
    n_starts
        How many starts, the first as named by `init`, the others random; the best is returned, or the first that keeps
        `tol`. In a search: random rings of each rank, three at least.
    rng
        Seed or generator of the random starts. A search without one takes a fixed seed.
    callback
        Called as callback(sweep, error) after every sweep; a true value from it ends the run.

    Returns
    -------
    Decomposition
        `.tensor` a `TRTensor` in the dtype of x, in the gauge in which it is least sensitive; `.errors` one for each
        sweep, of the best ring so far, and of the corrections, which may raise it to the bound. Where no best
        approximation exists `.stop` is `border_rank` and `.converged` false, unless `tol` is kept: the ring is then
        the best that was met with an amplification of at most 5, corrected.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, for neither tol nor ranks, and for options out of range.

    Notes
    -----
    Watched is the amplification, √mean_n ‖G_n‖²·‖ring opened at n‖²/(r_n·r_{n+1}) / ‖x‖ in the best gauge: by what
    noise in one core, as a share of it, is felt in the tensor. It is at most 1 for trains and about 1 for random rings.
    Above 5 the ring is corrected at a loose bound, error² + 0.5² of what is explained, and swept again; where that
    leads back, with 0.7²; where that does too, the border of the rings of these ranks is reached. Exact rings that
    single random starts of `tr_als` miss, since they end in such a valley, are mostly found this way.

    The correction minimises the sensitivity Σ_n I_n·‖ring opened at n‖² within the error, core after core, and between
    sweeps over the gauge of every bond, in closed form; it never raises it. In single precision it takes a copy of x in
    double precision.

    Not guaranteed: the least error, or that an escape ends in another valley; several starts help.

    Cost of a sweep: that of `tr_als`, 4·r²·Πn + d·r⁶, and d²·r⁴ for the gauge. Of a correction: 5 to 7 times
    that where r² is more than a few, since r⁶ outweighs Πn.

    References
    ----------
    A.-H. Phan, K. Sobolev, D. Ermilov, I. Vorona, N. Kozyrskiy, P. Tichavský, A. Cichocki 2022, "How to train unstable
    looped tensor network", arXiv 2203.02617. Rings are not closed: J. M. Landsberg, Y. Qi, K. Ye 2012, "On the geometry
    of tensor network states", arXiv 1105.4449.

    Examples
    --------
    A tensor without a best approximation of these ranks, on which plain sweeps let cores grow and cancel without end:

    >>> import numpy as np
    >>> import tensorring as tg
    >>> x = np.random.default_rng(2).standard_normal((4, 4, 4))
    >>> result = tg.tr_stable(x, ranks=2, init="random", rng=1)
    >>> plain = tg.tr_als(x, ranks=2, init="random", rng=1)
    >>> result.stop.value, result.error < 1.02 * plain.error
    ('border_rank', True)
    >>> tg.sensitivity(result.tensor) < tg.sensitivity(tg.balance(plain.tensor)) / 5
    True

    With a tolerance the correction uses what it leaves; with one alone the ranks are searched:

    >>> x = tg.random.tr((7, 8, 9), ranks=(2, 3, 2), rng=0).to_dense()
    >>> rough = tg.tr_stable(x, ranks=(2, 3, 2), tol=0.01, n_starts=5, rng=0, stall=1e-6)
    >>> rough.converged, rough.error <= 0.01
    (True, True)
    >>> fine = tg.tr_stable(x, ranks=(2, 3, 2), init=rough.tensor, callback=lambda sweep, error: None)
    >>> fine.error < 1e-6
    True
    >>> tg.tr_stable(x, tol=0.1, rng=0).error <= 0.1
    True
    """
    problem = prepare(x, tol=tol)
    caps = checked_ranks(ranks, problem.tol, len(problem.shape), "the bonds of the ring, one for each mode")
    exact = partial(relative_residual, problem)
    control: Control[Cores] = Control(problem, stall=stall, max_sweeps=max_sweeps, callback=callback, exact=exact)
    ring = TRTensor(init.cores) if isinstance(init, TTTensor) else init
    start, count = checked_init(ring, problem.x, TRTensor, caps), checked_count(n_starts, "n_starts")
    if problem.norm == 0.0 or len(problem.shape) == 1 or all(cap is None for cap in caps):
        found = tr_als(
            x, ranks=ranks, tol=tol, stall=stall, max_sweeps=max_sweeps, init=init, n_starts=count, rng=rng,
            callback=callback,
        )  # fmt: skip
        return found if found.stop is not Stop.tol else _corrected(problem, found)
    with threads_for(problem.x):
        begins = [_start(problem, make, control.limits.stall) for make in ring_starts(problem, start, caps, count, rng)]
        run = control.best_of(begins, limits=Limits(0.0, control.limits.max_sweeps))
        _finish(control, run)
        return control.result(TRTensor(run.state), run)


def _start(problem: Problem, make: Callable[[], Cores], stall: float) -> Start[Cores]:
    def start() -> tuple[Cores, Any]:
        cores = make()
        return cores, stable_sweeps(problem, cores, stall)

    return start


def _finish(control: Control[Cores], run: Run[Cores]) -> None:
    """The last correction of a run that nobody broke off."""
    if control.ended:
        return
    problem, stop, run.stop = control.problem, run.stop, None
    error = relative_residual(problem, run.state)
    kept = problem.tol is not None and error <= problem.tol
    bound = problem.tol if kept and problem.tol is not None else _SHARE * error + problem.floor / 4
    control.drive(last_correction(problem, run.state, bound), run, search=True, limits=Limits(0.0, 10**9))
    run.stop = run.stop if control.ended else stop


def _corrected(problem: Problem, found: Decomposition[TRTensor]) -> Decomposition[TRTensor]:
    """The ring of a search, corrected within the tolerance. Who watched the search is not called again."""
    exact = partial(relative_residual, problem)
    control: Control[Cores] = Control(problem, stall=0.0, max_sweeps=1, callback=None, exact=exact)
    *cores, last = found.tensor.cores
    run = Run((*cores, scaled(last, -problem.exponent)), list(found.errors), found.stop)
    with threads_for(problem.x):
        _finish(control, run)
    return control.result(TRTensor(run.state), run, found.candidates)
