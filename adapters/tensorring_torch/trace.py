"""Which layers a forward pass calls, and with inputs of which shapes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tensorring_torch.geometry import Call, Calls, Geometry
from tensorring_torch.kinds import KINDS
from tensorring_torch.replace import duplicate

Shapes = Mapping[str, list[torch.Size]]


def input_shapes(model: nn.Module, example_input: Any) -> Shapes:
    """{name: shape of the input in each call}: one forward pass of a copy in eval mode; `model` is not touched.

    Layers that were called with more than their input (the output size of a transposed convolution) are left out: a
    chain takes an input alone. `example_input` is a tensor, a tuple or list of positional arguments, or a dict of
    keyword arguments.
    """
    model = duplicate(model).eval()
    shapes: dict[str, list[torch.Size]] = defaultdict(list)
    special = set()

    def note(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = (*args, *kwargs.values())
        tensors = [value for value in given if isinstance(value, torch.Tensor)]
        if tensors:
            shapes[name].append(tensors[0].shape)
        if isinstance(module, KINDS) and len(given) > 1:
            special.add(name)

    for name, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):  # which take no hooks, and hold no layers of ours
            module.register_forward_pre_hook(lambda m, a, k, name=name: note(name, m, a, k), with_kwargs=True)
    try:
        with torch.no_grad(), layers_called():
            if isinstance(example_input, Mapping):
                model(**example_input)
            else:
                model(*(example_input if isinstance(example_input, (tuple, list)) else (example_input,)))
    except Exception as error:
        raise ValueError(
            f"got an example_input that {type(model).__name__} does not run on: {type(error).__name__}: {error}; give "
            "what it takes: a tensor, a tuple of positional or a dict of keyword arguments"
        ) from error
    return {name: found for name, found in shapes.items() if name not in special}


@contextmanager
def layers_called() -> Iterator[None]:
    """Within, torch's transformers call their layers in eval mode too, where hooks see them; for all threads."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def calls_of(geometry: Geometry, shapes: list[torch.Size]) -> Calls:
    """The calls of a layer whose inputs had these shapes: of a convolution batched or not, of others any."""
    axes = len(geometry.kernel)
    channels = 0 if geometry.lookup is not None else 1
    return tuple(
        Call(math.prod(shape[: len(shape) - axes - channels]), tuple(shape[len(shape) - axes :])) for shape in shapes
    )


def multiply_adds(model: nn.Module, shapes: Shapes) -> int:
    """Those of all convolutions and linear layers, parts of chains too, whose inputs had these shapes."""
    layers = [(Geometry.of(layer), name) for name, layer in model.named_modules() if isinstance(layer, KINDS)]
    calls = [(geometry, call) for geometry, name in layers for call in calls_of(geometry, shapes.get(name, []))]
    return sum(call.batch * geometry.multiply_adds(call.size) for geometry, call in calls)


def unbatched(geometry: Geometry, shapes: list[torch.Size]) -> bool:
    """Whether a convolution was called on an image without a batch."""
    return bool(geometry.kernel) and any(len(shape) < len(geometry.kernel) + 2 for shape in shapes)
