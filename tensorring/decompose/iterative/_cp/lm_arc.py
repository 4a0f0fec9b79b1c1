"""Steps along an arc: the Taylor series of the path that a damped Gauss–Newton step only touches."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorring._array import Array, conj, namespace
from tensorring.decompose.iterative._cp.lm_step import Blocks, Curvature, Solver, inner

# Valleys bend: with the second and third order, steps along them are several times as long for three more solutions
# by the factorisation at hand. A term longer than this share of the one before says that the series does not converge.
_ORDER, _SHRINKS = 3, 0.4


def arc(curvature: Curvature, solve: Solver, descent: Blocks) -> tuple[Blocks, Blocks]:
    """(D¹, D¹ + D² + D³): the damped Gauss–Newton step, and where the path U(t) = U + Σ_p D^p·t^p is at t = 1.

    D¹ moves the model as the descent direction asks. D^p takes back, to first order, what the lower terms do at order
    t^p by being products. The second order is the geodesic acceleration of Transtrum & Sethna 2012
    (arXiv 1207.4999); since the model is multilinear, all orders follow from Gram matrices, without x.
    """
    terms: list[Sequence[Array]] = [curvature.factors, solve(descent)]
    size = _norm(terms[1])
    grams = [[gram] for gram in curvature.grams]
    for order in range(2, _ORDER + 1):
        for own, factor, term in zip(grams, curvature.factors, terms[-1], strict=True):
            own.append(term.T @ conj(factor))
        found = solve(_bend(terms, grams, order))
        before, size = size, _norm(found)
        # Not >, or NaN would pass.
        if not size <= _SHRINKS * before:
            break
        terms.append(found)
    return list(terms[1]), [sum(parts[1:], parts[0]) for parts in zip(*terms[1:], strict=True)]


def _bend(terms: Sequence[Sequence[Array]], grams: Sequence[Sequence[Array]], order: int) -> Blocks:
    """−Jᴴ·T, T the coefficient of t^order in the model along the terms so far."""
    xp = namespace(*grams[0])
    series = [xp.stack([*own, xp.zeros_like(own[0])]) for own in grams]
    blocks = []
    for mode in range(len(series)):
        others = None
        for m, own in enumerate(series):
            if m != mode:
                others = own if others is None else _multiplied(others, own)
        if others is None:
            blocks.append(0.0 * terms[1][mode])
            continue
        parts = [terms[p][mode] @ others[order - p, :, :] for p in range(order)]
        blocks.append(-sum(parts[1:], parts[0]))
    return blocks


def _multiplied(a: Array, b: Array) -> Array:
    """The product of two polynomials of Hadamard products, up to their order: (p, R, R) each, constants first."""
    product = a * b[0, :, :]
    for shift in range(1, b.shape[0]):
        product[shift:, :, :] += a[: a.shape[0] - shift, :, :] * b[shift, :, :]
    return product


def _norm(blocks: Sequence[Array]) -> float:
    return math.sqrt(float(inner(list(blocks), list(blocks))))
