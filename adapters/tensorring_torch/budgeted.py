"""A whole network within a budget: options for each layer, one of each, then the final fits, layer after layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from tensorring_torch.budget import Budget
from tensorring_torch.calibration.allocation import Layers, timed, within_latency
from tensorring_torch.calibration.curves import Option, options
from tensorring_torch.calibration.data import Batch, batches_of, first_of
from tensorring_torch.calibration.fits import Target, forms, softened
from tensorring_torch.calibration.graph import boxed, traced
from tensorring_torch.calibration.observe import Seen, observed
from tensorring_torch.calibration.reconstruct import reconstructed
from tensorring_torch.calibration.sequence import Choice, Fitted, Sequence
from tensorring_torch.chain import Chain, Use
from tensorring_torch.geometry import Geometry
from tensorring_torch.kinds import KINDS, canonical_weight
from tensorring_torch.latency import Stopwatch
from tensorring_torch.replace import duplicate, put
from tensorring_torch.report import Compressed, Cost, LayerReport, Progress, Report
from tensorring_torch.select import Candidate, Selection, candidates
from tensorring_torch.trace import Shapes, calls_of, input_shapes, layers_called

# Inputs that curves are made from: final fits take all. L-BFGS iterations of a fit without data.
_FEW, _SWEEPS = 256, 400
# Seconds for timing one layer and its options.
_TIMING = 0.2
# Below this share of the parameters all factors are brought nearer to the dense outputs together.
_RECONSTRUCTED = 0.24
_LOOKUP = "a table is not fitted to a budget: tol with minimize='parameters'"


def to_budget(
    model: nn.Module,
    example_input: Any,
    *,
    budget: Budget,
    formats: tuple[str, ...] | None = None,
    calibration: Any = None,
    include: Selection = None,
    exclude: Selection = None,
    callback: Progress | None = None,
) -> Compressed:
    """The network within the budget whose outputs change least, as far as is predicted. See `compress`."""
    dense = duplicate(model).eval()
    shapes = input_shapes(model, example_input)
    found = [_without_tables(each) for each in candidates(model, shapes, include=include, exclude=exclude)]
    batches = [] if calibration is None else batches_of(calibration, example_input, dense)
    uses = {each.name: _use(each.layer, shapes[each.name], budget) for each in found if each.reason is None}
    with layers_called():
        seen = observed(dense, list(uses), first_of(batches, _FEW)) if batches else {}
        curves = {
            name: _options(dense.get_submodule(name), use, seen.get(name), formats or _formats(budget))
            for name, use in uses.items()
        }
        layers = Layers(uses, curves, _whole(dense, shapes))
        stopwatch = Stopwatch(seconds=_TIMING)
        if budget.latency is None:
            chosen = layers.allocated(budget)
        else:
            layers = timed(dense, layers, example_input, {name: shapes[name][0] for name in uses}, stopwatch)
            chosen = within_latency(dense, layers, budget, example_input, stopwatch)
        built = _built(dense, layers, chosen, seen, batches, callback)
        if batches and budget.parameters is not None and budget.parameters < _RECONSTRUCTED and not built.interrupted:
            left = reconstructed(dense, built.model, batches)
            built.notes.append(f"reconstruction: squared error of the outputs {left:.2f} times what it was")
    seconds = stopwatch.measure([dense, built.model], example_input) if budget.latency is not None else (None, None)
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in built.model.named_modules():
        module.training = modes.get(name, modes.get(name.rpartition(".")[0], model.training))
    reports = [_report(each, layers, chosen, built, shapes) for each in found]
    saved = sum(each.before.multiply_adds - each.after.multiply_adds for each in reports)
    before, after = (sum(p.numel() for p in each.parameters()) for each in (dense, built.model))
    macs = int(layers.whole["macs"])
    totals = Cost(before, macs, seconds[0]), Cost(after, macs - saved, seconds[1])
    return Compressed(built.model, Report(tuple(reports), *totals, tuple(built.notes), built.interrupted))


def _report(
    candidate: Candidate, layers: Layers, chosen: Mapping[str, Option], built: _Built, shapes: Shapes
) -> LayerReport:
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
    plan = fitted.chain.plan
    macs = plan.multiply_adds(layers.uses[name].calls)
    after = Cost(weights - dense.parameters + plan.parameters, macs, layers.time(name, chosen[name]))
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


def _without_tables(candidate: Candidate) -> Candidate:
    table = isinstance(candidate.layer, nn.Embedding)
    return candidate._replace(reason=_LOOKUP) if table and candidate.reason is None else candidate


def _formats(budget: Budget) -> tuple[str, ...]:
    """CP stores least; where time or work counts, two or three plain layers do better on few channels."""
    return ("cp",) if set(budget.asked) == {"parameters"} else ("cut", "tucker", "cp")


def _use(layer: nn.Module, shapes: Any, budget: Budget) -> Use:
    geometry = Geometry.of(layer)
    minimize = "time" if budget.latency else "macs" if budget.macs else "parameters"
    return Use(geometry, calls_of(geometry, shapes), minimize)


def _options(layer: nn.Module, use: Use, seen: Seen | None, formats: tuple[str, ...]) -> list[Option]:
    """Scored with data by what they do to the network's outputs, else by the relative squared error of the weight."""
    kernel = canonical_weight(layer).detach().double().cpu().numpy()
    parts = np.split(kernel, use.geometry.groups)
    tried = {form.key: form for format in formats for form in forms(format, parts[0].shape)}
    if seen is None:
        scale = np.linalg.norm(kernel) or 1.0
        return options(use, list(tried.values()), [Target(part) for part in parts], [Target(p / scale) for p in parts])
    inputs = [each.covariance.cpu().numpy() for each in seen.moments]
    norms = list(zip(parts, inputs, seen.blocks, strict=True))
    fits = [Target(part, s, None if gamma is None else softened(gamma)) for part, s, gamma in norms]
    return options(use, list(tried.values()), fits, [Target(*each) for each in norms])


