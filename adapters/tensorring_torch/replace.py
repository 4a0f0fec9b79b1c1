"""Modules found and put in place by their names."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

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
    """The model with some modules exchanged, in place; another object only where the model itself is one of them.

    An nn.TransformerEncoderLayer in eval mode reads the weights of its linear layers itself, for a fused kernel. Where
    one of them was exchanged, its own switches (and those of the nn.TransformerEncoder around it) are set so that it
    calls them as it does in training: equal but for positions that are masked as padding, where the fused path of
    nested tensors returns zeros and training does not.
    """
    for name, module in modules.items():
        if not name:
            return module
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoderLayer) and _is_exchanged(encoder):
            encoder.activation_relu_or_gelu = 0  # asked for by the fused path alone, which takes these two activations
        if isinstance(encoder, nn.TransformerEncoder) and any(_is_exchanged(layer) for layer in encoder.layers):
            encoder.use_nested_tensor = False
    return model


def _is_exchanged(encoder: Any) -> bool:
    return any(not hasattr(getattr(encoder, name, None), "weight") for name in ("linear1", "linear2"))


def tied_modules(model: nn.Module) -> set[int]:
    """The ids of the modules that stand at several places, or whose parameters do."""
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    owners = defaultdict(set)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].add(id(module))
    shared = {owner for ids in owners.values() if len(ids) > 1 for owner in ids}
    return shared | {module for module, count in names.items() if count > 1}
