"""Pretrained CIFAR ResNets, every weight within a relative error, without data: parameters, accuracy, latency.

python -m benchmarks.cifar_tolerance --data DIR [--network resnet20 …] [--tol 0.5 …] [--form tr …] [--minimize macs]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tensorring_torch as tgt
from tqdm import tqdm

from benchmarks import machine, resnet
from benchmarks.networks import latencies
from benchmarks.tables import table, write

FORMS = ("tr", "tt", "tucker", "cut", "auto")
HEAD = ("network", "form", "tol", "parameters", "ratio", "multiply-adds", "of dense", "accuracy", "dense",
        "ms, batch 1", "dense", "ms, batch 32", "dense")  # fmt: skip


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
    """Reads the command line and prints or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_sample.npz and the networks")
    parser.add_argument("--network", nargs="+", choices=resnet.BLOCKS, default=["resnet20"])
    parser.add_argument("--tol", nargs="+", type=float, default=[0.5])
    parser.add_argument("--form", nargs="+", choices=FORMS, default=["tr"])
    parser.add_argument("--minimize", choices=("macs", "parameters", "time"), default="macs")
    parser.add_argument("--write", default="", help="name of a page to write under docs/benchmarks")
    options = parser.parse_args()
    lines = [
        line
        for network in options.network
        for line in rows(options.data, network, options.tol, options.form, options.minimize)
    ]
    command = f"python -m benchmarks.cifar_tolerance --data DIR --network {' '.join(options.network)} --tol " + (
        f"{' '.join(map(str, options.tol))} --form {' '.join(options.form)} --minimize {options.minimize}"
    )
    text = "\n\n".join((
        "# Pretrained CIFAR ResNets, compressed without data or fine-tuning",
        f"Written by `{command}`. Whole-network parameters; accuracy on 846 test images (one standard error is about a "
        "point), latency as medians, ours and dense in turn.",
        machine.describe(("numpy", "torch", "tensorring")),
        table(HEAD, lines),
    ))  # fmt: skip
    write(options.write, text)


if __name__ == "__main__":
    main()
