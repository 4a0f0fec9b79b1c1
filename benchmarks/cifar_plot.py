"""The pictures of docs/benchmarks/cifar.md and cifar_tuned.md; need matplotlib.

python -m benchmarks.cifar_plot --cache DIR [--record FILE] [--fine-tune 15]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.cache import Cache
from benchmarks.cifar_methods import METHODS
from benchmarks.cifar_page import Figures, grouped, rows_of
from benchmarks.cifar_recipes import FROM_DENSE, PUBLISHED_PACE, RATE
from benchmarks.cifar_tuned_page import TITLES
from benchmarks.tables import DOCS

IMAGES = DOCS.parent / "images"
# Told apart by everyone (after Okabe and Ito).
COLOURS = dict(zip(TITLES, ("#777777", "#0072B2", "#332288", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00",
                            "#000000", "#882255", "#B8A800", "#44AA99", "#AA4499"), strict=True))  # fmt: skip
TICKS = (1, 2, 3, 4, 6.5, 10, 20)


def draw(rows: list[Figures], network: str, path: Path) -> None:
    """Accuracy, with the standard error of the dense one as a band, and KL against the ratio that was reached."""
    figure, (left, right) = _sheet(network)
    for name in METHODS:
        groups = [group for group in rows_of(rows) if group[0]["method"] == name]
        if name == "dense":
            _band(left, [row for group in groups for row in group])
        elif groups:
            ratios = [mean(row["dense_parameters"] / row["parameters"] for row in group) for group in groups]
            scored = [(ratio, group) for ratio, group in zip(ratios, groups, strict=True) if "accuracy" in group[0]]
            left.plot(*_points(scored, "accuracy", 100), label=TITLES[name], **_style(name))
            right.plot(*_points(list(zip(ratios, groups, strict=True)), "divergence"), **_style(name))
    left.set(ylabel="accuracy, %", ylim=(0, 100))
    right.set(ylabel="KL from the dense network", yscale="log")
    for axes in (left, right):
        _ratios(axes, f"{network}: parameters, times fewer")
    _kept(figure, path)


def draw_tuned(rows: list[Figures], network: str, epochs: int, path: Path) -> None:
    """Accuracy after so many epochs, at the script's rates, against parameters and against multiply-adds."""
    figure, (left, right) = _sheet(network)
    dense = [row for row in rows if row["method"] == "dense"]
    tuned = [row for row in rows if row.get("epochs") == epochs and "accuracy" in row]
    for axes in (left, right):
        _band(axes, dense)
    for name in TITLES:
        lr = PUBLISHED_PACE["lr"] if name == "ring" else RATE
        own = [row for row in tuned if row["method"] == name and row["lr"] == lr]
        for axes, cost in ((left, "parameters"), (right, "multiply_adds")):
            points = [(dense[0][cost] / mean(row[cost] for row in group), group) for _, group in grouped(own, "ratio")]
            if points:
                axes.plot(
                    *_points(sorted(points, key=lambda p: p[0]), "accuracy", 100), label=TITLES[name], **_style(name)
                )
    for axes, what in ((left, "parameters"), (right, "multiply-adds")):
        axes.set(ylabel="accuracy, %")
        _ratios(axes, f"{network}: {what}, times fewer")
    _kept(figure, path)


def _sheet(network: str) -> tuple[Any, Any]:
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = network  # the same file for the same figures
    return plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")


def _points(groups: Sequence[tuple[float, Sequence[Figures]]], key: str, unit: float = 1) -> tuple[list[float], ...]:
    """Ratios, and means over the seeds."""
    return [ratio for ratio, _ in groups], [unit * mean(row[key] for row in group) for _, group in groups]


def _style(name: str) -> dict[str, Any]:
    """Dashes are for what looks at no data."""
    data = name in FROM_DENSE or METHODS[name].data
    return {"color": COLOURS[name], "linestyle": "-" if data else "--", "marker": "o", "ms": 4}


def _band(axes: Any, dense: Sequence[Figures]) -> None:
    for row in dense:
        top = 100 * row["accuracy"]
        error = math.sqrt(top * (100 - top) / row["test_images"])
        axes.axhspan(top - error, top + error, color=COLOURS["dense"], alpha=0.2, lw=0, label="dense")


def _ratios(axes: Any, label: str) -> None:
    axes.set(xlabel=label, xscale="log")
    axes.set_xticks(TICKS, labels=[f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)


def _kept(figure: Any, path: Path) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Reads the command line and draws a picture of each network in the cache."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="the folder that benchmarks.cifar filled")
    parser.add_argument("--record", type=Path, help="file of its figures")
    parser.add_argument("--fine-tune", type=int, default=0, metavar="N", help="of networks trained on so long")
    options = parser.parse_args()
    rows = [figures for _, figures in Cache(options.cache, options.record).all()]
    IMAGES.mkdir(exist_ok=True)
    for network, own in grouped(rows, "network"):
        if options.fine_tune and any(row.get("epochs") == options.fine_tune for row in own):
            draw_tuned(own, network, options.fine_tune, IMAGES / f"cifar_tuned_{network}.svg")
        elif not options.fine_tune:
            draw([row for row in own if "epochs" not in row], network, IMAGES / f"cifar_{network}.svg")


if __name__ == "__main__":
    main()
