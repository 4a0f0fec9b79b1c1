"""What is measured of networks on images: outputs and how far apart they are, work, latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import tensorring_torch as tgt
import torch
from tensorring_torch.layout import channels_last
from torch import Tensor, nn
from torch.nn import functional

Network = Callable[[Tensor], Tensor]


def predicted(model: Network, x: Tensor, batch: int = 64) -> Tensor:
    """Logits, batch by batch."""
    with torch.inference_mode():
        return torch.cat([model(part) for part in x.split(batch)])


def divergence(expected: Tensor, got: Tensor) -> float:
    """Mean KL of the outputs, from what is expected to what came; rounding does not make it negative."""
    ours, theirs = got.log_softmax(1), expected.log_softmax(1)
    return max(0.0, float((theirs.exp() * (theirs - ours)).sum(1).mean()))


def agreement(expected: Tensor, got: Tensor) -> float:
    """The share of images that both put into the same class."""
    return float(expected.argmax(1).eq(got.argmax(1)).float().mean())


def parameters(model: nn.Module) -> int:
    """Numbers that were trained; buffers are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, image: Tensor) -> int:
    """Those of all convolutions and linear layers on a batch."""
    counts: list[int] = []

    def count(layer: Any, _: Any, output: Tensor) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    predicted(model, image)
    for hook in hooks:
        hook.remove()
    return sum(counts)


@torch.inference_mode()
def latencies(models: Sequence[Network], x: Tensor, repeats: int = 40) -> list[float]:
    """Median milliseconds of each model on one batch, the models in turn, so that drift touches all alike."""
    times: list[list[float]] = [[] for _ in models]
    for turn in range(repeats + 5):
        for model, kept in zip(models, times, strict=True):
            start = time.perf_counter()
            model(x)
            if turn >= 5:
                kept.append(time.perf_counter() - start)
    return [1e3 * median(kept) for kept in times]


def side_by_side(dense: nn.Module, ours: nn.Module, x: Tensor, repeats: int = 40) -> tuple[float, float, float]:
    """Milliseconds of both, each in the way that it is fastest in eval mode, and of the dense one as it is."""
    ways = [
        [model, tgt.fold_norms(model, x[:1]), channels_last(model), at_its_fastest(model, x)] for model in (dense, ours)
    ]
    times = latencies([*ways[0], *ways[1]], x, repeats)
    return min(times[:4]), min(times[4:]), times[0]


def at_its_fastest(model: nn.Module, x: Tensor) -> nn.Module:
    """What it computes in eval mode, with its batch norms folded and the channels last."""
    return channels_last(tgt.fold_norms(model, x[:1]))


def augmented(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Half of the images mirrored, each moved by up to 4 pixels over a border of zeros."""
    n, channels, height, width = x.shape
    x = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, x.flip(3), x)
    shifts = torch.randint(0, 9, (2, n, 1), generator=generator)
    rows, columns = shifts[0] + torch.arange(height), shifts[1] + torch.arange(width)
    images, planes = torch.arange(n), torch.arange(channels)
    return functional.pad(x, (4, 4, 4, 4))[
        images[:, None, None, None], planes[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]
