"""Pretrained CIFAR ResNets, compressed without labels and without training, by several ways and to several ratios.

python -m benchmarks.cifar --data DIR --cache DIR [--network resnet20 …] [--method auto …] [--ratio 2 …] [--seeds 0 1 2]

Six steps, each over what the one before left in the cache, so that a run that was broken off goes on where it was:
`fit` makes the networks, `tune` trains them on for `--fine-tune` epochs, `seconds` makes those asked for (and there)
once more to time the call, `latency` times all beside the dense one, `accuracy` looks at the test images, once a
network, and `page` writes the table of all that is there: with `--fine-tune` of those that were trained on for so long,
else of those that were not. Keep the machine free of other work for `seconds` and `latency`; `fit` and `tune` bear it.

With `--record` what is known from earlier runs counts as done, on this machine or another, and `page` adds to it.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorring_torch as tgt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks import cifar_page, cifar_tuned_page, machine, resnet
from benchmarks.cache import Cache
from benchmarks.cifar_methods import METHODS
from benchmarks.cifar_prune import narrowed
from benchmarks.cifar_recipes import CLIP, FROM_DENSE, PUBLISHED_PACE, RATE, RECIPES, Start, agreeing
from benchmarks.networks import agreement, augmented, divergence, multiply_adds, parameters, predicted, side_by_side
from benchmarks.tables import write

STEPS = ("fit", "tune", "seconds", "latency", "accuracy", "page")
# Training images that networks are compared with the dense one on; what they are fitted to is drawn from the others.
HELD_OUT = 1024


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Training images to draw from, and those held out, augmented; always the same."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held_out = min(HELD_OUT, len(x) // 2)
    return x[order[held_out:]], augmented(x[order[:held_out]], torch.Generator().manual_seed(0))


def fit(options: argparse.Namespace, cache: Cache) -> None:
    """Makes the networks that are asked for and not known, and those that are to be trained on and not there."""
    rest, held_out = split(resnet.images(options.data, "train")[0])
    for network in options.network:
        dense = resnet.pretrained(options.data, network)
        expected = predicted(dense, held_out)
        starts = {name for name, figures in _to_tune(options, network) if cache.figures(_tuned(figures)) is None}
        for figures in tqdm(list(_asked(options, network)), desc=network):
            name = _name(figures)
            known, wanted = cache.figures(name), name in starts and not cache.weights(name).exists()
            if figures["method"] in FROM_DENSE or (known is not None and not wanted):
                continue
            model, figures["seconds"] = _made(figures, dense, rest)
            figures |= _counted(model, dense, rest[:1])
            got = predicted(model, held_out)
            figures |= {"divergence": divergence(expected, got), "agreement": agreement(expected, got)}
            tgt.save(cache.weights(name), model)
            cache.keep(name, known or figures)


def _made(figures: Mapping[str, Any], dense: nn.Module, rest: Tensor) -> tuple[nn.Module, float]:
    """The network that the figures name, in eval mode, and the seconds that it took."""
    draw = torch.randperm(len(rest), generator=torch.Generator().manual_seed(figures["seed"]))
    start = time.perf_counter()
    model = METHODS[figures["method"]].apply(dense, figures["ratio"], rest[draw[: figures["images"]]]).eval()
    return model, time.perf_counter() - start


def time_calls(options: argparse.Namespace, cache: Cache) -> None:
    """Seconds of making each network that was asked for and is there, of the first seed, on all threads."""
    rest, _ = split(resnet.images(options.data, "train")[0])
    for network in options.network:
        dense = resnet.pretrained(options.data, network)
        for asked in tqdm(list(_asked(options, network)), desc=f"{network}, seconds"):
            name, made = _name(asked), asked["method"] not in ("dense", *FROM_DENSE)
            figures = cache.figures(name) if made and _is_timed(asked, options) else None
            if figures is not None and "quiet" not in figures:
                figures["quiet"] = {"seconds": _made(figures, dense, rest)[1], "threads": torch.get_num_threads()}
                cache.keep(name, figures)


def _asked(options: argparse.Namespace, network: str) -> Iterator[dict[str, Any]]:
    """The dense network first. What depends on no images is made as seed 0, and VBMF and the dense one at one ratio."""
    for seed in options.seeds:
        for ratio in options.ratio:
            for method in dict.fromkeys(("dense", *options.method)):
                first, once = seed == options.seeds[0], method in ("dense", "vbmf")
                if (first or draws(method)) and (not once or (first and ratio == options.ratio[0])):
                    at = 1.0 if once else ratio
                    what = {"network": network, "method": method, "ratio": at, "seed": seed if draws(method) else 0}
                    yield what | {"images": options.images, "cpu": machine.cpu_name()}


def _name(figures: dict[str, Any]) -> str:
    return "-".join(f"{figures[key]}" for key in ("network", "method", "ratio", "seed"))


def _counted(model: nn.Module, dense: nn.Module, image: Tensor) -> dict[str, int]:
    counts = {"parameters": parameters(model), "dense_parameters": parameters(dense)}
    return counts | {"multiply_adds": multiply_adds(model, image)}


def tune(options: argparse.Namespace, cache: Cache) -> None:
    """Trains on those that were asked for, on all training images; the last state and the best one are kept."""
    data = resnet.images(options.data, "train")
    for network in options.network:
        dense = resnet.pretrained(options.data, network)
        for start, figures in _to_tune(options, network):
            method, name = figures["method"], _tuned(figures)
            missing = method not in FROM_DENSE and not cache.weights(start).exists()
            if missing or cache.figures(name) is not None:
                continue
            model = copy.deepcopy(dense) if method in FROM_DENSE else loaded(cache, start, dense)
            begun, recipe = time.perf_counter(), RECIPES.get(method, agreeing)
            pace = {key: figures[key] for key in ("lr", "clip")}
            tuned = recipe(Start(dense, model, figures["ratio"], pace), data, options.fine_tune, figures["seed"], name)
            figures |= {"seconds": time.perf_counter() - begun, "stop": tuned.stop}
            figures |= _counted(tuned.model, dense, data[0][:1])
            tgt.save(cache.weights(name), tuned.model)
            if any(not torch.equal(value, tuned.best[key]) for key, value in tuned.model.state_dict().items()):
                tuned.model.load_state_dict(tuned.best)
                tgt.save(cache.weights(f"{name}-best"), tuned.model)
            cache.keep(name, figures)


def _to_tune(options: argparse.Namespace, network: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each begins with, and how it goes on: where no images were drawn, all seeds with the same network."""
    for start in _asked(options, network) if options.fine_tune else ():
        method = start["method"]
        pace = PUBLISHED_PACE if method == "ring" else {"lr": options.lr, "clip": options.clip or None}
        if method != "dense":
            for seed in [start["seed"]] if draws(method) else options.seeds:
                yield _name(start), start | {"seed": seed, "epochs": options.fine_tune} | pace


