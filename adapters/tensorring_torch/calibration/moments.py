"""First and second moments of patches, and of outputs with them: sums over batches, without the patches kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Rows taken at once: sums of so many are right to this share of their norm in single precision.
_ROWS, _ROUNDING = 1 << 13, 4e-7
# Wider patches have no covariance: 8,192² numbers are half a gigabyte, and what is done with them takes minutes.
WIDEST = 8192


@dataclass(frozen=True)
class Moments:
    """Centred moments of patches u and outputs z: covariance (N, N), cross (O, N), and the means (N,), (O,).

    Of wide patches the matrices are None, and `variance`, the mean of the covariance's diagonal, is what is known.
    """

    covariance: Tensor | None
    cross: Tensor | None
    patch: Tensor
    output: Tensor
    variance: float

    def uncentred(self) -> Moments:
        """Around zero: for layers without a bias, that must meet the means by their kernels."""
        variance = self.variance + float(self.patch.square().mean())
        covariance = None if self.covariance is None else self.covariance + torch.outer(self.patch, self.patch)
        cross = None if self.cross is None else self.cross + torch.outer(self.output, self.patch)
        return Moments(covariance, cross, torch.zeros_like(self.patch), torch.zeros_like(self.output), variance)


class Accumulator:
    """Moments of rows that come in batches: added up in double precision, around the mean of the first batch."""

    def __init__(self) -> None:
        self.count = 0
        self._around: Tensor | None = None

    @torch.no_grad()
    def add(self, patches: Tensor, outputs: Tensor) -> None:
        """Rows of patches (n, N) and of the outputs that they make (n, O)."""
        dtype = torch.promote_types(patches.dtype, torch.float32)  # half precision adds up nothing
        rows = torch.cat([patches.to(dtype), outputs.to(dtype)], dim=1)
        if self._around is None:
            self._around = rows.mean(0)
            size = rows.shape[1]
            self._split = patches.shape[1]
            self._sum = torch.zeros(size, dtype=torch.float64, device=rows.device)
            tall = self._split if self._split <= WIDEST else 1
            self._square = torch.zeros(tall, size, dtype=torch.float64, device=rows.device)
        for part in (rows - self._around).split(_ROWS):
            self._sum += part.sum(0)
            wide = self._split > WIDEST
            self._square += part.square().sum(0) if wide else part[:, : self._split].mT @ part
            self.count += len(part)

    def moments(self) -> Moments:
        """Of all rows so far."""
        assert self._around is not None
        n, mean = self._split, self._sum / self.count
        around, square = mean + self._around, self._square / self.count
        if n > WIDEST:
            variance = float((square[0] - mean.square())[:n].mean())
            return Moments(None, None, around[:n], around[n:], variance)
        square = square - mean[:n, None] * mean
        covariance = (square[:, :n] + square[:, :n].mT) / 2
        # Rounding may have made it indefinite, by so much at most: of sums, and of inputs that hardly change.
        least = torch.finfo(self._around.dtype).eps ** 2 * around[:n].square().mean()
        covariance.diagonal().add_(_ROUNDING * covariance.norm() + least)
        cross = square[:, n:].mT.contiguous()
        return Moments(covariance, cross, around[:n], around[n:], float(covariance.diagonal().mean()))
