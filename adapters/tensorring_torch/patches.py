"""What each output of a layer is made of: the patches of its input, as the rows of a matrix."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tensorring_torch.kinds import PLAIN, TRANSPOSED


def patches(layer: nn.Module, x: Tensor, *, where: tuple[slice, ...] = ()) -> Tensor:
    """layer(x) without bias = patches(layer, x) @ W.mT, W the canonical weight with one row for each output channel.

    Parameters
    ----------
    layer
        A convolution or a transposed one, of one to three axes, with any options, or an nn.Linear.
    x
        What it is called on, with a batch or without.
    where
        Of a convolution: which of its outputs along each axis; all by default.

    Returns
    -------
    Tensor
        (positions, I·prod(kernel)): one row for each output position, all images after one another. With groups
        (groups, positions, I/groups·prod(kernel)).

    Raises
    ------
    TypeError
        If the layer is of another kind.

    Notes
    -----
    Takes prod(kernel) / prod(stride) times the memory of x, for a transposed convolution prod(kernel)·prod(stride)
    times: batches are the caller's to keep small. Differentiable.

    Examples
    --------
    >>> import torch
    >>> from tensorring_torch.patches import patches
    >>> conv, x = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), torch.rand(2, 3, 6, 6)
    >>> rows = patches(conv, x)
    >>> rows.shape
    torch.Size([18, 27])
    >>> outputs = (rows @ conv.weight.flatten(1).mT).reshape(2, 3, 3, 8).permute(0, 3, 1, 2)
    >>> torch.allclose(outputs, conv(x), atol=1e-6)
    True
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, layer.in_features)
    if not isinstance(layer, (*PLAIN, *TRANSPOSED)):
        raise TypeError(f"got a {type(layer).__name__}; patches are those of convolutions and of nn.Linear")
    axes = len(layer.kernel_size)
    batch = x if x.ndim == axes + 2 else x[None]
    rows = _windows(layer, batch)[(..., *where, *(slice(None),) * axes)]
    rows = rows.unflatten(1, (layer.groups, -1))
    kernel = range(3 + axes, 3 + 2 * axes)
    rows = rows.permute(1, 0, *range(3, 3 + axes), 2, *kernel).flatten(1 + axes + 1).flatten(1, 1 + axes)
    return rows[0] if layer.groups == 1 else rows


def _windows(layer: Any, x: Tensor) -> Tensor:
    """(N, C, *outputs, *kernel): a view of the padded input."""
    transposed = isinstance(layer, TRANSPOSED)
    padded = _stuffed(layer, x) if transposed else _padded(layer, x)
    for k, (size, dilation, stride) in enumerate(
        zip(layer.kernel_size, layer.dilation, layer.stride, strict=True), start=2
    ):
        step = 1 if transposed else stride
        padded = padded.unfold(k, dilation * (size - 1) + 1, step)[..., ::dilation]
    # A transposed convolution is the plain one of the mirrored kernel.
    return padded.flip(tuple(range(-len(layer.kernel_size), 0))) if transposed else padded


def _padded(layer: Any, x: Tensor) -> Tensor:
    reaches = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if layer.padding == "valid":
        return x
    if layer.padding == "same":  # the odd one out goes to the end, as in torch
        pads = [(reach // 2, reach - reach // 2) for reach in reaches]
    else:
        pads = [(p, p) for p in layer.padding]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, [p for pair in reversed(pads) for p in pair], mode=mode)


def _stuffed(layer: Any, x: Tensor) -> Tensor:
    """The input with zeros between its entries, and around it what kernel and padding leave (or fewer entries)."""
    size = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], layer.stride, strict=True)]
    wide = x.new_zeros(*x.shape[:2], *size)
    wide[(..., *(slice(None, None, s) for s in layer.stride))] = x
    options = zip(layer.dilation, layer.kernel_size, layer.padding, layer.output_padding, strict=True)
    pads = [(d * (k - 1) - p, d * (k - 1) - p + more) for d, k, p, more in options]
    return F.pad(wide, [p for pair in reversed(pads) for p in pair])
