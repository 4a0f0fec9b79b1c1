"""Two networks in step: the dense one and its copy that is being compressed, node after node, on all batches.

What a layer is fitted to (its output in the dense network) and what it will really see (its input in the compressed
one) are there when its turn comes, and each network computes everything once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from tensorring_torch.calibration.data import Batch, fresh


class Pair(NamedTuple):
    """What a node gave in the dense network and in the compressed one, batch after batch."""

    dense: list[Any]
    ours: list[Any]


class Walk:
    """The nodes of a graph in order. While one is at hand, `value` tells what came before.

    Parameters
    ----------
    graph
        The dense network, traced.
    ours
        Its copy, whose modules may be exchanged until the walk has passed them.
    batches
        Positional arguments of the network, one tuple for each batch.

    Notes
    -----
    Memory: the values that later nodes still need, of both networks and all batches: for a residual network the
    inputs and two or three activations.
    """

    def __init__(self, graph: fx.GraphModule, ours: nn.Module, batches: list[Batch]) -> None:
        self.dense, self.ours, self._batches = graph, ours, batches
        self._values: dict[fx.Node, Pair] = {}
        self._done = _last_uses(graph)

    @torch.no_grad()
    def nodes(self) -> Iterator[fx.Node]:
        """Each node before it is computed; what only it needed is forgotten afterwards."""
        inputs = 0
        for node in self.dense.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = Pair(self._given(inputs), self._given(inputs))
                inputs += 1
            elif node.op == "output":
                return
            elif node not in self._values:
                yield node
                self._compute(node)
            for done in self._done.get(node, ()):
                del self._values[done]

    def __len__(self) -> int:
        """The number of batches."""
        return len(self._batches)

    def value(self, node: fx.Node) -> Pair:
        """What a node gave, if one to come still needs it; one that is yet to come is computed now."""
        if node not in self._values:
            for needed in node.all_input_nodes:
                self.value(needed)
            self._compute(node)
        return self._values[node]

    def _compute(self, node: fx.Node) -> None:
        batches = range(len(self))
        self._values[node] = Pair(*([self.run(node, which, k) for k in batches] for which in ("dense", "ours")))

    def run(self, node: fx.Node, which: str, batch: int) -> Any:
        """What a node gives in the "dense" network or in "ours" on a batch."""

        def known(arg: fx.Node) -> Any:
            return getattr(self._values[arg], which)[batch]

        args, kwargs = fx.map_arg(node.args, known), fx.map_arg(node.kwargs, known)
        target: Any = node.target
        if node.op == "call_module":
            module = self._model(which).get_submodule(target)
            if any(module.children()):  # it is run more than once, and may write into its inputs
                args, kwargs = fresh(args), dict(zip(kwargs, fresh(tuple(kwargs.values())), strict=True))
            return module(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if node.op == "get_attr":
            path, _, name = target.rpartition(".")
            constant = name.startswith("_tensor_constant")  # tracing met it: only the graph has it
            return getattr(self._model("dense" if constant else which).get_submodule(path), name)
        return target(*args, **kwargs)

    def _given(self, position: int) -> list[Any]:
        """A copy of an input of the network."""
        return [fresh(batch[position:])[0] for batch in self._batches]

    def _model(self, which: str) -> nn.Module:
        return self.dense if which == "dense" else self.ours


def _last_uses(graph: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """For each node those that nothing after it needs."""
    done: dict[fx.Node, list[fx.Node]] = {}
    seen: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        for used in dict.fromkeys((*node.all_input_nodes, node)):
            if used not in seen:
                seen.add(used)
                done.setdefault(node, []).append(used)
    return done
