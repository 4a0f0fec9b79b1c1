"""Error-preserving correction: smaller parts at the same error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

from tensorring._array import Array, as_dtype, dtype_name, is_complex, namespace
from tensorring.algebra import balance, relative_error
from tensorring.contract.first_level import threads_for
from tensorring.decompose._arguments import Problem, prepare
from tensorring.decompose._sweeps import Callback, Control, Limits, Run
from tensorring.decompose.iterative._chain.correction import corrected_ring
from tensorring.decompose.iterative._cp.correction import MARGIN, corrections, exponent_of, size_of
from tensorring.decompose.iterative._cp.normal import normalized
from tensorring.decompose.iterative._tucker.correction import corrected_core
from tensorring.diagnostics import sensitivity
from tensorring.linalg.scale import scaled
from tensorring.tensors import CPTensor, Decomposition, LowRankTensor, TRTensor, TTTensor, TuckerTensor

MEASURES = ("sensitivity", "norm")
# What sweeps end with is measured; where it is above the bound they aim as far below it as it was above, so often.
_ATTEMPTS = 5

T = TypeVar("T", bound=LowRankTensor)
Sweeps = Iterator[tuple[LowRankTensor, float]]


def stabilize(
    x: Any,
    t: T,
    *,
    tol: float | None = None,
    measure: str = "sensitivity",
    stall: float = 1e-4,
    max_sweeps: int = 500,
    callback: Callback | None = None,
) -> Decomposition[T]:
    """min sensitivity(t′) subject to ‖x − t′‖ ≤ tol·‖x‖, from t, at its ranks: what cancels shrinks, the error stays.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; real or complex; never written to.
    t
        An approximation of it, fitted by anyone: `CPTensor`, `TuckerTensor` (whose core is corrected, the factors stay
        but for their scales), `TTTensor` or `TRTensor`.
    tol
        Relative Frobenius error allowed, in [0, 1), at least that of t. Default: the error of t.
    measure
        "sensitivity": what noise in the parts does to the tensor, see `tg.sensitivity`, at the best scaling. "norm":
        CP: Σ λ_r², λ being the norms of the terms; trains and rings: Σ‖core‖²; Tucker: the norm of the core, for
        columns of norm 1 in the factors.
    stall
        Sweeps end when one takes off less than this share of the measure.
    max_sweeps
        Sweeps over all factors allowed.
    callback
        Called as callback(sweep, error) after each sweep; a true value ends the run. `tg.progress()` draws a bar.

    Returns
    -------
    Decomposition
        `.tensor` of the format and the ranks of t and the dtype of x, in its best scaling: `tg.balance` (CP, Tucker),
        the best gauge of every bond (trains, rings). `.error`, measured, is at most `tol`, or the error of t, to
        rounding. The measure is never larger than that of the balanced t.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, for a t of another format, shape, library or kind of numbers, for a tol
        below the error of t, and for arguments out of range.

    Notes
    -----
    Sweeps: each factor in turn is the one of least measure within the bound, (Γ + νW)⁻¹ applied to what alternating
    least squares would apply Γ⁻¹ to, with ν from one scalar equation; W makes the measure a quadratic form of the
    factor. For CP the scaling is made best after each update, which turns sensitivity into Σ λ_r^(2(d − 1)/d), and W
    into λ_r^(−2/d). A sweep costs 2 to 2.5 of alternating least squares (rings: up to 7). Tucker's core is found
    at once for a given scaling, and again after that is made best.

    Not guaranteed: the least measure; sweeps converge to a point where no single factor can be made smaller.

    From terms that cancel at ‖λ‖ = 10·‖x‖ a tol of 1.01 times the error leads to less than 2·‖x‖ in ten sweeps; at the
    very same error it takes hundreds.

    References
    ----------
    CP: A.-H. Phan, P. Tichavský, A. Cichocki 2019, arXiv 1709.08349; sensitivity: P. Tichavský, A.-H. Phan, A. Cichocki
    2019, doi 10.1109/LSP.2019.2943060, and A.-H. Phan et al. 2020, arXiv 2008.05441. Rings: A.-H. Phan et al. 2022,
    arXiv 2203.02617.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> x = np.zeros((2, 2, 2))
    >>> x[0, 0, 1] = x[0, 1, 0] = x[1, 0, 0] = 1
    >>> plain = tg.cp_als(x, rank=2, init="random", rng=0, max_sweeps=200)
    >>> stable = tg.stabilize(x, plain.tensor, tol=0.1)
    >>> stable.error <= 0.1, tg.sensitivity(stable.tensor) < tg.sensitivity(tg.balance(plain.tensor)) / 3
    (True, True)
    """
    if measure not in MEASURES:
        raise ValueError(f"got measure={measure!r}; it is one of {', '.join(map(repr, MEASURES))}")
    problem = prepare(x, tol=tol)
    own = _checked(problem, t)
    error = relative_error(problem.x, own)
    if problem.tol is not None and not problem.keeps(error):
        raise ValueError(
            f"got tol={problem.tol} for an approximation of error {error:.6g}; a correction keeps an error and lowers "
            "none: give a tol of at least that, or fit again with tg.cp_stable or tg.tr_stable"
        )
    bound = max(error, problem.tol or 0.0)
    problem = replace(problem, tol=min(bound, 1.0) if problem.tol is None else problem.tol)
    control: Control[LowRankTensor] = Control(
        problem, stall=stall, max_sweeps=max_sweeps, callback=callback, exact=lambda state, _: _error(problem, state)
    )
    run: Run[LowRankTensor] = Run(balance(own), [error])
    if problem.norm > 0.0 and error > 0.0:
        with threads_for(problem.x):
            sweeps = _METHODS[type(t)](problem, own, error, bound * (1 - MARGIN), measure, stall)
            control.drive(sweeps, run, search=True, limits=Limits(0.0, control.limits.max_sweeps + 1))
            run.state = _within(problem, run.state, own, bound, measure)
    found = control.result(run.state, run)
    return replace(found, tensor=balance(found.tensor)) if isinstance(t, (CPTensor, TuckerTensor)) else found


def _within(problem: Problem, found: LowRankTensor, t: LowRankTensor, bound: float, measure: str) -> LowRankTensor:
    """What was found, whyever it ended; where rounding has it above the bound, a sweep below it; or t itself."""
    aim = bound
    for _ in range(_ATTEMPTS):
        error = _error(problem, found)
        if error <= bound + problem.floor / 4:
            return found if _size(found, measure) <= _size(t, measure) else balance(t)
        aim = max(0.0, aim - 2 * (error - bound))
        found, _ = next(_METHODS[type(t)](problem, found, error, aim, measure, 0.0), (found, error))
    return balance(t)


def _size(t: LowRankTensor, measure: str) -> float:
    """What sweeps make small, of a CP: aiming below the bound may cost some of it, next to a point where they end."""
    return size_of(_factors(t), exponent_of(measure, t.ndim)) if isinstance(t, CPTensor) else 0.0


def _factors(t: CPTensor) -> list[Array]:
    """With the weights in the last one."""
    *head, last = t.factors
    return [*head, last * as_dtype(t.weights, dtype_name(last.dtype))]


def _of_cp(problem: Problem, t: LowRankTensor, error: float, bound: float, measure: str, stall: float) -> Sweeps:
    assert isinstance(t, CPTensor)
    name = dtype_name(problem.x.dtype)
    for state in corrections(problem, _factors(t), error, bound, measure=measure, count=10**9, stall=stall):
        yield normalized(state.expanded()).astype(name), state.error


def _of_core(problem: Problem, t: LowRankTensor, error: float, bound: float, measure: str, stall: float) -> Sweeps:
    assert isinstance(t, TuckerTensor)
    name, before = dtype_name(problem.x.dtype), math.inf
    while True:
        t = corrected_core(problem, _unit(t) if measure == "norm" else balance(t), bound, measure).astype(name)
        yield t, _error(problem, t)
        value = sensitivity(balance(t))
        if measure == "norm" or value >= (1 - stall) * before:
            return
        before = value


def _unit(t: TuckerTensor) -> TuckerTensor:
    """The same tensor with columns of norm 1 in the factors (columns of zeros stay)."""
    core, factors = t.core, []
    for mode, u in enumerate(t.factors):
        xp = namespace(u)
        norms = xp.linalg.vector_norm(u, axis=0)
        norms = xp.where(norms > 0, norms, 1.0)
        factors.append(u / norms)
        core = (
            core
            * as_dtype(norms, dtype_name(core.dtype))[tuple(slice(None) if m == mode else None for m in range(t.ndim))]
        )
    return TuckerTensor(core, tuple(factors))


def _of_chain(problem: Problem, t: LowRankTensor, error: float, bound: float, measure: str, stall: float) -> Sweeps:
    assert isinstance(t, (TTTensor, TRTensor))
    before = math.inf
    for state in corrected_ring(problem, t.cores, bound, measure):
        yield type(t)(tuple(as_dtype(core, dtype_name(problem.x.dtype)) for core in state.cores)), state.error
        if state.value > (1 - stall) * before:
            return
        before = state.value


_METHODS = {CPTensor: _of_cp, TuckerTensor: _of_core, TTTensor: _of_chain, TRTensor: _of_chain}


def _error(problem: Problem, t: LowRankTensor) -> float:
    return relative_error(problem.x, t)


def _checked(problem: Problem, t: Any) -> LowRankTensor:
    """The approximation, in the scale and the dtype of the problem."""
    if isinstance(t, Decomposition):
        raise TypeError(f"got {t!r}; stabilize takes the low-rank tensor itself: use its tensor")
    if type(t) not in _METHODS:
        known = ", ".join(kind.__name__ for kind in _METHODS)
        raise TypeError(f"got {type(t).__name__} for the approximation; it is one of {known}")
    x, xp = problem.x, namespace(problem.x)
    if t.shape != problem.shape:
        raise ValueError(f"got an approximation of shape {t.shape} for a tensor of shape {problem.shape}")
    if namespace(*t.arrays) is not xp:
        raise TypeError("got an approximation in another library than x: make its arrays with the library of x")
    if "complex" in dtype_name(t.dtype) and not is_complex(x):
        raise ValueError(f"got a complex approximation of a tensor of dtype {dtype_name(x.dtype)}; make it real first")
    if not all(bool(xp.all(xp.isfinite(array))) for array in t.arrays):
        raise ValueError("got an approximation that holds NaN or inf; fit again first")
    arrays = list(t.arrays)
    arrays[t.carrier] = scaled(arrays[t.carrier], -problem.exponent)
    own: LowRankTensor = t.with_arrays(arrays).astype(dtype_name(x.dtype))
    return own
