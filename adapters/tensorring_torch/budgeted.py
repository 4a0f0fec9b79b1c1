"""A whole network within a budget: options for each layer, one of each, then the final fits, layer after layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from tensorring_torch.attention import close_attention, open_attention
from tensorring_torch.budget import Budget
from tensorring_torch.calibration.allocation import Layers, timed, within_latency
from tensorring_torch.calibration.curves import Option, options
from tensorring_torch.calibration.data import Batch, batches_of
from tensorring_torch.calibration.fits import Target, forms, softened
from tensorring_torch.calibration.graph import NORMS
from tensorring_torch.calibration.reconstruct import reconstructed
from tensorring_torch.calibration.sequence import Choice, Fitted, fit, measured
from tensorring_torch.calibration.study import Study
from tensorring_torch.chain import Use
from tensorring_torch.equivalent import fastest
from tensorring_torch.geometry import Geometry
from tensorring_torch.kinds import canonical_weight
from tensorring_torch.latency import Stopwatch
from tensorring_torch.plan import LANES
from tensorring_torch.replace import duplicate, put
from tensorring_torch.report import Compressed, Cost, LayerReport, Progress, Report
from tensorring_torch.select import Candidate, Selection, candidates
from tensorring_torch.trace import calls_of, input_shapes, layers_called, multiply_adds

# Seconds for timing one layer and its options.
_TIMING = 0.2
# Where the outputs have changed by more, as a share of their squares, all factors are adjusted together.
_CHANGED = 0.04
_COMPLEX = "complex weights are not fitted to a budget: tol"


class Budgeted:
    """A network within a budget: `at` for each budget, what does not depend on it found once.

    Parameters
    ----------
    model, example_input, formats, calibration, include, exclude, scores
        As in `compress`.
    asked
        What the budgets are of: names of its fields.

    Raises
    ------
    TypeError, ValueError
        If no layer can be fitted, the calibration is not like the example, or a weight holds NaN or inf.
    """

    @torch.inference_mode(False)  # tensors made in inference mode could never be trained, nor differentiated here
    def __init__(
        self,
        model: nn.Module,
        example_input: Any,
        *,
        asked: Iterable[str],
        formats: tuple[str, ...] | None = None,
        calibration: Any = None,
        include: Selection = None,
        exclude: Selection = None,
        scores: str = "predicted",
    ) -> None:
        asked = set(asked)
        self._model, self._example, self._notes = model, example_input, list[str]()
        self._stopwatch = Stopwatch(seconds=_TIMING)
        self._opened = list[str]()
        self._dense, gain = self._prepared(asked)
        self._shapes = input_shapes(self._dense, example_input)
        found = candidates(self._dense, self._shapes, include=include, exclude=exclude)
        self._found = [_fittable(each) for each in found]
        batches = [] if calibration is None else batches_of(calibration, example_input, self._dense)
        uses = {each.name: _use(each.layer, self._shapes[each.name], asked) for each in self._found if not each.reason}
        if not uses:
            reasons = "; ".join(f"{each.name!r}: {each.reason}" for each in self._found)
            raise ValueError(f"got a {type(model).__name__} without a layer to fit to a budget ({reasons or 'none'})")
        kernels = {name: _kernel(name, self._dense.get_submodule(name)) for name in uses}
        self._study = Study(self._dense, batches, {name: self._shapes[name] for name in uses}) if batches else None
        curves = {name: self._options(name, kernels[name], use, asked, formats) for name, use in uses.items()}
        if scores == "measured" and self._study is not None:
            curves = self._study.measured(uses, curves)
        whole = {"parameters": sum(p.numel() for p in model.parameters())}
        whole["macs"] = multiply_adds(self._dense, self._shapes)
        self._layers = Layers(uses, curves, {name: float(count) for name, count in whole.items()})
        if "latency" in asked:
            inputs = {name: self._shapes[name][0] for name in uses}
            self._layers = timed(self._dense, self._layers, example_input, inputs, self._stopwatch, gain)

    def _prepared(self, asked: set[str]) -> tuple[nn.Module, float]:
        """A copy in eval mode; where time counts the fastest that computes the same, and how many times it is so.

        Else attention is opened. An opened one leaves torch's fused path: timed so, the dense network would not be the
        one that was given.
        """
        dense = duplicate(self._model).eval()
        if "latency" not in asked:
            self._opened = open_attention(dense)
            return dense, 1.0
        trained = any(isinstance(part, NORMS) and part.training for part in self._model.modules())
        found, gain, notes = fastest(dense, self._example, Stopwatch(), trained=trained)
        self._notes += notes
        return found, gain

    def _options(
        self, name: str, kernel: np.ndarray, use: Use, asked: set[str], formats: tuple[str, ...] | None
    ) -> list[Option]:
        """Scored with data by what they do to the network's outputs, else by relative squared errors of the weight."""
        parts = np.split(kernel, use.geometry.groups)
        tried = {form.key: form for format in formats or _formats(asked) for form in forms(format, parts[0].shape)}
        lanes = LANES // 2 if "latency" in asked else 1
        seen = None if self._study is None else self._study.seen.get(name)
        if seen is None:
            share = float(np.linalg.norm(kernel) or 1.0) ** -2
            fits = [Target(part) for part in parts]
            scored = [Target(part, variance=share) for part in parts]
            return options(use, list(tried.values()), fits, scored, lanes=lanes)
        norms = [
            (part, None if each.covariance is None else each.covariance.cpu().numpy(), gamma, each.variance)
            for part, each, gamma in zip(parts, seen.moments, seen.blocks, strict=True)
        ]
        fits = [Target(part, s, None if g is None else softened(g), variance) for part, s, g, variance in norms]
        if not fits[0].by_entries:
            self._notes.append(f"{name}: {fits[0].matrix.shape[1]:,} inputs to each output, weighed by channels alone")
        found = options(use, list(tried.values()), fits, [Target(*each) for each in norms], lanes=lanes)
        assert self._study is not None
        more = self._study.new_bias(name)
        return [each if each.form is None else replace(each, parameters=each.parameters + more) for each in found]

    @torch.inference_mode(False)
    def at(self, budget: Budget, *, callback: Progress | None = None) -> Compressed:
        """The network within the budget whose outputs change least, as far as is predicted.

        Raises
        ------
        tensorring.BudgetError
            If it cannot be met.
        """
        dense, layers = self._dense, self._layers
        if budget.latency is None:
            chosen = layers.allocated(budget)
        else:
            chosen = within_latency(dense, layers, budget, self._example, self._stopwatch)
        built = self._built(chosen, callback)
        if self._study and self._study.change(built.model) > _CHANGED:
            _reconstruct(dense, built, self._study.batches, callback)
        close_attention(built.model, self._model, self._opened)
        seconds: list[float | None] = [None, None]
        if budget.latency is not None:
            laid_out, ours = self._stopwatch.measure([dense, built.model], self._example)
            seconds[:] = laid_out * layers.gain, ours
        _take_over_modes(built.model, self._model)
        reports = [_report(each, layers, chosen, built) for each in self._found]
        saved = sum(each.before.multiply_adds - each.after.multiply_adds for each in reports)
        before, after = (sum(p.numel() for p in each.parameters()) for each in (self._model, built.model))
        macs = int(layers.whole["macs"])
        totals = Cost(before, macs, seconds[0]), Cost(after, macs - saved, seconds[1])
        return Compressed(built.model, Report(tuple(reports), *totals, tuple(built.notes), built.interrupted))

    def _built(self, chosen: Mapping[str, Option], callback: Progress | None) -> _Built:
        """Final fits, one layer after the other; an interrupt leaves the others dense."""
        uses, built = self._layers.uses, _Built(duplicate(self._dense), notes=list(self._notes))
        choices = {name: Choice(uses[name], each.form, each.ranks, each.begin) for name, each in chosen.items()}
        steps = _by_weights(built.model, choices)
        if self._study is not None:
            steps = self._study.fitted(built.model, choices)
            built.notes += self._study.notes
        try:
            with layers_called():
                for name, built.fitted[name], built.model in steps:
                    if callback is not None:
                        callback(len(built.fitted), len(choices), name)
        except KeyboardInterrupt:
            built.interrupted = True
            built.notes.append(f"interrupted after {len(built.fitted)} of {len(choices)} layers")
        return built


