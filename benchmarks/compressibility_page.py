"""The page of what truncation does to networks: by stage and cut, and all together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from statistics import mean
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks import machine
from benchmarks.tables import percent, table

Figures = Mapping[str, Any]
LEAST = 0.99
ROWS = ("truncated where alone it agrees", "epochs", "layers", "parameters", "ratio", "agreement, %", "KL",
        "accuracy, %")  # fmt: skip


def page(networks: Sequence[Figures]) -> str:
    """The whole page."""
    return "\n\n".join(_parts(networks))


def _parts(networks: Sequence[Figures]) -> Iterator[str]:
    yield "# What truncating kernels does to ResNets"
    yield (
        "Written by `python -m benchmarks.compressibility --data DIR --cache DIR` (its help tells the options). After "
        "Singh, Jahromi & Orús 2024 (arXiv 2403.14379): one kernel at a time is truncated along one of its seven cuts, "
        "all else left as it was. Norm loss is ‖W − Ŵ‖/‖W‖, so that √(1 − loss²) of the norm is left: 0.87 at 0.5, "
        "0.6 at 0.8. O, I, h, w are outputs, inputs, height and width."
    )
    for figures in networks:
        yield f"## {figures['network']}"
        yield f"![Agreement against norm loss, and where it ends](../images/compressibility_{figures['network']}.svg)"
        yield (
            f"The largest norm loss (of those looked at: {_asked(figures)}) up to which {LEAST:.0%} of "
            f"{figures['images']} held-out training images, mirrored and moved, stay in the class that the dense "
            "network puts them in. Means over the layers of a stage; in brackets the share of the rank that is left."
        )
        yield table(*by_stage(figures))
        yield _findings(figures)
        yield "All cuts of all block kernels that a norm loss allowed to truncate:"
        yield table(*by_loss(figures))
        if "rows" in figures:
            yield (
                "All layers truncated together, each along the cut that saves most parameters at the largest norm loss "
                "that it bore alone, built as two layers, then retrained on all training images, mirrored and moved "
                f"({', '.join(f'{name} {value:g}' for name, value in figures['recipe'].items())}), and taken as they "
                f"are last. Accuracy: {figures['test_images']} test images, looked at once a row, after all else."
            )
            yield table(ROWS, [_line(row, figures) for row in figures["rows"]])
    yield machine.describe(("numpy", "torch", "tensorring"))


def _asked(figures: Figures) -> str:
    return ", ".join(f"{each['asked']:g}" for each in figures["cuts"][0]["truncations"])


def borne(cut: Figures, least: float = LEAST) -> tuple[float, float]:
    """The largest norm loss up to which the score stays, and the share of the rank that is left there: 0 and 1."""
    held = list(takewhile(lambda each: each["score"] >= least, cut["truncations"]))
    return (held[-1]["loss"], held[-1]["rank"] / len(cut["values"])) if held else (0.0, 1.0)


def stage_of(layer: str) -> str:
    """The stem, one of the three stages, or the last layer."""
    return {"conv1": "stem"}.get(layer, layer.split(".")[0])


def by_stage(figures: Figures) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Titles and rows: for each stage and kind of cut the mean loss borne, and the mean share of the rank left."""
    cuts = figures["cuts"]
    kinds = list(dict.fromkeys(cut["cut"] for cut in cuts if len(cut["shape"]) == 4))
    lines = []
    for stage in dict.fromkeys(stage_of(cut["layer"]) for cut in cuts):
        own = [cut for cut in cuts if stage_of(cut["layer"]) == stage]
        count = len({cut["layer"] for cut in own})
        columns = [[borne(cut) for cut in own if cut["cut"] == kind] for kind in kinds]
        cells = [f"{mean(b[0] for b in found):.2f} ({mean(b[1] for b in found):.2f})" if found else ""
                 for found in columns]  # fmt: skip
        if not any(cells):  # a matrix has one cut alone
            loss, share = borne(own[0])
            cells[0] = f"{loss:.2f} ({share:.2f})"
        lines.append([stage, str(count), *cells])
    return ["stage", "layers", *(kind.replace("|", "\\|") for kind in kinds)], lines


def by_loss(figures: Figures) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Titles and rows: for each norm loss asked, what truncations there made of the agreement."""
    lines = []
    for k, asked in enumerate(each["asked"] for each in figures["cuts"][0]["truncations"]):
        own = [(cut["truncations"][k], len(cut["values"])) for cut in figures["cuts"] if _in_block(cut["layer"])]
        found = [each for each, full in own if each["rank"] < full]
        scores = [each["score"] for each in found]
        shares = (mean(score >= least for score in scores) for least in (LEAST, 0.95, 0.9))
        cells = (mean(each["loss"] for each in found), mean(scores), *shares) if found else ()
        lines.append([f"{asked:g}", str(len(found)), *(f"{cell:.2f}" for cell in cells)])
    return [
        "norm loss up to",
        "truncations",
        "norm loss, mean",
        "agreement, mean",
        "share with 99 %",
        "95 %",
        "90 %",
    ], lines


def _in_block(layer: str) -> bool:
    return stage_of(layer).startswith("layer")


def _findings(figures: Figures) -> str:
    """How many layers bear how much, and whether depth has to do with it."""
    names = [name for name in dict.fromkeys(cut["layer"] for cut in figures["cuts"]) if _in_block(name)]
    best = [max(borne(cut)[0] for cut in figures["cuts"] if cut["layer"] == name) for name in names]
    typical = [mean(borne(cut)[0] for cut in figures["cuts"] if cut["layer"] == name) for name in names]
    half = sum(loss >= 0.5 for loss in best)
    found = [spearmanr(np.arange(len(names)), losses) for losses in (best, typical)]
    told = [f"{each.statistic:.2f} (p = {each.pvalue:.2g})" for each in found]
    return (
        f"Along its best cut a block kernel bears {mean(best):.2f} on average, along a cut taken at random "
        f"{mean(typical):.2f}; {half} of {len(names)} bear 0.5 or more along some cut. Spearman's correlation of that "
        f"loss with depth: {told[0]} for the best cut, {told[1]} for the mean over cuts."
    )


def _line(row: Figures, figures: Figures) -> tuple[str, ...]:
    dense = figures["rows"][0]["parameters"]
    return (
        "dense" if row["least"] is None else f"{row['least']:.0%}",
        str(row["epochs"]),
        str(row["layers"]),
        f"{row['parameters']:,}",
        f"{dense / row['parameters']:.2f}",
        f"{100 * row['agreement']:.1f}" if "agreement" in row else "",
        f"{row['divergence']:.4f}" if "divergence" in row else "",
        percent(row["accuracy"], figures["test_images"]),
    )
