"""Batch norms merged into the layers before them: the same function in eval mode, in fewer steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from tensorring_torch.calibration.data import Batch, fresh
from tensorring_torch.calibration.graph import NORMS, surroundings, traced
from tensorring_torch.checks import check_model, obstacle
from tensorring_torch.geometry import Geometry
from tensorring_torch.kinds import PLAIN, TRANSPOSED, canonical_weight, layer_of
from tensorring_torch.layer import convolutions_of, dense_layer, plan_of
from tensorring_torch.replace import duplicate, put, tied_modules
from tensorring_torch.trace import input_shapes
from tensorring_torch.tt_linear import TTLinear

_BEFORE = (*PLAIN, *TRANSPOSED, nn.Linear)


@torch.inference_mode(False)  # parameters made in inference mode could never be trained
@torch.no_grad()
def fold_norms(model: nn.Module, example_input: Any) -> nn.Module:
    """fold_norms(model, x)(x) = model.eval()(x): a copy whose batch norms are part of the layers before them.

    What a batch norm does in eval mode, gain∗z + shift in each channel, goes into the weight and the bias of the
    convolution, transposed convolution or linear layer whose output z it takes; nn.Identity takes its place.

    Parameters
    ----------
    model
        Any nn.Module, dense or what `compress` returned; it is not changed. Where layers of this package stand in for
        one, the last of them takes up the norm.
    example_input
        What the model takes: a tensor, or a tuple of positional arguments. Forward passes tell which norm follows which
        layer.

    Returns
    -------
    nn.Module
        A copy in eval mode, of the same dtypes, devices, memory layouts and `requires_grad`. If there is nothing to
        fold it is equal. Folding it again changes nothing.

    Raises
    ------
    TypeError
        If `model` is no nn.Module or is scripted, or `example_input` holds keyword arguments.
    ValueError
        If the model has batch norms but does not run on the example, or its graph cannot be traced.

    Notes
    -----
    A norm stays where its layer is called twice, is tied, has hooks or a computed weight, or feeds something else too;
    where the norm is called twice, stands at two places or has no running statistics; where it comes first, as before a
    convolution; after a linear layer on sequences, a `TTLinear` or an nn.Embedding; and where the dtype cannot hold the
    folded numbers to its precision, as can be in float16. nn.SyncBatchNorm is not known.

    Costs a few forward passes. Numbers are computed in float64 and rounded once, so outputs agree up to rounding. In
    training mode the copy computes something else: there is no batch to normalise by. A model that reads attributes of
    a norm or a layer itself, such as `self.norm.weight`, must not be folded where they are.

    Files of folded networks are loaded onto the dense one as it was, or folded.

    References
    ----------
    S. Ioffe and C. Szegedy 2015, arXiv 1502.03167. Folded for inference: B. Jacob et al. 2018, section 3.2,
    arXiv 1712.05877.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, bias=False), torch.nn.BatchNorm2d(16), torch.nn.ReLU())
    >>> tgt.fold_norms(model, torch.zeros(1, 3, 8, 8))
    Sequential(
      (0): Conv2d(3, 16, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
    )
    """
    check_model(model)
    if isinstance(example_input, Mapping):
        raise TypeError("got keyword arguments as the example input; give positional ones, a tuple")
    batch = tuple(example_input) if isinstance(example_input, (tuple, list)) else (example_input,)
    folded, merged = duplicate(model).eval(), True
    while merged and any(isinstance(part, NORMS) for part in folded.modules()):  # behind a norm there may be another
        names = [name for layer, name in _pairs(folded, batch) if _merge(layer, folded.get_submodule(name))]
        put(folded, {name: nn.Identity().eval() for name in names})
        merged = bool(names)
    return folded


def emptied(model: nn.Module, identities: Mapping[str, Any], biases: Mapping[str, Tensor]) -> list[str]:
    """As after a fold, in place: norms of these names become identities, layers with one of the biases have it, empty.

    Returns the names of those layers.
    """
    norms = {name: part for name, part in model.named_modules() if name in identities and isinstance(part, NORMS)}
    put(model, {name: nn.Identity().train(norm.training) for name, norm in norms.items()})
    found = []
    for name, layer in model.named_modules():
        if norms and isinstance(layer, _BEFORE) and layer.bias is None and f"{name}.bias" in biases:
            empty = layer.weight.new_empty(biases[f"{name}.bias"].shape, device="meta")
            layer.bias = nn.Parameter(empty, layer.weight.requires_grad)
            found.append(name)
    return found


def _pairs(model: nn.Module, batch: Batch) -> Iterator[tuple[nn.Module, str]]:
    """Each layer that a batch norm follows, and the name of that norm, where both serve nothing else."""
    graph, shapes = _graph(model, batch)
    layers = [name for name, part in graph.named_modules() if isinstance(part, _BEFORE)]
    tied = tied_modules(model)
    for name, surrounding in surroundings(graph, layers).items():
        if surrounding.norm is None:
            continue
        whole, norm = model.get_submodule(name), model.get_submodule(surrounding.norm)
        layer = _last(whole)
        axes = len(getattr(layer, "kernel_size", ()))
        second = all(len(shape) == axes + 2 for shape in shapes[surrounding.norm])  # where norms have their channels
        known = obstacle(layer) is None and _is_bare(whole) and _is_bare(norm)
        alone = not tied & {id(layer), id(norm)} and _used_once(graph, name) and _used_once(graph, surrounding.norm)
        if second and known and alone:
            yield layer, surrounding.norm


def _graph(model: nn.Module, batch: Batch) -> tuple[fx.GraphModule, Mapping[str, list[torch.Size]]]:
    """The graph of the network, in which what stands in for a layer is one layer again, and the shapes of all inputs.

    Those who stand in ask for shapes, which a graph does not know.
    """
    chains = [
        name
        for name, part in model.named_modules(remove_duplicate=False)
        if isinstance(part, TTLinear) or plan_of(part) is not None
    ]
    plain = put(duplicate(model), {name: dense_layer(model.get_submodule(name)) for name in chains})
    shapes = input_shapes(plain, fresh(batch))
    graph = traced(plain, (), batch)
    if graph is None:
        raise ValueError(
            f"got a {type(model).__name__} whose graph cannot be traced, so that it is not known what follows which "
            "layer; fold parts of it by themselves: model.body = fold_norms(model.body, what it takes)"
        )
    return graph, shapes


def _last(module: Any) -> nn.Module:
    """The layer whose outputs are those of a chain: nothing comes after the last one, and it has a row for each."""
    plan = plan_of(module)
    return module if plan is None else convolutions_of(module, plan)[-1]


def _is_bare(module: nn.Module) -> bool:
    """Whether nobody looks on, or computes something else."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and "forward" not in vars(module)


def _used_once(graph: fx.GraphModule, name: str) -> bool:
    """Whether its call is the only one; neither is it part of another module called, nor are its numbers read."""
    targets = [f"{node.target}." for node in graph.graph.nodes if node.op in ("call_module", "get_attr")]
    return sum(f"{name}.".startswith(target) or target.startswith(f"{name}.") for target in targets) == 1


def _merge(layer: Any, norm: Any) -> bool:
    """Norm(layer(x)) as the layer alone, in place; where its dtype is too short for that nothing is done, and False."""
    gain = torch.rsqrt(norm.running_var.double() + norm.eps) * (1.0 if norm.weight is None else norm.weight)
    mean = norm.running_mean.double() - (0.0 if layer.bias is None else layer.bias)
    shift = (0.0 if norm.bias is None else norm.bias) - gain * mean
    old, kernel = layer.weight, canonical_weight(layer)
    kernel = kernel * gain.reshape(-1, *(1,) * (kernel.ndim - 1))  # in float64, as the gain
    rounded, bias = kernel.to(old.dtype), shift.to(old.dtype)
    lost, size = (each.flatten(1).norm(dim=1) for each in (rounded - kernel, kernel))
    if not (bool((lost <= torch.finfo(old.dtype).eps * size).all()) and bool(bias.isfinite().all())):
        return False
    new: Any = layer_of(Geometry.of(layer), rounded, None).weight
    in_its_layout = torch.empty_like(old).copy_(new)
    layer.weight = nn.Parameter(in_its_layout, old.requires_grad)
    layer.bias = nn.Parameter(bias, old.requires_grad if layer.bias is None else layer.bias.requires_grad)
    return True
