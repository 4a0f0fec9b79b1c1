"""Layer 6: the smallest of all formats at a prescribed error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tensorring.decompose import tr_reduced_storage, tt_svd, tucker_hosvd
from tensorring.decompose._arguments import checked_ranks, checked_tensor, checked_tol
from tensorring.tensors import Candidate, Decomposition, LowRankTensor, Stop

# The simpler format first: it wins where two store the same.
_METHODS: dict[str, Callable[..., Decomposition[Any]]] = {
    "tt": tt_svd,
    "tucker": tucker_hosvd,
    "tr": partial(tr_reduced_storage, refine=True),
}


def compress(x: Any, *, tol: float, formats: str | Sequence[str] | None = None) -> Decomposition[LowRankTensor]:
    """‖x − tensor‖ ≤ tol·‖x‖ with the fewest numbers stored: a train, a Tucker tensor or a ring, whichever is smallest.

    Parameters
    ----------
    x
        Array of d modes: NumPy, CuPy or another array API library; never written to.
    tol
        Relative Frobenius error allowed, in [0, 1).
    formats
        Which to try: `"tt"`, `"tucker"`, `"tr"` (rings and trains from every mode, refined by
        alternating least squares, see `tr_reduced_storage`), one name
        or several. Default: all.

    Returns
    -------
    Decomposition
        The smallest that keeps `tol`; `.candidates` lists the one that each format came to. Where even that stores more
        than x itself, it is returned all the same: see `.ratio`. If the user interrupts (KeyboardInterrupt) once a
        format is done, the best so far comes back, with `.stop` interrupted.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, for a tol that is missing or out of range, and for unknown formats.

    Notes
    -----
    Costs all methods, one after another; only the best result is held. Most of the time goes into the refinement of the
    ring, whose sweeps are bounded: leave `"tr"` out of `formats`, or call `tr_reduced_storage` for its direct result,
    where that is too long.

    Examples
    --------
    >>> import tensorring as tg
    >>> x = tg.random.tucker((12, 12, 12), ranks=2, rng=0).to_dense()
    >>> result = tg.compress(x, tol=1e-8)
    >>> result.tensor
    TuckerTensor(shape=(12, 12, 12), ranks=(2, 2, 2), parameters=80, dtype=float64)
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
            result = _METHODS[name](x, tol=tol)
        except KeyboardInterrupt:
            if best is None:
                raise
            return replace(best, stop=Stop.interrupted, candidates=tuple(tried))
        tensor = result.tensor
        tried.append(Candidate(tensor.format, tensor.ranks, tensor.parameter_count, result.error))
        if best is None or tensor.parameter_count < best.tensor.parameter_count:
            best = result
        if result.stop is Stop.interrupted:
            return replace(best, stop=Stop.interrupted, candidates=tuple(tried))
    assert best is not None
    return replace(best, candidates=tuple(tried))


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