def _kernel(name: str, layer: nn.Module) -> np.ndarray:
    kernel = canonical_weight(layer).detach().double().cpu().numpy()
    if not np.isfinite(kernel).all():
        raise ValueError(f"got NaN or inf in the weight of layer {name!r}; repair the network first")
    return kernel


def _take_over_modes(ours: nn.Module, model: nn.Module) -> None:
    """Training or not, module by module; a chain as the layer that it stands for."""
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in ours.named_modules():
        if name in modes:
            module.train(modes[name])


def _report(candidate: Candidate, layers: Layers, chosen: Mapping[str, Option], built: _Built) -> LayerReport:
    name, layer, reason = candidate
    weights = sum(p.numel() for p in layer.parameters())
    if name not in built.fitted:
        work = layers.options[name][0].macs if name in layers.options else 0
        cost = Cost(weights, work)
        return LayerReport(name, "dense", (), cost, cost, reason=reason or "interrupted before its turn")
    dense, fitted = layers.options[name][0], built.fitted[name]
    before = Cost(weights, dense.macs, layers.time(name, dense))
    if fitted.chain is None:
        why = "worth its cost" if len(layers.options[name]) > 1 else "no form costs less"
        return LayerReport(name, "dense", (), before, before, 0.0, fitted.metric_error, reason=why)
    plan, new = fitted.chain.plan, built.model.get_submodule(name)
    macs = plan.multiply_adds(layers.uses[name].calls)
    after = Cost(sum(p.numel() for p in new.parameters()), macs, layers.time(name, chosen[name]))
    why = f"least harm of {len(layers.options[name])} options"
    norm = fitted.chain.degeneracy
    return LayerReport(name, plan.form, plan.ranks, before, after, fitted.error, fitted.metric_error, norm, why)


