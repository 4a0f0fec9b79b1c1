"""Images and kernels with the channels last: how convolutions are fastest on most machines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tensorring_torch.replace import duplicate

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(model: nn.Module) -> nn.Module:
    """A copy whose weights have the channels last: its convolutions give images with the channels last, too."""
    model = duplicate(model)
    lay_out(model)
    return model


def lay_out(model: nn.Module) -> None:
    """The same in place."""
    for part in (*model.parameters(), *model.buffers()):
        part.data = laid_out(part.data)


def has_channels_last(model: nn.Module) -> bool:
    """Whether any of its weights is laid out so."""
    return any(_strides(part, last=False) != part.stride() == _strides(part, last=True) for part in model.parameters())


def _strides(x: Tensor, *, last: bool) -> tuple[int, ...]:
    if not last or x.ndim not in _FORMATS:
        return torch.empty(x.shape, device="meta").stride()
    return torch.empty(x.shape, device="meta", memory_format=_FORMATS[x.ndim]).stride()


def laid_out(x: Tensor) -> Tensor:
    """A copy of images or kernels with the channels last; other tensors as they are.

    Kernels 1 × 1, or of one channel, have the channels last in either layout. It is the strides that tell torch what a
    convolution is to give, and `contiguous` would leave those as they are.
    """
    return x.clone(memory_format=_FORMATS[x.ndim]) if x.ndim in _FORMATS else x
