"""What a layer is, apart from its numbers; and how often it is used. All that is known from shapes alone.

Every layer has one canonical weight, (O, I/groups, *kernel): a convolution's own; a transposed convolution's with
outputs before inputs (entry k of an axis is what torch adds at k, nothing is mirrored); a linear layer's (O, I), as one
without axes; an embedding's (D, V), as a linear layer whose inputs are rows of the identity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

Size = tuple[int, ...]


class Call(NamedTuple):
    """One use of a layer in a forward pass: how many images (or rows) it saw, and their size along each axis."""

    batch: int
    size: Size


Calls = tuple[Call, ...]


class Lookup(NamedTuple):
    """What an nn.Embedding has besides its sizes."""

    padding_idx: int | None
    scale_grad_by_freq: bool
    sparse: bool


@dataclass(frozen=True)
class Geometry:
    """What a layer computes, apart from its numbers. Tuples have one entry for each axis of an image, if any."""

    in_channels: int
    out_channels: int
    kernel: Size
    stride: Size = ()
    padding: Size | str = ()
    dilation: Size = ()
    groups: int = 1
    padding_mode: str = "zeros"
    transposed: bool = False
    output_padding: Size = ()
    lookup: Lookup | None = None

    @classmethod
    def of(cls, layer: Any) -> Geometry:
        """The geometry of a convolution, transposed or not, an nn.Linear or an nn.Embedding."""
        if hasattr(layer, "num_embeddings"):
            lookup = Lookup(layer.padding_idx, layer.scale_grad_by_freq, layer.sparse)
            return cls(layer.num_embeddings, layer.embedding_dim, (), lookup=lookup)
        if hasattr(layer, "in_features"):
            return cls(layer.in_features, layer.out_features, ())
        return cls(
            layer.in_channels,
            layer.out_channels,
            tuple(layer.kernel_size),
            tuple(layer.stride),
            layer.padding if isinstance(layer.padding, str) else tuple(layer.padding),
            tuple(layer.dilation),
            layer.groups,
            layer.padding_mode,
            layer.transposed,
            tuple(layer.output_padding) if layer.transposed else (),
        )

    @property
    def weight_shape(self) -> Size:
        """The shape of the canonical weight: (O, I/groups, *kernel)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def parameters(self) -> int:
        """The entries of the weight."""
        return math.prod(self.weight_shape)

    @property
    def generous_size(self) -> Size:
        """An input size for which the border hardly matters: what a layer is planned for when none is known."""
        if self.transposed:
            return (64,) * len(self.kernel)
        return tuple(d * (k - 1) + 1 + 63 * s for d, k, s in zip(self.dilation, self.kernel, self.stride, strict=True))

    def outputs(self, size: Size) -> Size:
        """The size of the output for that of the input."""
        return tuple(self._output(n, axis) for axis, n in enumerate(size))

    def _output(self, n: int, axis: int) -> int:
        reach, stride = self.dilation[axis] * (self.kernel[axis] - 1), self.stride[axis]
        # torch pads 'same' by `reach` in total: the odd one out goes to the end, which changes no size.
        added = {"same": reach, "valid": 0}[self.padding] if isinstance(self.padding, str) else 2 * self.padding[axis]
        if self.transposed:
            return (n - 1) * stride - added + reach + self.output_padding[axis] + 1
        return (n + added - reach - 1) // stride + 1

    def multiply_adds(self, size: Size) -> int:
        """The multiply-adds of one image: one for each entry of the weight at each place where it acts.

        These are the places of the output, for a transposed convolution those of the input. Looking up takes none.
        """
        if self.lookup is not None:
            return 0
        return self.parameters * math.prod(size if self.transposed else self.outputs(size))

    def one_group(self) -> Geometry:
        """The convolution that each group is by itself."""
        return replace(
            self, in_channels=self.in_channels // self.groups, out_channels=self.out_channels // self.groups, groups=1
        )

    def part(self, axes: Sequence[bool], *, channels: tuple[int, int], groups: int, first: bool) -> Geometry:
        """The layer of `channels` (in, out) that carries kernel, stride, padding and dilation of some axes.

        Padding one axis after the other is padding both, in every padding mode, and it commutes with whatever acts on
        the channels or on the other axis without a bias; so does the cropping of transposed convolutions. So each axis
        is padded where its kernel acts. What carries nothing is a plain 1×1 convolution. Only the first looks up.
        """

        def carried(values: Size, otherwise: int) -> Size:
            return tuple(v if here else otherwise for v, here in zip(values, axes, strict=True))

        part = Geometry(
            *channels,
            kernel=carried(self.kernel, 1),
            stride=carried(self.stride, 1),
            padding=self.padding if isinstance(self.padding, str) else carried(self.padding, 0),
            dilation=carried(self.dilation, 1),
            groups=groups,
            padding_mode=self.padding_mode,
            lookup=self.lookup if first else None,
        )
        if not self.transposed:
            return part
        more = carried(self.output_padding, 0)
        moves = any(v != 1 for v in (*part.kernel, *part.stride)) or any((*part.padding, *more))
        return replace(part, transposed=True, output_padding=more) if moves else part