def _tuned(figures: Mapping[str, Any]) -> str:
    return f"{_name(figures)}-{figures['epochs']}-{figures['lr']:g}-{figures['clip'] or 0:g}"


def draws(method: str) -> bool:
    """Whether what it makes depends on the images that are drawn."""
    return method in FROM_DENSE or METHODS[method].data


def loaded(cache: Cache, name: str, dense: nn.Module) -> nn.Module:
    """A network of the cache, in eval mode."""
    path = cache.weights(name)
    return tgt.load(path, narrowed(dense, path)).eval()


def measure(options: argparse.Namespace, cache: Cache, step: str) -> None:
    """Latency (of one seed) or accuracy of each network in the folder that does not have it yet."""
    images, labels = resnet.images(options.data, "train" if step == "latency" else "test")
    for name, figures in tqdm(cache.all(), desc=step):
        untimed = step == "latency" and ("epochs" in figures or not _is_timed(figures, options))
        if untimed or step in figures or not cache.weights(name).exists():
            continue
        dense = resnet.pretrained(options.data, figures["network"])
        model = loaded(cache, name, dense)
        if step == "accuracy":
            right = resnet.told_right(model, images, labels)
            told = "".join(map(str, right.int().tolist()))
            figures |= {step: right.float().mean().item(), "test_images": len(labels), "right": told}
            if cache.weights(f"{name}-best").exists():
                figures["accuracy_best"] = resnet.accuracy(loaded(cache, f"{name}-best", dense), images, labels)
        else:
            figures[step] = _beside(model, dense, images) | {"threads": torch.get_num_threads()}
        cache.keep(name, figures)


def _is_timed(figures: Mapping[str, Any], options: argparse.Namespace) -> bool:
    """Of each method and ratio one network is, that of the first seed asked for."""
    return bool(figures["seed"] == (options.seeds[0] if draws(figures["method"]) else 0))


def _beside(model: nn.Module, dense: nn.Module, x: Tensor) -> dict[str, float]:
    """Milliseconds at batches of 1 and 32."""
    times = {size: side_by_side(dense, model, x[:size], repeats) for size, repeats in ((1, 200), (32, 40))}
    return {f"{who} {size}": times[size][k] for size in times for k, who in enumerate(("dense", "ours", "given"))}


def main() -> None:
    """Reads the command line and runs the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_sample.npz and the networks")
    parser.add_argument("--cache", type=Path, required=True, help="folder for networks and figures; it may exist")
    parser.add_argument("--record", type=Path, help="file of the figures alone, of earlier runs and of this one")
    parser.add_argument("--network", nargs="+", choices=resnet.BLOCKS, default=["resnet20"])
    parser.add_argument("--method", nargs="+", choices=[*METHODS, *FROM_DENSE], default=list(METHODS))
    parser.add_argument("--ratio", nargs="+", type=float, default=[2.0, 3.0, 4.0, 6.5, 8.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the images that are drawn")
    parser.add_argument("--images", type=int, default=2048, help="how many are drawn")
    parser.add_argument("--fine-tune", type=int, default=0, metavar="N", help="epochs of training on; 0: none")
    parser.add_argument(
        "--lr", type=float, default=RATE, help="highest learning rate of these; RSDTR's rings have theirs"
    )
    parser.add_argument("--clip", type=float, default=CLIP, help="longest gradient; 0: not clipped")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--write", default="", help="name of a page to write under docs/benchmarks")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    cache = Cache(options.cache, options.record)
    torch.manual_seed(0)
    if "fit" in options.only:
        fit(options, cache)
    if "tune" in options.only and options.fine_tune:
        tune(options, cache)
    if "seconds" in options.only:
        time_calls(options, cache)
    for step in ("latency", "accuracy"):
        if step in options.only:
            measure(options, cache, step)
    if "page" in options.only:
        cache.write_record()
        rows = [figures for _, figures in cache.all()]
        text = cifar_tuned_page.page(rows, options.fine_tune) if options.fine_tune else cifar_page.page(rows)
        write(options.write, text)


if __name__ == "__main__":
    main()