@dataclass
class _Built:
    """The compressed network in eval mode, what its layers became, and what is to be said of it."""

    model: nn.Module
    fitted: dict[str, Fitted] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False


def _fittable(candidate: Candidate) -> Candidate:
    """With a reason where a layer of this kind is not fitted."""
    weight: Any = candidate.layer.weight
    return candidate._replace(reason=_COMPLEX) if candidate.reason is None and weight.is_complex() else candidate


def _formats(asked: set[str]) -> tuple[str, ...]:
    """CP stores least and does least work; its depthwise kernels are slow: two or three plain ones are faster."""
    if asked == {"latency"}:
        return ("cut", "tucker")
    return ("cp",) if asked == {"parameters"} else ("cut", "tucker", "cp")


def _use(layer: nn.Module, shapes: Any, asked: set[str]) -> Use:
    geometry = Geometry.of(layer)
    minimize = "time" if "latency" in asked else "macs" if "macs" in asked else "parameters"
    return Use(geometry, calls_of(geometry, shapes), minimize)


def _reconstruct(dense: nn.Module, built: _Built, batches: list[Batch], callback: Progress | None) -> None:
    """All factors together, unless the work was interrupted, or steps in half precision would be lost in rounding."""
    if built.interrupted or any(p.dtype in (torch.float16, torch.bfloat16) for p in built.model.parameters()):
        return
    try:
        left = reconstructed(dense, built.model, batches, callback=callback)
        built.notes.append(f"all factors adjusted together: squared error of the outputs {left:.2f} × as large")
    except KeyboardInterrupt:
        built.interrupted = True
        built.notes.append("interrupted while all factors were adjusted together: left as fitted")


def _by_weights(ours: nn.Module, choices: Mapping[str, Choice]) -> Iterator[tuple[str, Fitted, nn.Module]]:
    """Without data."""
    for name, choice in choices.items():
        layer = ours.get_submodule(name)
        targets = [Target(part) for part in np.split(_kernel(name, layer), choice.use.geometry.groups)]
        chain, matrices = fit(choice, targets)
        if chain is not None:
            ours = put(ours, {name: chain.layers(layer)})
        yield name, measured(chain, targets, matrices, by_data=False), ours
