"""Which layers a forward pass calls, and with inputs of which shapes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tensorring_torch.geometry import Call, Calls
from tensorring_torch.replace import duplicate

Shapes = Mapping[str, list[torch.Size]]


def input_shapes(model: nn.Module, example_input: Any) -> Shapes:
    """{name: shape of the input in each call}: one forward pass of a copy in eval mode; `model` is not touched.

    `example_input` is a tensor, a tuple or list of positional arguments, or a dict of keyword arguments.
    """
    model = duplicate(model).eval()
    shapes: dict[str, list[torch.Size]] = defaultdict(list)

    def note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if tensors:
            shapes[name].append(tensors[0].shape)

    for name, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):  # which take no hooks, and hold no layers of ours
            module.register_forward_pre_hook(lambda _, a, k, name=name: note(name, a, k), with_kwargs=True)
    with torch.no_grad():
        if isinstance(example_input, Mapping):
            model(**example_input)
        else:
            model(*(example_input if isinstance(example_input, (tuple, list)) else (example_input,)))
    return shapes


def calls_of(shapes: list[torch.Size]) -> Calls:
    """The calls of a 2-D convolution, batched or not."""
    return tuple(Call(shape[0] if len(shape) == 4 else 1, (shape[-2], shape[-1])) for shape in shapes)
