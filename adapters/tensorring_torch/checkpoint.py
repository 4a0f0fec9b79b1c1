"""Files of compressed networks: safetensors, which holds numbers and text and can execute nothing."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from tensorring_torch.attention import Attention, can_open
from tensorring_torch.checks import check_model, obstacle
from tensorring_torch.factored import attach_empty, factored_ranks
from tensorring_torch.geometry import Geometry
from tensorring_torch.layer import plan_of
from tensorring_torch.modules import sequence
from tensorring_torch.norms import emptied
from tensorring_torch.plan import Link, Plan
from tensorring_torch.replace import duplicate, put
from tensorring_torch.tt_linear import TTLinear, skeleton

FORMAT, VERSION = "tensorring_torch.network", "2"
# Files of before networks had such.
_NONE = {"identities": "{}", "attention": "{}"}


def save(path: str | os.PathLike[str], model: nn.Module) -> None:
    """load(path, dense model) computes what `model` does: every tensor of its state, and how its layers are built.

    Parameters
    ----------
    path
        The file; an older one of this name is replaced once the new one is complete.
    model
        A network that `compress` returned, or one with layers of `build_layer` or `decompose_layer` put in.

    Raises
    ------
    TypeError
        If the model is no nn.Module, or its state holds what is no tensor (`get_extra_state`).
    OSError
        If the file cannot be written.

    Notes
    -----
    The file is safetensors; tied tensors are stored once. Optimizer states are not part of it.

    Examples
    --------
    >>> import os, tempfile, torch, tensorring_torch as tgt
    >>> def dense():
    ...     return torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU())
    >>> small = tgt.compress(dense(), torch.zeros(1, 8, 9, 9), tol=0.6).model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tgt.save(os.path.join(folder, "small.safetensors"), small)
    ...     again = tgt.load(os.path.join(folder, "small.safetensors"), dense())
    >>> x = torch.rand(1, 8, 9, 9)
    >>> torch.equal(small(x), again(x))
    True
    """
    check_model(model)
    tensors, tied = _distinct(model.state_dict())
    layers = dict(_layers(model))
    identities = {name: "nn.Identity" for name, module in model.named_modules() if type(module) is nn.Identity}
    attention = {name: "nn.MultiheadAttention" for name, module in model.named_modules() if type(module) is Attention}
    texts = {"layers": layers, "factored": factored_ranks(model), "tied": tied}
    texts |= {"identities": identities, "attention": attention}
    metadata = {"format": FORMAT, "version": VERSION} | {key: json.dumps(value) for key, value in texts.items()}
    write_whole(Path(path), to_bytes(tensors, metadata))


def load(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """A new model: `model` with the layers and the numbers of the file. `model` itself is not changed.

    Parameters
    ----------
    path
        A file that `save` wrote.
    model
        The dense network, freshly built: same architecture and dtypes as the one that was compressed. Batch norms that
        were folded, by a budget of latency or by `fold_norms`, may be there.

    Returns
    -------
    nn.Module
        On the devices, with the training modes and `requires_grad` of `model`.

    Raises
    ------
    TypeError
        If `model` is no nn.Module.
    ValueError
        If the file is truncated or not one of ours, or does not fit the model: the message names the tensor or layer.
    OSError
        If the file cannot be read.

    Notes
    -----
    Nothing in the file is executed, and no memory is allocated but for the tensors that it really holds.

    Examples
    --------
    See `save`.
    """
    check_model(model)
    metadata, tensors = _read(Path(path))
    layers = _object(path, metadata, "layers")
    for name, source in _object(path, metadata, "tied").items():
        if not isinstance(source, str) or source not in tensors or name in tensors:
            raise ValueError(f"{path}: tensor {name!r} is tied to {source!r}, which the file does not hold")
        tensors[name] = tensors[source]
    model = _opened(path, model, _object(path, _NONE | metadata, "attention"))
    dense = dict(model.named_modules(remove_duplicate=False))
    built: dict[int, nn.Module] = {}
    held = sum(tensor.numel() for tensor in tensors.values())
    for name, entry in layers.items():
        like = _fitting(path, name, dense.get(name), entry)
        if id(like) not in built:  # a layer that stands at several places does so again
            biased = any(key.startswith(f"{name}.") and key.endswith(".bias") for key in tensors)
            built[id(like)] = _built(path, name, entry, like, held=held, biased=biased)
    new = put(duplicate(model), {name: built[id(dense[name])] for name in layers})
    folded = emptied(new, _object(path, _NONE | metadata, "identities"), tensors)
    modules = dict(new.named_modules())
    for name, ranks in _object(path, metadata, "factored").items():
        try:
            attach_empty(modules.get(name), ranks)
        except ValueError as error:
            raise ValueError(f"{path}: layer {name!r}: {error}; load onto the dense model, freshly built") from None
    _check_state(path, new.state_dict(), tensors)
    for name in (*layers, *folded):
        new.get_submodule(name).to_empty(device=dense[name].weight.device)
    new.load_state_dict(tensors)
    return new


def _opened(path: Any, model: nn.Module, names: Mapping[str, Any]) -> nn.Module:
    """The dense model with attention opened where the file has it so; a copy if there is any."""
    modules = dict(model.named_modules())
    for name in names:
        module = modules.get(name)
        if not (isinstance(module, nn.MultiheadAttention) and can_open(module)) and type(module) is not Attention:
            raise ValueError(
                f"{path}: attention {name!r} is not in the model; load onto the dense model, freshly built"
            )
    found: dict[str, nn.Module] = {
        name: Attention(module)
        for name, module in modules.items()
        if name in names and isinstance(module, nn.MultiheadAttention)
    }
    return put(duplicate(model), found) if found else model


def _layers(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """The names of the layers that stand in for dense ones, and how each is built."""
    for name, module in model.named_modules(remove_duplicate=False):
        plan = plan_of(module)
        if plan is not None:
            yield name, asdict(plan)
        elif isinstance(module, TTLinear):
            yield name, {"geometry": asdict(module.geometry), "factors": module.factors, "ranks": module.ranks}


def _distinct(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, each once and with memory of its own, and the names that stand for another's."""
    tensors: dict[str, Tensor] = {}
    first: dict[tuple[Any, ...], str] = {}
    tied = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"got {name!r} of type {type(value).__name__} in the model's state; only tensors are saved")
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if value.numel() and first.setdefault(key, name) != name:
            tied[name] = first[key]
        else:
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return tensors, tied


