"""CIFAR ResNets whose block convolutions become CP layers of a given ratio: without any data, and after a few epochs.

Called by `benchmarks.cifar` where it is given --ratio. Nothing is chosen by the test images: ranks are by the weights
alone, the recipe was chosen by a split of the training images, and each row looks at the test images once, last.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import tensorring_torch as tgt
import torch
from tensorring_torch.chain import FITS
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

import tensorring as tg
from benchmarks import resnet

HEAD = ("network", "form", "ratio", "parameters", "whole ratio", "error, median", "‖λ‖/‖X‖, median", "max",
        "epochs", "lr", "seed", "validation", "accuracy", "dense")  # fmt: skip
FORMS = ("cp", "cp4", "tucker-cp", "cp-plain")
Budgets = Mapping[str, float]

# Chosen by a tenth of the training images, at both learning rates at once: by the divergence from the dense network.
RECIPE: dict[str, Any] = {"distill": 0.9, "temperature": 4.0, "batch_size": 64, "clip": 3.0, "weight_decay": 1e-4}


@dataclass(frozen=True)
class Fitted:
    """A network with its block convolutions replaced, and what was measured of each."""

    model: nn.Module
    errors: tuple[float, ...]
    norms: tuple[float, ...]

    def cells(self, dense: nn.Module) -> tuple[str, ...]:
        """Parameters, the ratio of the whole network, median error, median and largest ‖λ‖/‖X‖."""
        ours, before = (sum(parameter.numel() for parameter in model.parameters()) for model in (self.model, dense))
        norms = f"{median(self.norms):.2f}", f"{max(self.norms):.2f}"
        return (f"{ours:,}", f"{before / ours:.2f}", f"{median(self.errors):.3f}", *norms)


def fitted(dense: nn.Module, form: str, budgets: Budgets) -> Fitted:
    """Each 3 × 3 convolution of the blocks with at most so many parameters; the stem stays."""
    model, errors, norms = copy.deepcopy(dense), [], []
    for name, conv in tqdm(list(block_convolutions(dense)), desc=form):
        found = _fit(conv.weight.detach().numpy(), form, budgets[name])
        layers = tgt.build_layer(found.tensor, like=conv, minimize="parameters")
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, equal_norms(layers) if form == "cp-plain" else layers)
        errors.append(found.error)
        norms.append(tg.degeneracy(getattr(found.tensor, "cp", found.tensor)).norm_ratio)
    return Fitted(model, tuple(errors), tuple(norms))


def block_convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """The convolutions of the residual blocks, by name."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and name.startswith("layer"):
            yield name, layer


def uniform(dense: nn.Module, ratio: float) -> Budgets:
    """The parameters of each kernel, over `ratio`."""
    return {name: conv.weight.numel() / ratio for name, conv in block_convolutions(dense)}


def equal_errors(dense: nn.Module, ratio: float) -> Budgets:
    """As many parameters in all, shared out so that a CP of each kernel makes the same relative error."""
    return _shared_out(dense, ratio, lambda errors, counts, level: counts[np.argmin(np.abs(errors - level))])


def least_squares(dense: nn.Module, ratio: float) -> Budgets:
    """As many parameters in all, shared out so that the squares of the relative errors of all CPs add up to least."""
    return _shared_out(dense, ratio, lambda errors, counts, price: counts[np.argmin(errors**2 + price * counts)])


ALLOCATIONS = {"uniform": uniform, "equal": equal_errors, "squares": least_squares}


def _shared_out(dense: nn.Module, ratio: float, choice: Callable[[np.ndarray, np.ndarray, float], float]) -> Budgets:
    """What `choice` takes from each kernel's (errors, parameters), at the level at which all together are allowed."""
    weights = {name: conv.weight.detach().numpy() for name, conv in block_convolutions(dense)}
    curves = {name: _curve(weight) for name, weight in tqdm(weights.items(), desc="curves")}
    total = sum(weight.size for weight in weights.values()) / ratio

    def budgets(level: float) -> Budgets:
        return {name: float(choice(*curve, level)) for name, curve in curves.items()}

    low, high = 1e-12, 1.0  # at the first they are too many
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if sum(budgets(middle).values()) > total else (low, middle)
    return budgets(high)


