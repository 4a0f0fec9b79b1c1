"""A moving average of the weights of a network that is being trained."""

from __future__ import annotations

import torch
from torch import nn

from tensorring_torch.replace import duplicate


class Average:
    """ŵ ← d·ŵ + (1 − d)·w after each step, with d = min(decay, (1 + k)/(10 + k)) after k of them.

    The rise of d lets the first steps, which are far from where training ends, be forgotten soon. Buffers (the
    statistics of batch norms) are those of the running network. `model` holds ŵ; its first values are those given.
    """

    def __init__(self, running: nn.Module, decay: float) -> None:
        self.running, self.decay = running, decay
        self.model = duplicate(running)

    @torch.no_grad()
    def follow(self, steps: int) -> None:
        """Takes in the running network after so many steps were made before the last one."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for mean, weight in zip(self.model.parameters(), self.running.parameters(), strict=True):
            if weight.requires_grad:
                mean.lerp_(weight, 1 - decay)
        for old, new in zip(self.model.buffers(), self.running.buffers(), strict=True):
            old.copy_(new)
