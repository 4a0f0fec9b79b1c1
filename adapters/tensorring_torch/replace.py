"""Modules found and put in place by their names."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Mapping

import torch
from torch import nn


def duplicate(model: nn.Module) -> nn.Module:
    """A deep copy, also where torch refuses one: of weights that old-style weight norm or pruning computed."""
    # They are computed anew before each call, so that they are cut off from the graph here changes nothing.
    computed = (
        value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)
    )
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed if not value.is_leaf})


def put(model: nn.Module, modules: Mapping[str, nn.Module]) -> nn.Module:
    """The model with some modules exchanged, in place; another object only where the model itself is one of them."""
    for name, module in modules.items():
        if not name:
            return module
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
    return model


def tied_modules(model: nn.Module) -> set[int]:
    """The ids of the modules that stand at several places, or whose parameters do."""
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    owners = defaultdict(set)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].add(id(module))
    shared = {owner for ids in owners.values() if len(ids) > 1 for owner in ids}
    return shared | {module for module, count in names.items() if count > 1}
