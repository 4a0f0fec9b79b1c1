"""CIFAR ResNets whose block convolutions become CP layers of a given ratio, without any data and after a few epochs.

python -m benchmarks.cifar_tuning --data DIR [--form cp cp-plain] [--ratio 4] [--allocate uniform] [--epochs 3]

Nothing is chosen by the test images: ranks are by the weights alone, the recipe was chosen by a split of the training
images, and each row looks at the test images once, last. Networks fitted to data are in `benchmarks.cifar`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tensorring_torch as tgt
import torch
from torch import nn
from tqdm import tqdm

import tensorring as tg
from benchmarks import machine, resnet
from benchmarks.cifar_methods import as_three, block_convolutions, cp_rank, rebuilt
from benchmarks.networks import augmented, parameters
from benchmarks.tables import table, write

HEAD = ("network", "form", "ratio", "parameters", "whole ratio", "error, median", "‖λ‖/‖X‖, median", "max",
        "epochs", "lr", "seed", "validation", "accuracy", "dense")  # fmt: skip
FORMS = {"cp": tg.cp_stable, "cp-plain": tg.cp_als}
Budgets = Mapping[str, float]

# Chosen by a tenth of the training images, at both learning rates at once: by the divergence from the dense network.
RECIPE: dict[str, Any] = {"distill": 0.9, "temperature": 4.0, "batch_size": 64, "clip": 3.0, "weight_decay": 1e-4}


@dataclass(frozen=True)
class Fitted:
    """A network with its block convolutions replaced, and what was measured of each."""

    model: nn.Module
    errors: tuple[float, ...]
    norms: tuple[float, ...]

    def cells(self, dense: nn.Module) -> tuple[str, ...]:
        """Parameters, the ratio of the whole network, median error, median and largest ‖λ‖/‖X‖."""
        ours, before = parameters(self.model), parameters(dense)
        norms = f"{median(self.norms):.2f}", f"{max(self.norms):.2f}"
        return (f"{ours:,}", f"{before / ours:.2f}", f"{median(self.errors):.3f}", *norms)


def fitted(dense: nn.Module, form: str, budgets: Budgets) -> Fitted:
    """Each 3 × 3 convolution of the blocks as a CP with at most so many parameters; the stem stays."""
    found = {}
    for name, conv in tqdm(list(block_convolutions(dense)), desc=form):
        rank = cp_rank(conv, budgets[name] / conv.weight.numel())
        found[name] = FORMS[form](as_three(conv), rank=rank, rng=0)
    model = rebuilt(dense, {name: each.tensor for name, each in found.items()})
    if form == "cp-plain":
        for name in found:
            equal_norms(model.get_submodule(name))
    norms = tuple(tg.degeneracy(each.tensor).norm_ratio for each in found.values())
    return Fitted(model, tuple(each.error for each in found.values()), norms)


def uniform(dense: nn.Module, ratio: float) -> Budgets:
    """The parameters of each kernel, over `ratio`."""
    return {name: conv.weight.numel() / ratio for name, conv in block_convolutions(dense)}


def least_squares(dense: nn.Module, ratio: float) -> Budgets:
    """As many parameters in all, shared out so that the squares of the relative errors of all CPs add up to least."""
    curves = {name: _curve(as_three(conv)) for name, conv in tqdm(list(block_convolutions(dense)), desc="curves")}
    total = sum(uniform(dense, ratio).values())

    def budgets(price: float) -> Budgets:
        return {name: float(counts[np.argmin(errors**2 + price * counts)]) for name, (errors, counts) in curves.items()}

    low, high = 1e-12, 1.0  # at the first they are too many
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if sum(budgets(middle).values()) > total else (low, middle)
    return budgets(high)


ALLOCATIONS = {"uniform": uniform, "squares": least_squares}


def _curve(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors of a CP after a few sweeps, and its parameters, for every rank; between some they are interpolated."""
    ranks = sorted({max(1, int(x.size / ratio / sum(x.shape))) for ratio in (16, 8, 5, 3.5, 2.5, 2, 1.6, 1.3, 1)})
    errors = [tg.cp_als(x, rank=rank, stall=1e-4, max_sweeps=80, rng=0).error for rank in ranks]
    every = np.arange(ranks[0], ranks[-1] + 1)
    return np.interp(every, ranks, errors), every * float(sum(x.shape))


