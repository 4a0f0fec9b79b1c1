"""Degeneracy: parts of a low-rank tensor that are large and cancel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tensorring._array import namespace
from tensorring.contract.surroundings import ring_norm, ring_norms, tucker_norms
from tensorring.diagnostics.condition import condition_number
from tensorring.diagnostics.terms import gram_condition, least_cosine, norm_of, terms_of, weight_spread
from tensorring.diagnostics.verdict import verdict_of
from tensorring.linalg.sizes import Sizes, column_norms, norm
from tensorring.tensors import CPTensor, CutTensor, LowRankTensor, TRTensor, TTTensor, TuckerTensor


@dataclass(frozen=True, repr=False)
class Degeneracy:
    """What `degeneracy` found. No number is NaN; None: not defined for the format, or for a single term.

    Parameters
    ----------
    format
        Of the tensor: `"cp"`, `"tucker"`, `"tt"`, `"tr"` or `"cut"`.
    norm_ratio
        CP: ‖λ‖/‖x‖, λ being the norms of the terms. Other formats: the most by which relative noise on one array is
        amplified in the tensor, √(‖array‖²·ss/entries)/‖x‖ with ss the array's share of the sensitivity; for cores of a
        chain that is ‖core‖·‖subchain‖/(√(both bonds)·‖x‖). Rings: also ‖open chain‖/(√bond·‖x‖) for the ring cut open
        at each bond, the chain being what the closing trace sums over. About 1 where nothing cancels, whatever the
        ranks, and less where parts add up (1/√R at least, for CP).
    sensitivity
        That of the balanced tensor over that of a balanced rank-one tensor of the same shape, format and norm: 1 for
        one term, R^{1/d} for R orthogonal terms of one size, and growing with ‖λ‖/‖x‖ to the power of 2(d−1)/d.
    weight_spread
        CP: λ_max/λ_min of the terms that are not zero.
    cosine, pair
        CP: the least cosine between two terms (the real part of the product over the modes of those between columns,
        times the phases of the weights), and which two: near −1 they cancel.
    gram_condition
        CP: the condition number of the worst Γ_n, the Hadamard product of the other modes' Gram matrices of unit
        columns, which alternating least squares meets.
    condition
        CP: that of the decomposition itself: small changes of the tensor move its terms by at most so many times as
        much. None also where it would take too long: then `gram_condition` is a hint.
    verdict
        In words: zero, healthy, mild or degenerate, and what to do.

    Examples
    --------
    >>> import tensorring as tg
    >>> report = tg.degeneracy(tg.random.cp((4, 5, 6), rank=1, rng=0))
    >>> round(report.norm_ratio, 12), round(report.condition, 12), report.pair
    (1.0, 1.0, None)
    """

    format: str
    norm_ratio: float
    sensitivity: float
    weight_spread: float | None = None
    cosine: float | None = None
    pair: tuple[int, int] | None = None
    gram_condition: float | None = None
    condition: float | None = None
    verdict: str = ""

    def __str__(self) -> str:
        """A small table."""
        meaning = "‖λ‖/‖x‖" if self.format == "cp" else "amplification of noise on one array"
        lines = [
            f"Degeneracy of a tensor of format {self.format}",
            f"  norm ratio      {self.norm_ratio:<10.4g} {meaning}",
            f"  sensitivity     {self.sensitivity:<10.4g} balanced, in units of one term of the same norm",
        ]
        if self.weight_spread is not None:
            lines.append(f"  weight spread   {self.weight_spread:<10.4g} λ_max/λ_min")
        if self.cosine is not None and self.pair is not None:
            lines.append(f"  least cosine    {self.cosine:<10.4g} terms {self.pair[0]} and {self.pair[1]}")
        if self.gram_condition is not None:
            lines.append(f"  Gram condition  {self.gram_condition:<10.4g} of the worst normal equations")
            shown = "too large" if self.condition is None else f"{self.condition:.4g}"
            note = "not computed" if self.condition is None else "of the terms"
            lines.append(f"  condition       {shown:<10} {note}")
        return "\n".join([*lines, f"  verdict         {self.verdict}"])

    def __repr__(self) -> str:
        """One line."""
        word = self.verdict.split(":")[0]
        return f"Degeneracy({self.format}, norm_ratio={self.norm_ratio:.4g}, {word})"


def degeneracy(t: LowRankTensor) -> Degeneracy:
    """A report: how large the parts of a low-rank tensor are beside what they add up to, and which of them cancel.

    Parameters
    ----------
    t
        A low-rank tensor: CP, Tucker, train, ring or cut.

    Returns
    -------
    Degeneracy
        Small and frozen; `str` is a table. A tensor all of whose parts multiply to zero has ratio 1 and no pair; one
        whose parts cancel to zero has an infinite ratio.

    Raises
    ------
    TypeError
        If `t` is no low-rank tensor of these formats.

    Notes
    -----
    CP can be degenerate at any shape with three modes or more, and so can rings: the tensors of a given rank are not a
    closed set, and a fit that approaches a limit outside has terms that grow without end and cancel (de Silva & Lim
    2008). Tucker tensors, trains and cuts are closed; what their ratio shows is a bad gauge, which can be taken away.
    Norms come from QR decompositions, so that ratios up to 1/eps are right; for rings of n·r_0²·r² > 2^24, to 10^7.

    Cost of CP: d·n·R³ and the condition number, rows·columns² of Terracini's matrix, at most 2·10^9;
    beyond that it is None. Others: that of `sensitivity` and d·n·(r_0·r)³.

    References
    ----------
    V. de Silva, L.-H. Lim 2008, "Tensor rank and the ill-posedness of the best low-rank approximation problem", doi
    10.1137/06066518X. A.-H. Phan, P. Tichavský, A. Cichocki 2019, arXiv 1709.08349. N. Vannieuwenhoven 2017, doi
    10.1016/j.laa.2017.08.014. A.-H. Phan et al. 2022, arXiv 2203.02617, for rings.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> a, b = np.eye(2)[:, 0], np.eye(2)[:, 1]
    >>> u = np.stack([a + 0.01 * b, a], axis=1)
    >>> print(tg.degeneracy(tg.CPTensor([100.0, -100.0], [u, u, u])))
    Degeneracy of a tensor of format cp
      norm ratio      81.65      ‖λ‖/‖x‖
      sensitivity     446.3      balanced, in units of one term of the same norm
      weight spread   1          λ_max/λ_min
      least cosine    -0.9999    terms 0 and 1
      Gram condition  2e+04      of the worst normal equations
      condition       2.829e+06  of the terms
      verdict         degenerate: terms 0 and 1 cancel, at a norm ratio of 81.7; ...
    """
    if isinstance(t, CPTensor):
        return _of_cp(t)
    numbers = _NUMBERS.get(type(t))
    if numbers is None:
        known = ", ".join(kind.__name__ for kind in (CPTensor, *_NUMBERS))
        raise TypeError(f"got {type(t).__name__}; degeneracy is that of a low-rank tensor: {known}")
    whole, shares, least, order = numbers(t)
    ratio = max(_ratio(share.root(2), whole) for share in shares)
    sensitivity = _ratio(least, whole.power(2 * order[0]).root(order[1]))
    verdict = _ZERO if whole.mantissas == 0 and ratio <= 1 else verdict_of(t.format, ratio, None, None, None)
    return Degeneracy(t.format, ratio, sensitivity, verdict=verdict)


_ZERO = "zero: there is nothing to cancel"


def _of_cp(t: CPTensor) -> Degeneracy:
    terms = terms_of(t)
    if terms.rank == 0:
        return Degeneracy("cp", 1.0, 1.0, 1.0, gram_condition=1.0, condition=1.0, verdict=_ZERO)
    whole, power = norm_of(terms), 2 * (t.ndim - 1)
    ratio = _ratio(terms.sizes.power(2).sum().root(2), whole)
    cosine, pair = least_cosine(terms)
    condition = condition_number(terms)
    return Degeneracy(
        format="cp",
        norm_ratio=ratio,
        sensitivity=_ratio(terms.sizes.power(power).root(t.ndim).sum(), whole.power(power).root(t.ndim)),
        weight_spread=weight_spread(terms),
        cosine=cosine,
        pair=pair,
        gram_condition=gram_condition(terms),
        condition=condition,
        verdict=verdict_of("cp", ratio, cosine, pair, condition),
    )


# ‖x‖; ‖array‖²·ss/entries of each array; the balanced sensitivity over that of one term of norm 1; its power of ‖x‖.
Numbers = tuple[Sizes, list[Sizes], Sizes, tuple[int, int]]


def _of_tucker(t: TuckerTensor) -> Numbers:
    norms = tucker_norms(t.core, t.factors)
    columns = [v.sum() for v in norms.columns]
    shares = [norm(t.core).power(2) * Sizes.stack(columns).product() / _size(*t.ranks)]
    shares += [v * g.sum() / _size(r) for v, g, r in zip(columns, norms.slices, t.ranks, strict=True)]
    parts = [(g * v).root(2).sum().power(2) for g, v in zip(norms.slices, norms.columns, strict=True)]
    least = Sizes.stack(parts).product().root(t.ndim + 1)
    return norms.whole.root(2), shares, least, (t.ndim, t.ndim + 1)


def _of_chain(t: TTTensor | TRTensor) -> Numbers:
    norms = ring_norms(t.cores)
    shares = [
        norm(core).power(2) * norms.subchains[n] / _size(core.shape[0], core.shape[2]) for n, core in enumerate(t.cores)
    ]
    if isinstance(t, TRTensor):
        shares += [norms.chains[n] / _size(core.shape[0]) for n, core in enumerate(t.cores)]
    least = norms.subchains.product().root(t.ndim)
    return ring_norm(t.cores), shares, least, (t.ndim - 1, t.ndim)


def _of_cut(t: CutTensor) -> Numbers:
    xp, bond = namespace(*t.arrays), t.ranks[0]
    left, right = xp.reshape(t.left, (1, -1, bond)), xp.reshape(t.right, (bond, -1, 1))
    share = norm(left).power(2) * norm(right).power(2) / _size(bond)
    least = (column_norms(left[0, :, :]) * column_norms(right[:, :, 0].T)).sum()
    return ring_norm([left, right]), [share], least, (1, 2)


def _size(*lengths: int) -> Sizes:
    return Sizes.of(float(math.prod(lengths)))


def _ratio(part: Sizes, whole: Sizes) -> float:
    """part / whole: infinite where only the whole is zero, 1 where there is neither."""
    if whole.mantissas > 0:
        return float(part / whole)
    return math.inf if part.mantissas > 0 else 1.0


_NUMBERS: dict[type, Any] = {
    TuckerTensor: _of_tucker,
    TTTensor: _of_chain,
    TRTensor: _of_chain,
    CutTensor: _of_cut,
}
