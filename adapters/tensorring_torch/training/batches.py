"""Training data: tensors or loaders, with labels or without, as batches to train on and batches held out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Batch = Tensor | tuple[Tensor] | tuple[Tensor, Tensor]


class Batches:
    """Tensors as batches of equal sizes, in a new order each time where they are shuffled."""

    def __init__(self, tensors: tuple[Tensor, ...], size: int, *, shuffled: bool) -> None:
        self.tensors, self.shuffled = tensors, shuffled
        self.count = max(1, round(len(tensors[0]) / size))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        images = len(self.tensors[0])
        order = torch.randperm(images) if self.shuffled else torch.arange(images)
        for part in order.tensor_split(self.count):
            yield tuple(tensor[part] for tensor in self.tensors)


def batches(loader: Any, validation: Any, size: int, seed: int) -> tuple[Any, Any]:
    """The training batches and those held out."""
    share = validation if isinstance(validation, (int, float)) else 0
    if not 0 <= share < 1:
        raise ValueError(f"got validation={validation!r}; the share held out lies in [0, 1)")
    tensors = _tensors(loader)
    if tensors is None:
        _check_loader(loader, share)
        return loader, _held_out(validation, size)
    images = len(tensors[0])
    if any(len(tensor) != images for tensor in tensors) or not images:
        raise ValueError(f"got {images} inputs and {len(tensors[-1])} labels; there is one for each")
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    held, rest = order.tensor_split([round(share * images)])
    if not len(rest):
        raise ValueError(f"got validation={share} of {images} inputs, which leaves none to train on: hold out fewer")
    if share:
        validation = tuple(tensor[held] for tensor in tensors) if len(held) else 0
    return Batches(tuple(tensor[rest] for tensor in tensors), size, shuffled=True), _held_out(validation, size)


def inputs_and_labels(batch: Any, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The parts of a batch on a device: x alone, (x,) as of a TensorDataset of inputs, or (x, y)."""
    parts = (batch,) if isinstance(batch, Tensor) else batch
    whole = isinstance(parts, (tuple, list)) and all(isinstance(part, Tensor) for part in parts)
    if not whole or len(parts) not in (1, 2):
        got = [type(part).__name__ for part in parts] if isinstance(parts, (tuple, list)) else type(parts).__name__
        raise TypeError(f"got a batch of {got}; it is a tensor x, or a pair of tensors (x, y)")
    x, y = (*parts, None)[:2]
    return x.to(device), None if y is None else y.to(device)


def _check_loader(loader: Any, share: float) -> None:
    if not hasattr(loader, "__len__") or not hasattr(loader, "__iter__"):
        raise TypeError(
            f"got a {type(loader).__name__} of data; it is a tensor x, a pair of tensors (x, y), or a DataLoader"
        )
    if share:
        raise ValueError(f"got validation={share} of a loader, which cannot be split: give tensors, other data, or 0")
    if not len(loader):
        raise ValueError("got a loader without batches; give at least one")


def _held_out(validation: Any, size: int) -> Any:
    if isinstance(validation, (int, float)):
        return ()
    tensors = _tensors(validation)
    return validation if tensors is None else Batches(tensors, size, shuffled=False)


def _tensors(data: Any) -> tuple[Tensor, ...] | None:
    """Inputs, or inputs and labels, where they are given whole; None where they are a loader."""
    if isinstance(data, Tensor):
        return (data,)
    pair = isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    return tuple(data) if pair else None
