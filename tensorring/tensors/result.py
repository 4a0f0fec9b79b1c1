"""What a decomposition returns: one type, whatever the method and its options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from tensorring.tensors.low_rank import LowRankTensor

T_co = TypeVar("T_co", bound=LowRankTensor, covariant=True)


class Stop(StrEnum):
    """Why a decomposition ended. `stop.help` says in a sentence what that means and what to do.

    Examples
    --------
    >>> import tensorring as tg
    >>> tg.Stop.stall.help
    'The error no longer changed: more sweeps would not help, higher ranks or another start may.'
    """

    help: str

    def __new__(cls, value: str, help: str) -> Stop:
        """A member with its sentence of help."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.help = help
        return member

    direct = "direct", "A direct method: it ends by itself, without sweeps."
    tol = "tol", "The tolerance is kept."
    stall = (
        "stall",
        "The error no longer changed: more sweeps would not help, higher ranks or another start may.",
    )
    max_sweeps = "max_sweeps", "The sweeps allowed were used up: allow more, or start from this result."
    budget = "budget", "The evaluations or the time allowed were used up: allow more, or accept this result."
    border_rank = (
        "border_rank",
        "No best approximation of this rank exists, and terms that cancel grow without end: try rank + 1.",
    )
    interrupted = "interrupted", "Interrupted by the user: this is the best result so far."


@dataclass(frozen=True)
class Candidate:
    """One format, or one set of ranks, that a search tried.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> result = tg.compress(np.ones((4, 5, 6)), tol=0.1)
    >>> min(candidate.parameter_count for candidate in result.candidates) == result.tensor.parameter_count
    True
    """

    format: str
    ranks: tuple[int, ...]
    parameter_count: int
    error: float


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition(Generic[T_co]):
    """The result of every decomposition: a low-rank tensor and the relative error that it really makes.

    Parameters
    ----------
    tensor
        The low-rank tensor.
    error
        Its relative error in the norm of the call: Frobenius unless a mask or metric was given.
    converged
        The tolerance was kept; with ranks alone, the method ended by itself.
    stop
        Why it ended.
    errors
        The relative error after each sweep of the start that won; empty for direct methods.
    candidates
        What a search tried.
    estimated
        True where the error was measured on samples rather than on all entries.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> result = tg.tt_svd(np.ones((4, 5, 6)), tol=1e-10)
    >>> result.tensor.ranks, result.ratio
    ((1, 1), 8.0)
    """

    tensor: T_co
    error: float
    converged: bool
    stop: Stop
    errors: tuple[float, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    estimated: bool = False

    @property
    def ratio(self) -> float:
        """How many times smaller: entries of the dense tensor over numbers stored."""
        return math.prod(self.tensor.shape) / self.tensor.parameter_count

    def __str__(self) -> str:
        """A small table."""
        t, estimated = self.tensor, " (estimated)" if self.estimated else ""
        kept = "converged" if self.converged else "not converged"
        lines = [
            f"{type(t).__name__} of shape {' × '.join(map(str, t.shape))}",
            f"  ranks       {', '.join(map(str, t.ranks)) or '(none)'}",
            f"  parameters  {t.parameter_count:,} ({self.ratio:.3g} × smaller)",
            f"  error       {self.error:.4g}{estimated}, {kept}",
            f"  stop        {self.stop}: {self.stop.help}",
        ]
        if self.candidates:
            lines.append("  tried       format  parameters  error   ranks")
            lines += [
                f"              {c.format:<7} {c.parameter_count:>10,}  {c.error:<7.3g} {c.ranks}"
                for c in self.candidates
            ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """One line."""
        return (
            f"Decomposition({self.tensor!r}, error={self.error:.4g}, converged={self.converged}, "
            f"stop={self.stop.value})"
        )
