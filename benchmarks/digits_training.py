"""Ways to small networks on the digits: trained small, trained to be cut, cut after training, and trained on.

python -m benchmarks.digits_training --cache DIR [--network connected …] [--seeds 0 1 2] [--write digits_training.md]

Settings are chosen, for each row and ratio, by 200 of the 1,200 training images and seeds of its own; then all is
trained again on the 1,200, and each row looks at the test images once. What is in the cache is not made again, and
`benchmarks.digits_training_plot` draws it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorring_torch as tgt
import torch
from torch import nn
from tqdm import tqdm

from benchmarks import digits_training_page
from benchmarks.cache import Cache
from benchmarks.digits_training_networks import CHOICE, Settings, Study, studies
from benchmarks.digits_training_ways import WAYS, Bench, Made, asked, tried
from benchmarks.networks import parameters
from benchmarks.tables import write

# The norm loss at which ranks are told, and the rows whose networks they are told of, as they were before the cut.
LOSS, TOLD = 0.1, ("dense", "decayed", "expanded", "orthogonal")
# The best of the settings of a way, by their number, for each row and ratio; the first where there is one.
Chosen = Mapping[tuple[str, float | None], int]


def score(bench: Bench, model: nn.Module) -> float:
    """The share of held-out images that is told right."""
    return float(bench.case.right(model).mean())


def spectra(model: nn.Module) -> dict[str, Any]:
    """Rank of each layer's weight (O, rest) at a norm loss, and all norm losses of the largest."""
    cuts = [cut for cut in tgt.compressibility(model, losses=LOSS).cuts if cut.modes == (0,)]
    largest = max(cuts, key=lambda cut: torch.Size(cut.shape).numel())
    ranks = {cut.layer: cut.truncations[0].rank for cut in cuts}
    return {"ranks": ranks, "largest": largest.layer, "errors": largest.spectrum.errors.tolist()}


def figures_of(bench: Bench, made: Made, told: bool) -> dict[str, Any]:
    """What the page needs of a network."""
    found = {
        "row": made.row, "ratio": made.ratio, "tol": made.tol, "parameters": parameters(made.model),
        "dense_parameters": parameters(bench.case.make()), "right": score(bench, made.model),
    }  # fmt: skip
    if told and made.row in TOLD:
        found |= {"before": score(bench, made.before), **spectra(made.before)}
    return found


def rows_with(cache: Cache, name: str, bench: Bench, way: str, k: int, chosen: Chosen | None) -> list[dict[str, Any]]:
    """What a way makes of a network with one of its settings, for which that is the best; for all where none is."""
    key = f"{name}-{way}-{k}-{bench.seed}"
    found = cache.figures(key)
    if found is None:
        start = time.process_time()
        wanted = asked(way) if chosen is None else [ratio for ratio in asked(way) if k in _best_at(chosen, ratio)]
        settings = tried(bench.study, way)[k]
        rows = [
            figures_of(bench, made, told=chosen is not None)
            for made in WAYS[way](bench, settings, wanted)
            if chosen is None or chosen.get((made.row, made.ratio), 0) == k
        ]
        found = {"network": name, "way": way, "settings": settings, "seed": bench.seed, "rows": rows}
        cache.keep(key, found | {"seconds": time.process_time() - start})
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def _best_at(chosen: Chosen, ratio: float | None) -> set[int]:
    """The settings that are the best of any row at a ratio; where there is nothing to choose from, the first."""
    return {k for (_, at), k in chosen.items() if at == ratio} or {0}


def choices(cache: Cache, name: str, study: Study) -> tuple[Settings, dict[str, Chosen]]:
    """The settings that the dense network scores best with, on images held out for that, and those of each way."""
    benches = [Bench(study.choosing(), seed, {}) for seed in CHOICE]
    found: dict[str, Chosen] = {}
    for way in WAYS:
        grid, scored = tried(study, way), list[list[dict[str, Any]]]()
        for k in tqdm(range(len(grid)) if len(grid) > 1 else (), desc=f"{name}, {way}"):
            scored.append([row for bench in benches for row in rows_with(cache, name, bench, way, k, None)])
        found[way] = best(scored)
        if way == "dense":
            for bench in benches:
                bench.best = grid[found[way].get(("dense", 1), 0)]
    return benches[0].best, found


def best(scored: Sequence[Sequence[Mapping[str, Any]]]) -> Chosen:
    """The number of the settings with the most images told right, the first of several, for each row and ratio."""
    found = {}
    for key in dict.fromkeys((row["row"], row["ratio"]) for rows in scored for row in rows):
        right = [sum(row["right"] for row in rows if (row["row"], row["ratio"]) == key) for rows in scored]
        found[key] = right.index(max(right))
    return found


def study_of(cache: Cache, name: str, study: Study, seeds: Sequence[int]) -> None:
    """One network: settings first, then for each seed every way, with all settings that are the best for some row."""
    top, chosen = choices(cache, name, study)
    for seed in seeds:
        bench = Bench(study, seed, top)
        for way in tqdm(WAYS, desc=f"{name}, seed {seed}"):
            for k in sorted(set(chosen[way].values()) or {0}):
                rows_with(cache, name, bench, way, k, chosen[way])


def main() -> None:
    """Reads the command line, makes what is missing, writes the page of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for figures; it may exist")
    parser.add_argument("--network", nargs="+", choices=studies(), default=list(studies()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of first weights and of training")
    parser.add_argument("--write", default="", help="name of a page to write under docs/benchmarks")
    options = parser.parse_args()
    if set(CHOICE) & set(options.seeds):
        parser.error(f"seeds {CHOICE} are those of the choice of settings; take others")
    options.cache.mkdir(parents=True, exist_ok=True)
    cache = Cache(options.cache)
    torch.set_num_threads(1)
    found = studies()
    for name in options.network:
        study_of(cache, name, found[name], options.seeds)
    write(options.write, digits_training_page.page([figures for _, figures in cache.all()]))


if __name__ == "__main__":
    main()
