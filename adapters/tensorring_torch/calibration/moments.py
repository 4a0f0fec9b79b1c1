"""First and second moments of patches, and of outputs with them: sums over batches, without the patches kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Rows taken at once: sums of so many are mostly right to this share of their norm in single precision. Rows that are
# alike round alike, and their errors add up instead of cancelling.
_ROWS, _ROUNDING, _RAISES = 1 << 13, 4e-7, 10
# Of wider patches only channels are told apart: 8,192² numbers are half a gigabyte, and their decomposition minutes.
WIDEST = 8192


@dataclass(frozen=True)
class Moments:
    """Centred moments of patches u and outputs z: covariance (N, N), cross (O, N), and the means (N,), (O,).

    Of wide patches the cross moment is None, and the covariance that of the channels alone (I, I), its mean over the
    kernel's entries; or None too where there is but one entry. `variance` is the mean of the covariance's diagonal. Of
    a table, whose patches are rows of the identity, the covariance is a diagonal (V,): how often each row is read.
    """

    covariance: Tensor | None
    cross: Tensor | None
    patch: Tensor
    output: Tensor
    variance: float

    def uncentred(self) -> Moments:
        """Around zero: for layers without a bias, that must meet the means by their kernels."""
        variance = self.variance + float(self.patch.square().mean())
        covariance = self.covariance
        if covariance is not None:
            means = self.patch.reshape(len(covariance), -1)
            covariance = covariance + means @ means.mT / means.shape[1]
        cross = None if self.cross is None else self.cross + torch.outer(self.output, self.patch)
        return Moments(covariance, cross, torch.zeros_like(self.patch), torch.zeros_like(self.output), variance)


class Readings:
    """How often each of the rows of a table is read: half of that, and half as if all were read alike.

    Rows that the data never read will be read in use.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self._counts, self._columns = torch.zeros(rows, dtype=torch.float64), columns

    def add(self, indices: Tensor) -> None:
        """Indices of any shape."""
        self._counts += torch.bincount(indices.flatten().cpu(), minlength=len(self._counts))

    def moments(self) -> Moments:
        """Of all so far; what was read has no moments of its own."""
        count = len(self._counts)
        shares = (self._counts / self._counts.sum().clamp_min(1) + 1 / count) / 2
        zeros = torch.zeros(self._columns, dtype=torch.float64)
        return Moments(shares, None, torch.zeros_like(shares), zeros, float(shares.mean()))


class Accumulator:
    """Moments of rows that come in batches: added up in double precision, around the mean of the first batch.

    `entries` of a kernel are next to each other in a patch, for each of its channels.
    """

    def __init__(self, entries: int = 1) -> None:
        self.count, self._entries = 0, entries
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
            self._square = torch.zeros((), dtype=torch.float64, device=rows.device)
        for part in (rows - self._around).split(_ROWS):
            self._sum += part.sum(0)
            self._square = self._square + self._squared(part)
            self.count += len(part)

    def _squared(self, rows: Tensor) -> Tensor:
        """(N, N + O); of wide patches (I, I), added up over the kernel's entries, and without channels the diagonal."""
        inputs = rows[:, : self._split]
        if self._split <= WIDEST:
            return inputs.mT @ rows
        if self._entries == 1:
            return inputs.square().sum(0)
        places = inputs.unflatten(1, (-1, self._entries)).movedim(2, 1).flatten(0, 1)
        return places.mT @ places

    def moments(self) -> Moments:
        """Of all rows so far."""
        assert self._around is not None
        n, mean = self._split, self._sum / self.count
        around, square = mean + self._around, self._square / self.count
        patch, output = around[:n], around[n:]
        if n > WIDEST and self._entries == 1:
            return Moments(None, None, patch, output, float((square - mean[:n].square()).mean()))
        if n > WIDEST:
            means = mean[:n].reshape(-1, self._entries)
            covariance, cross = self._definite((square - means @ means.mT) / self._entries, patch), None
        else:
            square = square - mean[:n, None] * mean
            covariance, cross = self._definite(square[:, :n], patch), square[:, n:].mT.contiguous()
        return Moments(covariance, cross, patch, output, float(covariance.diagonal().mean()))

    def _definite(self, covariance: Tensor, mean: Tensor) -> Tensor:
        """With so much of the identity that it is definite, as rounding of sums and of means may have kept it from."""
        assert self._around is not None
        covariance = (covariance + covariance.mT) / 2
        least = torch.finfo(self._around.dtype).eps ** 2 * mean.square().mean()
        step = _ROUNDING * covariance.norm() + least
        for _ in range(_RAISES):
            covariance.diagonal().add_(step)
            if not torch.linalg.cholesky_ex(covariance).info:
                break
            step *= 4
        return covariance
