"""The three networks of `benchmarks.digits_training`, their images, and what is tried in training them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import digits

Settings = Mapping[str, Any]
# Of the training images: those that settings are chosen by; and seeds of that choice alone.
VALIDATION, CHOICE = 200, (100, 101)


class Attention(nn.Module):
    """Self-attention of four linear layers: in nn.MultiheadAttention nothing could be replaced."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(N, words, width) to the same."""
        parts = (part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        return self.out(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class Residual(nn.Sequential):
    """x + f(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        return x + super().forward(x)


class Transformer(nn.Module):
    """Two blocks; the rows of an image are its words."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, width), nn.Parameter(0.02 * torch.randn(8, width))
        self.blocks = nn.Sequential(*(part for _ in range(2) for part in _block(width)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.head(self.norm(self.blocks(self.embed(x) + self.place)).mean(1))


def _block(width: int) -> Iterator[nn.Module]:
    yield Residual(nn.LayerNorm(width), Attention(width, 4))
    yield Residual(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def connected() -> nn.Module:
    """Three linear layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def convolutional() -> nn.Module:
    """Three convolutions of 3 × 3 and a linear layer."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


@dataclass(frozen=True)
class Study:
    """A network on its images, how it is trained, and what is tried: learning rates, weight decays."""

    case: digits.Case
    head: str  # the last layer
    recipe: Settings
    rates: tuple[float, ...]
    decays: tuple[float, ...]

    def choosing(self) -> Study:
        """On the training images alone, some of them held out."""
        case = self.case
        x, y = case.x[: case.training], case.y[: case.training]
        return replace(self, case=replace(case, x=x, y=y, training=case.training - VALIDATION))


def studies() -> dict[str, Study]:
    """The three networks."""
    base = replace(digits.cases()["transformer"], asked=())

    def study(title: str, make: Callable[[], nn.Module], head: str, epochs: int, batch: int, *tried: Any) -> Study:
        optimizer, rates, decays = tried
        recipe = {"optimizer": optimizer, "batch_size": batch, "clip": 1.0}
        case = replace(base, title=title, make=make, epochs=epochs, rate=rates[0])
        return Study(case, head, recipe, rates, decays)

    return {
        "connected": study("fully connected", connected, "5", 30, 32, "sgd", (0.05, 0.1), (5e-4, 2e-3, 5e-3, 1e-2)),
        "cnn": study("CNN", convolutional, "13", 20, 50, "sgd", (0.1,), (5e-4, 1e-2, 5e-2, 0.1)),
        "transformer": study("transformer", Transformer, "head", 20, 50, "adam", (3e-3,), (0.1, 1.5, 3.0)),
    }
