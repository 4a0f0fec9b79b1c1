"""All factors together, towards the dense network's outputs: what fits layer by layer leave on the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tensorring_torch.calibration.observe import first_tensor

# Steps, and the highest rate of Adam: three times that undoes what the fits have found.
_STEPS, _RATE = 200, 3e-3


def reconstructed(dense: nn.Module, ours: nn.Module, batches: Sequence[tuple[Any, ...]], *, seed: int = 0) -> float:
    """min ‖outputs of ours − outputs of dense‖² over the parameters of `ours`, in place, on unlabelled data.

    Both are in eval mode, and stay in it: statistics of batch norms are not touched. Returns the squared error after
    the last steps as a share of what it was at first.
    """
    generator = torch.Generator().manual_seed(seed)
    trained = [p.requires_grad for p in ours.parameters()]
    parameters = [p.requires_grad_() for p in ours.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=_STEPS, pct_start=0.15, cycle_momentum=False
    )
    with torch.no_grad():
        wanted = [_centred(first_tensor(dense(*batch))) for batch in batches]
    losses = []
    for _, k in zip(range(_STEPS), _shuffled(len(batches), generator), strict=False):
        with torch.enable_grad():
            loss = (_centred(first_tensor(ours(*batches[k]))) - wanted[k]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    for parameter, was in zip(parameters, trained, strict=True):
        parameter.grad = None
        parameter.requires_grad_(was)
    tenth = max(1, len(losses) // 10)
    return sum(losses[-tenth:]) / (sum(losses[:tenth]) or 1.0)


def _shuffled(count: int, generator: torch.Generator) -> Iterator[int]:
    """All numbers below, again and again, each time in another order."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _centred(out: Tensor) -> Tensor:
    """Logits up to what moves all of them alike; other outputs as they are."""
    return out - out.mean(1, keepdim=True) if out.ndim == 2 else out
