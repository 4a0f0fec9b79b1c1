"""The picture of docs/benchmarks/digits_training.md: `python -m benchmarks.digits_training_plot --cache DIR`.

Needs matplotlib.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import digits_training_page
from benchmarks.cache import Cache
from benchmarks.cifar_plot import IMAGES
from benchmarks.digits_training_page import SPECTRA, TITLES, at, percent, rows_of

# Told apart by everyone (after Okabe and Ito); dashes are for ranks by `compress`, as far as there is one tol as well.
LINES = {
    "ring": ("#CC79A7", "-"), "expanded": ("#0072B2", "-"), "expanded, by budget": ("#0072B2", "--"),
    "decayed": ("#E69F00", "-"), "decayed, by budget": ("#E69F00", "--"), "plain": ("#777777", "-"),
    "plain, by budget": ("#777777", "--"), "plain, any form": ("#777777", ":"), "aware": ("#009E73", "--"),
    "tuned": ("#009E73", "-"),
}  # fmt: skip
MARKERS = {"orthogonal": "x", "orthogonal, trained on": "*"}
COLOURS = {"dense": "#777777", "decayed": "#E69F00", "expanded": "#0072B2", "orthogonal": "#D55E00"}


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Of each network accuracy against the ratio, below it norm loss against rank for its largest weight."""
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "digits"  # the same file for the same figures
    titles = {name: study.case.title for name, study in digits_training_page.studies().items()}
    figure, axes = plt.subplots(2, len(titles), figsize=(11, 8), layout="constrained", sharey="row", squeeze=False)
    for (upper, lower), (name, title) in zip(axes.T, titles.items(), strict=True):
        own = [row for row in rows if row["network"] == name]
        _accuracies(upper, own)
        _spectra(lower, own)
        upper.set(title=title)
    axes[0, 0].set(ylabel="accuracy, %")
    axes[1, 0].set(ylabel="norm loss")
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
    axes[1, -1].legend(frameon=False, fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def _accuracies(axes: Any, own: Sequence[Mapping[str, Any]]) -> None:
    """Means of the seeds; where VBMF finds the ratio a mark for each seed."""
    ratios = digits_training_page.RATIOS
    axes.axhline(percent(at(own, "dense", 1)), color="#000000", lw=0.8, label="dense")
    for row, (colour, line) in LINES.items():
        scores = [percent(at(own, row, ratio)) for ratio in ratios]
        axes.plot(ratios, scores, color=colour, linestyle=line, marker="o", ms=3, label=TITLES[row])
    for row, marker in MARKERS.items():
        found = at(own, row, None)
        reached = [each["dense_parameters"] / each["parameters"] for each in found]
        scores = [100 * each["right"] for each in found]
        axes.scatter(reached, scores, color=COLOURS["orthogonal"], marker=marker, label=TITLES[row])
    axes.set(xscale="log", xlabel="parameters, times fewer", ylim=(0, 102))
    axes.set_xticks(ratios, labels=map(str, ratios))
    axes.minorticks_off()


def _spectra(axes: Any, own: Sequence[Mapping[str, Any]]) -> None:
    """A line for each seed."""
    for title, (row, ratio), _ in SPECTRA:
        for number, each in enumerate(at(own, row, ratio)):
            axes.plot(each["errors"], color=COLOURS[row], lw=1, label=None if number else title)
            axes.set(xlabel=f"rank of the largest weight, {each['largest']}", ylim=(0, 1))


def main() -> None:
    """Reads the command line and draws what is in the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the folder that benchmarks.digits_training filled")
    options = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    draw(rows_of([figures for _, figures in Cache(options.cache).all()]), IMAGES / "digits_training.svg")


if __name__ == "__main__":
    main()
