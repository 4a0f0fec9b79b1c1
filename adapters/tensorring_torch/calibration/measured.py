"""What options really do to the logits of a network, each layer alone.

Predicted to first order, an error of a kernel costs the more the larger it is. Logits that have changed a little change
no decision, and those that have changed much are as wrong as they can be.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from tensorring_torch.calibration.curves import Option
from tensorring_torch.calibration.data import Batch, first_of, first_tensor, fresh
from tensorring_torch.chain import Chain, Use
from tensorring_torch.replace import duplicate, put

# So many inputs are looked at, and no more than so many for all layers together: errors of many layers average out.
_FEW, _IN_ALL = 384, 7000

# For each layer the modules that may stand for it, by the places of their options.
Tried = Mapping[str, Mapping[int, nn.Module]]


@torch.no_grad()
def measured(
    graph: fx.GraphModule, uses: Mapping[str, Use], options: Mapping[str, list[Option]], batches: list[Batch]
) -> dict[str, list[Option]]:
    """The options of each layer, their scores Σ KL(softmax y ‖ softmax ŷ) with that layer alone exchanged.

    Measured where ranks were fitted; between them what a measurement is of the prediction lies on a straight line of
    logarithms. Only what comes after a layer is computed again for each of its options.

    Parameters
    ----------
    graph
        The network, traced, in eval mode; its outputs are logits, along the second axis.
    uses, options
        Of each layer of the graph that may change.
    batches
        Positional arguments.

    Raises
    ------
    ValueError
        If the outputs have no second axis of two or more.
    """
    ours, found = duplicate(graph), Counter[tuple[str, int]]()
    tried = {
        name: {
            k: Chain.of(option.begin, uses[name]).layers(ours.get_submodule(name))
            for k, option in enumerate(known)
            if option.is_fitted
        }
        for name, known in options.items()
    }
    for batch in _spread(batches, min(_FEW, _IN_ALL // len(options))):
        for key, divergence in _divergences(ours, tried, batch):
            found[key] += divergence
    return {name: _rescored(known, {k: found[name, k] for k in tried[name]}) for name, known in options.items()}


def _spread(batches: list[Batch], count: int) -> list[Batch]:
    """About so many inputs, from all over: what was augmented may come last."""
    few = len(first_of(batches, count))
    return [batches[k * len(batches) // few] for k in range(few)]


def _divergences(graph: Any, tried: Tried, batch: Batch) -> Iterator[tuple[tuple[str, int], float]]:
    """One walk through the graph, which halts at each layer."""
    wanted, turns = _log_softmax(graph(*fresh(batch))), _turns(graph, tried)
    walk, rest = fx.Interpreter(graph, garbage_collect_values=False), fx.Interpreter(graph)
    walk.env, walk.args_iter = {}, iter(fresh(batch))
    nodes = list(graph.graph.nodes)
    for position, node in enumerate(nodes[:-1]):
        for name in turns[node]:
            needed = {arg for later in nodes[position:] for arg in later.all_input_nodes}
            layer = graph.get_submodule(name)
            for k, module in tried[name].items():
                put(graph, {name: module})
                # Copies, for what comes may write into them; of what nothing needs its place is enough.
                known = {n: fresh((value,))[0] if n in needed else None for n, value in walk.env.items()}
                ours = _log_softmax(rest.run(initial_env=known))
                yield (name, k), float(functional.kl_div(ours, wanted, log_target=True, reduction="sum"))
            put(graph, {name: layer})
        walk.env[node] = walk.run_node(node)


def _turns(graph: fx.GraphModule, tried: Tried) -> Mapping[fx.Node, list[str]]:
    """The node that first calls each layer, or a module that it is in."""
    called = [node for node in graph.graph.nodes if node.op == "call_module"]
    found = defaultdict(list)
    for name in tried:
        found[next(node for node in called if f"{name}.".startswith(f"{node.target}."))].append(name)
    return found


def _log_softmax(out: Any) -> Tensor:
    logits = first_tensor(out)
    if logits.ndim < 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape)
        raise ValueError(f"got outputs of shape {shape}; scores='measured' takes logits, classes along the second axis")
    return functional.log_softmax(logits.double(), dim=1)


def _rescored(known: list[Option], scores: Mapping[int, float]) -> list[Option]:
    """All options of a layer by what those that were measured are of the prediction, form by form."""
    found = list(known)
    tiny = np.finfo(float).tiny
    for key in {option.form.key for option in known if option.form is not None}:
        own = [k for k, option in enumerate(known) if option.form is not None and option.form.key == key]
        met = sorted((k for k in own if k in scores), key=lambda k: known[k].parameters)
        sizes = [math.log(known[k].parameters) for k in met]
        ratios = [math.log(max(scores[k], tiny)) - math.log(max(known[k].score, tiny)) for k in met]
        for k in own:
            ratio = float(np.interp(math.log(known[k].parameters), sizes, ratios))
            found[k] = replace(known[k], score=math.exp(math.log(max(known[k].score, tiny)) + ratio))
    return found
