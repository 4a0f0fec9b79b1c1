"""A layer as a chain of smaller ones: the links of the chain, and the plan made of them.

Everything that is counted (parameters, multiply-adds, an estimate of time) is counted here, from shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from itertools import combinations, pairwise, product
from operator import mul
from typing import NamedTuple

from tensorring_torch.geometry import Calls, Geometry, Size

Costs = tuple[int, int, int, int]

# What "time" is estimated by, in multiply-adds: processors work on LANES channels at once, needed or not, and for each
# number that a layer reads or writes they could have done MOVE multiply-adds (measured: 23 to 58 on AVX-512).
LANES, MOVE = 16, 32


class Link(NamedTuple):
    """The shape of one kernel in a chain.

    Channels that the next kernel does not take ride along, as its batch. So the outputs of a kernel and the inputs of
    the next need not be equal: one is a multiple of the other. A kernel with groups (depthwise: as many as channels)
    takes all channels, and stands beside kernels of as many groups or of one.
    """

    outputs: int
    inputs: int
    size: Size = ()
    groups: int = 1

    @property
    def entries(self) -> int:
        """The entries of the kernel."""
        return self.outputs * (self.inputs // self.groups) * math.prod(self.size)

    def then(self, following: Link) -> Link:
        """The shape of the two kernels merged into one; ValueError where that is no kernel of such a shape."""
        size = tuple(map(mul, self.size, following.size))
        fewer, more = sorted((self.groups, following.groups))
        if more > 1:
            if self.outputs == following.inputs and fewer in (1, more):
                return Link(following.outputs, self.inputs, size, fewer)
            raise ValueError(f"got {self} before {following}: kernels with groups take the channels as they come")
        riders, rest = divmod(self.outputs, following.inputs)
        if not rest:
            return Link(riders * following.outputs, self.inputs, size)
        riders, rest = divmod(following.inputs, self.outputs)
        if not rest:
            return Link(following.outputs, riders * self.inputs, size)
        raise ValueError(f"got {self} before {following}: outputs and inputs must be multiples, one of the other")


class Stage(NamedTuple):
    """One layer of a plan, and how many channels of each image ride along in its batch."""

    conv: Geometry
    riders: int


@dataclass(frozen=True)
class Plan:
    """A layer as a chain of smaller ones: what is built, counted, saved and undone.

    Parameters
    ----------
    geometry
        The layer that the chain computes.
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
        geometry, links = self.geometry, self.links
        if not links or self.blocks not in (1, geometry.groups):
            raise ValueError(f"got {self.blocks} blocks of links {links} for {geometry.groups} groups")
        split = all(link.outputs % link.groups == link.inputs % link.groups == 0 for link in links)
        if not split or links[-1].groups > 1:
            raise ValueError(f"got the links {links}: groups split the channels evenly, and the last has one")
        if any(len(link.size) != len(geometry.kernel) for link in links):
            raise ValueError(f"got the links {links}: each has one size for each axis of the kernel {geometry.kernel}")
        whole = reduce(Link.then, links)
        outputs, *rest = geometry.weight_shape
        once = all(s in (1, k) for link in links for s, k in zip(link.size, geometry.kernel, strict=True))
        if not once or whole != Link(outputs // self.blocks, rest[0], geometry.kernel):
            raise ValueError(f"got the links {links}: together {whole}, but the weight is {(outputs, *rest)}")
        plain = all(a.outputs == b.inputs and a.groups == 1 for a, b in pairwise(links))
        if not geometry.kernel and not plain:
            raise ValueError(f"got the links {links}: linear layers have no groups, and nothing rides along")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The layers, in the order in which data passes them."""
        return tuple(self._stages())

    def _stages(self) -> Iterator[Stage]:
        """Groups that share kernels ride along up to the last one, which has an output for each of them alone."""
        geometry, last = self.geometry, len(self.links) - 1
        # An axis with a kernel of one entry strides where images are smallest: at once, or last where they grow.
        single = last if geometry.transposed else 0
        channels = geometry.in_channels
        for k, link in enumerate(self.links):
            groups, riders = self.blocks * link.groups, channels // (self.blocks * link.inputs)
            ends = (self.blocks * link.inputs, self.blocks * link.outputs)
            if k == last:
                groups, riders, ends = geometry.groups, 1, (channels, geometry.out_channels)
            axes = [s > 1 or (n == 1 and k == single) for s, n in zip(link.size, geometry.kernel, strict=True)]
            yield Stage(geometry.part(axes, channels=ends, groups=groups, first=k == 0), riders)
            channels = riders * ends[1]

    @property
    def parameters(self) -> int:
        """The entries of all kernels, without the bias."""
        return self.cost((), "macs")[2]

    def multiply_adds(self, calls: Calls) -> int:
        """The multiply-adds of all calls together."""
        return self.cost(calls, "macs")[1]

    def cost(self, calls: Calls, minimize: str) -> Costs:
        """What plans are compared by: what is to be small, then multiply-adds, parameters, and layers.

        Embeddings are compared by their parameters, whatever is to be small: looking up is no work.
        """
        return self._cost(self.links, _places(self.geometry, calls), minimize)

    def _cost(self, links: Sequence[Link], places: dict[Size, int], minimize: str) -> Costs:
        geometry, extent = self.geometry, (1,) * len(self.geometry.kernel)
        channels, after, work, storage, time = geometry.in_channels, places[extent], 0, 0, 0
        for k, link in enumerate(links, start=1):
            before, extent = after, tuple(map(mul, extent, link.size))
            after = places[extent]
            acting = before if geometry.transposed else after
            time += MOVE * channels * before
            # Before the last link whatever it does not take rides along; the last has outputs for each group alone.
            copies = channels // link.inputs if k < len(links) else self.blocks
            if k > 1 or geometry.lookup is None:
                work += copies * link.entries * acting
            storage += self.blocks * link.entries
            channels = copies * link.outputs if k < len(links) else geometry.out_channels
            # In depthwise kernels the lanes lie along the outputs alone.
            taken = _up(link.inputs) if link.groups == 1 else link.inputs // link.groups
            time += MOVE * channels * after + copies * _up(link.outputs) * taken * math.prod(link.size) * acting
        first = {"macs": work, "parameters": storage, "time": time}[minimize]
        return (storage if geometry.lookup else first, work, storage, len(links))

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
    places = dict.fromkeys(product(*({1, k} for k in geometry.kernel)), 0)
    for batch, size in calls:
        end = geometry.outputs(size)
        for extent in places:
            done = (e == k and (k > 1 or not geometry.transposed) for e, k in zip(extent, geometry.kernel, strict=True))
            places[extent] += batch * math.prod(b if d else a for a, b, d in zip(size, end, done, strict=True))
    return places
