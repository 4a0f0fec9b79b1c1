"""Which layer gets what: one option for each, the least harm within the budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

import tensorring as tg
from tensorring_torch.budget import Budget
from tensorring_torch.calibration.curves import Option
from tensorring_torch.chain import Use
from tensorring_torch.latency import Stopwatch
from tensorring_torch.layout import has_channels_last, laid_out
from tensorring_torch.replace import duplicate, put

# Of a form so many ranks are timed; between them seconds are interpolated. How often the whole network is timed.
_TIMED, _TRIES = 4, 4


@dataclass(frozen=True)
class Layers:
    """The layers that may change, with their uses and options, and what the whole dense network costs.

    `seconds` are those of each option, and `whole["latency"]` those of the network, where latency is bounded. `gain` is
    how much slower the network was as it was given, in another layout.
    """

    uses: Mapping[str, Use]
    options: Mapping[str, list[Option]]
    whole: Mapping[str, float]
    seconds: Mapping[str, list[float]] = field(default_factory=dict)
    gain: float = 1.0

    @property
    def dense(self) -> list[Option]:
        """The layers as they are."""
        return [found[0] for found in self.options.values()]

    def rest(self, name: str) -> float:
        """What of "parameters" or "macs" belongs to nothing that may change."""
        return self.whole[name] - sum(getattr(each, name) for each in self.dense)

    def allocated(self, budget: Budget, aim: float = 1.0) -> dict[str, Option]:
        """min Σ score within the budget, its latency being `aim` times that of the dense network in its layout here.

        Raises
        ------
        tensorring.BudgetError
            If no choice is within the budget.
        """
        limits, costs = [], []
        for name, fraction in budget.asked.items():
            if name == "latency":
                costs.append(self.seconds)
                constant = self.whole[name] - sum(each[0] for each in self.seconds.values())
                limits.append(max(0.0, aim * self.whole[name] - constant))
            else:
                costs.append({key: [getattr(o, name) for o in found] for key, found in self.options.items()})
                limits.append(fraction * self.whole[name] - self.rest(name))
        curves = {
            key: [(option.score, tuple(cost[key][k] for cost in costs)) for k, option in enumerate(found)]
            for key, found in self.options.items()
        }
        try:
            chosen = tg.allocate(curves, [max(limit, 0.0) for limit in limits]).choices
        except tg.BudgetError as error:
            raise self._out_of_reach(budget, error.closest) from None
        return {key: self.options[key][k] for key, k in chosen.items()}

    def _out_of_reach(self, budget: Budget, closest: tg.Allocation[Any]) -> tg.BudgetError:
        """How far it gets, in the units of the budget."""
        parts = []
        for (name, fraction), cost in zip(budget.asked.items(), closest.costs, strict=True):
            dense = self.seconds if name == "latency" else self.options
            own = sum(each[0] if name == "latency" else getattr(each[0], name) for each in dense.values())
            whole = self.whole[name]
            reached = (whole - own + cost) / (whole * self.gain if name == "latency" else whole)
            parts.append(f"{name} {reached:.3f} where {fraction:g} was asked")
        return tg.BudgetError(f"got {budget}, out of reach: the smallest choice has {', '.join(parts)}", closest)

    def time(self, name: str, option: Option) -> float | None:
        """Seconds of an option of a layer, where they were measured."""
        found = [s for o, s in zip(self.options[name], self.seconds.get(name, ()), strict=False) if o is option]
        return found[0] if found else None


def timed(
    model: nn.Module,
    layers: Layers,
    example: Any,
    inputs: Mapping[str, torch.Size],
    stopwatch: Stopwatch,
    gain: float,
) -> Layers:
    """The same with the seconds of each option of each layer, on inputs of the shape that it sees."""
    whole = dict(layers.whole) | {"latency": stopwatch.measure([model], example)[0]}
    found, last = {}, has_channels_last(model)
    for name, options in layers.options.items():
        layer = model.get_submodule(name)
        weight: Any = layer.weight
        dtype = torch.long if isinstance(layer, nn.Embedding) else weight.dtype
        x = torch.zeros(inputs[name], dtype=dtype, device=weight.device)
        x = laid_out(x) if last else x
        found[name] = _seconds(layer, layers.uses[name], options, x, stopwatch)
    return replace(layers, whole=whole, seconds=found, gain=gain)


def _seconds(layer: nn.Module, use: Use, options: list[Option], x: torch.Tensor, stopwatch: Stopwatch) -> list[float]:
    """Those of a few ranks of each form, and between them on straight lines over the multiply-adds."""
    groups: dict[Any, list[int]] = {}
    for k, option in enumerate(options[1:], start=1):
        groups.setdefault(option.form and option.form.key, []).append(k)
    picked = {
        key: sorted({own[round(q)] for q in np.linspace(0, len(own) - 1, _TIMED)}, key=lambda k: options[k].macs)
        for key, own in ((key, sorted(ks, key=lambda k: options[k].macs)) for key, ks in groups.items())
    }
    tried = [k for ks in picked.values() for k in ks]
    chains = [options[k].blank(use) for k in tried]
    measured = stopwatch.measure([layer, *(chain.layers(layer) for chain in chains if chain is not None)], x)
    known = dict(zip(tried, measured[1:], strict=True))
    seconds = [measured[0]] * len(options)
    for key, own in groups.items():
        macs, times = [options[k].macs for k in picked[key]], [known[k] for k in picked[key]]
        for k in own:
            seconds[k] = float(np.interp(options[k].macs, macs, times))
    return seconds


def within_latency(
    model: nn.Module, layers: Layers, budget: Budget, example: Any, stopwatch: Stopwatch
) -> dict[str, Option]:
    """The choice whose whole network, measured, is as fast as asked: layers by themselves run a little faster."""
    assert budget.latency is not None
    asked = aim = budget.latency * layers.gain
    chosen: dict[str, Option] | None = None
    for _ in range(_TRIES):
        try:
            chosen = layers.allocated(budget, aim)
        except tg.BudgetError:
            if chosen is None:
                raise
            break  # by layers it would do; the whole network was measured slower than the sum of its layers
        dense, ours = stopwatch.measure([model, _blank(model, layers, chosen)], example)
        if ours <= asked * dense:
            return chosen
        aim *= min(0.98, asked * dense / ours)
    assert chosen is not None
    picks = {name: [o is each for o in layers.options[name]].index(True) for name, each in chosen.items()}
    closest = tg.Allocation(picks, sum(each.score for each in chosen.values()), (ours,), -math.inf)
    got = f"latency {ours / dense / layers.gain:.3f} where {budget.latency:g} was asked"
    raise tg.BudgetError(f"got {budget}, out of reach: as measured, the last choice tried has {got}", closest)


def _blank(model: nn.Module, layers: Layers, chosen: Mapping[str, Option]) -> nn.Module:
    """The network with chains of zeros."""
    chains = {name: option.blank(layers.uses[name]) for name, option in chosen.items()}
    built = {name: chain.layers(model.get_submodule(name)) for name, chain in chains.items() if chain is not None}
    return put(duplicate(model), built)
