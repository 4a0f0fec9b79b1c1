"""What a network's layers see and what their errors do: one pass over unlabelled data, forwards and backwards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tensorring_torch.calibration.data import first_tensor
from tensorring_torch.calibration.moments import Accumulator, Moments, Readings
from tensorring_torch.patches import patches
from tensorring_torch.trace import layers_called

# Random combinations of the network's outputs that are differentiated, and positions looked at along each axis.
_PROBES, _POSITIONS = 2, 8


@dataclass
class Seen:
    """Of one layer: moments of patches and outputs, for each group; Γ (O, O), summed over positions, a mean of images.

    tr(Γ E S Eᵀ) is then what an error E of the kernel does to the squared norm of the network's outputs, to first
    order and as if errors at different positions were independent.
    """

    sums: list[Accumulator | Readings] = field(default_factory=list)
    gradients: Tensor | float = 0.0
    images: int = 0

    @property
    def moments(self) -> list[Moments]:
        """For each group."""
        return [each.moments() for each in self.sums]

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return sum(len(each.output) for each in self.moments)

    @property
    def blocks(self) -> list[np.ndarray | None]:
        """Γ of the outputs of each group; None where no gradient came back."""
        if isinstance(self.gradients, float):
            return [None] * len(self.sums)
        whole, count = (self.gradients / self.images).cpu().numpy(), len(self.sums)
        cut = np.split(np.arange(len(whole)), count)
        return [whole[np.ix_(part, part)] for part in cut]

    def add(self, layer: Any, x: Tensor, z: Tensor, where: tuple[slice, ...] = ()) -> None:
        """The inputs and the outputs of a call."""
        if isinstance(layer, nn.Embedding):
            self.sums = self.sums or [Readings(layer.num_embeddings, layer.embedding_dim)]
            self.sums[0].add(x)
            return
        rows, out = patches(layer, x, where=where), as_rows(layer, z, where)
        blocks = list(rows) if rows.ndim == 3 else [rows]
        entries = math.prod(getattr(layer, "kernel_size", ()))
        self.sums = self.sums or [Accumulator(entries) for _ in blocks]
        for each, part, outputs in zip(self.sums, blocks, out.chunk(len(blocks), dim=1), strict=True):
            each.add(part, outputs)


def observed(
    model: nn.Module, layers: Sequence[str], batches: Sequence[tuple[Any, ...]], *, seed: int = 0
) -> Mapping[str, Seen]:
    """What each of the layers saw in all its calls. The model is in eval mode."""
    found = {name: Seen() for name in layers}
    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        with torch.enable_grad(), layers_called(), recorded(model, layers) as calls:
            _differentiated(model, batch, calls, found, generator)
        for name, x, z in calls:
            layer = model.get_submodule(name)
            found[name].add(layer, x.detach(), z.detach(), thinned(layer, z, generator))
    return found


@contextmanager
def recorded(model: nn.Module, layers: Sequence[str]) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """All calls of the layers, with input and output."""
    calls: list[tuple[str, Tensor, Tensor]] = []

    def note(name: str, args: Any, kwargs: Any, out: Tensor) -> Tensor:
        if torch.is_grad_enabled() and out.is_floating_point() and not out.requires_grad:
            out.requires_grad_()  # the first layer of a frozen network that takes indices
        calls.append((name, next(value for value in (*args, *kwargs.values())), out))
        return out.clone()  # what comes next may write into it

    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, args, kwargs, out, name=name: note(name, args, kwargs, out), with_kwargs=True
        )
        for name in layers
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _differentiated(
    model: nn.Module,
    batch: tuple[Any, ...],
    calls: list[tuple[str, Tensor, Tensor]],
    found: Mapping[str, Seen],
    generator: torch.Generator,
) -> None:
    inputs = [_leaf(value) for value in batch]
    out = first_tensor(model(*inputs))
    outputs = [z for _, _, z in calls]
    if not out.requires_grad or not outputs:  # indices, or a forward without gradients
        return
    for name in {name for name, _, _ in calls}:
        found[name].images += len(out) if out.ndim else 1
    for _ in range(_PROBES):
        direction = torch.randn(out.shape, generator=generator).to(out)
        gradients = torch.autograd.grad((direction * out).sum(), outputs, retain_graph=True, allow_unused=True)
        for (name, _, _), gradient in zip(calls, gradients, strict=True):
            if gradient is not None:
                rows = as_rows(model.get_submodule(name), gradient).double()
                found[name].gradients = found[name].gradients + rows.mT @ rows / _PROBES


def _leaf(value: Any) -> Any:
    """The input, with a gradient where it can have one: the parameters may be frozen."""
    is_real = isinstance(value, Tensor) and value.is_floating_point()
    # A copy of the leaf, into which the network may write.
    return value.detach().clone().requires_grad_().clone() if is_real else value


def as_rows(layer: Any, z: Tensor, where: tuple[slice, ...] = ()) -> Tensor:
    """(positions, O): the outputs of a layer, or what has their shape, in the order of `patches`."""
    axes = len(getattr(layer, "kernel_size", ()))
    if axes == 0:
        return z.reshape(-1, z.shape[-1])
    z = z if z.ndim == axes + 2 else z[None]
    return z[(..., *where)].movedim(1, -1).flatten(0, -2)


def thinned(layer: Any, z: Tensor, generator: torch.Generator) -> tuple[slice, ...]:
    """A grid of at most 15 output positions along each axis, moved at random: neighbours tell little more."""
    axes = len(getattr(layer, "kernel_size", ()))
    steps = [max(1, size // _POSITIONS) for size in z.shape[z.ndim - axes :]]
    starts = [int(torch.randint(step, (), generator=generator)) for step in steps]
    return tuple(slice(start, None, step) for start, step in zip(starts, steps, strict=True))
