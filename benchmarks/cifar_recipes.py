"""How compressed CIFAR ResNets are trained on: our recipe, that of the published RSDTR, and MUSCO's steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorring_torch as tgt
import torch
from tensorring_torch.layout import channels_last
from torch import Tensor, nn

import tensorring as tg
from benchmarks.networks import augmented

Data = tuple[Tensor, Tensor]

# Chosen by the divergence from the dense network on training images that were held out, mirrored and moved.
AGREE: dict[str, Any] = {"optimizer": "adam", "batch_size": 64, "weight_decay": 0.0, "distill": 1.0,
                         "temperature": 4.0, "match": 30.0, "batch_norm": "keep", "ema": 0.995}  # fmt: skip
RATE, CLIP = 1e-3, 1.0
# R. Gabor, R. Zdunek 2024, arXiv 2405.10802: torch's OneCycleLR, which cycles the momentum whatever SGD was given.
PUBLISHED: dict[str, Any] = {"optimizer": "sgd", "momentum": (0.85, 0.95), "weight_decay": 0.0,
                             "batch_size": 128, "distill": 0.0}  # fmt: skip
PUBLISHED_PACE: Mapping[str, Any] = {"lr": 0.01, "clip": None}
# MUSCO's steps: so many times all kernels are made smaller, and trained on in between.
STEPS = 3


@dataclass(frozen=True)
class Start:
    """What a recipe begins with: the dense network, the compressed one, how many times smaller that is, lr and clip."""

    dense: nn.Module
    model: nn.Module
    ratio: float
    pace: Mapping[str, Any]


Recipe = Callable[[Start, Data, int, int, str], tgt.FineTuned]


def agreeing(start: Start, data: Data, epochs: int, seed: int, title: str) -> tgt.FineTuned:
    """Without labels: the outputs of the dense network and of its parts, on strongly augmented images."""
    return _tuned(start, start.model, data[0], epochs, seed, title, AGREE, validation=0, augment=strongly_augmented)


def published(start: Start, data: Data, epochs: int, seed: int, title: str) -> tgt.FineTuned:
    """By labels alone; a tenth of the images is held out to pick the best epoch."""
    return _tuned(start, start.model, data, epochs, seed, title, PUBLISHED, validation=0.1, augment=augmented)


def in_steps(start: Start, data: Data, epochs: int, seed: int, title: str) -> tgt.FineTuned:
    """Tucker-2 of all layers, ever smaller, a share of the epochs after each step (Gusak et al. 2019, MUSCO)."""
    x, budget = data[0], tgt.Budget(parameters=1 / start.ratio)
    draw = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:1024]
    schedule = tgt.Schedule(start.dense, x[:1], budget=budget, steps=STEPS, formats="tucker", calibration=x[draw])
    for k, step in enumerate(schedule, start=1):
        share = epochs * k // STEPS - epochs * (k - 1) // STEPS
        tuned = _tuned(start, step.model, x, share, seed, f"{title}, {k} of {STEPS}", AGREE, validation=0,
                       augment=strongly_augmented)  # fmt: skip
        step.model = tuned.model
    return tuned


def _tuned(
    start: Start, model: nn.Module, data: Any, epochs: int, seed: int, title: str, recipe: Mapping[str, Any], **how: Any
) -> tgt.FineTuned:
    teacher, model = channels_last(start.dense), channels_last(model)  # where convolutions are fastest
    how |= {"seed": seed, "epochs": epochs, "callback": tg.progress(title)}
    return tgt.fine_tune(model, teacher, data, **how, **start.pace, **recipe)


def strongly_augmented(x: Tensor) -> Tensor:
    """Mirrored and moved, other contrasts and colours, and half of the images mixed with another one."""
    x, n = augmented(x), len(x)
    mean = x.mean((1, 2, 3), keepdim=True)
    contrast, colour = 0.7 + 0.6 * torch.rand(n, 1, 1, 1), 0.6 * torch.rand(n, 3, 1, 1) - 0.3
    x = (x - mean) * contrast + mean + colour
    share = torch.where(torch.rand(n, 1, 1, 1) < 0.5, torch.rand(n, 1, 1, 1), 1.0)
    mixed = share * x + (1 - share) * x[torch.randperm(n)]
    return mixed.contiguous(memory_format=torch.channels_last)


# Of each way to compress; what is not named here agrees.
RECIPES: Mapping[str, Recipe] = {"ring": published, "musco": in_steps}
# Ways that begin with the dense network.
FROM_DENSE = {"musco": "Tucker in three steps (MUSCO)"}
