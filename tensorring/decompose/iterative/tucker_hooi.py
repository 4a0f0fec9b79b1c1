"""Higher-order orthogonal iteration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from tensorring._array import Array
from tensorring.contract.first_level import threads_for
from tensorring.decompose._arguments import Caps, Problem, Ranks, checked_ranks, prepare
from tensorring.decompose._metric.formats import Tucker
from tensorring.decompose._metric.in_metric import Variant, in_metric
from tensorring.decompose._sweeps import Callback, Control, Run, checked_count
from tensorring.decompose.direct.tucker_hosvd import tucker_hosvd
from tensorring.decompose.iterative._tucker.engine import Sweeper, exact_error
from tensorring.decompose.iterative._tucker.orthonormal import orthonormal
from tensorring.decompose.iterative._tucker.rank_search import RankSearch
from tensorring.decompose.iterative._tucker.starts import checked_init, fixed_ranks, starts
from tensorring.tensors import Decomposition, Stop, TuckerTensor
from tensorring.tensors.low_rank import checked_modes


def tucker_hooi(
    x: Any,
    *,
    ranks: Ranks = None,
    tol: float | None = None,
    modes: int | Iterable[int] | None = None,
    metric: Mapping[Any, Array] | None = None,
    stall: float = 1e-8,
    max_sweeps: int = 500,
    init: TuckerTensor | str = "hosvd",
    n_starts: int = 1,
    rng: Any = None,
    callback: Callback | None = None,
) -> Decomposition[TuckerTensor]:
    """min ‖x − core ×_1 U_1 ⋯ ×_d U_d‖, U_k orthonormal, at given ranks; with `tol`, the least storage that keeps it.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; real or complex; never written to.
    ranks
        The multilinear ranks, one for each of `modes`: an int for all, or a sequence with None for no cap. Lowered
        where no core can use them: above the product of the others, and above the numerical ranks of x. With both
        `tol` and `ranks` the cap wins.
    tol
        Relative Frobenius error allowed, in [0, 1): looks for the ranks of least storage that keep it.
    modes
        Those to truncate, ascending; the others keep their size, with the identity as factor. Default: all. For a
        convolution kernel (O, I, h, w), (0, 1) is the Tucker-2 form.
    metric
        {modes: S}, as for `cp_als`: errors are measured by ‖x‖_S² = ⟨x, S x⟩. On a group of several modes at given
        ranks only, one mode of x standing alone.
    stall
        Sweeps end when one takes off less than this share of the error; 0: never for that reason.
    max_sweeps
        Updates of every factor allowed, for each start; a search counts those of every proposal.
    init
        "hosvd": the sequentially truncated HOSVD; "random": orthonormal bases of Gaussian matrices; or a
        `TuckerTensor`, whose ranks count where `ranks` is left out.
    n_starts
        How many starts at given ranks, of which the best is kept; all but the first are random.
    rng
        Seed or generator of the random starts (SPEC 7); the same seed gives the same result.
    callback
        Called as callback(sweep, error) after each sweep, with the best error so far; a true value ends the run.
        `tg.progress()` draws a bar.

    Returns
    -------
    Decomposition
        `.tensor` a `TuckerTensor` of orthonormal factors whose core is x projected onto them, in the dtype of x
        (integers: float64; half precision: float32); `.error` the relative error; `.errors` after each sweep;
        `.candidates` the ranks that a search tried.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, and for arguments out of range, each with the rule and the way out.

    Notes
    -----
    At given ranks errors never rise from sweep to sweep, and a stationary point is reached, not always the best one:
    use `n_starts`. Without caps a tolerance is always kept.

    The search begins with `tucker_hosvd` at the same tolerance and never stores more than it, nor than an `init` that
    keeps the tolerance. In an all-orthogonal core of somewhat higher ranks all leading boxes are scored at once; boxes
    slightly above the tolerance are swept until they keep it, measured, or cannot. `.errors` are then those of what is
    accepted so far, which may rise towards `tol` as storage falls. Least storage is looked for, not proved. Below
    tolerances of 1e-6 there is no search: differences of squares do not tell ranks there.

    With a metric on a group of several modes the factor of the mode that stands alone and the core are eliminated
    (`cp_als` tells how), the factor by the leading eigenvectors of what is left, and L-BFGS moves the other factors.
    With (0, 1) of a kernel (O, I, h, w), S on (1, 2, 3): 2·N²·r_2 flops a step, N the product of all modes but that
    one.

    Cost of a sweep: two passes over x of 2·Πn·r flops each, and a Gram matrix and its eigenvalues, n³, a mode. Memory
    beyond x: about Πn·r/n for each half of the modes. Errors below 30·√eps are measured from the residual, a third
    pass, and singular vectors there by SVD instead of Gram matrices. Interrupting (Ctrl-C) returns the best so far.

    References
    ----------
    L. De Lathauwer, B. De Moor, J. Vandewalle, "On the best rank-1 and rank-(R1, …, RN) approximation of higher-order
    tensors", SIAM J. Matrix Anal. Appl. 21 (2000), doi 10.1137/S0895479898346995, algorithm 4.2. Ranks by tolerance in
    another way: C. Xiao, C. Yang, "A rank-adaptive higher-order orthogonal iteration algorithm for truncated Tucker
    decomposition" (2021), arXiv 2110.12564.

    Examples
    --------
    At given ranks:

    >>> import numpy as np
    >>> import tensorring as tg
    >>> x = np.random.default_rng(0).standard_normal((8, 9, 10))
    >>> result = tg.tucker_hooi(x, ranks=(3, 4, 5))
    >>> result.tensor.ranks, result.stop.value, result.error < tg.tucker_hosvd(x, ranks=(3, 4, 5)).error
    ((3, 4, 5), 'stall', True)

    By tolerance, stored in less than by HOSVD:

    >>> result = tg.tucker_hooi(x, tol=0.5)
    >>> result.tensor.parameter_count < tg.tucker_hosvd(x, tol=0.5).tensor.parameter_count, result.error <= 0.5
    (True, True)

    Some modes alone, from random factors, watched:

    >>> seen = []
    >>> result = tg.tucker_hooi(
    ...     x, ranks=4, modes=(0, 2), init="random", n_starts=2, rng=0, stall=1e-4, max_sweeps=50,
    ...     callback=lambda sweep, error: seen.append(error),
    ... )
    >>> result.tensor.ranks, min(seen) >= result.error - 1e-12
    ((4, 9, 4), True)
    """
    problem = prepare(x, tol=tol)
    d = len(problem.shape)
    chosen = tuple(range(d)) if modes is None else checked_modes(modes, d)
    init, count = checked_init(init, problem), checked_count(n_starts, "n_starts")
    caps = _caps(problem, ranks, chosen, init)
    control: Control[TuckerTensor] = Control(
        problem, stall=stall, max_sweeps=max_sweeps, callback=callback, exact=lambda t, _: exact_error(problem, t)
    )
    if metric is not None:
        fixed = fixed_ranks(problem, caps, chosen, init)
        variant = Variant(
            method=partial(tucker_hooi, ranks=ranks, modes=chosen),
            start=partial(tucker_hooi, ranks=[fixed[k] for k in chosen], modes=chosen),
            form=partial(Tucker, ranks=fixed, modes=chosen),
            finish=partial(orthonormal, modes=chosen),
            ranked=isinstance(init, TuckerTensor) or any(cap is not None for cap in caps),
        )
        return in_metric(problem, metric, variant, init, count, rng, stall, max_sweeps, callback)
    if problem.tol is None or problem.norm == 0.0:
        run = _fixed(control, fixed_ranks(problem, caps, chosen, init), init, count, rng)
        if run.error <= problem.floor / 4:
            run.state, run.exact = _without_zeros(run.state, chosen), False
        return control.result(run.state, run)
    return _smallest(control, caps, chosen, init, count, rng)


def _caps(problem: Problem, ranks: Ranks, modes: tuple[int, ...], init: TuckerTensor | str) -> Caps:
    """A cap or None for every mode of the tensor."""
    d = len(problem.shape)
    if ranks is None and isinstance(init, TuckerTensor):
        return (None,) * d
    given = checked_ranks(ranks, problem.tol, len(modes), "the multilinear ranks, one for each mode truncated")
    caps = dict(zip(modes, given, strict=True))
    return tuple(caps.get(mode) for mode in range(d))


def _fixed(
    control: Control[TuckerTensor], ranks: tuple[int, ...], init: TuckerTensor | str, count: int, rng: Any
) -> Run[TuckerTensor]:
    with threads_for(control.problem.x):
        return control.best_of(starts(lambda: Sweeper(control.problem, ranks), init, count, rng))


def _without_zeros(tensor: TuckerTensor, modes: tuple[int, ...]) -> TuckerTensor:
    """The tensor at its numerical ranks: where nothing is left out, caps may be more than there is."""
    inner = tucker_hosvd(tensor.core, tol=0.0, modes=modes).tensor
    return TuckerTensor(inner.core, tuple(u @ v for u, v in zip(tensor.factors, inner.factors, strict=True)))


def _smallest(
    control: Control[TuckerTensor],
    caps: Caps,
    modes: tuple[int, ...],
    init: TuckerTensor | str,
    count: int,
    rng: Any,
) -> Decomposition[TuckerTensor]:
    """The ranks of least storage: from the direct method, or from sweeps at the caps where it fails under them."""
    problem = control.problem
    direct = tucker_hosvd(problem.x, tol=problem.tol, ranks=[caps[k] for k in modes], modes=modes)
    run, tried = Run(direct.tensor), direct.candidates
    error = direct.error
    if isinstance(init, TuckerTensor):
        own = Sweeper(problem, fixed_ranks(problem, caps, modes, init)).from_factors(init.factors)
        if own.parameter_count < direct.tensor.parameter_count and problem.keeps(
            own_error := exact_error(problem, own)
        ):
            run, error = Run(own), own_error
    if not problem.keeps(error):
        run = _fixed(control, fixed_ranks(problem, caps, modes, init), init, count, rng)
        if run.stop is not Stop.tol:
            return control.result(run.state, run, tried)
        error = run.error
    search = RankSearch(problem, run.state, error, modes=modes, caps=caps)
    with threads_for(problem.x):
        control.drive(search.sweeps(), run, search=True)
    return control.result(run.state, run, tried + tuple(search.tried))
