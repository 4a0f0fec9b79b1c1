"""Block terms by alternating least squares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tensorring._array import Array, contiguous, copy, is_complex, namespace
from tensorring.algebra.error import relative_error
from tensorring.contract.first_level import threads_for
from tensorring.decompose._arguments import Problem, checked_ranks, prepare
from tensorring.decompose._sweeps import Callback, Control, Start, checked_count
from tensorring.decompose.iterative._btd.starts import checked_init, starts
from tensorring.decompose.iterative._btd.sweep import Terms, sweeps
from tensorring.decompose.iterative._tucker.engine import feasible
from tensorring.tensors import BlockTermTensor, Decomposition
from tensorring.tensors.low_rank import checked_modes


def btd_als(  # noqa: PLR0913 - six of them are those of every method
    x: Any,
    *,
    terms: int,
    ranks: int | Sequence[int | None],
    modes: int | Iterable[int] | None = None,
    tol: float | None = None,
    ridge: float = 0.0,
    stall: float = 1e-8,
    max_sweeps: int = 500,
    init: BlockTermTensor | str = "svd",
    n_starts: int = 1,
    rng: Any = None,
    callback: Callback | None = None,
) -> Decomposition[BlockTermTensor]:
    """min ‖x − Σ_r T_r‖² + ridge·Σ_r ‖T_r‖² over sums of `terms` Tucker terms T_r = core_r ×_k U_{r,k} of given ranks.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; real or complex; never written to.
    terms
        R, how many; lowered to what reaches every tensor of this shape.
    ranks
        (L, M, …): the multilinear ranks of each term, one for each of `modes`; an int for all, None for no cap. Lowered
        where no core can use them.
    modes
        Those that have factors, ascending; the others are whole in the cores. Default: all. For a convolution kernel
        (O, I, h, w), (0, 1) is the form of 1×1, grouped h×w, 1×1 convolutions.
    tol
        Relative Frobenius error at which to stop, in [0, 1), the ridge counted in. Without it: sweeps until the error
        stalls.
    ridge
        At least 0. Keeps terms from growing and cancelling: Σ_r ‖T_r‖² ≤ ‖x‖²/ridge, so that a best fit exists; 1e-3
        costs little error and often saves sweeps.
    stall
        Sweeps end when one takes off less than this share of the error; 0: never for that reason.
    max_sweeps
        Updates of every factor and of the cores allowed, for each start.
    init
        "svd": the HOSVD of x at the ranks of one term, then that of what it left, and so on; "random"; or a
        `BlockTermTensor`, whose factors count.
    n_starts
        How many starts, of which the best is kept; all but the first are random.
    rng
        Seed or generator of the random starts (SPEC 7); the same seed gives the same result.
    callback
        Called as callback(sweep, error) after each sweep, with the best error so far; a true value ends the run.
        `tg.progress()` draws a bar.

    Returns
    -------
    Decomposition
        `.tensor` a `BlockTermTensor` whose factors have orthonormal columns, in the dtype of x (integers: float64; half
        precision: float32); `.error` the relative error, without the ridge; `.errors` after each sweep, never rising:
        with a ridge the root of what is minimised, over ‖x‖, but for the last.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, and for arguments out of range, each with the rule and the way out.

    Notes
    -----
    The factors of one mode are found for all terms at once, and so are the cores, up to 2,048 unknowns R·ΠL (above, one
    term after another). The best fit is not promised: of random starts on exact block terms between a quarter and four
    fifths find them in 500 sweeps (use `n_starts`), sweeps may be slow, and without `ridge`, where no best fit exists,
    terms grow and cancel.

    With one term this is `tucker_hooi`, with ranks of 1 `cp_als`, both more slowly. Essentially unique (up to the order
    of the terms and the bases of each) under the conditions of the reference, which ranks that are too large break.

    Cost of a sweep: for each mode 4·Πn·R·L flops and (R·L)³/3, for the cores 2·Πn·R·L and (R·ΠL)³/3. Memory beyond x:
    for each mode in turn R·L/n of x (in double precision) and one copy of x. The result's error is measured from the
    residual. Interrupting (Ctrl-C) returns the best so far.

    References
    ----------
    L. De Lathauwer 2008, "Decompositions of a higher-order tensor in block terms, part II: definitions and uniqueness",
    doi 10.1137/070690729; L. De Lathauwer, D. Nion 2008, part III, "Alternating least squares algorithms", doi
    10.1137/070690730.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> x = tg.random.btd((8, 9, 10), terms=2, ranks=(2, 2, 3), rng=0).to_dense()
    >>> result = tg.btd_als(x, terms=2, ranks=(2, 2, 3), tol=1e-8, n_starts=5, rng=0)
    >>> result.tensor, result.stop.value, result.error < 1e-8
    (BlockTermTensor(shape=(8, 9, 10), ranks=(2, 2, 2, 3), parameters=152, dtype=float64), 'tol', True)

    A convolution kernel, its pixels whole, with a ridge, from random factors, watched; and taken further:

    >>> kernel, seen = np.random.default_rng(0).standard_normal((16, 8, 3, 3)), []
    >>> rough = tg.btd_als(
    ...     kernel, terms=3, ranks=(4, 2), modes=(0, 1), ridge=1e-3, init="random", rng=0, stall=1e-3, max_sweeps=20,
    ...     callback=lambda sweep, error: seen.append(error),
    ... )
    >>> fine = tg.btd_als(kernel, terms=3, ranks=(4, 2), modes=(0, 1), init=rough.tensor)
    >>> fine.tensor.ranks, fine.error <= rough.error, len(seen)
    ((3, 4, 2, 3, 3), True, 20)
    """
    problem = prepare(x, tol=tol)
    d = len(problem.shape)
    chosen = tuple(range(d)) if modes is None else checked_modes(modes, d)
    caps = checked_ranks(ranks, None, len(chosen), "the multilinear ranks of a term, one for each mode with factors")
    ridge, count = _checked_ridge(ridge), checked_count(n_starts, "n_starts")
    merged = _merged(problem, chosen)
    wanted = _lowered(checked_count(terms, "terms"), caps, tuple(merged.shape), empty=problem.norm == 0.0)
    init = checked_init(init, problem.x, chosen, wanted)
    exact = partial(_measured, problem, chosen)
    control: Control[Terms] = Control(problem, stall=stall, max_sweeps=max_sweeps, callback=callback, exact=exact)
    if problem.norm == 0.0:
        return problem.result(_tensor(problem, chosen, _zeros(merged)), 0.0)
    with threads_for(problem.x):
        begins = [_start(merged, problem.norm, make, ridge) for make in starts(merged, wanted, init, count, rng)]
        run = control.best_of(begins)
        return control.result(_tensor(problem, chosen, run.state), run)


def _merged(problem: Problem, modes: tuple[int, ...]) -> Array:
    """x with the modes that have factors first, and all others as one, the last: (n_1, …, n_m, s)."""
    xp, shape = namespace(problem.x), problem.shape
    order = (*modes, *_whole(shape, modes))
    x = problem.x if order == tuple(range(len(shape))) else contiguous(xp.permute_dims(problem.x, order))
    return xp.reshape(x, (*(shape[mode] for mode in modes), math.prod(shape[k] for k in _whole(shape, modes))))


def _whole(shape: Sequence[int], modes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k for k in range(len(shape)) if k not in modes)


def _lowered(terms: int, caps: Sequence[int | None], shape: tuple[int, ...], *, empty: bool) -> tuple[int, ...]:
    """(R, L_1, …, L_m) without what no sum of terms can use; all 1 for a zero tensor."""
    if empty:
        return (1,) * len(shape)
    *sizes, rest = shape
    wanted = [n if cap is None else cap for n, cap in zip(sizes, caps, strict=True)]
    ranks = feasible((*wanted, rest), shape, range(len(sizes)))[:-1]
    return (min(terms, _enough(sizes, ranks, rest)), *ranks)


def _enough(sizes: Sequence[int], ranks: Sequence[int], rest: int) -> int:
    """So many terms reach every tensor: blocks of L_k indices in all modes but one, and what they span in that one."""
    counts = []
    for mode, (n, rank) in enumerate(zip(sizes, ranks, strict=True)):
        others = [(size, r) for k, (size, r) in enumerate(zip(sizes, ranks, strict=True)) if k != mode]
        spanned = min(n, rest * math.prod(r for _, r in others))
        counts.append(-(-spanned // rank) * math.prod(-(-size // r) for size, r in others))
    return min(counts)


def _start(x: Array, norm: float, make: Any, ridge: float) -> Start[Terms]:
    def start() -> tuple[Terms, Any]:
        factors = make()
        return _zeros(x), sweeps(x, norm, factors, ridge)

    return start


def _zeros(x: Array) -> Terms:
    """One term of ranks 1 that is zero."""
    xp, (*sizes, rest) = namespace(x), x.shape
    cores = xp.zeros((1,) * len(x.shape) + (rest,), dtype=x.dtype, device=x.device)
    return Terms(cores, tuple(xp.zeros((1, n, 1), dtype=x.dtype, device=x.device) for n in sizes))


def _tensor(problem: Problem, modes: tuple[int, ...], terms: Terms) -> BlockTermTensor:
    """The terms as a tensor of the modes of x, in their order, every array in memory of its own."""
    xp, cores, shape = namespace(terms.cores), terms.cores, problem.shape
    whole = _whole(shape, modes)
    cores = xp.reshape(cores, (*cores.shape[:-1], *(shape[k] for k in whole)))
    order = (*modes, *whole)
    cores = xp.permute_dims(cores, (0, *(1 + order.index(mode) for mode in range(len(shape)))))
    return BlockTermTensor(copy(cores), tuple(copy(factor) for factor in terms.factors), modes)


def _measured(problem: Problem, modes: tuple[int, ...], terms: Terms, _: float) -> float:
    """From the residual, in double precision: terms that cancel are far larger than what they leave."""
    tensor = _tensor(problem, modes, terms)
    return relative_error(problem.x, tensor.astype("complex128" if is_complex(problem.x) else "float64"))


def _checked_ridge(ridge: Any) -> float:
    if isinstance(ridge, bool) or not isinstance(ridge, (int, float, np.number)) or not 0 <= ridge < math.inf:
        raise ValueError(f"got ridge={ridge!r}; it is a finite number of at least 0: 1e-3 keeps terms from cancelling")
    return float(ridge)
