"""CP whose terms do not cancel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from tensorring._array import Array, copy, dtype_name, namespace
from tensorring.algebra import balance
from tensorring.contract.first_level import threads_for
from tensorring.decompose._arguments import Problem, checked_rank, prepare
from tensorring.decompose._metric.fit import Price
from tensorring.decompose._metric.formats import CP
from tensorring.decompose._metric.in_metric import Variant, in_metric
from tensorring.decompose._sweeps import Callback, Control, Limits, Run, Start, checked_count
from tensorring.decompose.iterative._cp.core import compressed, is_trivial, trivial
from tensorring.decompose.iterative._cp.normal import normalized, renormalized
from tensorring.decompose.iterative._cp.rank_search import RankSearch
from tensorring.decompose.iterative._cp.space import CPSpace
from tensorring.decompose.iterative._cp.stable_fit import Factors, StableFit, measured
from tensorring.decompose.iterative._cp.starts import checked_init, gaussian, starts
from tensorring.decompose.iterative.cp_als import cp_als
from tensorring.tensors import CPTensor, Decomposition, Stop

# Of random numbers added to columns of norm 1.
_NUDGE = 0.1
# In a metric: the price of Σ λ_r²/‖x‖², next to the squared error.
_PENALTY = 1e-3


def cp_stable(
    x: Any,
    *,
    rank: int | None = None,
    tol: float | None = None,
    max_norm: float = 10.0,
    metric: Mapping[Any, Array] | None = None,
    stall: float = 1e-8,
    max_sweeps: int = 500,
    init: CPTensor | str = "hosvd",
    n_starts: int = 1,
    rng: Any = None,
    callback: Callback | None = None,
) -> Decomposition[CPTensor]:
    """min ‖x − Σ_r ⊗_k u_k[:, r]‖ with terms that do not cancel; with `tol` alone at the smallest rank that keeps it.

    Plain sweeps fitted to what has no well-conditioned best CP end with terms many times as large as x, which cancel:
    their error is no less than what terms of the size of x reach, and whatever is done to the factors next (rounding,
    fine-tuning, a change of one of them) is amplified by as much.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; real or complex; never written to.
    rank
        The number of terms. Lowered to Πn / max n, at which every tensor is reached.
    tol
        Relative Frobenius error allowed, in [0, 1). With `rank`: where to stop; what is left of it makes the terms
        smaller. Alone: the rank is searched.
    max_norm
        The largest ‖λ‖/‖x‖ allowed, λ being the norms of the terms, at least 1: it does not depend on the scale of x.
    metric
        {modes: S}, as for `cp_als`: errors are measured by ‖x‖_S² = ⟨x, S x⟩. A search takes one on single modes only.
        Next to groups of several modes one mode stands alone.
    stall
        Sweeps and steps end when one takes off less than this share of the error, where that is more than their own
        measure of it (1e-5 with a ridge, 1e-6 of steps).
    max_sweeps
        Sweeps of one start, correction included; of a search those of one rank, of which it takes 150 at most.
    init
        "hosvd", "random", "gevd", "greedy", as for `cp_als`, or a `CPTensor`; not for a search, which begins by itself.
    n_starts
        How many starts, of which the best is kept; after "hosvd" and a given tensor random ones follow. Not for
        a search.
    rng
        Seed or generator of the random starts (SPEC 7); the same seed gives the same result.
    callback
        Called as callback(sweep, error) after each sweep; a true value ends the run. `tg.progress()` draws a bar.

    Returns
    -------
    Decomposition
        `.tensor` a `CPTensor` balanced by `tg.balance`: weights 1, ‖u_{n,r}‖² ∝ I_n, largest terms first; in the dtype
        of x (integers: float64; half precision: float32). `.error` the relative error, measured. `.errors` after each
        sweep: falling, and in the correction at the end up to 0.1 %, or up to `tol`, higher. `.stop` is
        `border_rank`, and `.converged` False, where no best fit of this rank was found within the norm: then it is
        the best one found with ‖λ‖ ≤ max_norm·‖x‖. `.candidates` the ranks of a search that kept the tolerance.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, for neither rank nor tol, and for arguments out of range.

    Notes
    -----
    1. A path of ridges: sweeps of min ‖x − x̂‖² + ν·Σ λ_r², with Anderson's extrapolation. For ν > 0 there is always a
    best fit, and no swamps. ν falls from 0.1 for as long as 1 % more of ‖λ‖ takes off 0.04 % of the error or more, or
    while ‖λ‖ ≤ 1.2·‖x‖: tensors with a well-conditioned best CP get it, without a ridge in the end.
    2. Small tensors, of which a CP of that rank has at least half the numbers (400 unknowns at most, 800 where the
    path led below an error of 5 % or to terms larger than allowed): damped Gauss–Newton steps, to all digits. Where
    terms outgrow 100·‖x‖ they are brought back to the smallest within 0.3·‖x‖, and steps go on from there, five times.
    3. Where that did not help, no best fit exists as far as can be told: sweeps under the bound on the norm.
    4. Where ‖λ‖ is above 1.2·‖x‖: the error-preserving correction of `tg.stabilize`, at 0.1 % above the error reached,
    or at `tol`.

    With a metric on a group of several modes none of this: the fit is that of `cp_als`, of the squared error plus
    μ·‖λ‖²/‖x‖². μ is 1e-3, ten times that where ‖λ‖ would pass `max_norm`·‖x‖, and a tenth for as long as the price is
    more than 0.3 of the squared error. It costs little error, often none, and brings ‖λ‖/‖x‖ from 3–10 to about 2;
    `.errors` may rise a little.

    Not guaranteed: the least error (starts end in local minima: use `n_starts`), and the smallest rank. That no best
    fit exists is an observation, not a proof.

    Cost of a sweep: that of `cp_als`; of the correction twice that. Interrupting (Ctrl-C) returns the best so far.

    References
    ----------
    A.-H. Phan, P. Tichavský, A. Cichocki 2019, "Error preserving correction: a method for CP decomposition at a target
    error bound", arXiv 1709.08349; A.-H. Phan, K. Sobolev et al. 2020, "Stable low-rank tensor decomposition for
    compression of convolutional neural network", arXiv 2008.05441. No best approximation: V. de Silva, L.-H. Lim 2008,
    doi 10.1137/06066518X. Ridges: L.-H. Lim, P. Comon 2009, doi 10.1002/cem.1244.

    Examples
    --------
    A tensor on the border of rank 2: plain sweeps let terms grow without end.

    >>> import numpy as np
    >>> import tensorring as tg
    >>> x = np.zeros((2, 2, 2))
    >>> x[0, 0, 1] = x[0, 1, 0] = x[1, 0, 0] = 1
    >>> result = tg.cp_stable(x, rank=2, max_norm=5.0)
    >>> result.stop.value, result.converged, tg.degeneracy(result.tensor).norm_ratio < 5.1
    ('border_rank', False, True)

    The smallest rank at a tolerance:

    >>> x = tg.random.cp((10, 11, 12), rank=3, rng=0).to_dense()
    >>> result = tg.cp_stable(x, tol=1e-6, rng=0)
    >>> result.tensor, result.error <= 1e-6
    (CPTensor(shape=(10, 11, 12), ranks=(3,), parameters=102, dtype=float64), True)

    Other options are those of `cp_als`:

    >>> rough = tg.cp_stable(x, rank=3, tol=0.1, init="random", n_starts=2, rng=1, stall=1e-3, max_sweeps=50)
    >>> tg.cp_stable(x, rank=3, init=rough.tensor, callback=lambda sweep, error: None).error < 1e-10
    True
    """
    problem = prepare(x, tol=tol)
    bound = checked_max_norm(max_norm)
    control: Control[Factors] = Control(
        problem,
        stall=stall,
        max_sweeps=max_sweeps,
        callback=callback,
        exact=lambda factors, _: measured(problem, factors),
    )
    count = checked_count(n_starts, "n_starts")
    if rank is None:
        _check_search(problem, init, count)
    most = max(1, math.prod(problem.shape) // max(problem.shape))
    given = most if rank is None else min(checked_rank(rank), most)
    start = checked_init(init, problem.x, given)
    if metric is not None:
        method = partial(cp_stable, rank=rank, max_norm=bound)
        variant = Variant(method, partial(cp_als, rank=given), CP, _balanced, rank is not None, Price(_PENALTY, bound))
        return in_metric(problem, metric, variant, init, count, rng, stall, max_sweeps, callback)
    if is_trivial(problem):
        found = trivial(problem)
        return replace(found, tensor=balance(found.tensor))
    with threads_for(problem.x):
        if rank is None:
            generator = np.random.default_rng(rng)
            search = RankSearch(problem, max_norm=bound, most=most, rng=generator, stall=stall, max_sweeps=max_sweeps)
            return _searched(control, search)
        begins = _starts(control, given, start, count, rng, bound)
        run = control.best_of(begins, search=True)
        return _result(control, run)


def _check_search(problem: Problem, init: Any, n_starts: int) -> None:
    """Without a rank there is a tolerance, and nothing that asks for a rank."""
    if problem.tol is None:
        raise ValueError("got neither rank nor tol; give rank= for the number of terms, tol= for the error, or both")
    if init != "hosvd":
        raise ValueError(f"got init={init!r} without a rank; a search for the rank begins by itself: leave init out")
    if n_starts > 1:
        raise ValueError(f"got n_starts={n_starts} without a rank; a search goes from rank to rank: leave n_starts out")


def smallest_cp(x: Any, *, tol: float, most: int | None = None) -> Decomposition[CPTensor] | None:
    """The CP of the smallest rank found that keeps the tolerance, of at most so many terms; None: there is none."""
    problem = prepare(x, tol=tol)
    if is_trivial(problem):
        return trivial(problem)
    whole = max(1, math.prod(problem.shape) // max(problem.shape))
    search = RankSearch(
        problem,
        max_norm=10.0,
        most=whole if most is None else min(most, whole),
        rng=np.random.default_rng(0),
        downwards=most is not None,
    )
    if not search.reachable:
        return None
    control: Control[Factors] = Control(
        problem, stall=0.0, max_sweeps=1, callback=None, exact=lambda factors, _: measured(problem, factors)
    )
    with threads_for(problem.x):
        found = _searched(control, search)
    return found if found.converged or found.stop is Stop.interrupted else None


def _starts(
    control: Control[Factors], rank: int, init: CPTensor | str, count: int, rng: Any, max_norm: float
) -> list[Start[Factors]]:
    """One fit for each start: on the core of a large tensor first."""
    problem = control.problem
    core = None if isinstance(init, CPTensor) else compressed(problem, rank)
    whole = CPSpace(problem.x, rank, problem.norm)
    first = whole if core is None else CPSpace(core.x, rank, problem.norm, core.bases, core.lost)

    def begun(make: Any) -> Start[Factors]:
        def start() -> tuple[Factors, Any]:
            factors = tuple(make())
            if init == "hosvd":  # singular vectors may be a saddle point, which ridges do not leave
                factors = tuple(
                    u + _NUDGE * gaussian(u, u.shape[0], u.shape[1], np.random.default_rng(0)) for u in factors
                )
            spaces = [space.fresh() for space in ((first,) if core is None else (first, whole))]
            stall, most = control.limits
            fit = StableFit(problem, spaces, max_norm=max_norm, max_sweeps=most, stall=stall)
            state = factors if core is None else tuple(b @ u for b, u in zip(core.bases, factors, strict=True))
            return state, fit.run([copy(u.T) for u in factors])

        return start

    return [begun(make) for make in starts(first.x, rank, init, count, rng)]


def _searched(control: Control[Factors], search: RankSearch) -> Decomposition[CPTensor]:
    x = control.problem.x
    nothing = tuple(namespace(x).zeros((n, 1), dtype=x.dtype, device=x.device) for n in x.shape)
    run: Run[Factors] = Run(nothing)  # what there is before the first sweep
    control.drive(search.run(), run, search=True, limits=Limits(0.0, 10**9))
    found = _result(control, run)
    return replace(found, candidates=tuple(search.tried))


def _result(control: Control[Factors], run: Run[Factors]) -> Decomposition[CPTensor]:
    found = control.result(normalized(run.state).astype(dtype_name(control.problem.x.dtype)), run)
    return replace(found, tensor=balance(found.tensor))


def _balanced(t: CPTensor) -> CPTensor:
    """In the order and the scaling that come back."""
    return balance(renormalized(t))


def checked_max_norm(max_norm: Any) -> float:
    """The largest ‖λ‖/‖x‖ allowed, at least 1."""
    if isinstance(max_norm, bool) or not isinstance(max_norm, (int, float, np.number)):
        raise TypeError(f"got max_norm={max_norm!r}; it is the largest ‖λ‖/‖x‖ allowed, a number of at least 1")
    if not max_norm >= 1 or math.isinf(max_norm):
        raise ValueError(f"got max_norm={max_norm!r}; it is the largest ‖λ‖/‖x‖ allowed, a finite number of at least 1")
    return float(max_norm)