def _whole(dense: nn.Module, shapes: Shapes) -> dict[str, float]:
    """Parameters and multiply-adds of the dense network."""
    macs = 0
    for name, layer in dense.named_modules():
        if isinstance(layer, KINDS) and name in shapes:
            geometry = Geometry.of(layer)
            calls = calls_of(geometry, shapes[name])
            macs += Use(geometry, calls).dense_plan.multiply_adds(calls)
    return {"parameters": float(sum(p.numel() for p in dense.parameters())), "macs": float(macs)}


def _built(
    dense: nn.Module,
    layers: Layers,
    chosen: Mapping[str, Option],
    seen: Mapping[str, Seen],
    batches: list[Batch],
    callback: Progress | None,
) -> _Built:
    """Final fits, one layer after the other; an interrupt leaves the others dense."""
    choices = {name: Choice(layers.uses[name], each.form, each.ranks, each.begin) for name, each in chosen.items()}
    built = _Built(duplicate(dense))
    steps = _in_order(dense, built, choices, seen, batches) if batches else _by_weights(built.model, choices)
    try:
        with torch.inference_mode(False):
            for name, each in steps:
                built.fitted[name] = each
                if callback is not None:
                    callback(len(built.fitted), len(choices), name)
    except KeyboardInterrupt:
        built.interrupted = True
        built.notes.append(f"interrupted after {len(built.fitted)} of {len(choices)} layers")
    return built


def _in_order(
    dense: nn.Module,
    built: _Built,
    choices: Mapping[str, Choice],
    seen: Mapping[str, Seen],
    batches: list[Batch],
) -> Iterator[tuple[str, Fitted]]:
    """By data, in the order of the network; one that cannot be traced stands in a box."""
    graph, box = traced(dense), ""
    ours = built.model
    if graph is None:
        built.notes.append("its graph could not be traced: sums are not repaired, each layer takes two whole passes")
        graph, ours, box = boxed(dense, len(batches[0])), nn.ModuleDict({"network": ours}), "network."
    inside = {box + name: choice for name, choice in choices.items()}
    order = Sequence(graph, ours, batches, inside, {box + name: each for name, each in seen.items()})
    return ((name.removeprefix(box), each) for name, each in order.run())


def _by_weights(ours: nn.Module, choices: Mapping[str, Choice]) -> Iterator[tuple[str, Fitted]]:
    """Without data."""
    for name, choice in choices.items():
        layer = ours.get_submodule(name)
        if choice.form is None:
            yield name, Fitted(None, None, 0.0)
            continue
        kernel = canonical_weight(layer).detach().double().cpu().numpy()
        targets = [Target(part) for part in np.split(kernel, choice.use.geometry.groups)]
        fits = [choice.form.fit(target, choice.ranks, None, _SWEEPS) for target in targets]
        squared = sum(target.error(fit) for target, fit in zip(targets, fits, strict=True))
        chain = Chain.of(fits, choice.use, form=choice.form.name)
        put(ours, {name: chain.layers(layer)})
        yield name, Fitted(chain, None, float(np.sqrt(squared) / (np.linalg.norm(kernel) or 1.0)))
