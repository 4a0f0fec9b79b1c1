"""The page of CIFAR networks that were trained on: a table for each network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean

from benchmarks import machine
from benchmarks.cifar_methods import METHODS
from benchmarks.cifar_page import Figures, against_dense, grouped, timed_on
from benchmarks.cifar_recipes import AGREE, FROM_DENSE, PUBLISHED, RECIPES, published
from benchmarks.tables import percent, table

HEAD = ("method", "asked", "ratio", "parameters", "multiply-adds", "before, %", "last epoch, %", "vs dense",
        "best epoch, %", "of the seeds", "lr", "clip", "seconds")  # fmt: skip
TITLES = {name: method.title for name, method in METHODS.items()} | FROM_DENSE


def page(rows: Sequence[Figures], epochs: int) -> str:
    """The whole page, of all that was trained on for so many epochs."""
    return "\n\n".join(_parts(rows, epochs))


def _parts(rows: Sequence[Figures], epochs: int) -> Iterator[str]:
    tested = max((row.get("test_images", 0) for row in rows), default=0)
    yield f"# Compressed CIFAR ResNets after {epochs} epochs"
    yield (
        f"Written by `python -m benchmarks.cifar --fine-tune {epochs} --data DIR --cache DIR` (its help tells the "
        "steps). The networks of [cifar.md](cifar.md), fitted to unlabelled images, and what is compared with them, "
        f"trained on for {epochs} epochs of the 4,660 training images. Ratio: parameters of the whole dense network "
        "over those of the whole compressed one. Multiply-adds: millions, for one image."
    )
    yield (
        f"Ours, and all that name no recipe of their own: no labels, {_told(AGREE)}; images are mirrored, moved, "
        "changed in contrast and colour, and half of them mixed. All images are trained on, and the last epoch "
        f"counts. Rings of equal error by RSDTR's own recipe: labels, {_told(PUBLISHED)} (torch's default cycle of the "
        "momentum); a tenth of the images is held out, and the epoch with the least loss on them is shown too."
    )
    yield (
        f"Accuracy: {tested} test images, looked at once a network, after all else; means over the seeds (of the draw "
        "and of the training); ± is the standard error that so few images leave. The same images stand behind every "
        "row: `vs dense` is by how much more of them are told right than by the dense network, with the standard "
        "error of that. Seconds: of the epochs, of the first seed, on one thread, other work beside it, on "
        f"{timed_on([row for row in rows if row.get('epochs') == epochs])}."
    )
    yield f"Last written on: {machine.describe(('numpy', 'torch', 'tensorring', 'torch-pruning'))}"
    for network, own in grouped(rows, "network"):
        tuned = [row for row in own if row.get("epochs") == epochs]
        if tuned:
            yield f"## {network}"
            yield f"![Accuracy against parameters and multiply-adds](../images/cifar_tuned_{network}.svg)"
            yield table(HEAD, [*_dense(own), *(line(group, own) for group in _groups(tuned))])


def _told(recipe: Figures) -> str:
    return ", ".join(f"{name} {value}" for name, value in recipe.items())


def _groups(rows: Sequence[Figures]) -> list[list[Figures]]:
    order = list(TITLES)
    by = [same for _, group in grouped(rows, "method") for _, same in grouped(group, "ratio")]
    found = [same for group in by for _, same in grouped(group, "lr")]
    return sorted(found, key=lambda same: (order.index(same[0]["method"]), same[0]["ratio"], same[0]["lr"]))


def _dense(rows: Sequence[Figures]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        if row["method"] == "dense":
            counts = f"{row['parameters']:,.0f}", f"{row['multiply_adds'] / 1e6:.1f}"
            yield ("dense", "", "1.00", *counts, _accuracy([row]), "", "", "", "", "", "", "")


def line(seeds: Sequence[Figures], rows: Sequence[Figures]) -> tuple[str, ...]:
    """Means over the seeds, and before, those of the networks that they began with."""
    first = seeds[0]
    counts = {key: mean(row[key] for row in seeds) for key in ("parameters", "multiply_adds")}
    alike = [row for row in rows if all(row[key] == first[key] for key in ("method", "ratio")) and "epochs" not in row]
    return (
        TITLES[first["method"]],
        "" if first["method"] == "vbmf" else f"{first['ratio']:g}",
        f"{first['dense_parameters'] / counts['parameters']:.2f}",
        f"{counts['parameters']:,.0f}",
        f"{counts['multiply_adds'] / 1e6:.1f}",
        _accuracy(alike),
        _accuracy(seeds),
        against_dense(seeds, rows),
        _accuracy(_at_their_best(seeds)),
        ", ".join(f"{100 * row['accuracy']:.1f}" for row in seeds if "accuracy" in row),
        f"{first['lr']:g}",
        f"{first['clip'] or '–'}",
        f"{first['seconds']:.0f}",
    )


def _at_their_best(seeds: Sequence[Figures]) -> list[Figures]:
    """With the accuracy of the best epoch, often the last one, where images were held out to tell it."""
    if RECIPES.get(seeds[0]["method"]) is not published:
        return []
    return [row | {"accuracy": row.get("accuracy_best", row["accuracy"])} for row in seeds if "accuracy" in row]


def _accuracy(rows: Sequence[Figures]) -> str:
    """A mean with its standard error; empty where nothing was measured."""
    scores = [row["accuracy"] for row in rows if "accuracy" in row]
    return percent(mean(scores), rows[0]["test_images"]) if scores else ""
