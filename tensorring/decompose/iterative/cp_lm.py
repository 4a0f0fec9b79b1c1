"""CP by damped Gauss–Newton steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tensorring._array import Array, as_dtype, dtype_name, eps, namespace
from tensorring.algebra.error import relative_error
from tensorring.decompose._arguments import Problem, checked_rank, prepare
from tensorring.decompose._sweeps import Callback, Control, Sweeps, checked_count
from tensorring.decompose.iterative._cp.core import Core, compressed, fit_core, is_trivial, needs_refining, trivial
from tensorring.decompose.iterative._cp.lm_residual import Residual, wide_name
from tensorring.decompose.iterative._cp.lm_step import Curvature
from tensorring.decompose.iterative._cp.lm_sweeps import Fit, sweeps
from tensorring.decompose.iterative._cp.normal import normalized
from tensorring.decompose.iterative._cp.starts import checked_init, exact_terms, starts
from tensorring.linalg.scale import scaled
from tensorring.linalg.solve import solve_gram
from tensorring.tensors import CPTensor, Decomposition

# ‖λ‖/‖x‖ at which terms are taken to cancel without end: from here on it takes hundreds of steps to double it. Where
# the error falls like ‖λ‖⁻², storing terms above eps^(-1/3) loses more by rounding than they gain.
_LARGEST = 1000.0


def cp_lm(
    x: Any,
    *,
    rank: int,
    tol: float | None = None,
    stall: float = 1e-8,
    max_sweeps: int = 500,
    init: CPTensor | str = "hosvd",
    n_starts: int = 1,
    rng: Any = None,
    callback: Callback | None = None,
) -> Decomposition[CPTensor]:
    """min ‖x − Σ_r λ_r ⊗_k u_k[:, r]‖ at a given rank, all factors at once: for ill-conditioned fits and all digits.

    Damped Gauss–Newton (Levenberg–Marquardt) steps: quadratic convergence near an exact CP, and steps through swamps
    in which `cp_als` creeps. Where that is not needed, `cp_als` takes larger tensors and higher ranks in less time.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; real or complex; never written to.
    rank
        The number of terms. Lowered to Πn / max n, at which every tensor is reached.
    tol
        Relative Frobenius error at which to stop, in [0, 1). Without it: steps until the error stalls.
    stall
        Steps end when one takes off less than this share of the error; 0: never for that reason.
    max_sweeps
        Accepted steps allowed, for each start; up to ten that creep through a bottleneck count as one.
    init
        "hosvd", "random", "gevd", "greedy", as for `cp_als`, or a `CPTensor`, such as that of a `cp_als` to be refined.
    n_starts
        How many starts, of which the best is kept; after "hosvd" and a given tensor random ones follow.
    rng
        Seed or generator of the random starts (SPEC 7); the same seed gives the same result.
    callback
        Called as callback(sweep, error) after each accepted step, with the best error so far; a true value ends the
        run. `tg.progress()` draws a bar.

    Returns
    -------
    Decomposition
        `.tensor` a `CPTensor` with unit columns, weights descending, the largest entry of each column but the last
        mode's real and positive, in the dtype of x (integers: float64; half precision: float32); `.error` the relative
        error; `.errors` after each accepted step, falling. `.stop` is `border_rank` where terms that cancel outgrew
        1000·‖x‖ (single precision: 200·‖x‖).

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, and for arguments out of range, each with the rule and the way out.

    Notes
    -----
    Errors fall with every step, and come from the residual itself: nothing cancels, however small they are. All is
    computed in double precision, whatever the dtype of x. The best rank-R approximation is not promised: starts end in
    local minima (use `n_starts`), and there may be none.

    The system (JᴴJ + μI)·D = −Jᴴr never sees the long modes: with U_n = Q_n·R_n, what lies outside the range of Q_n
    decouples, and Σ_n min(n_k, R)·R unknowns are left: by Cholesky up to 500 of them, beyond that by preconditioned
    conjugate gradients, and by Cholesky again, up to 4,000, where those are slow. Where terms cancel, ‖λ‖ > 100·‖x‖,
    small systems are solved by QR of J itself, which keeps the digits that JᴴJ loses. The same solver also yields the
    second and third order of the path, so that steps follow curved valleys. The model is holomorphic, so that complex
    tensors have the same equations.

    Cost of a step: 6·Πn·R flops in one pass over x, and a third of the cube of the unknowns. Memory beyond x: the
    square of the unknowns, and R·(Πn_left + Πn_right) of the balanced split. Large tensors (named starts, rank well
    below the dimensions) are first fitted on their Tucker core. Interrupting (Ctrl-C) returns the best so far.

    References
    ----------
    L. Sorber, M. Van Barel, L. De Lathauwer 2013, doi 10.1137/120868323; P. Tichavský, A.-H. Phan, A. Cichocki 2013,
    "A further improvement of a fast damped Gauss-Newton algorithm for CANDECOMP-PARAFAC", doi
    10.1109/ICASSP.2013.6638815; damping: H. B. Nielsen 1999, IMM-REP-1999-05; second order: M. K. Transtrum,
    J. P. Sethna 2012, arXiv 1207.4999.

    Examples
    --------
    >>> import tensorring as tg
    >>> x = tg.random.cp((6, 7, 8), rank=4, rng=0).to_dense()
    >>> result = tg.cp_lm(x, rank=4, tol=1e-12, n_starts=5, rng=0)
    >>> result.tensor, result.stop.value, result.error < 1e-12
    (CPTensor(shape=(6, 7, 8), ranks=(4,), parameters=88, dtype=float64), 'tol', True)

    From the result of sweeps, a few steps to all digits:

    >>> start = tg.cp_als(x, rank=4, rng=0, init="random", n_starts=5, tol=1e-2).tensor
    >>> tg.cp_lm(x, rank=4, init=start, stall=1e-3, max_sweeps=20, callback=print).error < 1e-12  # doctest: +ELLIPSIS
    1 ...
    True
    """
    problem = prepare(x, tol=tol)
    most = max(1, math.prod(problem.shape) // max(problem.shape))
    rank = min(checked_rank(rank), most)
    dtype = dtype_name(problem.x.dtype)
    control: Control[Fit] = Control(
        problem,
        stall=stall,
        max_sweeps=max_sweeps,
        callback=callback,
        exact=lambda fit, _: relative_error(problem.x, normalized(fit.expanded()).astype(dtype)),
    )
    init, count = checked_init(init, problem.x, rank), checked_count(n_starts, "n_starts")
    if is_trivial(problem):
        return trivial(problem)
    core = None if isinstance(init, CPTensor) else compressed(problem, rank)
    residual = Residual(problem.x) if core is None else _on_core(core, problem)
    makers: list[Callable[[], list[Array]]] = [
        partial(_scaled, residual, make) for make in starts(residual.x, rank, init, count, rng)
    ]
    if isinstance(init, CPTensor):
        makers[0] = partial(_given, init, problem, residual)
    elif core is None and rank == most:  # so many terms reach every tensor: these do
        makers[0] = partial(exact_terms, residual.x)
    begins = [partial(_begun, control, residual, make) for make in makers]
    run = control.best_of(begins) if core is None else fit_core(control, begins, core)
    if core is not None and needs_refining(control, run, core.lost):
        whole, factors = Residual(problem.x), run.state.expanded()
        run.state, run.stop = Fit(whole, tuple(factors)), None
        run = control.drive(_sweeps(problem, whole, factors, control.limits.stall), run)
    return control.result(normalized(run.state.expanded()).astype(dtype), run)


def _begun(control: Control[Fit], residual: Residual, make: Callable[[], list[Array]]) -> tuple[Fit, Sweeps[Fit]]:
    factors = make()
    return Fit(residual, tuple(factors)), _sweeps(control.problem, residual, factors, control.limits.stall)


def _sweeps(problem: Problem, residual: Residual, factors: Sequence[Array], stall: float) -> Sweeps[Fit]:
    largest = min(_LARGEST, eps(dtype_name(problem.x.dtype)) ** (-1 / 3))
    return sweeps(residual, factors, problem.norm, largest=largest, stall=stall)


def _given(init: CPTensor, problem: Problem, residual: Residual) -> list[Array]:
    """The factors of a CP tensor; its weights too, unless they are of another scale than x."""
    xp, (first, *others) = namespace(problem.x), (as_dtype(factor, residual.dtype) for factor in init.factors)
    start = normalized([first * as_dtype(init.weights, residual.dtype), *others])
    weights = scaled(start.weights, -problem.exponent)
    *others, last = start.factors
    if 1e-6 < float(xp.linalg.vector_norm(weights)) / problem.norm < 1e6:
        return [*others, last * as_dtype(weights, residual.dtype)]
    return _scaled(residual, lambda: list(start.factors))


def _scaled(residual: Residual, make: Callable[[], list[Array]]) -> list[Array]:
    """A start whose last factor is the best for the others: named starts give directions."""
    factors = [as_dtype(factor, residual.dtype) for factor in make()]
    factors[-1] = 0.0 * factors[-1]
    _, products = residual(factors)
    gram = Curvature(factors).singles[-1]
    factors[-1] = solve_gram(gram.T, products[-1].T).T
    return factors


def _on_core(core: Core, problem: Problem) -> Residual:
    return Residual(core.x, [as_dtype(basis, wide_name(problem.x)) for basis in core.bases], core.lost)
