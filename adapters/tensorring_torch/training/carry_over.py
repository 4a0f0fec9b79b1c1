"""An optimizer goes on with another network: the same parameters keep their state, new ones begin without."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn


def check_optimizer(optimizer: Any, model: nn.Module) -> None:
    """TypeError or ValueError unless the optimizer can be handed from this model to another."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"got a {type(optimizer).__name__} for the optimizer; it is a torch.optim.Optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError("got LBFGS, whose state is of all parameters at once: make a new one for the new model")
    ours = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in ours for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError(
            "got an optimizer of none of the model's parameters; give the one that trains this very model: after an "
            "earlier exchange without optimizer=, make a new one"
        )


def carry_over(optimizer: torch.optim.Optimizer, old: nn.Module, new: nn.Module, exchanged: Collection[str]) -> None:
    """The optimizer of `old` becomes one of `new`, in place: schedulers that hold it go on.

    Parameters of `new` take the places and the state (momentum, moments, steps) of those of `old` with their names. In
    `exchanged` modules only biases do; their other parameters stand, without a state, in the group in which the first
    of the old ones stood. What is not of `old` stays.
    """
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    heirs, places = _same_names(old, new, exchanged), dict[nn.Parameter, list[nn.Parameter]]()
    for name in exchanged:
        (biases, weights), (new_biases, new_weights) = (_parted(each.get_submodule(name)) for each in (old, new))
        heirs |= dict(zip(biases, new_biases, strict=True))
        places |= {weight: [] for weight in weights}
        first = next((weight for weight in weights if weight in held), None)
        if first is not None:
            places[first] = new_weights
    places |= {parameter: [heir] for parameter, heir in heirs.items()}
    for group in optimizer.param_groups:
        group["params"] = [each for parameter in group["params"] for each in places.get(parameter, [parameter])]
    for parameter in places:
        state = optimizer.state.pop(parameter, None)
        if state is not None and parameter in heirs:
            optimizer.state[heirs[parameter]] = state


def _same_names(old: nn.Module, new: nn.Module, exchanged: Collection[str]) -> dict[nn.Parameter, nn.Parameter]:
    theirs = dict(new.named_parameters())
    gone = {parameter for name in exchanged for parameter in old.get_submodule(name).parameters()}
    return {parameter: theirs[name] for name, parameter in old.named_parameters() if parameter not in gone}


def _parted(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The biases, of which a chain has one at most, and the rest."""
    biases = [parameter for name, parameter in module.named_parameters() if name.rpartition(".")[2] == "bias"]
    return biases, [parameter for parameter in module.parameters() if all(parameter is not each for each in biases)]
