"""A whole network: every convolution in the form that costs least. It orchestrates; the work is done elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tensorring_torch.chain import DIRECT, FITS, Chain, Use, fitted
from tensorring_torch.checks import check_formats, check_model, check_request, host_weight, is_quantised, obstacle
from tensorring_torch.geometry import Geometry
from tensorring_torch.layer import plan_of
from tensorring_torch.replace import duplicate, put, tied_modules
from tensorring_torch.report import Compressed, Cost, LayerReport, Report
from tensorring_torch.trace import Shapes, calls_of, input_shapes, unbatched

Progress = Callable[[int, int, str], None]


def compress(
    model: nn.Module,
    example_input: Any,
    *,
    tol: float,
    minimize: str = "macs",
    formats: Iterable[str] | None = None,
    callback: Progress | None = None,
) -> Compressed:
    """‖weight − new weight‖ ≤ tol·‖weight‖ in every nn.Conv2d, each in the form that costs least.

    Parameters
    ----------
    model
        Any nn.Module; it is not changed.
    example_input
        What the model takes: a tensor, a tuple of positional or a dict of keyword arguments. One forward pass of a copy
        in eval mode tells the sizes that each layer sees.
    tol
        The relative Frobenius error allowed for the weight of each layer, in [0, 1).
    minimize
        "macs": the multiply-adds of that forward pass; "parameters": the numbers stored; "time": an estimate that also
        counts the numbers which each layer reads and writes, and channels in the groups of 16 that processors work on.
        The fewest multiply-adds are often not the fastest: each further layer moves the image once more.
    formats
        Some of those of `decompose_layer`; by default "cut", "tucker", "tt", "tr". The CP forms store least, but are
        searched by iteration, for seconds to minutes a layer, and run slowly on processors where channels are few.
    callback
        `callback(done, total, name)` after each convolution.

    Returns
    -------
    Compressed
        `.model`, a new model with the same training modes, dtypes and devices; `.report`, which prints as a table.
        A layer stays as it is where no form is cheaper, and where it cannot be replaced: depthwise, tied, quantised,
        weight-normed, never called; the report says why.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, or a weight holds NaN or inf (a note names the layer).

    Notes
    -----
    A model that reads attributes of a layer itself, such as `self.conv.weight`, no longer finds them where it was
    replaced.

    Costs a forward pass and a few decompositions a layer. An interrupt leaves nothing behind. `tol` bounds the error of
    weights, not of the network's output, and half precision adds its own rounding.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3))
    >>> compressed = tgt.compress(model, torch.zeros(1, 3, 12, 12), tol=0.5)
    >>> compressed.model(torch.zeros(1, 3, 12, 12)).shape
    torch.Size([1, 32, 8, 8])
    >>> compressed.report.after.multiply_adds < compressed.report.before.multiply_adds
    True
    """
    check_model(model)
    check_request(tol, minimize)
    formats = DIRECT if formats is None else ((formats,) if isinstance(formats, str) else tuple(formats))
    check_formats(formats, list(FITS))
    request = _Request(tol, minimize, formats)
    shapes = input_shapes(model, example_input)
    reasons = dict.fromkeys(tied_modules(model), "tied: it stands at several places")
    reasons |= {id(part): "already part of a chain" for m in model.modules() if plan_of(m) for part in m.modules()}
    found = [
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d) or is_quantised(layer)
    ]
    modules, reports = {}, []
    for done, (name, layer) in enumerate(found, start=1):
        chain, report = request.consider(name, layer, shapes, reasons.get(id(layer)))
        if chain is not None:
            modules[name] = chain.layers(layer)
        reports.append(report)
        if callback is not None:
            callback(done, len(found), name)
    with torch.inference_mode(False):
        compressed = put(duplicate(model), modules)
    return Compressed(compressed, _report(model, compressed, reports, shapes))


@dataclass(frozen=True)
class _Request:
    tol: float
    minimize: str
    formats: tuple[str, ...]

    def consider(
        self, name: str, layer: nn.Conv2d, shapes: Shapes, reason: str | None
    ) -> tuple[Chain | None, LayerReport]:
        """The cheapest chain for a layer, or None where it stays, and what is to be said about it."""
        geometry = Geometry.of(layer)
        use = Use(geometry, calls_of(geometry, shapes.get(name, [])), self.minimize)
        before = Cost(_parameters(layer), use.dense_plan.multiply_adds(use.calls))
        reason = reason or obstacle(layer) or _unwise(use)
        chain = None if reason else self._best(name, layer, use, unbatched=unbatched(geometry, shapes[name]))
        if chain is None:
            reason = reason or f"no form costs less at tol={self.tol:g}"
            return None, LayerReport(name, "dense", (), before, before, reason=reason)
        fewer = use.dense_plan.parameters - chain.plan.parameters
        after = Cost(before.parameters - fewer, chain.plan.multiply_adds(use.calls))
        plan = chain.plan
        return chain, LayerReport(name, plan.form, plan.ranks, before, after, chain.error, degeneracy=chain.degeneracy)

    def _best(self, name: str, layer: nn.Conv2d, use: Use, *, unbatched: bool) -> Chain | None:
        """The cheapest chain of all formats, if it is cheaper than the layer."""
        weight = host_weight(layer.weight)
        try:
            chains = [chain for format in self.formats for chain in fitted(weight, use, format=format, tol=self.tol)]
        except (TypeError, ValueError) as error:
            error.add_note(f"in layer {name!r}")
            raise
        if unbatched:  # a folded bond needs a batch to ride in
            chains = [chain for chain in chains if all(stage.riders == 1 for stage in chain.plan.stages)]
        best = min(chains, key=lambda chain: use.cost(chain.plan), default=None)
        return best if best is not None and use.cost(best.plan)[0] < use.cost(use.dense_plan)[0] else None


def _unwise(use: Use) -> str | None:
    """Why a layer that could be replaced is not even tried."""
    if use.geometry.groups == use.geometry.in_channels > 1:
        return "depthwise: there are no input channels to compress"
    return None if use.calls else "the forward pass does not call it"


def _report(model: nn.Module, compressed: nn.Module, reports: list[LayerReport], shapes: Shapes) -> Report:
    linear = sum(
        math.prod(shape[:-1]) * layer.in_features * layer.out_features
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        for shape in shapes.get(name, [])
    )
    return Report(
        tuple(reports),
        Cost(_parameters(model), linear + sum(layer.before.multiply_adds for layer in reports)),
        Cost(_parameters(compressed), linear + sum(layer.after.multiply_adds for layer in reports)),
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
