"""The CIFAR ResNets of He et al. 2015 (arXiv 1512.03385, section 4.2), with parameter-free shortcuts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCKS = {"resnet20": 3, "resnet32": 5, "resnet56": 9}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two 3 × 3 convolutions; where channels grow, the shortcut takes every second pixel and pads with zeros."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.pad = stride, (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1 or self.pad:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """A stem of 16 channels, three stages of n blocks, average pooling, a linear layer."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, n, 1)
        self.layer2 = self._stage(16, 32, n, 2)
        self.layer3 = self._stage(32, 64, n, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(before: int, after: int, n: int, stride: int) -> nn.Sequential:
        return nn.Sequential(Block(before, after, stride), *(Block(after, after, 1) for _ in range(n - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def pretrained(data: Path, network: str) -> ResNet:
    """A network with the weights of `cifar10_<network>.npz`, in eval mode."""
    model = ResNet(BLOCKS[network])
    with np.load(data / f"cifar10_{network}.npz") as weights:
        state = {name: torch.from_numpy(weights[name]) for name in weights.files}
    missing = model.load_state_dict(state, strict=False)
    left_out = [name for name in missing.missing_keys if not name.endswith("num_batches_tracked")]
    if left_out or missing.unexpected_keys:
        raise ValueError(
            f"cifar10_{network}.npz does not fit: missing {left_out}, unexpected {missing.unexpected_keys}"
        )
    return model.eval()


def images(data: Path, part: str) -> tuple[Tensor, Tensor]:
    """Normalised images and labels of the `train` or the `test` sample."""
    with np.load(data / "cifar10_sample.npz") as sample:
        x = torch.from_numpy(sample[f"{part}_images"]).float() / 255
        y = torch.from_numpy(sample[f"{part}_labels"]).long()
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None], y


@torch.inference_mode()
def told_right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which of the images are told right."""
    return torch.cat([model(batch).argmax(1) for batch in x.split(256)]).eq(y)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images told right."""
    return told_right(model, x, y).float().mean().item()
