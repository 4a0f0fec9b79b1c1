"""The optimizer of a recipe: what decays, and how its rate and momentum change with the steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tensorring_torch.training.recipe import Recipe

SECOND_MOMENT = 0.999  # Adam's memory for squared gradients, as everywhere


def optimizer_of(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Of those parameters that learn."""
    learning = [p for p in parameters if p.requires_grad]
    if not learning:
        raise ValueError("got a model of which no parameter learns: model.requires_grad_() lets them all")
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    momentum = recipe.inertia(0)
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(momentum, SECOND_MOMENT))
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=momentum, nesterov=momentum > 0)


def set_pace(optimizer: torch.optim.Optimizer, recipe: Recipe, done: float) -> None:
    """The rate and the momentum once a share of all steps is done."""
    momentum = recipe.inertia(done)
    paced: dict[str, Any] = {"lr": recipe.rate(done)}
    paced |= {"betas": (momentum, SECOND_MOMENT)} if recipe.optimizer == "adam" else {"momentum": momentum}
    for group in optimizer.param_groups:
        group.update(paced)
