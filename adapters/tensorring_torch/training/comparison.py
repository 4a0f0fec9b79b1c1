"""A report of what became of a network's layers, from the two networks alone: trained on in between or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tensorring_torch.geometry import Calls, Geometry
from tensorring_torch.kinds import canonical_weight
from tensorring_torch.layer import dense_layer, plan_of
from tensorring_torch.report import Cost, LayerReport, Report
from tensorring_torch.trace import Shapes, calls_of, multiply_adds


def compared(
    before: nn.Module,
    after: nn.Module,
    shapes: Shapes,
    reasons: Mapping[str, str],
    *,
    notes: Sequence[str] = (),
    interrupted: bool = False,
) -> Report:
    """The layers named in `reasons`, as they stand in both networks, and the totals.

    Each is a layer or a chain, before and after; where it is the same chain or layer its form is "dense" only if it is
    one. Errors are ‖weight − new weight‖/‖weight‖ of what the layers are now, training in between included.
    """
    layers = tuple(_layer(name, before, after, shapes.get(name, []), reason) for name, reason in reasons.items())
    work = multiply_adds(before, shapes)
    saved = sum(each.before.multiply_adds - each.after.multiply_adds for each in layers)
    totals = Cost(_parameters(before), work), Cost(_parameters(after), work - saved)
    return Report(layers, *totals, tuple(notes), interrupted)


def _layer(name: str, before: nn.Module, after: nn.Module, sizes: list[torch.Size], reason: str) -> LayerReport:
    old, new = before.get_submodule(name), after.get_submodule(name)
    geometry, plan = _geometry(old), plan_of(new)
    calls = calls_of(geometry, sizes)
    form, ranks = ("dense", ()) if plan is None else (plan.form, plan.ranks)
    error = _error(_weight(old), _weight(new))
    return LayerReport(name, form, ranks, _cost(old, calls), _cost(new, calls), error, reason=reason)


def _weight(module: nn.Module) -> Tensor:
    """(O, I/groups, *kernel): the canonical weight of a layer, or of what a chain makes."""
    layer: Any = module if plan_of(module) is None else dense_layer(module)
    return canonical_weight(layer).detach()


def _geometry(module: nn.Module) -> Geometry:
    plan = plan_of(module)
    return Geometry.of(module) if plan is None else plan.geometry


def _cost(module: nn.Module, calls: Calls) -> Cost:
    plan = plan_of(module)
    work = sum(call.batch * Geometry.of(module).multiply_adds(call.size) for call in calls) if plan is None else 0
    return Cost(_parameters(module), work if plan is None else plan.multiply_adds(calls))


def _error(old: Tensor, new: Tensor) -> float:
    wide = torch.promote_types(old.dtype, torch.float64)
    old, new = old.to(wide), new.to(device=old.device, dtype=wide)
    return float((old - new).norm()) / (float(old.norm()) or 1.0)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
