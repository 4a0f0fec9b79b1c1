"""Factor match: are two CP tensors the same, term by term?"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import numpy as np
import scipy.optimize

from tensorring.diagnostics.terms import Terms, terms_of
from tensorring.linalg.sizes import Values
from tensorring.tensors import CPTensor


@dataclass(frozen=True, repr=False)
class FactorMatch:
    """How well the terms of two CP tensors match.

    Parameters
    ----------
    score
        The mean of `scores`, over the terms of the CP that has more of them: in [0, 1], 1 for equal CPs.
    permutation
        For each term of the first CP, the term of the second that it is matched with, or None.
    scores
        For each term of the first CP, (1 − |λ_a − λ_b|/max(λ_a, λ_b))·Π_n |cos(a_n, b_n)|; 0 where there is no match.

    Examples
    --------
    >>> import tensorring as tg
    >>> t = tg.random.cp((4, 5, 6), rank=2, rng=0)
    >>> tg.factor_match(t, t)
    FactorMatch(score=1, permutation=(0, 1))
    """

    score: float
    permutation: tuple[int | None, ...]
    scores: tuple[float, ...]

    def __str__(self) -> str:
        """A small table: the worst matches are the last."""
        lines = [f"Factor match, score {self.score:.4f}", "  term  matched with  score"]
        pairs = sorted(enumerate(zip(self.permutation, self.scores, strict=True)), key=lambda row: -row[1][1])
        lines += [f"  {k:>4}  {'none' if other is None else other:>12}  {score:.4f}" for k, (other, score) in pairs]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """One line."""
        return f"FactorMatch(score={self.score:.4g}, permutation={self.permutation})"


def factor_match(a: CPTensor, b: CPTensor) -> FactorMatch:
    """Σ over matched terms of (1 − |λ_a − λ_b|/max)·Π_n |⟨a_n, b_n⟩| / max(R_a, R_b), for the best matching.

    λ is the norm of a term, a_n its column of mode n at unit norm. Blind to the order of the terms, to signs and
    phases, and to how a term's scale is shared out; the matching of largest sum is found exactly.

    Parameters
    ----------
    a, b
        Two CP tensors of one shape; ranks may differ, and then some terms have no match. They may lie in different
        libraries.

    Returns
    -------
    FactorMatch
        With the score, the matching and the score of each term. Phases are not compared: of two terms that differ by
        a sign the score is 1. Terms that are zero match each other, and nothing else.

    Raises
    ------
    TypeError
        If the two are not CP tensors.
    ValueError
        If the shapes differ.

    Notes
    -----
    Cost: d·n·R_a·R_b, and R³ for the matching.

    References
    ----------
    E. Acar, D. M. Dunlavy, T. G. Kolda, M. Mørup 2011, doi 10.1016/j.chemolab.2010.08.004, and `score` of the Tensor
    Toolbox, which divides by the number of terms of the second CP.

    Examples
    --------
    >>> import tensorring as tg
    >>> x = tg.random.cp((6, 7, 8), rank=3, rng=0)
    >>> found = tg.cp_als(x.to_dense(), rank=3, n_starts=5, rng=0).tensor
    >>> round(tg.factor_match(x, found).score, 4)
    1.0
    """
    for t in (a, b):
        if not isinstance(t, CPTensor):
            raise TypeError(f"got {type(t).__name__}; terms are matched between two CPTensors")
    if a.shape != b.shape:
        raise ValueError(f"got CP tensors of shapes {a.shape} and {b.shape}; the two must have one shape")
    table = _table(a, b)
    rows, columns = scipy.optimize.linear_sum_assignment(table, maximize=True)
    permutation: list[int | None] = [None] * a.rank
    scores = [0.0] * a.rank
    for k, other in zip(rows.tolist(), columns.tolist(), strict=True):
        permutation[k], scores[k] = other, float(table[k, other])
    return FactorMatch(sum(scores) / max(a.rank, b.rank), tuple(permutation), tuple(scores))


def _table(a: CPTensor, b: CPTensor) -> Values:
    """The score (R_a, R_b) of each pair of terms."""
    first, second = terms_of(a), terms_of(b)
    absent = [np.setdiff1d(np.arange(t.rank), terms.which) for t, terms in ((a, first), (b, second))]
    table = np.zeros((a.rank, b.rank))
    table[np.ix_(*absent)] = 1.0
    if first.rank and second.rank:
        table[np.ix_(first.which, second.which)] = _scores(first, second)
    return table


def _scores(a: Terms, b: Terms) -> Values:
    cosines = [np.abs(u.conj().T @ v) for u, v in zip(a.units, b.units, strict=True)]
    # 1 − |λ_a − λ_b|/max is the smaller size over the larger.
    up, down = a.sizes[:, None] / b.sizes[None, :], b.sizes[None, :] / a.sizes[:, None]
    scores: Values = functools.reduce(operator.mul, cosines) * np.minimum(up.values(), down.values())
    return np.minimum(scores, 1.0)
