"""CP by alternating least squares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from tensorring._array import Array, contiguous, copy, namespace
from tensorring._threads import SMALL
from tensorring.contract.first_level import threads_for
from tensorring.decompose._arguments import checked_rank, prepare
from tensorring.decompose._metric.formats import CP
from tensorring.decompose._metric.in_metric import Variant, in_metric
from tensorring.decompose._sweeps import Callback, Control, Start, checked_count
from tensorring.decompose.iterative._cp.core import compressed, fit_core, is_trivial, needs_refining, trivial
from tensorring.decompose.iterative._cp.normal import normalized, renormalized
from tensorring.decompose.iterative._cp.space import CPSpace, Fit, sweeps
from tensorring.decompose.iterative._cp.starts import checked_init, starts
from tensorring.tensors import CPTensor, Decomposition


def cp_als(
    x: Any,
    *,
    rank: int,
    tol: float | None = None,
    metric: Mapping[Any, Array] | None = None,
    stall: float = 1e-8,
    max_sweeps: int = 500,
    init: CPTensor | str = "hosvd",
    n_starts: int = 1,
    rng: Any = None,
    callback: Callback | None = None,
) -> Decomposition[CPTensor]:
    """min ‖x − Σ_r λ_r ⊗_k u_k[:, r]‖ at a given rank, one factor at a time; ends as soon as the error is ≤ tol·‖x‖.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; real or complex; never written to.
    rank
        The number of terms. Lowered to Πn / max n, at which every tensor is reached.
    tol
        Relative Frobenius error at which to stop, in [0, 1). Without it: sweeps until the error stalls.
    metric
        {modes: S}: errors are measured by ‖x‖_S² = ⟨x, S x⟩, S Hermitian and positive semidefinite on a mode or a group
        of modes (in C order), the identity on the others. With second moments of a layer's input patches on {(1, 2): S}
        of a kernel (O, I, k²) it is the change of the layer's output. Groups share no mode, and where one has several
        modes, one mode of x stands alone.
    stall
        Sweeps end when one takes off less than this share of the error; 0: never for that reason.
    max_sweeps
        Updates of every factor allowed, for each start.
    init
        "hosvd": leading singular vectors of the unfoldings; "random"; "gevd": the generalised eigenvalues of slices,
        exact where x is and the rank is at most two of the dimensions; "greedy": rank-one terms one after another; or a
        `CPTensor`.
    n_starts
        How many starts, of which the best is kept; after "hosvd" and a given tensor random ones follow.
    rng
        Seed or generator of the random starts (SPEC 7); the same seed gives the same result.
    callback
        Called as callback(sweep, error) after each sweep, with the best error so far; a true value ends the run.
        `tg.progress()` draws a bar.

    Returns
    -------
    Decomposition
        `.tensor` a `CPTensor` with unit columns, weights descending, the largest entry of each column but the last
        mode's real and positive, in the dtype of x (integers: float64; half precision: float32); `.error` the relative
        error; `.errors` after each sweep, never rising.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, and for arguments out of range, each with the rule and the way out.

    Notes
    -----
    Errors never rise from sweep to sweep (but by rounding). The best rank-R approximation is not promised: starts end
    in local minima (use `n_starts`), and where none exists terms grow and cancel. Nothing is NaN: ill-conditioned
    updates (above 1e10) go from Cholesky to QR, rank-deficient ones to the least-norm solution.

    In swamps, where sweeps take off less than a tenth of the error, each second sweep begins at an Anderson
    extrapolation, kept only where it pays. Large tensors (named starts, rank well below the dimensions) are first
    fitted on their Tucker core, and then on x until that stalls too.

    With a metric on single modes x ×_n S^{1/2} is fitted, and what S does not see of x comes out zero. With a group of
    several modes: variable projection, the factor of the largest mode outside all of these eliminated exactly, L-BFGS
    over all others, from 30 plain sweeps; `max_sweeps` and `callback` count its steps, `stall` and `tol` end them, and
    an error of a sweep never rises. A step costs 2·N²·R flops and the memory N², N being the entries of x over those of
    that mode; S gets a ridge of 1e-5 of what x weighs at the most, and errors below 1e-6 are not resolved.

    Cost of a sweep: two passes over x of 2·Πn·R flops each, d/(d − 1) where a partial of R/n of x is small; R³ a mode.
    Memory beyond x: up to 3·R/n of it, for 400³ at rank 30 0.08. Errors below 3e-4 (float32: 1e-2) are measured from
    the residual, a third pass. Interrupting (Ctrl-C) returns the best so far.

    References
    ----------
    R. A. Harshman 1970, "Foundations of the PARAFAC procedure"; J. D. Carroll, J. J. Chang 1970, doi
    10.1007/BF02310791. Trees: A.-H. Phan, P. Tichavský, A. Cichocki 2013, arXiv 1204.1586; L. Ma, E. Solomonik 2020,
    arXiv 2010.12056. Compression first: R. Bro, C. A. Andersson 1998, doi 10.1016/S0169-7439(98)00011-2. With a metric:
    G. Golub, V. Pereyra 1973, "The differentiation of pseudo-inverses and nonlinear least squares problems whose
    variables separate", doi 10.1137/0710036.

    Examples
    --------
    >>> import tensorring as tg
    >>> x = tg.random.cp((10, 11, 12), rank=3, rng=0).to_dense()
    >>> result = tg.cp_als(x, rank=3, tol=1e-8, n_starts=5, rng=0)
    >>> result.tensor, result.stop.value, result.error < 1e-8
    (CPTensor(shape=(10, 11, 12), ranks=(3,), parameters=102, dtype=float64), 'tol', True)

    In a metric, with which errors are those of a layer's outputs:

    >>> import numpy as np
    >>> inputs = np.random.default_rng(0).standard_normal((500, 132)) * np.linspace(0.1, 2, 132)
    >>> noisy = x + 0.1 * np.random.default_rng(1).standard_normal(x.shape)
    >>> metric = {(1, 2): inputs.T @ inputs / 500}
    >>> result = tg.cp_als(noisy, rank=3, metric=metric)
    >>> result.error < tg.relative_error(noisy, tg.cp_als(noisy, rank=3).tensor, metric=metric)
    True

    Other starts, one of them a result, and a callback that ends the run after the second sweep:

    >>> tg.cp_als(x, rank=3, init="gevd").error < 1e-12
    True
    >>> again = tg.cp_als(x, rank=3, init=tg.random.cp(x.shape, rank=3, rng=1), stall=1e-3, max_sweeps=50)
    >>> tg.cp_als(x, rank=3, init="random", rng=1, callback=lambda sweep, error: sweep == 2).stop.help
    'The evaluations or the time allowed were used up: allow more, or accept this result.'
    """
    problem = prepare(x, tol=tol)
    rank = min(checked_rank(rank), max(1, math.prod(problem.shape) // max(problem.shape)))
    control: Control[Fit] = Control(problem, stall=stall, max_sweeps=max_sweeps, callback=callback, exact=_measured)
    init, count = checked_init(init, problem.x, rank), checked_count(n_starts, "n_starts")
    if metric is not None:
        method = partial(cp_als, rank=rank)
        variant = Variant(method, method, CP, renormalized)
        return in_metric(problem, metric, variant, init, count, rng, stall, max_sweeps, callback)
    if is_trivial(problem):
        return trivial(problem)
    order = _order(problem.shape)
    x = contiguous(namespace(problem.x).permute_dims(problem.x, order)) if order else problem.x
    if isinstance(init, CPTensor) and order:
        init = CPTensor(init.weights, tuple(init.factors[mode] for mode in order))
    whole = space = CPSpace(x, rank, problem.norm)
    core = None if isinstance(init, CPTensor) else compressed(problem, rank)
    if core is not None:
        space = CPSpace(core.x, rank, problem.norm, core.bases, core.lost)
    begins = [_start(space, make) for make in starts(space.x, rank, init, count, rng)]
    with threads_for(problem.x):
        run = control.best_of(begins) if core is None else fit_core(control, begins, core)
        if core is not None and needs_refining(control, run, core.lost):
            begin = tuple(_rows(u) for u in run.state.expanded())
            run.state, run.stop = run.state._replace(space=whole, factors=begin), None
            run = control.drive(sweeps(whole, begin), run)
        factors = run.state.expanded()
        return control.result(
            normalized([factors[order.index(mode)] for mode in range(x.ndim)] if order else factors), run
        )


def _order(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The modes of a small tensor, shortest first, for long rows; () where they lie so, and for a large one."""
    order = tuple(sorted(range(len(shape)), key=lambda mode: shape[mode]))
    return () if math.prod(shape) >= SMALL or order == tuple(range(len(shape))) else order


def _measured(fit: Fit, _: float) -> float:
    """The error from the residual itself, unless the one told is as good."""
    return fit.error if fit.certain else fit.space.error(fit.factors)


def _start(space: CPSpace, make: Any) -> Start[Fit]:
    def start() -> tuple[Fit, Any]:
        own, factors = space.fresh(), tuple(_rows(u) for u in make())
        return Fit(own, factors, math.inf, False), sweeps(own, factors)

    return start


def _rows(u: Array) -> Array:
    """U as V = Uᵀ in memory order."""
    return copy(u.T)
