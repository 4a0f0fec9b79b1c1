"""What chains are built of: plain torch layers, and two modules that move an index into the batch and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.dlpack
from torch import Tensor, nn

from tensorring_torch.kinds import layer_of
from tensorring_torch.plan import Link, Plan


class FoldBond(nn.Module):
    """(N, groups·bond·C, *size) -> (N·bond, groups·C, *size): the bond index rides along in the batch.

    With one group the channels are ordered bond first, so this is a view of contiguous memory and costs nothing.

    Parameters
    ----------
    bond
        The size of the index.
    groups
        How many blocks of channels each hold it.
    axes
        How many axes an image has besides its channels.

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

    def __init__(self, bond: int, groups: int = 1, axes: int = 2) -> None:
        super().__init__()
        self.bond = bond
        self.groups = groups
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers, folded."""
        if x.ndim != self.axes + 2:
            shape = ", ".join(("N", "C", *"DHW"[3 - self.axes :]))
            raise ValueError(f"got an input of shape {tuple(x.shape)}; a ring's layers need a batch ({shape}): x[None]")
        n, channels, *size = x.shape
        if self.groups == 1:
            return x.reshape(n * self.bond, channels // self.bond, *size)
        x = x.reshape(n, self.groups, self.bond, channels // (self.groups * self.bond), *size)
        return x.transpose(1, 2).reshape(n * self.bond, channels // self.bond, *size)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.bond}, groups={self.groups}"


class UnfoldBond(nn.Module):
    """(N·bond, groups·C, *size) -> (N, groups·bond·C, *size): what FoldBond folded comes back to the channels.

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


def sequence(
    plan: Plan, weights: Sequence[Tensor], bias: nn.Parameter | None, *, trained: bool = True
) -> nn.Sequential:
    """The layers of a plan, with these canonical weights; the last one adds the bias.

    The plan is kept as `.plan`, next to the parameters.
    """
    layers = nn.Sequential(*_layers(plan, weights, bias, trained))
    vars(layers)["plan"] = plan  # no module, parameter or buffer: deepcopy takes it along, state_dict does not
    return layers


def _layers(plan: Plan, weights: Sequence[Tensor], bias: nn.Parameter | None, trained: bool) -> Iterator[nn.Module]:
    folded, axes = 1, len(plan.geometry.kernel)
    for k, (stage, weight) in enumerate(zip(plan.stages, weights, strict=True)):
        if stage.riders > folded:
            yield FoldBond(stage.riders // folded, plan.blocks, axes)
        elif stage.riders < folded:
            yield UnfoldBond(folded // stage.riders, plan.blocks)
        folded = stage.riders
        yield layer_of(stage.conv, weight, bias if k == len(weights) - 1 else None, trained=trained)


class Kernel(NamedTuple):
    """A kernel of a chain, in canonical order: (outputs, inputs/groups, *size)."""

    weight: Tensor
    groups: int = 1

    @property
    def link(self) -> Link:
        """Its shape."""
        outputs, inputs, *size = self.weight.shape
        return Link(outputs, self.groups * inputs, tuple(size), self.groups)


def pointwise(matrix: Tensor, axes: int) -> Kernel:
    """The kernel (outputs, inputs, 1, …, 1) of a matrix."""
    return Kernel(matrix.reshape(*matrix.shape, *(1,) * axes))


def along(filters: Tensor, axis: int, axes: int, groups: int = 1) -> Kernel:
    """The kernel of filters (outputs, inputs/groups, n) along one of the axes."""
    size = [1] * axes
    size[axis] = filters.shape[-1]
    return Kernel(filters.reshape(*filters.shape[:2], *size), groups)


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
    """(O, I/groups, *kernel): the one kernel that the weights of a plan's stages make together."""
    return torch.cat([reduce(compose, chain).weight for chain in block_kernels(plan, weights)])


def compose(first: Kernel, then: Kernel) -> Kernel:
    """K[p, n, h·H, w·W] = Σ_q then[p, q, H, W]·first[q, n, h, w]: two convolutions as one, on any number of axes.

    Only one of them extends along each axis. Where one has a multiple of the channels of the other, the leading part
    of that index rides along. Where one has groups, so has the sum.
    """
    link = first.link.then(then.link)
    (m, n, *size), (p, q, *following) = first.weight.shape, then.weight.shape
    a, b = first.weight.reshape(m, n, -1), then.weight.reshape(p, q, -1)  # all axes as one: s and S
    g = max(first.groups, then.groups)
    if then.groups > 1:
        kernel = torch.einsum("gqns,gpqS->gpnsS", a.unflatten(0, (g, q)), b.unflatten(0, (g, -1)))
    elif first.groups > 1:
        kernel = torch.einsum("gqns,pgqS->pgnsS", a.unflatten(0, (g, -1)), b.unflatten(1, (g, -1)))
    elif m >= q:
        kernel = torch.einsum("bqns,pqS->bpnsS", a.unflatten(0, (-1, q)), b)
    else:
        kernel = torch.einsum("mns,pbmS->pbnsS", a, b.unflatten(1, (-1, m)))
    kernel = kernel.reshape(-1, *size, *following)
    axes = range(1, len(size) + 1)
    paired = kernel.permute(0, *(k for pair in zip(axes, range(len(size) + 1, kernel.ndim), strict=True) for k in pair))
    return Kernel(paired.reshape(link.outputs, link.inputs // link.groups, *link.size), link.groups)


def to_torch(array: Any) -> Tensor:
    """A copy of any library's array as a torch tensor, on the array's device."""
    if isinstance(array, Tensor):
        return array.detach().clone()
    if isinstance(array, np.ndarray):
        return torch.from_numpy(np.array(array))  # a copy, for torch warns of read-only memory
    return torch.utils.dlpack.from_dlpack(array).clone()
