"""The ways to compress a network that are compared: each takes a ratio and unlabelled images, and gives a network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import tensorring_torch as tgt
import torch
from tensorring_torch.calibration.allocation import Layers
from tensorring_torch.calibration.curves import Option
from tensorring_torch.chain import Use
from torch import Tensor, nn

import tensorring as tg
from benchmarks.cifar_prune import pruned
from benchmarks.networks import at_its_fastest, augmented, parameters


@dataclass(frozen=True)
class Method:
    """How a network of 1/ratio of the parameters is made; `data` says whether it looks at the images."""

    title: str
    apply: Callable[[nn.Module, float, Tensor], nn.Module]
    data: bool = True


def ours(*formats: str, macs: bool = False) -> Callable[[nn.Module, float, Tensor], nn.Module]:
    """Layer by layer to the outputs, ranks by what errors do to the network's outputs; with `macs` of both counts."""

    def apply(dense: nn.Module, ratio: float, x: Tensor) -> nn.Module:
        budget = tgt.Budget(parameters=1 / ratio, macs=1 / ratio if macs else None)
        return tgt.compress(dense, x[:1], budget=budget, formats=formats or None, calibration=views(x)).model

    return apply


def views(x: Tensor) -> Tensor:
    """The images, and after them seven times the same mirrored and moved, as in the training of the dense network."""
    return torch.cat([x, *(augmented(x, torch.Generator().manual_seed(seed)) for seed in range(7))])


def for_time(dense: nn.Module, ratio: float, x: Tensor) -> nn.Module:
    """As many times faster on 32 images as the dense network with norms folded and channels last, measured."""
    budget = tgt.Budget(latency=1 / ratio)
    return tgt.compress(at_its_fastest(dense, x), x[:32], budget=budget, calibration=views(x)).model


def uniform(dense: nn.Module, ratio: float, x: Tensor) -> nn.Module:
    """The same fits, but the same share of each kernel of the blocks; stem and last layer stay dense."""
    with mock.patch.object(Layers, "allocated", _same_share):
        return ours()(dense, ratio, x)


def _same_share(layers: Layers, budget: tgt.Budget) -> dict[str, Option]:
    assert budget.parameters is not None
    room = budget.parameters * layers.whole["parameters"] - layers.rest("parameters")

    def at(share: float) -> dict[str, Option]:
        return {
            name: _of_share(layers.uses[name], found, share) if name.startswith("layer") else found[0]
            for name, found in layers.options.items()
        }

    return at(_largest(lambda share: sum(option.parameters for option in at(share).values()) <= room))


def _of_share(use: Use, found: list[Option], share: float) -> Option:
    """A CP of exactly this share, begun at the fit of the next larger one."""
    fitted = [option for option in found if option.form is not None]
    assert fitted[0].form is not None
    ranks = fitted[0].form.ranks(use.geometry.weight_shape, share)
    larger = min((option for option in fitted if option.ranks >= ranks), key=lambda o: o.ranks, default=None)
    option = replace(fitted[0], ranks=ranks, begin=() if larger is None else larger.begin)
    chain = option.blank(use)
    assert chain is not None
    return replace(option, parameters=chain.plan.parameters)


def ring(dense: nn.Module, ratio: float, x: Tensor) -> nn.Module:
    """Rings with the same relative error of each kernel of the blocks: as published for RSDTR, by our own fit."""

    def at(tol: float) -> nn.Module:
        return tgt.compress(dense, x[:1], tol=tol, formats="tr", minimize="parameters", include="layer*").model

    low, high = 0.0, 0.999
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (low, middle) if parameters(at(middle)) * ratio <= parameters(dense) else (middle, high)
    return at(high)


def plain_cp(dense: nn.Module, ratio: float, x: Tensor) -> nn.Module:
    """CP of the weights by alternating least squares, the same share of each kernel of the blocks."""
    kernels = dict(block_convolutions(dense))
    rest = parameters(dense) - sum(conv.weight.numel() for conv in kernels.values())

    def ranks(share: float) -> dict[str, int]:
        return {name: cp_rank(conv, share) for name, conv in kernels.items()}

    def size(share: float) -> int:
        return rest + sum(rank * sum(as_three(kernels[name]).shape) for name, rank in ranks(share).items())

    found = ranks(_largest(lambda share: size(share) * ratio <= parameters(dense)))
    return rebuilt(dense, {name: tg.cp_als(as_three(kernels[name]), rank=r, rng=0).tensor for name, r in found.items()})


def tucker_vbmf(dense: nn.Module, ratio: float, x: Tensor) -> nn.Module:
    """Tucker-2 of the weights, ranks by variational Bayes (Kim et al. 2016, arXiv 1511.06530): they set the ratio."""
    found = {}
    for name, conv in block_convolutions(dense):
        kernel = conv.weight.detach().numpy()
        found[name] = tg.tucker_hooi(kernel, ranks=tg.estimate_ranks(kernel)[:2], modes=(0, 1)).tensor
    return rebuilt(dense, found)


def prune(dense: nn.Module, ratio: float, x: Tensor) -> nn.Module:
    """So many times fewer multiply-adds."""
    return pruned(dense, 1 / ratio, x[:1])


def block_convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """The convolutions of the residual blocks, by name."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and name.startswith("layer"):
            yield name, layer


def as_three(conv: nn.Conv2d) -> np.ndarray:
    """The kernel with height and width as one mode."""
    kernel: np.ndarray = conv.weight.detach().numpy()
    return kernel.reshape(*kernel.shape[:2], -1)


def cp_rank(conv: nn.Conv2d, share: float) -> int:
    """The most terms within a share of the kernel's entries."""
    return max(1, int(share * conv.weight.numel() / sum(as_three(conv).shape)))


def rebuilt(dense: nn.Module, tensors: Mapping[str, tg.LowRankTensor]) -> nn.Module:
    """A copy with layers made of these tensors."""
    model = copy.deepcopy(dense)
    for name, tensor in tensors.items():
        parent, _, child = name.rpartition(".")
        layers = tgt.build_layer(tensor, like=dense.get_submodule(name), minimize="parameters")
        setattr(model.get_submodule(parent), child, layers)
    return model


def _largest(allowed: Callable[[float], bool]) -> float:
    """The largest share in (0, 1] that is allowed, where smaller ones are."""
    low, high = 0.0, 1.0
    for _ in range(math.ceil(math.log2(1e9))):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


METHODS: Mapping[str, Method] = {
    "dense": Method("dense", lambda dense, ratio, x: dense, data=False),
    "auto": Method("ours: CP, the default", ours()),
    "both": Method("ours: CP, parameters and multiply-adds", ours("cp", macs=True)),
    "any": Method("ours: CP, cut or Tucker", ours("cp", "cut", "tucker")),
    "cut": Method("ours: cut", ours("cut")),
    "tucker": Method("ours: Tucker", ours("tucker")),
    "fast": Method("ours, for time: asked is how much faster than dense at its fastest", for_time),
    "uniform": Method("ours: CP, uniform ratio", uniform),
    "ring": Method("rings of equal error (RSDTR)", ring, data=False),
    "cp-plain": Method("plain CP, uniform ratio", plain_cp, data=False),
    "pruned": Method("filters pruned by L1 norm: asked is of multiply-adds", prune, data=False),
    "vbmf": Method("Tucker, ranks by VBMF", tucker_vbmf, data=False),
}
