"""The kinds of torch layers that chains stand in for and are built of, and the one order of all their weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tensorring_torch.geometry import Geometry

PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
KINDS = (*PLAIN, *TRANSPOSED, nn.Linear, nn.Embedding)


def canonical_weight(layer: Any) -> Tensor:
    """(O, I/groups, *kernel), whatever the kind: a view of the layer's weight, with its gradient.

    The weight of an nn.Linear has no kernel axes, that of an nn.Embedding is (D, V); in that of a transposed
    convolution entry k of an axis is what torch adds at k: nothing is mirrored.
    """
    return _reordered(layer.weight, Geometry.of(layer))


def layer_of(geometry: Geometry, weight: Tensor, bias: nn.Parameter | None, *, trained: bool = True) -> nn.Module:
    """The torch layer of a geometry that holds this canonical weight, and this bias."""
    stored = nn.Parameter(_reordered(weight, geometry).contiguous(), trained)
    layer = _empty(geometry)
    layer.weight = stored
    if geometry.lookup is None:
        layer.bias = bias
    return layer


def _reordered(weight: Tensor, geometry: Geometry) -> Tensor:
    """Between torch's order and the canonical one, and back: some kinds have inputs first, in each group."""
    if not geometry.transposed and geometry.lookup is None:
        return weight
    return weight.unflatten(0, (geometry.groups, -1)).transpose(1, 2).flatten(0, 1)


def _empty(geometry: Geometry) -> Any:
    """On the meta device nothing is allocated or drawn: the global random state stays as it is."""
    ends = (geometry.in_channels, geometry.out_channels)
    if geometry.lookup is not None:
        return nn.Embedding(*ends, **geometry.lookup._asdict(), device="meta")
    if not geometry.kernel:
        return nn.Linear(*ends, bias=False, device="meta")
    kinds: tuple[Any, ...] = TRANSPOSED if geometry.transposed else PLAIN
    more = {"output_padding": geometry.output_padding} if geometry.transposed else {}
    return kinds[len(geometry.kernel) - 1](
        *ends,
        geometry.kernel,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        padding_mode=geometry.padding_mode,
        bias=False,
        device="meta",
        **more,
    )
