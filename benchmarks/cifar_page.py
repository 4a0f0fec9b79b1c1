"""The page of the CIFAR benchmark: a table for each network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import mean, stdev
from typing import Any

from benchmarks import machine
from benchmarks.cifar_methods import METHODS
from benchmarks.tables import percent, table

Figures = Mapping[str, Any]
HEAD = ("method", "asked", "ratio", "parameters", "multiply-adds", "accuracy, %", "vs dense", "KL",
        "agreement, %", "seeds", "seconds", "quiet", "ms, batch 1", "dense", "as given", "ms, batch 32", "dense",
        "as given")  # fmt: skip


def page(rows: Sequence[Figures]) -> str:
    """The whole page: a table for each network, made of what is there and was not trained on."""
    return "\n\n".join(_parts([row for row in rows if "epochs" not in row]))


def _parts(rows: Sequence[Figures]) -> Iterator[str]:
    drawn = max((row["images"] for row in rows), default=0)
    tested = max((row.get("test_images", 0) for row in rows), default=0)
    yield "# Pretrained CIFAR ResNets, compressed without labels and without training"
    yield (
        "Written by `python -m benchmarks.cifar --data DIR --cache DIR` (its help tells the steps). Ratio: parameters "
        "of the whole dense network over those of the whole compressed one. Multiply-adds: millions, for one image."
    )
    yield (
        f"Fitted to {drawn:,} training images without labels: layers to 1,024 of them, and where outputs changed much "
        "all factors together to all, once as they are and seven times mirrored and moved. Figures are means over the "
        "seeds of that draw. KL (from the dense network's outputs) and agreement (the same class) are on 1,024 other "
        f"training images, mirrored and moved. Accuracy: {tested} test images, looked at once a network, after all "
        "else; ± is the standard error that so few images leave. The same images stand behind every row: `vs dense` "
        "is by how much more of them are told right than by the dense network, with the standard error of that."
    )
    yield (
        "Seconds: one call on one thread, other work beside it (those for time: two threads), and quiet: one call on "
        "two threads, nothing beside it. Latency: medians of ours and dense in turn, each in the way that it is "
        "fastest in, with the channels last or not, batch norms folded or not, and of dense as it was given. Both of "
        f"the first seed, on {timed_on(rows)}; empty where it was not measured."
    )
    yield f"Last written on: {machine.describe(('numpy', 'torch', 'tensorring'))}"
    for network, own in grouped(rows, "network"):
        yield f"## {network}"
        yield f"![Accuracy, and KL from the dense network, against the ratio](../images/cifar_{network}.svg)"
        yield table(HEAD, [line(group, own) for group in rows_of(own)])


def rows_of(rows: Sequence[Figures]) -> list[list[Figures]]:
    """The seeds of each method and ratio together, in the order of the methods."""
    order = list(METHODS)
    found = [same for _, group in grouped(rows, "method") for _, same in grouped(group, "ratio")]
    return sorted(found, key=lambda same: (order.index(same[0]["method"]), same[0]["ratio"]))


def grouped(rows: Sequence[Figures], key: str) -> list[tuple[Any, list[Figures]]]:
    """Rows of one value together, in the order of the values."""
    by = sorted(rows, key=lambda row: row[key])
    return [(value, list(group)) for value, group in groupby(by, key=lambda row: row[key])]


def against_dense(seeds: Sequence[Figures], rows: Sequence[Figures]) -> str:
    """Accuracy, mean over the seeds, less that of the dense network, with the standard error over the images.

    That is of the seeds of which each image is known; of none, the one that is known of the table they were read from.
    """
    dense = next((row for row in rows if row["method"] == "dense" and "accuracy" in row), None)
    scores = [row["accuracy"] for row in seeds if "accuracy" in row]
    if dense is None or not scores or seeds[0]["method"] == "dense":
        return ""
    told = [[int(right) for right in row["right"]] for row in (*seeds, dense) if "right" in row]
    apart = [mean(each) - theirs for *each, theirs in zip(*told, strict=True)] if len(told) > 1 else []
    error = stdev(apart) / math.sqrt(len(apart)) if apart else seeds[0]["difference_error"]
    return f"{100 * (mean(scores) - dense['accuracy']):+.1f} ± {100 * error:.1f}"


def timed_on(rows: Sequence[Figures]) -> str:
    """The processors of the first seed."""
    first = min((row["seed"] for row in rows), default=0)
    return " and ".join(sorted({row["cpu"] for row in rows if row["seed"] == first}))


def line(seeds: Sequence[Figures], rows: Sequence[Figures]) -> tuple[str, ...]:
    """A line of the table: means over the seeds; cells for what was not measured are empty."""
    first = seeds[0]
    counted = {
        key: mean(row[key] for row in seeds) for key in ("parameters", "multiply_adds", "divergence", "agreement")
    }
    dense = first["dense_parameters"]
    ratio = dense / counted["parameters"]
    scores = [row["accuracy"] for row in seeds if "accuracy" in row]
    times = next((row["latency"] for row in seeds if "latency" in row), {})
    asked = first["method"] not in ("dense", "vbmf")
    return (
        METHODS[first["method"]].title,
        f"{first['ratio']:g}" if asked else "",
        f"{ratio:.2f}",
        f"{counted['parameters']:,.0f}",
        f"{counted['multiply_adds'] / 1e6:.1f}",
        percent(mean(scores), first["test_images"]) if scores else "",
        against_dense(seeds, rows),
        f"{counted['divergence']:.4f}",
        f"{100 * counted['agreement']:.1f}",
        f"{len(seeds)}",
        f"{first['seconds']:.0f}",
        next((f"{row['quiet']['seconds']:.0f}" for row in seeds if "quiet" in row), ""),
        *(f"{times[f'{who} {size}']:.{digits}f}" if times else "" for size, digits in ((1, 2), (32, 1))
          for who in ("ours", "dense", "given")),
    )  # fmt: skip
