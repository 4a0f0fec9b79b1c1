"""The tables of the tutorial "Train a network so that it can be cut": means and worst of some seeds.

python -m benchmarks.low_rank [--seeds 0 1 2 3 4] [--lr 0.05] [--clip 5]

The network, the digits and the recipes are the tutorial's. A seed decides which images are kept for the count, the
first weights, and the order of batches.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import tensorring_torch as tgt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.digits_training_networks import connected
from benchmarks.digits_training_ways import folded
from benchmarks.networks import agreement, parameters, predicted
from benchmarks.tables import table

TRAINING, EPOCHS = 1440, 30
RATIOS = (4, 6, 8)
NAMES = {1: "dense", 2: "two factors", 3: "three factors"}
# Factors of each layer (one: the dense network) and weight decay; factors and weight of the penalty.
DECAYED = ((1, 1e-3), (1, 5e-3), (2, 5e-3), (2, 1e-2), (3, 2e-3), (3, 5e-3))
ORTHOGONAL = ((3, 1e-3), (3, 1e-2), (2, 1e-3), (2, 1e-2))


@dataclass(frozen=True)
class Digits:
    """Images and labels in the order of a seed; the first are for training."""

    images: Tensor
    labels: Tensor
    seed: int

    @classmethod
    def shuffled(cls, seed: int) -> Digits:
        """As the tutorial does it."""
        torch.manual_seed(seed)
        digits = load_digits()
        order = torch.randperm(len(digits.target))
        images = torch.tensor(digits.images, dtype=torch.float32)[order] / 16
        return cls(images, torch.tensor(digits.target)[order], seed)

    def start(self, factors: int, **options: Any) -> nn.Module:
        """The network with its first weights, each layer a product of so many."""
        torch.manual_seed(self.seed + 1)
        model = connected()
        return model if factors == 1 else tgt.expand(model, factors=factors, **options)

    def trained(self, model: nn.Module, teacher: nn.Module | None, **settings: Any) -> nn.Module:
        """On the first images."""
        data = self.images[:TRAINING], self.labels[:TRAINING]
        return tgt.fine_tune(model, teacher, data, batch_size=32, **settings).model.eval()

    def right(self, model: nn.Module) -> float:
        """The share of the other images that is told right."""
        expected = nn.functional.one_hot(self.labels[TRAINING:])
        return agreement(expected, predicted(model.eval(), self.images[TRAINING:]))


def decayed(digits: Digits, factors: int, decay: float, pace: Mapping[str, Any]) -> Iterator[float]:
    """What is told right by the whole network, and cut to each ratio."""
    whole = digits.trained(digits.start(factors), None, weight_decay=decay, **pace)
    yield digits.right(whole)
    wide = tgt.expand(whole) if factors == 1 else whole
    for ratio in RATIOS:
        yield digits.right(folded(wide, parameters(connected()) / ratio)[0])


def orthogonal(digits: Digits, factors: int, weight: float, pace: Mapping[str, Any]) -> Iterator[float]:
    """What is told right by the whole network, cut by VBMF, and trained on; and how often smaller that is."""

    def penalty(model: nn.Module) -> Tensor:
        return weight * tgt.orthogonality_penalty(model)

    whole = digits.trained(digits.start(factors, exclude="5"), None, weight_decay=5e-4, penalty=penalty, **pace)
    small = tgt.fold(whole, ranks="vbmf").model
    yield digits.right(whole)
    yield digits.right(small)
    yield digits.right(digits.trained(small, whole, epochs=10, lr=0.02))
    yield parameters(connected()) / parameters(small)


def cell(shares: Sequence[float]) -> str:
    """Mean and worst in percent."""
    return f"{100 * mean(shares):.1f} ({100 * min(shares):.1f})"


def main() -> None:
    """Reads the command line and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the training that is done before the cut")
    parser.add_argument("--lr", type=float, default=0.05, help="highest learning rate of it")
    parser.add_argument("--clip", type=float, default=5.0, help="longest gradient of it; 0: not clipped")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pace = {"epochs": options.epochs, "lr": options.lr, "clip": options.clip or None}
    each = [Digits.shuffled(seed) for seed in options.seeds]
    rows: list[tuple[str, ...]] = []
    for factors, decay in tqdm(DECAYED, desc="decay"):
        figures = zip(*(decayed(digits, factors, decay, pace) for digits in each), strict=True)
        rows.append((f"{NAMES[factors]}, decay {decay:g}", *map(cell, figures)))
    print(table(("", "whole", *(f"÷ {ratio}" for ratio in RATIOS)), rows), end="\n\n")
    rows = []
    for factors, weight in tqdm(ORTHOGONAL, desc="orthogonal"):
        *shares, ratios = zip(*(orthogonal(digits, factors, weight, pace) for digits in each), strict=True)
        rows.append((f"{NAMES[factors]}, penalty {weight:g}", *map(cell, shares), f"÷ {mean(ratios):.1f}"))
    print(table(("orthogonal factors, VBMF", "whole", "cut", "trained on", "parameters"), rows))


if __name__ == "__main__":
    main()
