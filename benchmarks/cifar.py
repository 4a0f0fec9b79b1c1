"""Pretrained CIFAR ResNets, compressed: parameters, accuracy, latency; CP forms at a given ratio, also fine-tuned.

python -m benchmarks.cifar --data DIR [--network resnet20 …] [--tol 0.5 …] [--form tr …] [--minimize macs]
python -m benchmarks.cifar --data DIR --form cp cp-plain --ratio 4 --fine-tune 3 [--lr 0.002 0.02] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import tensorring_torch as tgt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks import cifar_cp, machine, resnet
from benchmarks.tables import table, write

FORMS = ("tr", "tt", "tucker", "cut", "auto")
HEAD = ("network", "form", "tol", "parameters", "ratio", "multiply-adds", "of dense", "accuracy", "dense",
        "ms, batch 1", "dense", "ms, batch 32", "dense")  # fmt: skip


@torch.inference_mode()
def latencies(models: list[nn.Module], x: Tensor, repeats: int = 40) -> list[float]:
    """Median milliseconds of each model on one batch, the models in turn, so that drift touches all alike."""
    times: list[list[float]] = [[] for _ in models]
    for turn in range(repeats + 5):
        for model, kept in zip(models, times, strict=True):
            start = time.perf_counter()
            model(x)
            if turn >= 5:
                kept.append(time.perf_counter() - start)
    return [1e3 * median(kept) for kept in times]


def rows(data: Path, network: str, tols: list[float], forms: list[str], minimize: str) -> list[tuple[object, ...]]:
    """One line for each form and tolerance; the test images are looked at once a line, last."""
    dense = resnet.pretrained(data, network)
    x, y = resnet.images(data, "test")
    score = resnet.accuracy(dense, x, y)
    lines = []
    for form, tol in tqdm([(form, tol) for form in forms for tol in tols], desc=network):
        formats = None if form == "auto" else [form]
        result = tgt.compress(dense, x[:1], tol=tol, formats=formats, minimize=minimize)
        ours, report = result.model.eval(), result.report
        one, batch = latencies([ours, dense], x[:1], 200), latencies([ours, dense], x[:32])
        before, after = report.before, report.after
        counts = (f"{after.parameters:,}", f"{before.parameters / after.parameters:.2f}")
        counts += (f"{after.multiply_adds / 1e6:.1f} M", f"{after.multiply_adds / before.multiply_adds:.2f}")
        times = (f"{one[0]:.2f}", f"{one[1]:.2f}", f"{batch[0]:.1f}", f"{batch[1]:.1f}")
        lines.append((network, form, tol, *counts, f"{resnet.accuracy(ours, x, y):.4f}", f"{score:.4f}", *times))
    return lines


def main() -> None:
    """Reads the command line, prints the table and writes docs/benchmarks/cifar.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_sample.npz and the networks")
    parser.add_argument("--network", nargs="+", choices=resnet.BLOCKS, default=["resnet20"])
    parser.add_argument("--tol", nargs="+", type=float, default=[0.5])
    parser.add_argument("--form", nargs="+", choices=(*FORMS, *cifar_cp.FORMS), default=["tr"])
    parser.add_argument("--minimize", choices=("macs", "parameters", "time"), default="macs")
    parser.add_argument(
        "--ratio", nargs="+", type=float, help="CP forms: dense parameters over ours in each block kernel"
    )
    parser.add_argument(
        "--allocate", choices=cifar_cp.ALLOCATIONS, default="uniform", help="with --ratio: who gets what"
    )
    parser.add_argument("--fine-tune", type=int, default=0, metavar="EPOCHS", help="with --ratio: epochs on the sample")
    parser.add_argument("--lr", nargs="+", type=float, default=[0.002, 0.02], help="highest learning rates")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--validation", type=float, default=0.0, help="share of the training images held out")
    parser.add_argument("--write", default="", help="name of a page to write under docs/benchmarks")
    options = parser.parse_args()
    wrong = [form for form in options.form if (form in cifar_cp.FORMS) != bool(options.ratio)]
    if wrong:
        parser.error(f"got --form {wrong[0]}; {', '.join(cifar_cp.FORMS)} take --ratio, the others --tol")
    torch.manual_seed(0)
    text = "\n\n".join(_by_ratio(options) if options.ratio else _by_tolerance(options))
    if options.write:
        write(options.write, text)
    else:
        print(text)


def _by_tolerance(options: argparse.Namespace) -> Iterator[str]:
    lines = [
        line
        for network in options.network
        for line in rows(options.data, network, options.tol, options.form, options.minimize)
    ]
    command = f"python -m benchmarks.cifar --data DIR --network {' '.join(options.network)} --tol " + (
        f"{' '.join(map(str, options.tol))} --form {' '.join(options.form)} --minimize {options.minimize}"
    )
    yield "# Pretrained CIFAR ResNets, compressed without data or fine-tuning"
    yield (
        f"Written by `{command}`. Whole-network parameters; accuracy on 846 test images (one standard error is about a "
        "point), latency as medians, ours and dense in turn."
    )
    yield machine.describe(("numpy", "torch", "tensorring"))
    yield table(HEAD, lines)


def _by_ratio(options: argparse.Namespace) -> Iterator[str]:
    lines = [line for network in options.network for line in cifar_cp.rows(options, network)]
    command = f"python -m benchmarks.cifar --data DIR --network {' '.join(options.network)} " + (
        f"--form {' '.join(options.form)} --ratio {' '.join(f'{r:g}' for r in options.ratio)}"
    )
    command += f" --allocate {options.allocate}"
    if options.fine_tune:
        command += f" --fine-tune {options.fine_tune} --lr {' '.join(f'{lr:g}' for lr in options.lr)}"
        command += f" --seeds {' '.join(map(str, options.seeds))} --validation {options.validation:g}"
    yield "# Pretrained CIFAR ResNets in CP form"
    yield (
        f"Written by `{command}`. The 3 × 3 kernels of the blocks with 1/ratio of their parameters; accuracy on 846 "
        "test images (one standard error is about a point)."
    )
    if options.fine_tune:
        recipe = ", ".join(f"{name} {value}" for name, value in cifar_cp.RECIPE.items())
        yield (
            f"Epochs: on the 4,660 training images but for {options.validation:.0%} held out for the column of "
            f"validation; one cycle of the learning rate, last epoch, {recipe}."
        )
    yield machine.describe(("numpy", "torch", "tensorring"))
    yield table(cifar_cp.HEAD, lines)


if __name__ == "__main__":
    main()
