"""All factors together, towards the dense network's outputs: what fits layer by layer leave on the table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from tensorring_torch.calibration.data import Batch, first_tensor, fresh

# Steps, and the highest rate of Adam: three times that undoes what the fits have found.
_STEPS, _RATE = 200, 3e-3


def reconstructed(dense: nn.Module, ours: nn.Module, batches: Sequence[Batch], *, seed: int = 0) -> float:
    """min ‖outputs of ours − outputs of dense‖² over the parameters of `ours`, in place, on unlabelled data.

    Both are in eval mode, and stay in it: statistics of batch norms are not touched. Returns the squared error after
    the last steps as a share of what it was at first. Where it is not lower, or the work is interrupted, `ours` is as
    it was, and the share 1.
    """
    parameters = list(ours.parameters())
    before = [(p.detach().clone(), p.requires_grad) for p in parameters]
    left = math.inf
    try:
        left = _trained(dense, ours, [p.requires_grad_() for p in parameters], batches, seed)
    finally:
        for parameter, (value, trained) in zip(parameters, before, strict=True):
            parameter.grad = None
            parameter.requires_grad_(trained)
            if not left < 1:
                parameter.data.copy_(value)
    return min(left, 1.0)


def _trained(
    dense: nn.Module, ours: nn.Module, parameters: list[nn.Parameter], batches: Sequence[Batch], seed: int
) -> float:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=_STEPS, pct_start=0.15, cycle_momentum=False
    )
    with torch.no_grad():
        wanted = [_centred(first_tensor(dense(*fresh(batch)))) for batch in batches]
    losses = []
    for _, k in zip(range(_STEPS), _shuffled(len(batches), generator), strict=False):
        with torch.enable_grad():
            loss = (_centred(first_tensor(ours(*fresh(batches[k])))) - wanted[k]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]), sum(losses[-tenth:])
    return last / first if first > 0 else math.inf


def _shuffled(count: int, generator: torch.Generator) -> Iterator[int]:
    """All numbers below, again and again, each time in another order."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _centred(out: Tensor) -> Tensor:
    """Logits up to what moves all of them alike; other outputs as they are."""
    return out - out.mean(1, keepdim=True) if out.ndim == 2 and out.shape[1] > 1 else out