def _curve(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors of a CP after a few sweeps, and its parameters, for every rank; between some they are interpolated."""
    x = weight.reshape(*weight.shape[:2], -1)
    ranks = sorted({max(1, int(weight.size / ratio / sum(x.shape))) for ratio in (16, 8, 5, 3.5, 2.5, 2, 1.6, 1.3, 1)})
    errors = [tg.cp_als(x, rank=rank, stall=1e-4, max_sweeps=80, rng=0).error for rank in ranks]
    every = np.arange(ranks[0], ranks[-1] + 1)
    return np.interp(every, ranks, errors), every * float(sum(x.shape))


def _fit(weight: np.ndarray, form: str, budget: float) -> tg.Decomposition[Any]:
    """The fit of one kernel, of as many terms as its share of the parameters allows."""
    outputs, inputs, *size = weight.shape
    if form == "cp-plain":
        rank = int(budget / (outputs + inputs + math.prod(size)))
        return tg.cp_als(weight.reshape(outputs, inputs, -1), rank=rank, rng=0)
    if form == "tucker-cp":
        return min((found for ranks in _core_ranks(weight, budget) for found in _by(form, weight, ranks)),
                   key=lambda found: found.error)  # fmt: skip
    ends = sum(size) if form == "cp4" else math.prod(size)
    (found,) = _by(form, weight, int(budget / (outputs + inputs + ends)))
    return found


def _by(form: str, weight: np.ndarray, ranks: Any) -> list[tg.Decomposition[Any]]:
    return FITS[form](weight, tol=None, ranks=ranks, cost=None)


def _core_ranks(weight: np.ndarray, budget: float) -> Iterator[tuple[int, int, int]]:
    """Several widths of the core, each with as many terms as the budget leaves."""
    outputs, inputs, *size = weight.shape
    for share in (0.4, 0.55, 0.7):
        r_out, r_in = math.ceil(share * outputs), math.ceil(share * inputs)
        terms = int((budget - outputs * r_out - inputs * r_in) / (r_out + r_in + math.prod(size)))
        if terms > 0:
            yield r_out, r_in, terms


@torch.no_grad()
def equal_norms(layers: nn.Sequential) -> nn.Sequential:
    """The scales of each term shared out evenly, as other packages do."""
    entry, middle, output = (layer.weight for layer in layers)
    parts = [entry[:, :, 0, 0].T, middle.flatten(1).T, output[:, :, 0, 0]]
    norms = torch.stack([part.norm(dim=0) for part in parts]).clamp_min(torch.finfo(entry.dtype).tiny)
    scales = norms.log().mean(0).exp() / norms
    entry *= scales[0, :, None, None, None]
    middle *= scales[1, :, None, None, None]
    output *= scales[2, :, None, None]
    return layers


def augmented(x: Tensor) -> Tensor:
    """Half of the images mirrored, each moved by up to 4 pixels over a border of zeros."""
    x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
    n, channels, height, width = x.shape
    shifts = torch.randint(0, 9, (2, n, 1), device=x.device)
    rows, columns = shifts[0] + torch.arange(height, device=x.device), shifts[1] + torch.arange(width, device=x.device)
    images, planes = torch.arange(n, device=x.device), torch.arange(channels, device=x.device)
    return functional.pad(x, (4, 4, 4, 4))[
        images[:, None, None, None], planes[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]


def rows(options: argparse.Namespace, network: str) -> Iterator[tuple[object, ...]]:
    """For each form and ratio a line without any data, then one for each learning rate and seed."""
    dense = resnet.pretrained(options.data, network)
    train, test = (resnet.images(options.data, part) for part in ("train", "test"))
    top = f"{resnet.accuracy(dense, *test):.4f}"
    for ratio, form in ((ratio, form) for ratio in options.ratio for form in options.form):
        start = fitted(dense, form, ALLOCATIONS[options.allocate](dense, ratio))
        first = (network, form, f"{ratio:g}", *start.cells(dense))
        yield (*first, 0, "", "", "", f"{resnet.accuracy(start.model.eval(), *test):.4f}", top)
        for lr, seed in ((lr, seed) for lr in options.lr for seed in options.seeds if options.fine_tune):
            watch = tg.progress(f"{form} {ratio:g}, lr {lr:g}, seed {seed}")
            tuned = tgt.fine_tune(start.model, dense, train, validation=options.validation, augment=augmented,
                                  seed=seed, callback=watch, epochs=options.fine_tune, lr=lr, **RECIPE)  # fmt: skip
            right = f"{tuned.history[-1].validation_accuracy:.3f}" if options.validation else ""
            score = resnet.accuracy(tuned.model.eval(), *test)
            yield (*first, options.fine_tune, f"{lr:g}", seed, right, f"{score:.4f}", top)
