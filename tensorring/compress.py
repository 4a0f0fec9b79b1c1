"""Layer 6: the smallest of all formats at a prescribed error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from tensorring._array import Array
from tensorring.decompose import tr_reduced_storage, tt_svd, tucker_hosvd
from tensorring.decompose._arguments import checked_ranks, checked_tensor, checked_tol
from tensorring.decompose.stable.cp_stable import smallest_cp
from tensorring.tensors import Candidate, Decomposition, LowRankTensor, Stop

# (x, tol, numbers stored by the best so far) -> what a format comes to, or None where that would not be smaller.
_Method = Callable[[Array, float, float], Decomposition[Any] | None]
# The search for the rank of a CP is bounded by the flops of the trial of its highest rank.
_FLOPS, _FLOPS_A_TERM = 5e10, 600


def compress(x: Any, *, tol: float, formats: str | Sequence[str] | None = None) -> Decomposition[LowRankTensor]:
    """‖x − tensor‖ ≤ tol·‖x‖ with the fewest numbers stored: a train, a Tucker tensor, a ring or a CP, the smallest.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; never written to.
    tol
        Relative Frobenius error allowed, in [0, 1).
    formats
        Which to try: `"tt"`, `"tucker"`, `"tr"` (rings, and trains from every mode, refined by alternating least
        squares, see `tr_reduced_storage`), `"cp"` (of the smallest rank found, with terms that do not cancel, see
        `cp_stable`), one name or several. Default: all.

    Returns
    -------
    Decomposition
        The smallest that keeps `tol`; `.candidates` lists the one that each format came to; a CP only if it is the
        smallest, for its search ends where it could not be. Where even that stores more than x itself, it is returned
        all the same: see `.ratio`. If the user interrupts (KeyboardInterrupt) once a format is done, the best so far
        comes back, with `.stop` interrupted.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, for a tol that is missing or out of range, and for unknown formats.

    Notes
    -----
    Costs all methods, one after another; only the best result is held. Most of the time goes into the refinement of the
    ring and the search for the rank of the CP, whose sweeps are bounded (so that of large tensors only CPs of few terms
    are tried, unless `formats="cp"` asks for nothing else): leave `"tr"` and `"cp"` out of `formats`, or call
    `tr_reduced_storage` for its direct result, where that is too long.

    Examples
    --------
    >>> import tensorring as tg
    >>> x = tg.random.tucker((12, 12, 12), ranks=3, rng=0).to_dense()
    >>> result = tg.compress(x, tol=1e-8)
    >>> result.tensor
    TuckerTensor(shape=(12, 12, 12), ranks=(3, 3, 3), parameters=135, dtype=float64)
    >>> [candidate.format for candidate in result.candidates]
    ['tt', 'tucker', 'tr']
    """
    names = _checked_formats(formats)
    x = checked_tensor(x)
    checked_ranks(None, checked_tol(tol), x.ndim, "")
    best: Decomposition[Any] | None = None
    tried: list[Candidate] = []
    for name in names:
        try:
            result = _METHODS[name](x, tol, math.inf if best is None else best.tensor.parameter_count)
        except KeyboardInterrupt:
            if best is None:
                raise
            return replace(best, stop=Stop.interrupted, candidates=tuple(tried))
        if result is None:
            continue
        tensor = result.tensor
        tried.append(Candidate(tensor.format, tensor.ranks, tensor.parameter_count, result.error))
        if best is None or tensor.parameter_count < best.tensor.parameter_count:
            best = result
        if result.stop is Stop.interrupted:
            return replace(best, stop=Stop.interrupted, candidates=tuple(tried))
    assert best is not None
    return replace(best, candidates=tuple(tried))


def _cp(x: Array, tol: float, stored: float) -> Decomposition[Any] | None:
    """Of fewer numbers than the best so far; alone, whatever it stores."""
    if math.isinf(stored):
        return smallest_cp(x, tol=tol)
    most = min((int(stored) - 1) // (1 + sum(x.shape)), int(_FLOPS / (_FLOPS_A_TERM * math.prod(x.shape))))
    return smallest_cp(x, tol=tol, most=most) if most > 0 else None


# The simpler format first: it wins where two store the same.
_METHODS: dict[str, _Method] = {
    "tt": lambda x, tol, _: tt_svd(x, tol=tol),
    "tucker": lambda x, tol, _: tucker_hosvd(x, tol=tol),
    "tr": lambda x, tol, _: tr_reduced_storage(x, tol=tol, refine=True),
    "cp": _cp,
}


def _checked_formats(formats: Any) -> list[str]:
    known = ", ".join(repr(name) for name in _METHODS)
    if formats is None:
        return list(_METHODS)
    if not isinstance(formats, (str, Iterable)):
        raise TypeError(f"got formats={formats!r}; give one or several of {known}, or leave it out for all")
    names = [formats] if isinstance(formats, str) else list(formats)
    unknown = [name for name in names if name not in _METHODS]
    if unknown or not names:
        raise ValueError(f"got formats={formats!r}; give one or several of {known}, or leave it out for all")
    return [name for name in _METHODS if name in names]
