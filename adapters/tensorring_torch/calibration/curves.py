"""For each layer the forms that it might take, what each costs, and the harm it is predicted to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

import tensorring as tg
from tensorring_torch.calibration.fits import Form, Ranks, Target, fewer_terms
from tensorring_torch.chain import Chain, Use

# Shares of the kernel's entries at which forms are fitted, by so many iterations; between them scores are interpolated.
_SHARES = (0.65, 0.38, 0.21, 0.105, 0.05, 0.025)
_BETWEEN, _SWEEPS = 8, 60
# Kernels with more entries are fitted at every other share: each fit takes long.
_LARGE = 200_000


@dataclass(frozen=True)
class Option:
    """A form that a layer might take; None: it stays dense. Costs are those of its weights."""

    form: Form | None
    ranks: Ranks
    score: float
    parameters: int
    macs: int
    begin: tuple[tg.LowRankTensor, ...] = ()

    @property
    def is_fitted(self) -> bool:
        """Whether `begin` is the fit itself, and not one of higher ranks to start from."""
        return bool(self.begin) and tuple(self.begin[0].ranks[: len(self.ranks)]) == self.ranks

    def blank(self, use: Use) -> Chain | None:
        """A chain of zeros with these ranks: what is counted and timed."""
        return None if self.form is None else _blank(self.form, use, self.ranks)


def options(
    use: Use, forms: Sequence[Form], targets: Sequence[Target], scored: Sequence[Target], *, lanes: int = 1
) -> list[Option]:
    """Dense first, then each form at ever fewer parameters.

    Parameters
    ----------
    use
        The layer's geometry and calls.
    forms
        Those to try.
    targets, scored
        For each group its kernel with the norm of the fit, and with the norm whose square is the score.
    lanes
        Ranks above this are multiples of it: others take as long as the next one.
    """
    plan = use.dense_plan
    found = [Option(None, (), 0.0, plan.parameters, plan.multiply_adds(use.calls))]
    for form in forms:
        fitted = list(_fitted(use, form, targets, scored, lanes))
        found += fitted
        for more, fewer in pairwise(fitted):
            found += _between(use, form, more, fewer, lanes)
    return found


def _fitted(use: Use, form: Form, targets: Sequence[Target], scored: Sequence[Target], lanes: int) -> Iterator[Option]:
    """From the largest share downwards, each fit beginning at the one before."""
    shape, before, tried = targets[0].kernel.shape, None, set()
    for share in _SHARES[::2] if targets[0].kernel.size > _LARGE else _SHARES:
        ranks = _in_lanes(form.ranks(shape, share), lanes)
        if ranks in tried:
            continue
        tried.add(ranks)
        chain = _blank(form, use, ranks)
        parameters, macs = chain.plan.parameters, chain.plan.multiply_adds(use.calls)
        if parameters >= use.dense_plan.parameters and macs >= use.dense_plan.multiply_adds(use.calls):
            continue
        begin: Sequence[Any] = before or [None] * len(targets)
        starts = [fewer_terms(start, ranks) for start in begin]
        before = [
            start if start is not None and form.nested(target) else form.fit(target, ranks, start, _SWEEPS)
            for target, start in zip(targets, starts, strict=True)
        ]
        score = sum(each.error(fit) for each, fit in zip(scored, before, strict=True))
        yield Option(form, ranks, score, parameters, macs, tuple(before))


def _in_lanes(ranks: Ranks, lanes: int) -> Ranks:
    return tuple(rank if rank < lanes else rank // lanes * lanes for rank in ranks)


def _between(use: Use, form: Form, more: Option, fewer: Option, lanes: int) -> Iterator[Option]:
    """Ranks between two that were fitted, their scores on a straight line of logarithms."""
    seen = {more.ranks, fewer.ranks}
    for k in range(1, _BETWEEN):
        weight = k / _BETWEEN
        line = zip(more.ranks, fewer.ranks, strict=True)
        ranks = _in_lanes(tuple(round(a ** (1 - weight) * b**weight) for a, b in line), lanes)
        if ranks in seen:
            continue
        seen.add(ranks)
        plan = _blank(form, use, ranks).plan
        size, ends = plan.parameters, (more.parameters, fewer.parameters)
        part = math.log(ends[0] / size) / math.log(ends[0] / ends[1]) if ends[0] != ends[1] else weight
        part = min(1.0, max(0.0, part))  # merged kernels need not grow with the ranks
        scores = np.log(np.maximum([more.score, fewer.score], np.finfo(float).tiny))
        score = float(np.exp(scores[0] + part * (scores[1] - scores[0])))
        yield Option(form, ranks, score, size, plan.multiply_adds(use.calls), more.begin)


def _blank(form: Form, use: Use, ranks: Ranks) -> Chain:
    outputs, *rest = use.geometry.weight_shape
    blocks = use.geometry.groups
    tensor = form.blank((outputs // blocks, *rest), ranks)
    return Chain.of([tensor] * blocks, use, form=form.name)
