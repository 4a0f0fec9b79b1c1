"""Training data: tensors or loaders, as batches to train on and batches held out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class Batches:
    """Tensors as batches of equal sizes, in a new order each time where they are shuffled."""

    def __init__(self, x: Tensor, y: Tensor, size: int, *, shuffled: bool) -> None:
        self.x, self.y, self.shuffled = x, y, shuffled
        self.count = max(1, round(len(x) / size))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.x)) if self.shuffled else torch.arange(len(self.x))
        for part in order.tensor_split(self.count):
            yield self.x[part], self.y[part]


def batches(loader: Any, validation: Any, size: int, seed: int) -> tuple[Any, Any]:
    """The training batches and those held out."""
    share = validation if isinstance(validation, (int, float)) else 0
    if not 0 <= share < 1:
        raise ValueError(f"got validation={validation!r}; the share held out lies in [0, 1)")
    if not _is_pair(loader):
        if not hasattr(loader, "__len__") or not hasattr(loader, "__iter__"):
            raise TypeError(f"got a {type(loader).__name__} of data; it is a pair of tensors (x, y), or a DataLoader")
        if share:
            raise ValueError(
                f"got validation={share} of a loader, which cannot be split: give tensors, other data, or 0"
            )
        return loader, _held_out(validation, size)
    x, y = loader
    if len(x) != len(y) or not len(x):
        raise ValueError(f"got {len(x)} inputs and {len(y)} labels; there is one for each")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    held, rest = order.tensor_split([round(share * len(x))])
    if share:
        validation = (x[held], y[held])
    return Batches(x[rest], y[rest], size, shuffled=True), _held_out(validation, size)


def _held_out(validation: Any, size: int) -> Any:
    if isinstance(validation, (int, float)):
        return ()
    return Batches(validation[0], validation[1], size, shuffled=False) if _is_pair(validation) else validation


def _is_pair(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
