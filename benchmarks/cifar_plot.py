"""The picture of docs/benchmarks/cifar.md: `python -m benchmarks.cifar_plot --cache DIR`; needs matplotlib."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.cifar import Cache
from benchmarks.cifar_methods import METHODS
from benchmarks.cifar_page import rows_of
from benchmarks.tables import DOCS

IMAGES = DOCS.parent / "images"
# Told apart by everyone (after Okabe and Ito); dashes are for what looks at no data.
COLOURS = ("#777777", "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00", "#000000", "#882255",
           "#B8A800", "#44AA99")  # fmt: skip


def draw(rows: list[dict[str, Any]], network: str, path: Path) -> None:
    """Accuracy, with the standard error of the dense one as a band, and KL against the ratio that was reached."""
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = network  # the same file for the same figures
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for (name, method), colour in zip(METHODS.items(), COLOURS, strict=True):
        groups = [group for group in rows_of(rows) if group[0]["method"] == name]
        ratios = [mean(row["dense_parameters"] / row["parameters"] for row in group) for group in groups]
        style: dict[str, Any] = {"color": colour, "linestyle": "-" if method.data else "--", "marker": "o", "ms": 4}
        scored = [(ratio, group) for ratio, group in zip(ratios, groups, strict=True) if "accuracy" in group[0]]
        means = [100 * mean(row["accuracy"] for row in group) for _, group in scored]
        if name == "dense":
            for ratio, top in zip(ratios, means, strict=False):
                error = math.sqrt(top * (100 - top) / scored[0][1][0]["test_images"])
                left.axhspan(top - error, top + error, color=colour, alpha=0.2, lw=0, label=f"dense, {ratio:.0f} ×")
            continue
        if groups:
            left.plot([ratio for ratio, _ in scored], means, label=method.title, **style)
            right.plot(ratios, [mean(row["divergence"] for row in group) for group in groups], **style)
    left.set(ylabel="accuracy, %", ylim=(0, 100))
    right.set(ylabel="KL from the dense network", yscale="log")
    for axes in (left, right):
        axes.set(xlabel=f"{network}: parameters, times fewer", xscale="log")
        axes.set_xticks([1, 2, 3, 4, 6.5, 10, 20], labels=["1", "2", "3", "4", "6.5", "10", "20"])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Reads the command line and draws a picture of each network in the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the folder that benchmarks.cifar filled")
    rows = [figures for _, figures in Cache(parser.parse_args().cache).all() if "epochs" not in figures]
    IMAGES.mkdir(exist_ok=True)
    for network in sorted({row["network"] for row in rows}):
        draw([row for row in rows if row["network"] == network], network, IMAGES / f"cifar_{network}.svg")


if __name__ == "__main__":
    main()
