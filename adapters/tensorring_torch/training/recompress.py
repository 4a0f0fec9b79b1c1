"""Layers that are chains already, fitted again at lower ranks: between trainings, or in the middle of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import nn

from tensorring_torch.chain import FITS, Chain, Use, fitted
from tensorring_torch.checks import check_minimize, check_model, host_weight
from tensorring_torch.forms.tr import Caps
from tensorring_torch.kinds import canonical_weight
from tensorring_torch.layer import dense_layer, plan_of
from tensorring_torch.layout import has_channels_last, lay_out
from tensorring_torch.plan import Plan
from tensorring_torch.replace import duplicate, put
from tensorring_torch.report import Compressed, Progress
from tensorring_torch.select import Candidate, Selection, chains
from tensorring_torch.trace import Shapes, calls_of, input_shapes, unbatched
from tensorring_torch.training.carry_over import carry_over, check_optimizer
from tensorring_torch.training.comparison import compared
from tensorring_torch.training.weakened import weakened


def recompress(
    model: nn.Module,
    example_input: Any,
    *,
    ranks: Caps | Mapping[str, Caps] = None,
    tol: float | None = None,
    weaken: float | None = None,
    minimize: str = "macs",
    optimizer: torch.optim.Optimizer | None = None,
    include: Selection = None,
    exclude: Selection = None,
    callback: Progress | None = None,
) -> Compressed:
    """A smaller network: its factored layers fitted again, in the forms that they have, at lower ranks.

    Each chain of `build_layer`, `compress` or `load` is fitted from the weight that it makes now. Give one of `ranks`,
    `tol` (‖weight − new weight‖ ≤ tol·‖weight‖) and `weaken` (R_new = R − weaken·(R − R_vbmf)). All else stays as it
    is, dense layers too.

    Parameters
    ----------
    model
        A network with factored layers, in the middle of its training or not; it is not changed.
    example_input
        What the model takes, as in `compress`.
    ranks
        Caps as in `decompose_layer`, for all chains, or {name: caps} for those named.
    tol
        The relative Frobenius error allowed in each layer, in [0, 1).
    weaken
        MUSCO's weakening factor w in (0, 1]; its authors take 0.8. R_vbmf is `tg.vbmf_rank` of the unfolding to which
        the rank belongs, in orthonormal bases of the channels: for "cut" the one that was cut, for "tucker" those at
        the outputs and at the inputs. The ranks of other forms shrink by the larger of the two shares at outputs and
        inputs.
    minimize
        What kernels are merged for, and what has to be less than before, as in `compress`: "macs", "parameters" or
        "time".
    optimizer
        The one that trains `model`. It is changed in place into one that trains the new model, so that schedulers which
        hold it go on: parameters that were not fitted again keep their state (momentum, moments, steps), biases of
        layers that were fitted too; new kernels begin without. `model` is then no longer trained by it.
    include, exclude
        Which chains, as in `compress`.
    callback
        `callback(done, total, name)` after each chain.

    Returns
    -------
    Compressed
        `.model`, a new model; `.report` on its chains, errors against the weights that they made before. A chain stays
        as it is where the new one would cost no less.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind or out of range, the model has no chains, `ranks` names what is none, a kernel
        holds NaN or inf (a note names the layer), or the optimizer does not train the model.

    Notes
    -----
    Fits are those of `decompose_layer`: begun at the terms that a CP has they would be no closer and no faster. Costs
    a decomposition of each weight, and a forward pass of a copy. A step of training changes a layer that was not fitted
    again to the last bit as it would have without, if it gets the same gradient. Ctrl-C returns the best so far: the
    chains done, the others as they were. TT-matrices (`tt_linear`) and factored weights of recurrent layers stay.

    After truncation no noise is left to estimate: `weaken` is a rule that its authors found useful, not an estimate.
    Here `vbmf_rank` finds at most about half the rank of a linear layer, so each call takes about w/2 of it.

    References
    ----------
    J. Gusak et al. 2019, "MUSCO: multi-stage compression of neural networks", arXiv 1903.09973.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 3))
    >>> model[2] = tgt.decompose_layer(model[2], format="tucker", ranks=(6, 8))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> smaller = tgt.recompress(model, torch.zeros(1, 8, 9, 9), ranks=(3, 4), optimizer=optimizer)
    >>> smaller.report.layers[0].ranks[:2]
    (3, 4)
    """
    check_model(model)
    check_minimize(minimize)
    _check_goal(ranks, tol, weaken)
    if optimizer is not None:
        check_optimizer(optimizer, model)
    found = [_named(each, ranks) for each in chains(model, include=include, exclude=exclude)]
    _check_chains(model, found, ranks)
    request = _Request(input_shapes(model, example_input), minimize, ranks, tol, weaken)
    reasons, changed, interrupted = {each.name: each.reason or "" for each in found}, dict[str, nn.Module](), False
    waiting = [each for each in found if each.reason is None]
    try:
        for done, each in enumerate(waiting, start=1):
            reasons[each.name], new = request.considered(each)
            changed |= {} if new is None else {each.name: new}
            if callback is not None:
                callback(done, len(waiting), each.name)
    except KeyboardInterrupt:
        interrupted = True
    reasons = {name: reason or "interrupted before its turn" for name, reason in reasons.items()}
    with torch.inference_mode(False):
        compressed = put(duplicate(model), changed)
    if optimizer is not None:
        carry_over(optimizer, model, compressed, changed)
    report = compared(model, compressed, request.shapes, reasons, interrupted=interrupted)
    return Compressed(compressed, report)


@dataclass(frozen=True)
class _Request:
    shapes: Shapes
    minimize: str
    ranks: Caps | Mapping[str, Caps]
    tol: float | None
    weaken: float | None

    def considered(self, candidate: Candidate) -> tuple[str, nn.Module | None]:
        """Why, and what takes the place of a chain; None where it stays."""
        name, module, _ = candidate
        plan = plan_of(module)
        assert plan is not None
        if _format(plan) not in FITS:
            return f"its form {plan.form!r} is none of {', '.join(FITS)}", None
        use = Use(plan.geometry, calls_of(plan.geometry, self.shapes.get(name, [])), self.minimize)
        like = dense_layer(module)
        try:
            found = list(self._fits(name, plan, use, host_weight(canonical_weight(like))))
        except (TypeError, ValueError) as error:
            error.add_note(f"in layer {name!r}")
            raise
        if unbatched(plan.geometry, self.shapes.get(name, [])):  # a folded bond needs a batch to ride in
            found = [each for each in found if all(stage.riders == 1 for stage in each.plan.stages)]
        best = min(found, key=lambda chain: use.cost(chain.plan), default=None)
        if best is None or use.cost(best.plan)[0] >= use.cost(plan)[0]:
            return "what was asked for costs no less", None
        if has_channels_last(module):
            lay_out(like)
        return "fitted again", best.layers(like)

    def _fits(self, name: str, plan: Plan, use: Use, weight: np.ndarray) -> Iterator[Chain]:
        caps = self.ranks.get(name) if isinstance(self.ranks, Mapping) else self.ranks
        if self.weaken is not None:
            caps = weakened(plan, weight, self.weaken)
        options: dict[str, Any] = {"format": _format(plan), "tol": self.tol, "ranks": caps, "blocks": plan.blocks}
        found = list(fitted(weight, use, **options))
        yield from [each for each in found if each.plan.form == plan.form] or found


def _format(plan: Plan) -> str:
    return "cut" if plan.form.startswith("cut") else plan.form


def _named(candidate: Candidate, ranks: Caps | Mapping[str, Caps]) -> Candidate:
    if candidate.reason is None and isinstance(ranks, Mapping) and candidate.name not in ranks:
        return candidate._replace(reason="no ranks given")
    return candidate


def _check_goal(ranks: Any, tol: Any, weaken: Any) -> None:
    """One of the three, and the numbers in range; ranks and a tolerance the core looks at."""
    given = [name for name, value in (("ranks", ranks), ("tol", tol), ("weaken", weaken)) if value is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none of ranks, tol and weaken"
        raise ValueError(f"got {got}; give one: ranks=8, tol=0.3, or weaken=0.8")
    if weaken is not None:
        if isinstance(weaken, bool) or not isinstance(weaken, Real):
            raise TypeError(f"got weaken={weaken!r}; it is a number in (0, 1], such as 0.8")
        if not 0 < float(weaken) <= 1:
            raise ValueError(f"got weaken={weaken!r}; it is in (0, 1]: how much of R − R_vbmf goes, such as 0.8")


def _check_chains(model: nn.Module, found: list[Candidate], ranks: Caps | Mapping[str, Caps]) -> None:
    if not found:
        raise ValueError(
            f"got a {type(model).__name__} without factored layers; compress, decompose_layer or load make some"
        )
    names = [each.name for each in found]
    wrong = [name for name in (ranks if isinstance(ranks, Mapping) else ()) if name not in names]
    if wrong:
        raise ValueError(f"got ranks of {wrong[0]!r}; the factored layers are {', '.join(map(repr, names))}")
