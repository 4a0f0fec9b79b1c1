"""The smallest network that loses no more than is allowed by a measure of the user's own: bisection on the budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

from torch import nn

import tensorring as tg
from tensorring_torch.budget import Budget
from tensorring_torch.replace import duplicate
from tensorring_torch.report import Compressed, LayerReport, Progress, Report
from tensorring_torch.score import score_of

# What is to be small: its name in a Budget, and in a Cost.
MEASURES = {
    "parameters": ("parameters", "parameters"),
    "macs": ("macs", "multiply_adds"),
    "time": ("latency", "seconds"),
}
# The smallest fraction that is looked for, and when two are as good as one: bisection takes at most so many steps.
_LEAST, _NEAR = 1 / 64, 1.05
STEPS = math.ceil(math.log2(math.log(1 / _LEAST) / math.log(_NEAR)))
_ROUNDING = 1e-9  # scores are often counts divided by counts


def searched(
    model: nn.Module,
    at: Callable[[Budget], Compressed],
    *,
    evaluate: Callable[[nn.Module], Any],
    max_drop: float,
    minimize: str,
    callback: Progress | None = None,
) -> Compressed:
    """evaluate(result.model) ≥ evaluate(model) − max_drop, at the smallest budget at which that was found to hold.

    Parameters
    ----------
    model
        The dense network.
    at
        The network within a budget; `tensorring.BudgetError` where there is none.
    evaluate
        The score of a network, higher is better. It is given copies in eval mode.
    max_drop
        How much lower than the dense network's a score may be.
    minimize
        "parameters", "macs" or "time": what the budgets are fractions of.
    callback
        `callback(done, STEPS, what came of it)` after each network; the search may end before STEPS.

    Returns
    -------
    Compressed
        The notes of its report list what was tried. Where nothing kept `max_drop` it is the dense network.

    Raises
    ------
    TypeError, ValueError
        If `evaluate` returns no number, or NaN. What it raises itself gets a note that names the network.
    tensorring.BudgetError
        If no budget could be met.

    Notes
    -----
    At most STEPS networks; those that came out alike are evaluated once. Scores need not fall with the budget: then the
    result still keeps `max_drop`, but there may be a smaller one. An interrupt returns the best so far.
    """
    trials = _Trials(at, evaluate, *MEASURES[minimize])
    dense = trials.score(model, "the dense network")
    if math.isinf(dense):
        raise ValueError(
            f"got {dense} from evaluate for the dense network; a drop can only be told from a finite score"
        )
    low, high, best, interrupted = _LEAST, 1.0, None, False
    try:
        while high > _NEAR * low and len(trials.told) < STEPS:
            fraction = math.sqrt(low * high)
            found, score = trials.at(fraction)
            kept = dense - score <= max_drop + _ROUNDING * max(1.0, abs(dense))
            if found is not None and kept:
                high, best = trials.share(found.report, fraction), found
            else:
                low = fraction
            trials.tell(fraction, score, met=found is not None, kept=kept)
            if callback is not None:
                callback(len(trials.told), STEPS, trials.told[-1])
    except KeyboardInterrupt:
        interrupted = True
    best = best or trials.dense(model, interrupted=interrupted)
    notes = [f"the dense network scores {dense:.6g}, and at most {max_drop:g} may be lost", *trials.told]
    if interrupted:
        notes.append(f"interrupted after {len(trials.told)} of at most {STEPS} networks")
    return replace(best, report=replace(best.report, notes=(*best.report.notes, *notes), interrupted=interrupted))


class _Trials:
    """Networks within budgets, their scores, and what came of them."""

    def __init__(
        self, at: Callable[[Budget], Compressed], evaluate: Callable[[nn.Module], Any], budgeted: str, counted: str
    ) -> None:
        self._at, self._evaluate, self._budgeted, self._counted = at, evaluate, budgeted, counted
        self._scores: dict[Hashable, float] = {}
        self._refused: tg.BudgetError | None = None
        self._seen: Report | None = None
        self.told: list[str] = []

    def at(self, fraction: float) -> tuple[Compressed | None, float]:
        """The network and its score; where the budget cannot be met, none and the worst."""
        try:
            found = self._at(Budget(**{self._budgeted: fraction}))
        except tg.BudgetError as error:
            self._refused = error
            return None, -math.inf
        self._seen = found.report
        if found.report.interrupted:  # it is not what was asked for
            raise KeyboardInterrupt
        make = tuple((layer.name, layer.form, layer.ranks) for layer in found.report.layers)
        if make not in self._scores:
            self._scores[make] = self.score(found.model, f"the network at {self._named(fraction)}")
        return found, self._scores[make]

    def score(self, network: nn.Module, named: str) -> float:
        """What `evaluate` says of a copy."""
        return score_of(self._evaluate, duplicate(network).eval(), named)

    def share(self, report: Report, fraction: float) -> float:
        """What part of the dense network's cost there is: at most what was allowed."""
        before, after = (getattr(cost, self._counted) for cost in (report.before, report.after))
        return min(fraction, after / before) if after and before else fraction

    def tell(self, fraction: float, score: float, *, met: bool, kept: bool) -> None:
        """Keeps a line on what came of a budget."""
        outcome = f"scores {score:.6g}, {'kept' if kept else 'too much is lost'}" if met else "cannot be met"
        self.told.append(f"{self._named(fraction)}: {outcome}")

    def dense(self, model: nn.Module, *, interrupted: bool) -> Compressed:
        """A copy of the dense network: the answer where no budget kept the score."""
        if self._seen is None:
            raise self._refused if self._refused is not None and not interrupted else KeyboardInterrupt
        reason = "no network that was tried kept the score"
        layers = (
            LayerReport(old.name, "dense", (), old.before, old.before, reason=reason) for old in self._seen.layers
        )
        return Compressed(duplicate(model), Report(tuple(layers), self._seen.before, self._seen.before))

    def _named(self, fraction: float) -> str:
        return f"{self._budgeted} {fraction:.3f}"
