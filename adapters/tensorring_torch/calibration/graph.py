"""What a network does with a layer's output: which batch norm follows, and which sum it goes into."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from tensorring_torch.calibration.data import first_tensor, fresh
from tensorring_torch.replace import duplicate

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Modules that pass on what they get, in eval mode.
_SILENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)
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


def traced(model: nn.Module, layers: Collection[str], batch: tuple[Any, ...]) -> fx.GraphModule | None:
    """The graph of a copy of a network in eval mode.

    None where its course depends on the data, a layer is not reached by calls of modules, or its outputs for the batch
    are not those of the network.
    """
    try:
        graph = _traced(duplicate(model), len(batch))
        with torch.no_grad():
            outputs = [first_tensor(each(*fresh(batch))) for each in (graph, model)]
        same = torch.equal(*outputs) or torch.allclose(*outputs, rtol=1e-3, equal_nan=True)
    except Exception:  # tracing runs anybody's code, on proxies that it was not written for
        return None
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    reached = all(any(f"{name}.".startswith(f"{target}.") for target in called) for name in layers)
    return graph if same and reached else None


def _traced(model: nn.Module, count: int) -> fx.GraphModule:
    """The course for so many inputs, with the defaults of all others."""
    known = list(inspect.signature(model.forward).parameters.values())[count:]
    defaults = {each.name: each.default for each in known if each.default is not each.empty}
    graph = fx.symbolic_trace(model, concrete_args=defaults or None)
    # Of the others torch keeps an input and the assertion that it is the default.
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node in inputs[count:]:
        _erase(graph.graph, node)
    graph.recompile()
    return graph


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)


def boxed(model: nn.Module, inputs: int) -> fx.GraphModule:
    """A network that cannot be traced as a graph of one node: the module `network`, with so many inputs."""
    graph = fx.Graph()
    args = tuple(graph.placeholder(f"input_{k}") for k in range(inputs))
    graph.output(graph.call_module("network", args))
    return fx.GraphModule({"network": model}, graph)


def surroundings(graph: fx.GraphModule, channels_second: Collection[str]) -> dict[str, Surrounding]:
    """{name: where the output goes}, for those of the layers that are called once.

    They are to have their channels on the second axis, as batch norms do: not linear layers on sequences.
    """
    nodes = list(graph.graph.nodes)
    order = {node: k for k, node in enumerate(nodes)}
    called = [node for node in nodes if node.op == "call_module"]
    targets = [node.target for node in called]
    once = [node for node in called if targets.count(node.target) == 1 and node.target in channels_second]
    return {str(node.target): _surrounding(graph, node, order) for node in once}


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
    module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
    own = module is not None and any(True for _ in module.parameters())
    if node is start or own or _writes(node, module):
        return False
    return all(_known(graph, arg, start, order) for arg in node.all_input_nodes)


def _writes(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node may write into its input, so that it must wait for its turn."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    inside = module is not None and any(getattr(part, "inplace", False) for part in module.modules())
    by_name = module is None and (name.endswith("_") or node.target in _IN_PLACE)
    return inside or by_name or bool(node.kwargs.get("inplace"))


def _alone(node: fx.Node) -> Iterator[fx.Node]:
    """The node that alone uses a node's output, and so on."""
    while len(node.users) == 1:
        (node,) = node.users
        yield node
