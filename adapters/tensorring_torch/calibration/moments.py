"""First and second moments of patches, and of outputs with them: sums over batches, without the patches kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Rows taken at once: sums of so many are right to this in single precision, next to the diagonal.
_ROWS, _ROUNDING = 1 << 13, 4e-7


@dataclass(frozen=True)
class Moments:
    """Centred moments of patches u and outputs z: covariance (N, N), cross (O, N), and the means (N,), (O,)."""

    covariance: Tensor
    cross: Tensor
    patch: Tensor
    output: Tensor
    count: int


class Accumulator:
    """Moments of rows that come in batches: added up in double precision, around the mean of the first batch."""

    def __init__(self) -> None:
        self.count = 0
        self._around: Tensor | None = None

    @torch.no_grad()
    def add(self, patches: Tensor, outputs: Tensor) -> None:
        """Rows of patches (n, N) and of the outputs that they make (n, O)."""
        rows = torch.cat([patches, outputs.to(patches.dtype)], dim=1)
        if self._around is None:
            self._around = rows.mean(0)
            size = rows.shape[1]
            self._split = patches.shape[1]
            self._sum = torch.zeros(size, dtype=torch.float64, device=rows.device)
            self._square = torch.zeros(self._split, size, dtype=torch.float64, device=rows.device)
        for part in (rows - self._around).split(_ROWS):
            self._sum += part.sum(0)
            self._square += part[:, : self._split].mT @ part
            self.count += len(part)

    def moments(self) -> Moments:
        """Of all rows so far."""
        assert self._around is not None
        n, mean = self._split, self._sum / self.count
        square = self._square / self.count - mean[:n, None] * mean
        covariance = (square[:, :n] + square[:, :n].mT) / 2
        # Rounding may have made it indefinite, by so much at most.
        covariance.diagonal().mul_(1 + _ROUNDING * n**0.5)
        mean = mean + self._around
        return Moments(covariance, square[:, n:].mT.contiguous(), mean[:n], mean[n:], self.count)
