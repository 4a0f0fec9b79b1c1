"""What unlabelled data tells of a network, found once for all budgets, and the final fits that it allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from tensorring_torch.calibration.curves import Option
from tensorring_torch.calibration.data import Batch, first_of, output_change
from tensorring_torch.calibration.graph import Surrounding, boxed, surroundings, traced
from tensorring_torch.calibration.measured import measured
from tensorring_torch.calibration.observe import Seen, observed
from tensorring_torch.calibration.sequence import Choice, Fitted, Sequence
from tensorring_torch.chain import Use
from tensorring_torch.trace import Shapes, layers_called

# Inputs that curves are made from, and final fits: more would tell them little.
_FEW, _MANY = 256, 1024


class Study:
    """A dense network in eval mode on its batches: `seen` tells of each layer that they reach.

    Parameters
    ----------
    dense
        The network.
    batches
        Positional arguments.
    shapes
        {name: shapes of the inputs} of the layers that may change.
    """

    def __init__(self, dense: nn.Module, batches: list[Batch], shapes: Shapes) -> None:
        self.batches, self._dense, self._box = batches, dense, ""
        with layers_called():
            found = observed(dense, list(shapes), first_of(batches, _FEW))
            graph = traced(dense, shapes, batches[0])
        for name, each in found.items():
            if not torch.isfinite(torch.as_tensor(each.gradients)).all():
                raise ValueError(f"got a network that gives NaN or inf on the calibration data, in or after {name!r}")
        self.seen: Mapping[str, Seen] = {name: each for name, each in found.items() if each.sums}
        self.notes = []
        self._around: Mapping[str, Surrounding] = {}
        if graph is None:
            self.notes = ["its graph could not be traced: sums are not repaired, each layer takes two whole passes"]
            graph, self._box = boxed(dense, len(batches[0])), "network"
        else:
            self._around = surroundings(graph, {name for name in shapes if self._channels_second(name, shapes)})
        self._graph = graph

    def _channels_second(self, name: str, shapes: Shapes) -> bool:
        layer = self._dense.get_submodule(name)
        axes = len(getattr(layer, "kernel_size", ()))
        return not isinstance(layer, nn.Embedding) and all(len(shape) == axes + 2 for shape in shapes[name])

    def new_bias(self, name: str) -> int:
        """How many numbers a chain in the place of a layer needs to set its mean output right."""
        layer: Any = self._dense.get_submodule(name)
        if isinstance(layer, nn.Embedding):
            return 0
        norm = self._around.get(name, Surrounding()).norm
        return self.seen[name].outputs if name in self.seen and layer.bias is None and norm is None else 0

    def change(self, ours: nn.Module) -> float:
        """How far a network is from the dense one."""
        return output_change(self._dense, ours, first_of(self.batches, _FEW))

    def measured(self, uses: Mapping[str, Use], options: Mapping[str, list[Option]]) -> dict[str, list[Option]]:
        """The options with scores of what each does, alone, to the outputs taken as logits."""
        found = measured(self._graph, self._inside(uses), self._inside(options), self.batches)
        return {name: found[inside] for name, inside in zip(options, self._inside(options), strict=True)}

    def fitted(self, ours: nn.Module, choices: Mapping[str, Choice]) -> Iterator[tuple[str, Fitted, nn.Module]]:
        """Each layer of a copy of the network after it was exchanged, in network order, and the network."""
        root = nn.ModuleDict({"network": ours}) if self._box else ours
        batches = first_of(self.batches, _MANY)
        order = Sequence(self._graph, root, batches, self._inside(choices), self._inside(self.seen), self._around)
        for name, each in order.run():
            network = root.get_submodule(self._box)
            yield name.removeprefix(self._box).removeprefix("."), each, network

    def _inside(self, named: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{self._box}.{name}".strip("."): value for name, value in named.items()}