@torch.no_grad()
def equal_norms(layers: Any) -> Any:
    """The scales of each term shared out evenly, as other packages do."""
    entry, middle, output = (layer.weight for layer in layers)
    parts = [entry[:, :, 0, 0].T, middle.flatten(1).T, output[:, :, 0, 0]]
    norms = torch.stack([part.norm(dim=0) for part in parts]).clamp_min(torch.finfo(entry.dtype).tiny)
    scales = norms.log().mean(0).exp() / norms
    entry *= scales[0, :, None, None, None]
    middle *= scales[1, :, None, None, None]
    output *= scales[2, :, None, None]
    return layers


def rows(options: argparse.Namespace, network: str) -> Iterator[tuple[object, ...]]:
    """For each form and ratio a line without any data, then one for each learning rate and seed."""
    dense = resnet.pretrained(options.data, network)
    train, test = (resnet.images(options.data, part) for part in ("train", "test"))
    top = f"{resnet.accuracy(dense, *test):.4f}"
    for ratio, form in ((ratio, form) for ratio in options.ratio for form in options.form):
        start = fitted(dense, form, ALLOCATIONS[options.allocate](dense, ratio))
        first = (network, form, f"{ratio:g}", *start.cells(dense))
        yield (*first, 0, "", "", "", f"{resnet.accuracy(start.model.eval(), *test):.4f}", top)
        for lr, seed in ((lr, seed) for lr in options.lr for seed in options.seeds if options.epochs):
            watch = tg.progress(f"{form} {ratio:g}, lr {lr:g}, seed {seed}")
            tuned = tgt.fine_tune(start.model, dense, train, validation=options.validation, augment=augmented,
                                  seed=seed, callback=watch, epochs=options.epochs, lr=lr, **RECIPE)  # fmt: skip
            right = f"{tuned.history[-1].validation_accuracy:.3f}" if options.validation else ""
            score = resnet.accuracy(tuned.model.eval(), *test)
            yield (*first, options.epochs, f"{lr:g}", seed, right, f"{score:.4f}", top)


def main() -> None:
    """Reads the command line and prints or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_sample.npz and the networks")
    parser.add_argument("--network", nargs="+", choices=resnet.BLOCKS, default=["resnet20"])
    parser.add_argument("--form", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--ratio", nargs="+", type=float, default=[4.0], help="dense over ours, in the block kernels")
    parser.add_argument("--allocate", choices=ALLOCATIONS, default="uniform", help="who gets what")
    parser.add_argument("--epochs", type=int, default=3, help="of fine-tuning; 0: none")
    parser.add_argument("--lr", nargs="+", type=float, default=[0.002, 0.02], help="highest learning rates")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--validation", type=float, default=0.0, help="share of the training images held out")
    parser.add_argument("--write", default="", help="name of a page to write under docs/benchmarks")
    options = parser.parse_args()
    torch.manual_seed(0)
    text = "\n\n".join(_page(options))
    write(options.write, text)


def _page(options: argparse.Namespace) -> Iterator[str]:
    lines = [line for network in options.network for line in rows(options, network)]
    command = f"python -m benchmarks.cifar_tuning --data DIR --network {' '.join(options.network)} " + (
        f"--form {' '.join(options.form)} --ratio {' '.join(f'{r:g}' for r in options.ratio)} "
        f"--allocate {options.allocate} --epochs {options.epochs}"
    )
    if options.epochs:
        command += f" --lr {' '.join(f'{lr:g}' for lr in options.lr)}"
        command += f" --seeds {' '.join(map(str, options.seeds))} --validation {options.validation:g}"
    yield "# Pretrained CIFAR ResNets in CP form"
    yield (
        f"Written by `{command}`. The 3 × 3 kernels of the blocks with 1/ratio of their parameters; accuracy on 846 "
        "test images (one standard error is about a point)."
    )
    if options.epochs:
        recipe = ", ".join(f"{name} {value}" for name, value in RECIPE.items())
        yield (
            f"Epochs: on the 4,660 training images but for {options.validation:.0%} held out for the column of "
            f"validation; one cycle of the learning rate, last epoch, {recipe}."
        )
    yield machine.describe(("numpy", "torch", "tensorring"))
    yield table(HEAD, lines)


if __name__ == "__main__":
    main()
