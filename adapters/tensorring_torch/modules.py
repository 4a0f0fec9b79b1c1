"""What chains are built of: plain convolutions, and two modules that move an index into the batch and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.dlpack
from torch import Tensor, nn

from tensorring_torch.geometry import Geometry, Link, Plan


class FoldBond(nn.Module):
    """(N, groups·bond·C, H, W) -> (N·bond, groups·C, H, W): the bond index rides along in the batch.

    With one group the channels are ordered bond first, so this is a view of contiguous memory and costs nothing.

    Parameters
    ----------
    bond
        The size of the index.
    groups
        How many blocks of channels each hold it.

    Raises
    ------
    ValueError
        When called on an image without a batch, for afterwards nobody could tell it from a batch of one.

    Examples
    --------
    >>> import torch
    >>> from tensorring_torch import FoldBond
    >>> FoldBond(3)(torch.zeros(2, 12, 5, 5)).shape
    torch.Size([6, 4, 5, 5])
    """

    def __init__(self, bond: int, groups: int = 1) -> None:
        super().__init__()
        self.bond = bond
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers, folded."""
        if x.ndim != 4:
            raise ValueError(
                f"got an input of shape {tuple(x.shape)}; a ring's layers need a batch (N, C, H, W): x[None]"
            )
        n, channels, *size = x.shape
        if self.groups == 1:
            return x.reshape(n * self.bond, channels // self.bond, *size)
        x = x.reshape(n, self.groups, self.bond, channels // (self.groups * self.bond), *size)
        return x.transpose(1, 2).reshape(n * self.bond, channels // self.bond, *size)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.bond}, groups={self.groups}"


class UnfoldBond(nn.Module):
    """(N·bond, groups·C, H, W) -> (N, groups·bond·C, H, W): what FoldBond folded comes back to the channels.

    Parameters
    ----------
    bond, groups
        As in FoldBond.

    Examples
    --------
    >>> import torch
    >>> from tensorring_torch import UnfoldBond
    >>> UnfoldBond(3)(torch.zeros(6, 4, 5, 5)).shape
    torch.Size([2, 12, 5, 5])
    """

    def __init__(self, bond: int, groups: int = 1) -> None:
        super().__init__()
        self.bond = bond
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers, unfolded."""
        n, channels, *size = x.shape
        if self.groups == 1:
            return x.reshape(n // self.bond, channels * self.bond, *size)
        x = x.reshape(n // self.bond, self.bond, self.groups, channels // self.groups, *size)
        return x.transpose(1, 2).reshape(n // self.bond, channels * self.bond, *size)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.bond}, groups={self.groups}"


def convolution(geometry: Geometry, weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Conv2d:
    """The nn.Conv2d of a geometry that holds exactly these parameters."""
    # On the meta device nothing is allocated or drawn: the global random state stays as it is.
    conv = nn.Conv2d(
        geometry.in_channels,
        geometry.out_channels,
        geometry.kernel,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        padding_mode=geometry.padding_mode,  # type: ignore[arg-type]
        bias=False,
        device="meta",
    )
    conv.weight, conv.bias = weight, bias
    return conv


def sequence(plan: Plan, weights: Sequence[nn.Parameter], bias: nn.Parameter | None) -> nn.Sequential:
    """The layers of a plan; the last one adds the bias. The plan is kept as `.plan`, next to the parameters."""
    layers = nn.Sequential(*_layers(plan, weights, bias))
    vars(layers)["plan"] = plan  # no module, parameter or buffer: deepcopy takes it along, state_dict does not
    return layers


def _layers(plan: Plan, weights: Sequence[nn.Parameter], bias: nn.Parameter | None) -> Iterator[nn.Module]:
    folded = 1
    for k, (stage, weight) in enumerate(zip(plan.stages, weights, strict=True)):
        if stage.riders > folded:
            yield FoldBond(stage.riders // folded, plan.blocks)
        elif stage.riders < folded:
            yield UnfoldBond(folded // stage.riders, plan.blocks)
        folded = stage.riders
        yield convolution(stage.conv, weight, bias if k == len(weights) - 1 else None)


class Kernel(NamedTuple):
    """A kernel of a chain, laid out as torch does: (outputs, inputs/groups, h, w)."""

    weight: Tensor
    groups: int = 1

    @property
    def link(self) -> Link:
        """Its shape."""
        outputs, inputs, *size = self.weight.shape
        return Link(outputs, self.groups * inputs, size[0], size[1], self.groups)


def stage_weights(chains: Sequence[Sequence[Kernel]], starts: Sequence[int]) -> list[Tensor]:
    """The weights of a plan's stages: in the chain of each block the kernels merged, then the blocks stacked."""
    runs = list(pairwise((*starts, len(chains[0]))))
    return [torch.cat([reduce(compose, chain[a:b]).weight for chain in chains]) for a, b in runs]


def block_kernels(plan: Plan, weights: Sequence[Tensor]) -> list[list[Kernel]]:
    """The weights of a plan's stages as the chains of kernels that they are, one for each block."""
    groups = [link.groups for link in plan.links]
    blocks = zip(*(weight.chunk(plan.blocks) for weight in weights), strict=True)
    return [[Kernel(*pair) for pair in zip(block, groups, strict=True)] for block in blocks]


def dense_weight(plan: Plan, weights: Sequence[Tensor]) -> Tensor:
    """(O, I/groups, h, w): the one kernel that the weights of a plan's stages make together."""
    return torch.cat([reduce(compose, chain).weight for chain in block_kernels(plan, weights)])


def compose(first: Kernel, then: Kernel) -> Kernel:
    """K[p, n, h·H, w·W] = Σ_q then[p, q, H, W]·first[q, n, h, w]: two convolutions as one.

    Only one of them extends along each axis. Where one has a multiple of the channels of the other, the leading part
    of that index rides along. Where one has groups, so has the sum.
    """
    link = first.link.then(then.link)
    (m, n, *size), (p, q, *following) = first.weight.shape, then.weight.shape
    g = max(first.groups, then.groups)
    if then.groups > 1:
        a, b = first.weight.reshape(g, q, n, *size), then.weight.reshape(g, p // g, q, *following)
        kernel = torch.einsum("gqnhw,gpqHW->gpnhHwW", a, b)
    elif first.groups > 1:
        a, b = first.weight.reshape(g, m // g, n, *size), then.weight.reshape(p, g, m // g, *following)
        kernel = torch.einsum("gqnhw,pgqHW->pgnhHwW", a, b)
    elif m >= q:
        kernel = torch.einsum("bqnhw,pqHW->bpnhHwW", first.weight.reshape(m // q, q, n, *size), then.weight)
    else:
        kernel = torch.einsum("mnhw,pbmHW->pbnhHwW", first.weight, then.weight.reshape(p, q // m, m, *following))
    return Kernel(kernel.reshape(link.outputs, link.inputs // link.groups, link.height, link.width), link.groups)


def to_torch(array: Any) -> Tensor:
    """A copy of any library's array as a torch tensor, on the array's device."""
    if isinstance(array, Tensor):
        return array.detach().clone()
    if isinstance(array, np.ndarray):
        return torch.from_numpy(np.array(array))  # a copy, for torch warns of read-only memory
    return torch.utils.dlpack.from_dlpack(array).clone()
