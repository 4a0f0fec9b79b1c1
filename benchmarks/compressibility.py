"""What truncating one kernel along one cut does to CIFAR ResNets, and what a few epochs give back to many truncated.

python -m benchmarks.compressibility --data DIR --cache DIR [--network resnet20 …] [--loss 0.2 …] [--least 0.99 …]

Scores are agreement with the dense network on held-out, augmented training images, and cuts are chosen by them. The
test images are looked at last, once for each row. A network that is in the cache is not studied again, and
`benchmarks.compressibility_plot` draws what is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import tensorring_torch as tgt
import torch
from torch import Tensor, nn
from tqdm import tqdm

import tensorring as tg
from benchmarks import compressibility_page, resnet
from benchmarks.cache import Cache
from benchmarks.cifar import split
from benchmarks.cifar_methods import rebuilt
from benchmarks.cifar_tuning import RECIPE
from benchmarks.networks import agreement, augmented, divergence, parameters, predicted
from benchmarks.tables import write

Cuts = Sequence[Mapping[str, Any]]
# The learning rate is the default of tgt.Recipe, not tuned for this.
TRAINING = RECIPE | {"lr": 0.01}


@dataclass(frozen=True)
class Chosen:
    """The rank at which a kernel is cut along some of its modes."""

    modes: tuple[int, ...]
    rank: int


def studied(dense: nn.Module, losses: Sequence[float], x: Tensor) -> dict[str, Any]:
    """All cuts of all layers, with the agreement on images with each of them alone truncated."""
    expected = predicted(dense, x)
    bar = tqdm(desc="cuts")

    def told(done: int, total: int, name: str) -> None:
        bar.total = total
        bar.set_postfix_str(name)
        bar.update()

    found = tgt.compressibility(
        dense, evaluate=lambda network: agreement(expected, predicted(network, x)), losses=losses, callback=told
    )
    bar.close()
    if found.interrupted:
        raise KeyboardInterrupt
    return found.to_dict()


def kept(cut: Mapping[str, Any], least: float) -> Mapping[str, Any] | None:
    """The truncation at the largest norm loss up to which the score stays; None where it never does."""
    return next(reversed(list(takewhile(lambda each: each["score"] >= least, cut["truncations"]))), None)


def best_cuts(cuts: Cuts, least: float) -> dict[str, Chosen]:
    """For each layer the cut that saves most parameters at the largest norm loss it bears, where one saves any."""
    fewest: dict[str, int] = {}
    chosen = {}
    for cut in cuts:
        found, dense = kept(cut, least), torch.Size(cut["shape"]).numel()
        if found is not None and found["parameters"] < fewest.get(cut["layer"], dense):
            fewest[cut["layer"]] = found["parameters"]
            chosen[cut["layer"]] = Chosen(tuple(cut["modes"]), found["rank"])
    return chosen


def truncated(dense: nn.Module, chosen: Mapping[str, Chosen]) -> nn.Module:
    """Each of these layers as the two that its cut makes."""
    weights = {name: dense.get_submodule(name).weight.detach().numpy() for name in chosen}  # type: ignore[union-attr]
    return rebuilt(
        dense,
        {name: tg.cut_svd(weights[name], modes=cut.modes, ranks=cut.rank).tensor for name, cut in chosen.items()},
    ).eval()


def retrained(options: argparse.Namespace, network: str, found: Mapping[str, Any], x: Tensor) -> Iterator[Any]:
    """The dense network, then for each least score all layers truncated, as they are and after some epochs."""
    dense = resnet.pretrained(options.data, network)
    expected, train = predicted(dense, x), resnet.images(options.data, "train")
    yield dense, {"least": None, "epochs": 0, "layers": 0, "agreement": 1.0, "divergence": 0.0}
    for least in options.least:
        chosen = best_cuts(found["cuts"], least)
        model = truncated(dense, chosen)
        got = predicted(model, x)
        row = {"least": least, "layers": len(chosen)}
        yield model, row | {
            "epochs": 0, "agreement": agreement(expected, got), "divergence": divergence(expected, got)
        }  # fmt: skip
        watch = tg.progress(f"{network}, {least:g}")
        tuned = tgt.fine_tune(model, dense, train, validation=0.0, augment=augmented, callback=watch,
                              epochs=options.epochs, **TRAINING)  # fmt: skip
        # These images were among those that it was trained on: how well it agrees there tells nothing.
        yield tuned.model.eval(), row | {"epochs": options.epochs}


def study(options: argparse.Namespace, cache: Cache, network: str) -> None:
    """The cuts of one network and what retraining gives, each where the cache has it not."""
    held_out = split(resnet.images(options.data, "train")[0])[1][: options.images]
    figures = cache.figures(network)
    if figures is None:
        found = studied(resnet.pretrained(options.data, network), options.loss, held_out)
        figures = {"network": network, "images": len(held_out), **found}
        cache.keep(network, figures)
    if "rows" in figures:
        return
    made = list(retrained(options, network, figures, held_out))
    images, labels = resnet.images(options.data, "test")
    figures["rows"] = [
        row | {"parameters": parameters(model), "accuracy": resnet.accuracy(model, images, labels)}
        for model, row in tqdm(made, desc="test images")
    ]
    cache.keep(network, figures | {"test_images": len(labels), "recipe": TRAINING})


def main() -> None:
    """Reads the command line, makes what is missing, writes the page of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_sample.npz and the networks")
    parser.add_argument("--cache", type=Path, required=True, help="folder for figures; it may exist")
    parser.add_argument("--network", nargs="+", choices=resnet.BLOCKS, default=["resnet20"])
    parser.add_argument("--loss", nargs="+", type=float, default=[0.2, 0.3, 0.45, 0.6, 0.8], help="norm losses")
    parser.add_argument("--least", nargs="+", type=float, default=[0.99, 0.95], help="agreement that a cut has to keep")
    parser.add_argument("--images", type=int, default=512, help="how many are held out for scores")
    parser.add_argument("--epochs", type=int, default=3, help="of retraining")
    parser.add_argument("--write", default="", help="name of a page to write under docs/benchmarks")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    cache = Cache(options.cache)
    torch.manual_seed(0)
    for network in options.network:
        study(options, cache, network)
    write(options.write, compressibility_page.page([figures for _, figures in cache.all()]))


if __name__ == "__main__":
    main()
