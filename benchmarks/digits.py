"""Small networks trained on the digits, and a VGG-like one on CIFAR images: compressed without labels or training.

python -m benchmarks.digits [--seeds 0 1 2] [--vgg --data DIR] [--write digits.md]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import tensorring_torch as tgt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

import tensorring as tg
from benchmarks import machine, resnet
from benchmarks.networks import at_its_fastest, augmented, parameters, predicted, side_by_side
from benchmarks.tables import table, write

# Of the 1,797 digits; on the others networks are judged.
TRAINING = 1200
# Of the CIFAR training images: those that the VGG-like network is judged on.
HELD_OUT = 1024
# Of the images trained on: those that layers are fitted to, without labels.
CALIBRATION = 1024
# Images in a step of training.
STEP = 50
# Sizes of batches that are timed, each with so many turns.
TURNS = {1: 200, 32: 40}
HEAD = ("network", "asked", "seed", "parameters", "accuracy, %", "points lost", "ms, batch 1", "ms, batch 32",
        "dense as given", "seconds")  # fmt: skip
MEANS = ("network", "asked", "seeds", "× smaller", "points lost", "× as fast, batch 1", "× as fast, batch 32",
         "than as given")  # fmt: skip


class Transformer(nn.Module):
    """The rows of an image are its words."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 128, dropout=0.1, batch_first=True)
        self.embed, self.place = nn.Linear(8, 32), nn.Parameter(0.02 * torch.randn(8, 32))
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.head(self.encoder(self.embed(x) + self.place).mean(1))


class Recurrent(nn.Module):
    """An LSTM reads the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.head(self.rnn(x)[0][:, -1])


def volume_network(width: int) -> nn.Module:
    """Three convolutions of three axes, of `width` channels and twice as many, and a linear layer, for 8 × 8 × 8."""
    wide = 2 * width
    return nn.Sequential(
        nn.Conv3d(1, width, 3, padding=1), nn.BatchNorm3d(width), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(width, wide, 3, padding=1, bias=False), nn.BatchNorm3d(wide), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(wide, wide, 3, padding=1, bias=False), nn.BatchNorm3d(wide), nn.ReLU(),
        nn.Flatten(), nn.Linear(wide * 8, 10),
    )  # fmt: skip


def vgg(width: int) -> nn.Module:
    """Six convolutions, from `width` channels to eight times as many, and a linear layer, for images of 32 × 32."""
    layers: list[nn.Module] = []
    before = 3
    for after, pooled in ((1, True), (2, True), (4, False), (4, True), (8, False), (8, True)):
        layers += [nn.Conv2d(before, after * width, 3, padding=1, bias=False), nn.BatchNorm2d(after * width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] * pooled
        before = after * width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 4, 10))


@dataclass(frozen=True)
class Case:
    """A network, its images (the first `training` to train on, the others held out), and what is asked of it.

    `asked` holds keyword arguments of `compress`; `epochs`, `rate` (the highest learning rate) and `augment` are how
    the dense network is trained.
    """

    title: str
    make: Callable[[], nn.Module]
    x: Tensor
    y: Tensor
    training: int
    epochs: int
    rate: float
    asked: Sequence[Mapping[str, Any]]
    augment: Callable[[Tensor], Tensor] | None = None

    def dense(self, seed: int) -> nn.Module:
        """The trained network, in eval mode: Adam, one cycle of the learning rate."""
        torch.manual_seed(seed)
        model = self.make().train()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.rate)
        steps = self.epochs * math.ceil(self.training / STEP)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, total_steps=steps)
        for _ in range(self.epochs):
            for part in torch.randperm(self.training).split(STEP):
                images = self.x[part] if self.augment is None else self.augment(self.x[part])
                loss = nn.functional.cross_entropy(model(images), self.y[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return model.eval()

    def right(self, model: nn.Module) -> Tensor:
        """1 for each held-out image that is told right, 0 for the others."""
        return predicted(model, self.x[self.training :]).argmax(1).eq(self.y[self.training :]).double()


def cases() -> dict[str, Case]:
    """The networks for digits, by name."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x, y = torch.from_numpy(data.images).float().div(16)[order], torch.from_numpy(data.target)[order]
    # Each digit, ever brighter from slice to slice.
    volumes = (x[:, None, None] * torch.linspace(0.3, 1, 8)[:, None, None]).contiguous()
    half, quarter = ({"budget": tgt.Budget(parameters=share)} for share in (0.5, 0.25))
    in_time = {"budget": tgt.Budget(parameters=0.25, latency=1.0)}
    weights = {"tol": 0.15, "minimize": "parameters"}
    return {
        "transformer": Case("transformer", Transformer, x, y, TRAINING, 20, 5e-3, [half]),
        "volumes": Case(
            "3-D CNN, 32 channels", lambda: volume_network(16), volumes, y, TRAINING, 4, 1e-2, [quarter, in_time]
        ),
        "wide volumes": Case(
            "3-D CNN, 64 channels", lambda: volume_network(32), volumes, y, TRAINING, 4, 5e-3, [quarter, in_time]
        ),
        "recurrent": Case("LSTM", Recurrent, x, y, TRAINING, 25, 1e-2, [weights]),
    }


