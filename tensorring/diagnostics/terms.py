"""The terms of a CP one by one: unit columns, sizes, phases; how they stand to each other, the norm of their sum."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tensorring._array import eps, to_host, triangle
from tensorring.linalg.sizes import Sizes, Values, column_norms
from tensorring.tensors import CPTensor


class Terms(NamedTuple):
    """Those of its terms that are not zero: x = Σ_r size_r · phase_r · ⊗_n units[n][:, r], on the host, in double.

    `units`: (n_k, R); `sizes`, `phases`: (R,); `which`: (R,), which terms of the CP they are.
    """

    units: list[Values]
    sizes: Sizes
    phases: Values
    which: Values

    @property
    def rank(self) -> int:
        """How many terms are not zero."""
        return len(self.which)


def terms_of(t: CPTensor) -> Terms:
    """The terms of a CP that are not zero, in their order."""
    norms = [column_norms(factor) for factor in t.factors]
    weights = column_norms(t.weights[None, :])
    sizes = functools.reduce(operator.mul, norms, weights)
    index = np.flatnonzero(sizes.mantissas)
    one = Sizes.of(np.ones(len(index)))
    wide = "complex128" if "complex" in str(to_host(t.weights).dtype) else "float64"
    phases = (one / weights[index]).times(to_host(t.weights).astype(wide)[index])
    units = []
    for factor, size in zip(t.factors, norms, strict=True):
        host = to_host(factor)
        host = host.astype("complex128" if np.iscomplexobj(host) else "float64")[:, index]
        units.append((one / size[index]).times(host))
    return Terms(units, sizes[index], phases, index)


def norm_of(terms: Terms) -> Sizes:
    """‖Σ terms‖_F with all digits, by a chain of QR decompositions: a Gram matrix would lose half of them.

    Cost: 2·n·R³ a mode for R < n, less where the modes before hold fewer than R entries.
    """
    if terms.rank == 0:
        return Sizes.of(0.0)
    top = int(np.max(terms.sizes.exponents))
    weights = Sizes(terms.sizes.mantissas, terms.sizes.exponents - top).values() * terms.phases
    *first, last = sorted(terms.units, key=len)
    state = np.ones((1, terms.rank))
    for units in first:
        state = (state[:, None, :] * units).reshape(-1, terms.rank)
        if state.shape[0] > terms.rank:
            state = triangle(state)
    return Sizes.of(np.linalg.norm((state * weights) @ last.T), top)


def least_cosine(terms: Terms) -> tuple[float, tuple[int, int]] | tuple[None, None]:
    """min over pairs of Re⟨term_k, term_l⟩ / (‖term_k‖·‖term_l‖), and the pair; None below two terms.

    −1: the two cancel but for their sizes; 0: orthogonal; 1: parallel, all pairs being so.
    """
    if terms.rank < 2:
        return None, None
    cosines = functools.reduce(operator.mul, [u.conj().T @ u for u in terms.units])
    cosines = (terms.phases.conj()[:, None] * cosines * terms.phases).real
    rows, columns = np.triu_indices(terms.rank, 1)
    worst = int(np.argmin(cosines[rows, columns]))
    pair = (int(terms.which[rows[worst]]), int(terms.which[columns[worst]]))
    return float(np.clip(cosines[rows, columns][worst], -1.0, 1.0)), pair


def gram_condition(terms: Terms) -> float:
    """max_n cond(Γ_n), Γ_n the Hadamard product of the other modes' Gram matrices of unit columns.

    What the normal equations of alternating least squares meet. Infinite where a Γ_n is singular to rounding.
    """
    if terms.rank < 2:
        return 1.0
    grams = [u.conj().T @ u for u in terms.units]
    worst = 1.0
    for n in range(len(grams)):
        others = [gram for m, gram in enumerate(grams) if m != n]
        values = np.linalg.eigvalsh(functools.reduce(operator.mul, others, np.ones((terms.rank, terms.rank))))
        floor = terms.rank * eps("float64") * values[-1]
        worst = max(worst, math.inf if values[0] <= floor else float(values[-1] / values[0]))
    return worst


def weight_spread(terms: Terms) -> float:
    """λ_max/λ_min over the terms that are not zero; 1 where there are none."""
    if terms.rank == 0:
        return 1.0
    sizes = terms.sizes
    order = np.lexsort((sizes.mantissas, sizes.exponents))
    return float(sizes[order[-1]] / sizes[order[0]])


def compressed(units: Sequence[Values]) -> list[Values]:
    """The unit columns in bases of their own span: (n, R) -> (min(n, R), R), by QR. Every angle stays."""
    return [triangle(u) if u.shape[0] > u.shape[1] else u for u in units]
