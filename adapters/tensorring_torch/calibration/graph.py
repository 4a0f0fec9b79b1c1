"""What a network does with a layer's output: which batch norm follows, and which sum it goes into."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Modules that pass on what they get, in eval mode.
_SILENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True)
class Surrounding:
    """Where the output of a layer goes, as far as it goes there alone.

    `norm` names the batch norm that it passes. `sum` is the node that adds `other` to it, `other` being known, or
    computable without parameters, before the layer is called.
    """

    norm: str | None = None
    sum: fx.Node | None = None
    other: fx.Node | None = None


def traced(model: nn.Module) -> fx.GraphModule | None:
    """The graph of a network in eval mode; None where its course depends on the data."""
    try:
        return fx.symbolic_trace(model)
    except Exception:  # tracing runs anybody's code, on proxies that it was not written for
        return None


def boxed(model: nn.Module, inputs: int) -> fx.GraphModule:
    """A network that cannot be traced as a graph of one node: the module `network`, with so many inputs."""
    graph = fx.Graph()
    args = tuple(graph.placeholder(f"input_{k}") for k in range(inputs))
    graph.output(graph.call_module("network", args))
    return fx.GraphModule({"network": model}, graph)


def surroundings(graph: fx.GraphModule) -> dict[str, Surrounding]:
    """{name of a module: where its output goes}, for modules that are called once."""
    nodes = list(graph.graph.nodes)
    order = {node: k for k, node in enumerate(nodes)}
    called = [node for node in nodes if node.op == "call_module"]
    targets = [node.target for node in called]
    return {str(node.target): _surrounding(graph, node, order) for node in called if targets.count(node.target) == 1}


def _surrounding(graph: fx.GraphModule, start: fx.Node, order: dict[fx.Node, int]) -> Surrounding:
    norm, before = None, start
    for node in _alone(start):
        module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, NORMS) and norm is None and _is_alone(graph, node, module):
            norm = str(node.target)
        elif node.target in _SUMS and node.op in ("call_function", "call_method"):
            others = [arg for arg in node.args if isinstance(arg, fx.Node) and arg is not before]
            plain = len(others) == 1 and not node.kwargs and _known(graph, others[0], start, order)
            return Surrounding(norm, node, others[0]) if plain else Surrounding(norm)
        elif not isinstance(module, _SILENT):
            return Surrounding(norm)
        before = node
    return Surrounding(norm)


def _is_alone(graph: fx.GraphModule, node: fx.Node, norm: nn.Module) -> bool:
    """Whether a batch norm has statistics, and no second call in which they serve another layer."""
    calls = [other for other in graph.graph.nodes if other.op == "call_module" and other.target == node.target]
    return len(calls) == 1 and getattr(norm, "running_mean", None) is not None


def _known(graph: fx.GraphModule, node: fx.Node, start: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Whether a node comes before `start`, or after it from what does, by operations without parameters."""
    if order[node] < order[start]:
        return True
    own = node.op == "call_module" and any(True for _ in graph.get_submodule(str(node.target)).parameters())
    return node is not start and not own and all(_known(graph, arg, start, order) for arg in node.all_input_nodes)


def _alone(node: fx.Node) -> Iterator[fx.Node]:
    """The node that alone uses a node's output, and so on."""
    while len(node.users) == 1:
        (node,) = node.users
        yield node