def vgg_case(data: Path, width: int) -> Case:
    """The VGG-like network on CIFAR training images, some of which are held out: always the same."""
    x, y = resnet.images(data, "train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    training = len(x) - min(HELD_OUT, len(x) // 2)
    title, asked = f"VGG-like, {8 * width} channels", [{"budget": tgt.Budget(latency=0.5)}]
    return Case(title, lambda: vgg(width), x[order], y[order], training, 4, 2e-3, asked, augmented)


@dataclass(frozen=True)
class Row:
    """One network compressed; pairs are of the dense one and ours, times of the dense one as it was given too, last."""

    title: str
    asked: str
    seed: int
    parameters: tuple[int, int]
    right: tuple[Tensor, Tensor]
    milliseconds: Mapping[int, tuple[float, float, float]]
    seconds: float

    @property
    def lost(self) -> Tensor:
        """For each image held out: 1 where only the dense network was right, −1 where only ours was."""
        return self.right[0] - self.right[1]

    def cells(self) -> tuple[object, ...]:
        """A line of the table."""
        dense, ours = (100 * float(right.mean()) for right in self.right)
        errors = [100 * float(each.std()) / math.sqrt(len(each)) for each in (self.right[0], self.lost)]
        times = (f"{before:.2f} -> {after:.2f}" for before, after, _ in (self.milliseconds[size] for size in TURNS))
        return (self.title, self.asked, self.seed, "{:,} -> {:,}".format(*self.parameters),
                f"{dense:.1f} -> {ours:.1f} ± {errors[0]:.1f}", f"{dense - ours:.1f} ± {errors[1]:.1f}", *times,
                f"{self.milliseconds[32][2]:.2f}", f"{self.seconds:.0f}")  # fmt: skip


def rows(case: Case, seed: int) -> Iterator[Row | str]:
    """Trained once, then compressed in each of the ways asked; in words where a budget is out of reach."""
    dense = case.dense(seed)
    for asked in case.asked:
        fitted: dict[str, Any] = {"calibration": case.x[: case.training][:CALIBRATION]} if "budget" in asked else {}
        timed = "budget" in asked and asked["budget"].latency is not None
        begin = at_its_fastest(dense, case.x) if timed else dense  # what is gained by that is not ours
        start = time.perf_counter()
        try:
            ours = tgt.compress(begin, case.x[:32], **asked, **fitted).model
        except tg.BudgetError as error:
            yield f"{case.title}, seed {seed}: {error}."
            continue
        seconds = time.perf_counter() - start
        times = {size: side_by_side(dense, ours, case.x[:size], turns) for size, turns in TURNS.items()}
        sizes, right = (parameters(dense), parameters(ours)), (case.right(dense), case.right(ours))
        yield Row(case.title, words(asked), seed, sizes, right, times, seconds)


def words(asked: Mapping[str, Any]) -> str:
    """As it is written in a call."""
    if "budget" in asked:
        return f"Budget({', '.join(f'{name}={share:g}' for name, share in asked['budget'].asked.items())})"
    return ", ".join(f"{name}={value!r}" for name, value in asked.items())


def means(found: Sequence[Row]) -> Iterator[tuple[object, ...]]:
    """A line for each network and way, over its seeds."""
    for title, asked in dict.fromkeys((row.title, row.asked) for row in found):
        same = [row for row in found if (row.title, row.asked) == (title, asked)]
        smaller = mean(row.parameters[0] / row.parameters[1] for row in same)
        compared = [(size, 0) for size in TURNS] + [(32, 2)]
        speeds = [mean(row.milliseconds[size][k] / row.milliseconds[size][1] for row in same) for size, k in compared]
        lost = 100 * mean(float(row.lost.mean()) for row in same)
        yield title, asked, len(same), f"{smaller:.2f}", f"{lost:.2f}", *(f"{speed:.2f}" for speed in speeds)


def main() -> None:
    """Reads the command line, prints the tables and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of first weights and of training")
    parser.add_argument("--vgg", action="store_true", help="the VGG-like network too, with the first seed: minutes")
    parser.add_argument("--data", type=Path, help="folder with cifar10_sample.npz, for --vgg")
    parser.add_argument("--width", type=int, default=64, help="channels that the VGG-like network begins with")
    parser.add_argument("--epochs", type=int, help="for all networks; by default each has its own number")
    parser.add_argument("--write", default="", help="name of a page to write under docs/benchmarks")
    options = parser.parse_args()
    if options.vgg and options.data is None:
        parser.error("--vgg needs --data DIR, the folder with cifar10_sample.npz")
    asked = [(case, seed) for case in cases().values() for seed in options.seeds]
    if options.vgg:
        asked.append((vgg_case(options.data, options.width), options.seeds[0]))
    if options.epochs:
        asked = [(replace(case, epochs=options.epochs), seed) for case, seed in asked]
    found = [row for case, seed in tqdm(asked, desc="networks") for row in rows(case, seed)]
    write(options.write, "\n\n".join(_page(options, found, [case for case, _ in asked])))


def _page(options: argparse.Namespace, found: Sequence[Row | str], used: Sequence[Case]) -> Iterator[str]:
    made = [row for row in found if isinstance(row, Row)]
    command = f"python -m benchmarks.digits --seeds {' '.join(map(str, options.seeds))}"
    if options.vgg:
        command += " --vgg --data DIR" + f" --width {options.width}" * (options.width != 64)
    if options.epochs:
        command += f" --epochs {options.epochs}"
    judged = {case.title: f"{case.title} {case.epochs}, {len(case.y) - case.training:,}" for case in used}
    yield "# Small trained networks of every kind"
    yield (
        f"Written by `{command}`. Trained here, then compressed without labels or further training: within budgets "
        f"fitted to {CALIBRATION:,} of the images trained on; with tol, weights alone are looked at. Two layers of "
        "nn.TransformerEncoder and an LSTM read the rows of scikit-learn's digits; the 3-D CNNs see volumes made of "
        "them, ever brighter from slice to slice; the VGG-like network, where asked for, CIFAR training images, "
        "mirrored and moved while it is trained. Epochs, and images that nothing was trained on and accuracy is of: "
        f"{'; '.join(judged.values())}. From dense to ours everywhere."
    )
    yield (
        "Accuracy ± one standard error of the dense network's. Points lost ± one standard error of the difference on "
        "the same images. Latency: medians of both in turn, each in the way that it is fastest in, with the channels "
        "last or not, batch norms folded or not; then the dense one as it was given (batch 32). Budgets of latency are "
        "of the dense network with both: what that gains is not ours. "
        f"Threads: {torch.get_num_threads()}. Seconds: one call of compress."
    )
    yield (
        "An LSTM's weights are stored as products and multiplied out in each call: storage shrinks, time does not. "
        "Budget(parameters=…) alone stores in CP form, which is small and not fast; with latency=1.0 forms are chosen "
        "that are measured to be no slower on 32 images."
    )
    yield machine.describe(("torch", "tensorring"))
    yield table(HEAD, [row.cells() for row in made])
    yield from (row for row in found if isinstance(row, str))
    yield (
        "Means over the seeds. Asked: at most one point lost by the transformer at 2 × and by a 3-D CNN at 4 ×, the "
        "latter not slower; the VGG-like network at least 2 × as fast."
    )
    yield table(MEANS, list(means(made)))


if __name__ == "__main__":
    main()
