"""Frozen descriptions: a convolution, the links of a chain of smaller ones, and the plan made of both.

Everything that is counted (output sizes, parameters, multiply-adds) is counted here, from shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from itertools import combinations, pairwise, product
from typing import Any, NamedTuple

Size = tuple[int, int]


class Call(NamedTuple):
    """One use of a layer in a forward pass: how many images it saw, and their height and width."""

    batch: int
    size: Size


Calls = tuple[Call, ...]
Costs = tuple[int, int, int, int]

# What "time" is estimated by, in multiply-adds: processors work on LANES channels at once, needed or not, and for each
# number that a layer reads or writes they could have done MOVE multiply-adds (measured: 23 to 58 on AVX-512).
LANES, MOVE = 16, 32


@dataclass(frozen=True)
class Geometry:
    """What a 2-D convolution is, apart from its numbers. Pairs are (height, width), as in torch."""

    in_channels: int
    out_channels: int
    kernel: Size
    stride: Size = (1, 1)
    padding: Size | str = (0, 0)
    dilation: Size = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"

    @classmethod
    def of(cls, conv: Any) -> Geometry:
        """The geometry of an nn.Conv2d."""
        padding = conv.padding if isinstance(conv.padding, str) else _pair(conv.padding)
        return cls(
            conv.in_channels,
            conv.out_channels,
            _pair(conv.kernel_size),
            _pair(conv.stride),
            padding,
            _pair(conv.dilation),
            conv.groups,
            conv.padding_mode,
        )

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """The shape of the weight: (O, I/groups, kernel height, kernel width)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def parameters(self) -> int:
        """The entries of the weight."""
        return math.prod(self.weight_shape)

    @property
    def generous_size(self) -> Size:
        """An input size for which the border hardly matters: what a layer is planned for when none is known."""
        height, width = (
            d * (k - 1) + 1 + 63 * s for d, k, s in zip(self.dilation, self.kernel, self.stride, strict=True)
        )
        return (height, width)

    def outputs(self, size: Size) -> Size:
        """Height and width of the output for those of the input."""
        return (self._output(size, 0), self._output(size, 1))

    def _output(self, size: Size, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        # torch pads 'same' by `reach` in total: the odd one out goes to the end, which changes no size.
        added = {"same": reach, "valid": 0}[self.padding] if isinstance(self.padding, str) else 2 * self.padding[axis]
        return (size[axis] + added - reach - 1) // self.stride[axis] + 1

    def multiply_adds(self, size: Size) -> int:
        """The multiply-adds of one image: one for each entry of the weight at each place of the output."""
        return self.parameters * math.prod(self.outputs(size))

    def one_group(self) -> Geometry:
        """The convolution that each group is by itself."""
        return replace(
            self, in_channels=self.in_channels // self.groups, out_channels=self.out_channels // self.groups, groups=1
        )

    def part(self, height: bool, width: bool, *, channels: Size, groups: int) -> Geometry:
        """The convolution of `channels` (in, out) that carries kernel, stride, padding and dilation of some axes.

        Padding one axis after the other is padding both, in every padding mode, and it commutes with whatever acts on
        the channels or on the other axis without a bias. So each axis is padded where its kernel acts.
        """

        def carried(pair: Size, otherwise: int) -> Size:
            return (pair[0] if height else otherwise, pair[1] if width else otherwise)

        return Geometry(
            *channels,
            kernel=carried(self.kernel, 1),
            stride=carried(self.stride, 1),
            padding=self.padding if isinstance(self.padding, str) else carried(self.padding, 0),
            dilation=carried(self.dilation, 1),
            groups=groups,
            padding_mode=self.padding_mode,
        )


class Link(NamedTuple):
    """The shape of one kernel in a chain.

    Channels that the next kernel does not take ride along, as its batch. So the outputs of a kernel and the inputs of
    the next need not be equal: one is a multiple of the other. A kernel with groups (depthwise: as many as channels)
    takes all channels, and stands beside kernels of as many groups or of one.
    """

    outputs: int
    inputs: int
    height: int = 1
    width: int = 1
    groups: int = 1

    @property
    def entries(self) -> int:
        """The entries of the kernel."""
        return self.outputs * (self.inputs // self.groups) * self.height * self.width

    def then(self, following: Link) -> Link:
        """The shape of the two kernels merged into one; ValueError where that is no kernel of such a shape."""
        size = (self.height * following.height, self.width * following.width)
        fewer, more = sorted((self.groups, following.groups))
        if more > 1:
            if self.outputs == following.inputs and fewer in (1, more):
                return Link(following.outputs, self.inputs, *size, fewer)
            raise ValueError(f"got {self} before {following}: kernels with groups take the channels as they come")
        riders, rest = divmod(self.outputs, following.inputs)
        if not rest:
            return Link(riders * following.outputs, self.inputs, *size)
        riders, rest = divmod(following.inputs, self.outputs)
        if not rest:
            return Link(following.outputs, riders * self.inputs, *size)
        raise ValueError(f"got {self} before {following}: outputs and inputs must be multiples, one of the other")


class Stage(NamedTuple):
    """One convolution of a plan, and how many channels of each image ride along in its batch."""

    conv: Geometry
    riders: int


@dataclass(frozen=True)
class Plan:
    """A convolution as a chain of smaller ones: what is built, counted, saved and undone.

    Parameters
    ----------
    geometry
        The convolution that the chain computes.
    links
        The shapes of its kernels, in the order in which data passes them.
    blocks
        1 where the groups of the convolution share all kernels but the last, else the number of groups.
    form, ranks
        For readers: where the chain comes from.

    Raises
    ------
    ValueError
        If the links are no chain from the input channels to the output channels, over each axis once.
    """

    geometry: Geometry
    links: tuple[Link, ...]
    blocks: int = 1
    form: str = "dense"
    ranks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.links or self.blocks not in (1, self.geometry.groups):
            raise ValueError(f"got {self.blocks} blocks of links {self.links} for {self.geometry.groups} groups")
        split = all(link.outputs % link.groups == link.inputs % link.groups == 0 for link in self.links)
        if not split or self.links[-1].groups > 1:
            raise ValueError(f"got the links {self.links}: groups split the channels evenly, and the last has one")
        whole = reduce(Link.then, self.links)
        outputs, *rest = self.geometry.weight_shape
        once = all(s in (1, k) for link in self.links for s, k in zip(link[2:4], self.geometry.kernel, strict=True))
        if not once or whole != Link(outputs // self.blocks, *rest):
            raise ValueError(f"got the links {self.links}: together {whole}, but the weight is {(outputs, *rest)}")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The convolutions, in the order in which data passes them."""
        return tuple(self._stages())

    def _stages(self) -> Iterator[Stage]:
        """Groups that share kernels ride along up to the last one, which has an output for each of them alone."""
        # An axis with a kernel of one entry strides (and pads) at the first stage: as early as possible.
        high, wide = (size == 1 for size in self.geometry.kernel)
        channels = self.geometry.in_channels
        for k, link in enumerate(self.links):
            last = k == len(self.links) - 1
            groups, riders = self.blocks * link.groups, channels // (self.blocks * link.inputs)
            ends = (self.blocks * link.inputs, self.blocks * link.outputs)
            if last:
                groups, riders, ends = self.geometry.groups, 1, (channels, self.geometry.out_channels)
            axes = (high or link.height > 1, wide or link.width > 1)
            yield Stage(self.geometry.part(*axes, channels=ends, groups=groups), riders)
            channels, high, wide = riders * ends[1], False, False

    @property
    def parameters(self) -> int:
        """The entries of all kernels, without the bias."""
        return self.cost((), "macs")[2]

    def multiply_adds(self, calls: Calls) -> int:
        """The multiply-adds of all calls together."""
        return self.cost(calls, "macs")[0]

    def cost(self, calls: Calls, minimize: str) -> Costs:
        """What plans are compared by: what is to be small, then multiply-adds, parameters, and layers."""
        return self._cost(self.links, _places(self.geometry, calls), minimize)

    def _cost(self, links: Sequence[Link], places: dict[Size, int], minimize: str) -> Costs:
        channels, height, width, work, storage, time = self.geometry.in_channels, 1, 1, 0, 0, 0
        for k, link in enumerate(links, start=1):
            time += MOVE * channels * places[height, width]
            height, width = height * link.height, width * link.width
            # Before the last link whatever it does not take rides along; the last has outputs for each group alone.
            copies = channels // link.inputs if k < len(links) else self.blocks
            work += copies * link.entries * places[height, width]
            storage += self.blocks * link.entries
            channels = copies * link.outputs if k < len(links) else self.geometry.out_channels
            # In depthwise kernels the lanes lie along the outputs alone.
            taken = _up(link.inputs) if link.groups == 1 else link.inputs // link.groups
            full = _up(link.outputs) * taken * link.height * link.width
            time += (MOVE * channels + copies * full) * places[height, width]
        first = {"macs": work, "parameters": storage, "time": time}[minimize]
        return (first, work, storage, len(links))

    def merged(self, starts: Sequence[int]) -> Plan:
        """The plan that merges neighbouring kernels: one for each start, up to the next."""
        return replace(self, links=_merged(self.links, starts))

    def cheapest(self, calls: Calls, minimize: str) -> tuple[Costs, tuple[int, ...]]:
        """The cheapest of all ways to merge, from none to the single dense kernel: what it costs, and its starts.

        Nothing is built: searches for ranks ask this thousands of times.
        """
        places, later = _places(self.geometry, calls), range(1, len(self.links))
        ways = ((0, *rest) for count in range(len(self.links)) for rest in combinations(later, count))
        return min((self._cost(_merged(self.links, starts), places, minimize), starts) for starts in ways)


def _up(channels: int) -> int:
    return -(-channels // LANES) * LANES


def _merged(links: Sequence[Link], starts: Sequence[int]) -> tuple[Link, ...]:
    return tuple(reduce(Link.then, links[a:b]) for a, b in pairwise((*starts, len(links))))


@cache
def _places(geometry: Geometry, calls: Calls) -> dict[Size, int]:
    """At how many places a kernel acts, in all calls, once kernels of such an extent have carried their axes."""
    places = dict.fromkeys(product({1, geometry.kernel[0]}, {1, geometry.kernel[1]}), 0)
    for batch, size in calls:
        end = geometry.outputs(size)
        for height, width in places:
            done = (height == geometry.kernel[0], width == geometry.kernel[1])
            places[height, width] += batch * math.prod(end[k] if done[k] else size[k] for k in (0, 1))
    return places


def _pair(value: Any) -> Size:
    first, second = (value, value) if isinstance(value, int) else value
    return (int(first), int(second))