def write_whole(path: Path, content: bytes) -> None:
    """Complete or not at all: written beside the file, then moved over it."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to save {path.name} in: make it first")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with path.open("rb"):  # a missing file is an OSError that names it, not a corrupt one
        pass
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
                got = {key: metadata.get(key) for key in ("format", "version")}
                raise ValueError(f"{path}: got {got}; files that save writes have {FORMAT!r}, version {VERSION!r}")
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error}); save writes one") from error


def _object(path: Any, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its entry {key!r} is missing or no JSON ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: its entry {key!r} is a {type(value).__name__}, not an object")
    return value


def _json(geometry: Geometry) -> Any:
    return json.loads(json.dumps(asdict(geometry)))


def _fitting(path: Any, name: str, layer: nn.Module | None, entry: Any) -> nn.Module:
    """The layer of the dense model that an entry stands in for."""
    got = entry.get("geometry") if isinstance(entry, dict) else None
    reason = "the model has no layer of that name" if layer is None else obstacle(layer)
    if reason is None and got != _json(Geometry.of(layer)):
        reason = f"in the model it is {_json(Geometry.of(layer))}, in the file {got}"
    if reason is not None or layer is None:
        raise ValueError(f"{path}: layer {name!r} does not fit: {reason}; load onto the dense model, freshly built")
    return layer


def _built(path: Any, name: str, entry: Any, like: nn.Module, *, held: int, biased: bool) -> nn.Module:
    """The layers of an entry that anyone may have written: every part is checked, and nothing is allocated."""
    try:
        if "factors" in entry:
            return skeleton(entry, like, held=held)
        plan = _plan(entry, Geometry.of(like))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: the plan of layer {name!r} is not one ({error})") from None
    if plan.parameters > held:
        raise ValueError(
            f"{path}: layer {name!r} claims {plan.parameters} parameters, but the file holds {held} numbers"
        )
    return _skeleton(plan, like, biased=biased)


def _plan(entry: Any, geometry: Geometry) -> Plan:
    (blocks,) = _positive([entry["blocks"]])
    links = tuple(_link(*link) for link in entry["links"])
    return Plan(geometry, links, blocks, str(entry["form"]), tuple(_positive(entry["ranks"])))


def _link(outputs: Any, inputs: Any, size: Any, groups: Any) -> Link:
    _positive([outputs, inputs, groups])
    return Link(outputs, inputs, tuple(_positive(size)), groups)


def _positive(values: Any) -> list[int]:
    if not isinstance(values, list) or any(type(value) is not int or value < 1 for value in values):
        raise ValueError(f"got {values!r} where positive ints are needed")
    return values


def _skeleton(plan: Plan, like: Any, *, biased: bool) -> nn.Sequential:
    """The layers of a plan, without memory for their numbers yet; fits to data may have given them a bias."""
    bias = getattr(like, "bias", None)
    if bias is None and biased:
        bias = nn.Parameter(torch.empty(plan.geometry.out_channels, device="meta"), like.weight.requires_grad)
    empty = partial(torch.empty, dtype=like.weight.dtype, device="meta")
    weights = [empty(stage.conv.weight_shape) for stage in plan.stages]
    bias = None if bias is None else nn.Parameter(empty(bias.shape), bias.requires_grad)
    return sequence(plan, weights, bias, trained=like.weight.requires_grad).train(like.training)


def _check_state(path: Any, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """ValueError unless the file has the model's tensors, all of them, and nothing else."""
    for name in (*expected, *tensors):
        mine, got = expected.get(name), tensors.get(name)
        if mine is None or got is None:
            where = "the file but not in the model" if mine is None else "the model but not in the file"
            raise ValueError(f"{path}: tensor {name!r} is in {where}; load onto the dense model that was compressed")
        if (mine.shape, mine.dtype) != (got.shape, got.dtype):
            raise ValueError(
                f"{path}: tensor {name!r} is {got.dtype} {tuple(got.shape)}, the model needs {mine.dtype} "
                f"{tuple(mine.shape)}; build it alike, and bring it to this dtype before loading"
            )
