"""What can be decomposed, and why the rest cannot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

import tensorring as tg
from tensorring_torch.forms.cp import TuckerCPTensor
from tensorring_torch.geometry import Geometry
from tensorring_torch.kinds import KINDS

FORMATS = (tg.TRTensor, tg.TTTensor, tg.TuckerTensor, tg.CutTensor, tg.CPTensor, TuckerCPTensor, tg.BlockTermTensor)
# Those in which all axes of the kernel may be one mode.
MERGED = (tg.CPTensor, TuckerCPTensor, tg.BlockTermTensor)
_NAMES = ", ".join(f"nn.{kind.__name__}" for kind in KINDS)


def obstacle(layer: nn.Module) -> str | None:
    """Why a layer cannot be replaced by a chain that is built from its weight; None where it can."""
    return next((reason for found, reason in _obstacles(layer) if found), None)


def _obstacles(layer: nn.Module) -> Iterator[tuple[bool, str]]:
    """Lazily: each may be asked only where those before it were not found."""
    yield is_quantised(layer), "quantised"
    kind = next((kind for kind in KINDS if isinstance(layer, kind)), None)
    yield kind is None, f"a {type(layer).__name__} is none of {_NAMES}"
    computed = parametrize.is_parametrized(layer) or set(layer._parameters) - {"bias"} != {"weight"}
    yield computed, "its weight is computed (weight norm, parametrization, pruning)"
    weight: Any = layer.weight
    yield is_lazy(weight), "its parameters are not initialised: run the model once"
    yield weight.is_meta, "its weight is on the meta device, without numbers"
    yield type(weight.data) is not Tensor or not (weight.is_floating_point() or weight.is_complex()), "quantised"
    own = (getattr(type(layer), name, None) is getattr(kind, name, None) for name in ("forward", "_conv_forward"))
    yield not all(own) or "forward" in vars(layer), f"{type(layer).__name__} has a forward of its own"
    yield getattr(layer, "max_norm", None) is not None, "it rescales its rows whenever it is called (max_norm)"
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    yield any(hooks), "it has hooks, which would be lost"


def is_quantised(layer: nn.Module) -> bool:
    """Whether torch's quantisation made this layer."""
    sizes = ("kernel_size", "in_features", "num_embeddings")
    return "quantized" in type(layer).__module__.split(".") and any(hasattr(layer, size) for size in sizes)


def check_layer(layer: Any) -> None:
    """TypeError unless it is of a kind that is decomposed, ValueError unless its weight is its own to replace."""
    if not isinstance(layer, KINDS):
        raise TypeError(f"got a {type(layer).__name__}; layers that can be decomposed are {_NAMES}")
    reason = obstacle(layer)
    if reason is not None:
        raise ValueError(f"got {layer}: {reason}; a plain layer is needed: bring its weight into one first")


def checked_tensors(tensor: Any, like: Any) -> tuple[tg.LowRankTensor, ...]:
    """One tensor for all groups of a layer, or one for each, of the shapes and the dtype that the layer needs."""
    geometry = Geometry.of(like)
    one = not isinstance(tensor, (list, tuple))
    tensors = (tensor,) if one else tuple(tensor)
    for part in tensors:
        _check_tensor(part, like.weight)
    if len(tensors) == 1 and _fits(tensors[0], geometry.weight_shape):
        return tensors
    shape = geometry.one_group().weight_shape
    if one or len(tensors) != geometry.groups or not all(_fits(part, shape) for part in tensors):
        got = [part.shape for part in tensors]
        each = f", or {geometry.groups} tensors of shape {shape}" if geometry.groups > 1 else ""
        raise ValueError(f"got the shape {got[0] if one else got}; the layer needs {geometry.weight_shape}{each}")
    kinds = {(type(part), part.ndim, getattr(part, "modes", None)) for part in tensors}
    if len(kinds) > 1:
        raise ValueError(f"got {sorted(repr(part) for part in tensors)}; the groups of a layer need one format for all")
    return tensors


def _check_tensor(tensor: Any, weight: Tensor) -> None:
    if not isinstance(tensor, FORMATS):
        names = ", ".join(kind.__name__ for kind in FORMATS)
        way = "take its .tensor" if isinstance(tensor, tg.Decomposition) else "decompose its dense tensor into one"
        raise TypeError(f"got a {type(tensor).__name__}; layers are built from low-rank tensors ({names}): {way}")
    if "complex" in str(tensor.dtype) and not weight.is_complex():
        raise TypeError(
            f"got a tensor of {tensor.dtype} for a layer of {weight.dtype}; imaginary parts are not dropped silently: "
            "decompose the real part"
        )


def _fits(tensor: tg.LowRankTensor, shape: tuple[int, ...]) -> bool:
    """Whether it has the shape of a weight; for CP and block terms also with all axes as one mode."""
    merged = (*shape[:2], math.prod(shape[2:]))
    one = len(shape) > 2 and isinstance(tensor, MERGED)
    return tensor.shape == shape or (one and tensor.shape == merged)


def check_formats(names: Sequence[Any], known: Sequence[str]) -> None:
    """ValueError that lists the known formats, unless each is one and there is one."""
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        got = f"format={wrong[0]!r}" if wrong else "no formats"
        raise ValueError(f"got {got}; known formats are {', '.join(known)}")


def check_model(model: Any) -> None:
    """TypeError unless it is a module whose layers can be exchanged."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"got a {type(model).__name__} for the model; it is an nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("got a scripted model; its layers cannot be exchanged: compress it before scripting it")
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError("got a model with lazy layers, which have no shapes yet: run it once on an input")


def check_minimize(minimize: Any) -> None:
    """ValueError unless it is something that plans are compared by."""
    if minimize not in ("macs", "parameters", "time"):
        raise ValueError(f"got minimize={minimize!r}; known are 'macs', 'parameters' and 'time'")


def host_weight(weight: Tensor) -> Any:
    """The weight as a NumPy array; half precision, which NumPy's linear algebra lacks, as float32."""
    weight = weight.detach().cpu()
    return (weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight).numpy()
