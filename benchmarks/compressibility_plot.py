"""The pictures of docs/benchmarks/compressibility.md: `python -m benchmarks.compressibility_plot --cache DIR`.

Needs matplotlib.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorring_torch as tgt

from benchmarks.cache import Cache
from benchmarks.cifar_plot import IMAGES
from benchmarks.compressibility_page import LEAST, borne, stage_of


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Agreement against norm loss, a line for each cut of each layer; and for each the loss that it bears."""
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = figures["network"]  # the same file for the same figures
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), width_ratios=(1, 1.5), layout="constrained")
    found(figures).plot(left)
    left.set(ylabel="agreement", ylim=(0, 1.02), xlim=(0, 1))
    left.spines[["top", "right"]].set_visible(False)
    cuts = [cut for cut in figures["cuts"] if len(cut["shape"]) == 4]
    layers, kinds = (list(dict.fromkeys(cut[key] for cut in cuts)) for key in ("layer", "cut"))
    losses = np.zeros((len(kinds), len(layers)))
    for cut in cuts:
        losses[kinds.index(cut["cut"]), layers.index(cut["layer"])] = borne(cut)[0]
    shown = right.imshow(losses, cmap="cividis", vmin=0, aspect="auto", interpolation="nearest")
    stages = [stage_of(layer) for layer in layers]
    middles = {stage: stages.index(stage) + (stages.count(stage) - 1) / 2 for stage in stages}
    right.set_yticks(range(len(kinds)), labels=kinds)
    right.set_xticks(list(middles.values()), labels=middles)
    right.tick_params(length=0)
    for stage in middles:
        right.axvline(stages.index(stage) - 0.5, color="white", lw=1)
    right.set(xlabel=f"{figures['network']}: convolutions in their order")
    figure.colorbar(shown, label=f"norm loss with agreement ≥ {LEAST:g}")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def found(figures: Mapping[str, Any]) -> tgt.Compressibility:
    """What was found, without spectra: a picture of scores needs none."""
    cuts = (
        tgt.CutReport(
            cut["layer"],
            tuple(cut["shape"]),
            tuple(cut["modes"]),
            spectrum=None,  # type: ignore[arg-type]
            truncations=tuple(tgt.Truncation(**each) for each in cut["truncations"]),
        )
        for cut in figures["cuts"]
    )
    return tgt.Compressibility(tuple(cuts), figures["score"])


def main() -> None:
    """Reads the command line and draws a picture of each network in the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the folder that benchmarks.compressibility filled")
    IMAGES.mkdir(exist_ok=True)
    for _, figures in Cache(parser.parse_args().cache).all():
        draw(figures, IMAGES / f"compressibility_{figures['network']}.svg")


if __name__ == "__main__":
    main()
