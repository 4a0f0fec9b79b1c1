"""Block terms against CP and Tucker-2 at equal parameters: errors of ResNet-20's kernels, and the time of layers.

python -m benchmarks.block_terms --data DIR [--write block_terms.md]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from torch import nn
from torch.nn.functional import kl_div
from tqdm import tqdm

import tensorring as tg
from benchmarks import machine, resnet
from benchmarks.cases import block_kernels
from benchmarks.tables import table, write

RATIOS, SIZES, AREA = (3, 4), (2, 4, 8, 16), 9
# (channels, height = width): the last stage of ResNet-20, then those of ResNet-18 on photographs.
LAYERS = ((64, 8), (64, 56), (128, 28), (256, 14), (512, 7))
IMAGES, STARTS, SWEEPS, RIDGE = 2048, 2, 300, 1e-3
# How much of the budget a layer has to use for its time to count.
LEAST = 0.85
VERDICT = (
    "**Kept, narrowly.** The form was to stay if at 3 or 4 × it beats CP in accuracy or Tucker-2 in time on a "
    "layer of a ResNet. In accuracy it does not: with terms of (2, 2) it comes near to CP's errors, below them on"
    " single kernels by less than the spread of starts, and the whole network is worse. In time it does on 64 "
    "channels at 4 ×: for 32 images of 8 × 8, the last stage of ResNet-20, and for one of 56 × 56, where two "
    "terms of (16, 16) fill a processor's lanes and Tucker-2 of as many parameters does not, with a smaller error"
    " than Tucker-2's. It does not for one image of 8 × 8, for 32 of 56 × 56 not always, and on 128 channels or "
    "more never against Tucker-2 with ranks that are multiples of 8."
)


def parameters(terms: int, out_rank: int, in_rank: int, outputs: int, inputs: int) -> int:
    """Of terms·(1×1 → 3×3 → 1×1): with one term Tucker-2, with ranks of 1 CP."""
    return terms * (outputs * out_rank + inputs * in_rank + AREA * out_rank * in_rank)


def most_terms(size: int, outputs: int, inputs: int, ratio: float) -> int:
    """As many as the budget allows."""
    return int(AREA * outputs * inputs / ratio // parameters(1, size, size, outputs, inputs))


def tucker_ranks(outputs: int, inputs: int, ratio: float, least: float) -> list[tuple[int, int]]:
    """All pairs of ranks that use from `least` of the budget to all of it."""
    budget = AREA * outputs * inputs / ratio
    pairs = product(range(1, outputs + 1), range(1, inputs + 1))
    return [pair for pair in pairs if least * budget < parameters(1, *pair, outputs, inputs) <= budget]


def fits(kernel: np.ndarray, ratio: float) -> Iterator[tuple[str, tg.Decomposition]]:
    """Each form at its best: CP with and without the ridge, block terms with it, Tucker-2 at its best ranks."""
    outputs, inputs = kernel.shape[:2]
    x = kernel.reshape(outputs, inputs, AREA)
    control = {"n_starts": STARTS, "rng": 0, "max_sweeps": SWEEPS}
    rank = most_terms(1, outputs, inputs, ratio)
    held = tg.btd_als(x, terms=rank, ranks=1, modes=(0, 1), ridge=RIDGE, **control)
    yield "CP", min(tg.cp_als(x, rank=rank, **control), held, key=lambda found: found.error)
    for size in SIZES:
        terms = most_terms(size, outputs, inputs, ratio)
        if terms > 1:
            yield f"{size}", tg.btd_als(x, terms=terms, ranks=size, modes=(0, 1), ridge=RIDGE, **control)
    pairs = tucker_ranks(outputs, inputs, ratio, 0.97)
    tuckers = [tg.tucker_hooi(x, ranks=pair, modes=(0, 1), max_sweeps=5) for pair in pairs]
    yield "Tucker-2", min(tuckers, key=lambda found: found.error)


def accuracy(data: Path) -> str:
    """Mean errors of the kernels of each stage, and the whole network without its own kernels, on training images."""
    kernels = {name: kernel.astype(float) for name, kernel in block_kernels(data, "resnet20").items()}
    model, x = resnet.pretrained(data, "resnet20"), resnet.images(data, "train")[0][:IMAGES]
    weights, dense, rows = dict(model.named_parameters()), _logits(model, x), []
    for ratio in RATIOS:
        found = {name: dict(fits(kernel, ratio)) for name, kernel in tqdm(kernels.items(), desc=f"{ratio} ×")}
        for form in ("CP", *map(str, SIZES), "Tucker-2"):
            errors = {name: fit[form].error for name, fit in found.items() if form in fit}
            stages = [[e for name, e in errors.items() if name.startswith(f"layer{k}")] for k in (1, 2, 3)]
            line = [f"{ratio} ×", form if not form.isdigit() else f"terms of ({form}, {form})"]
            line += [f"{mean(stage):.4f}" if stage else "–" for stage in stages]
            line.append(f"{sum(e < found[name]['CP'].error for name, e in errors.items())} of {len(errors)}")
            if len(errors) == len(kernels):
                for name, fit in found.items():
                    with torch.no_grad():
                        dense_kernel = torch.from_numpy(fit[form].tensor.to_dense()).reshape(weights[name].shape)
                        weights[name].copy_(dense_kernel)
                ours = _logits(model, x)
                agreement = (ours.argmax(1) == dense.argmax(1)).float().mean().item()
                kl = kl_div(ours.log_softmax(1), dense.log_softmax(1), log_target=True, reduction="batchmean").item()
                line += [f"{agreement:.3f}", f"{kl:.2f}"]
            rows.append((*line, "", "")[:8])
    head = ("smaller", "form", "stage 1", "stage 2", "stage 3", "below CP", "agree with dense", "KL")
    return table(head, rows)


@torch.inference_mode()
def _logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(batch) for batch in x.split(512)])


def chain(channels: int, terms: int, out_rank: int, in_rank: int) -> nn.Sequential:
    """1×1 → grouped 3×3 → 1×1."""
    return nn.Sequential(
        nn.Conv2d(channels, terms * in_rank, 1, bias=False),
        nn.Conv2d(terms * in_rank, terms * out_rank, 3, padding=1, groups=terms, bias=False),
        nn.Conv2d(terms * out_rank, channels, 1, bias=False),
    ).eval()


@torch.inference_mode()
def times(layers: list[nn.Module], x: torch.Tensor, seconds: float) -> np.ndarray:
    """Milliseconds of the processor (turns, layers) of the layers in turn, in an order that changes."""
    rows, order, end = [], list(range(len(layers))), time.perf_counter() + seconds
    for layer in layers:
        layer(x)
    while len(rows) < 9 or time.perf_counter() < end:
        row = [0.0] * len(layers)
        random.shuffle(order)
        for k in order:
            start = time.thread_time()
            layers[k](x)
            row[k] = 1e3 * (time.thread_time() - start)
        rows.append(row)
    return np.array(rows)


def latency(seconds: float) -> tuple[str, str]:
    """Block terms against Tucker-2 of equal ranks and budget, and against the fastest that uses most of it."""
    rows, wins = [], 0
    for (channels, size), ratio, batch in tqdm(list(product(LAYERS, RATIOS, (1, 32))), desc="time"):
        budget = AREA * channels**2 / ratio
        equal = max(r for r in range(1, channels) if parameters(1, r, r, channels, channels) <= budget)
        near = [
            p for p in tucker_ranks(channels, channels, ratio, LEAST) if max(abs(r - equal) for r in p) <= equal / 3
        ]
        pairs = [p for p in near if all(r % 8 == 0 for r in p) or p == (equal, equal)]
        sizes = [s for s in (4, 8, 16, 32, 64) if most_terms(s, channels, channels, ratio) > 1]
        forms = [(most_terms(s, channels, channels, ratio), s, s) for s in (1, *sizes)]
        forms = [f for f in forms if parameters(*f, channels, channels) > LEAST * budget]
        layers = [chain(channels, 1, *p) for p in pairs] + [chain(channels, *f) for f in forms]
        took = times(layers, torch.randn(batch, channels, size, size), seconds)
        share = np.median(took / took[:, [pairs.index((equal, equal))]], axis=0)
        tucker, block = share[: len(pairs)], share[len(pairs) + 1 :]
        best, (terms, s, _) = pairs[tucker.argmin()], forms[1 + block.argmin()]
        wins += block.min() < tucker.min()
        rows.append((f"{channels} × {size}²", f"{ratio} ×", batch,
                     f"{median(took[:, pairs.index((equal, equal))]):.3f} ({equal}, {equal})",
                     f"{tucker.min():.2f} {best}", f"{share[len(pairs)]:.2f}", f"{block.min():.2f}",
                     f"{terms} of ({s}, {s})",
                     f"{parameters(terms, s, s, channels, channels) / budget:.2f}"))  # fmt: skip
    head = ("channels, image", "smaller", "batch", "Tucker-2, ms (ranks)", "fastest Tucker-2", "CP", "block terms",
            "which", "of the budget")  # fmt: skip
    return table(head, rows), f"{wins} of {len(rows)}"


def frontier(data: Path, seconds: float) -> str:
    """Error and time of one layer of ResNet-20, 64 × 8²: what nothing else beats in both is starred."""
    kernel = block_kernels(data, "resnet20")["layer3.1.conv1.weight"].astype(float).reshape(64, 64, AREA)
    forms = [("Tucker-2", (1, *p)) for p in product(range(16, 41, 8), repeat=2)]
    forms += [("block terms", (most_terms(s, 64, 64, r), s, s)) for s in SIZES for r in RATIOS]
    forms = [f for f in dict.fromkeys(forms) if f[0] == "Tucker-2" or f[1][0] > 1]
    forms += [("CP", (most_terms(1, 64, 64, ratio), 1, 1)) for ratio in RATIOS]
    control = {"modes": (0, 1), "ridge": RIDGE, "n_starts": STARTS, "rng": 0, "max_sweeps": SWEEPS}
    errors = np.array([
        tg.tucker_hooi(kernel, ranks=f[1:], modes=(0, 1)).error
        if f[0] == 1
        else tg.btd_als(kernel, terms=f[0], ranks=f[1:], **control).error
        for _, f in tqdm(forms, desc="frontier")
    ])  # fmt: skip
    layers = [chain(64, *f) for _, f in forms]
    took = [np.median(times(layers, torch.randn(n, 64, 8, 8), 4 * seconds), axis=0) for n in (1, 32)]
    rows = []
    for k in np.argsort(errors):
        cells = [f"{ms[k]:.3f}{'' if ((errors < errors[k]) & (ms <= ms[k])).any() else ' *'}" for ms in took]
        name, (terms, s, t) = forms[k]
        ratio = kernel.size / parameters(terms, s, t, 64, 64)
        rows.append((name, f"{terms} of ({s}, {t})", f"{ratio:.2f} ×", f"{errors[k]:.4f}", *cells))
    return table(("form", "terms of ranks", "smaller", "error", "ms, batch 1", "ms, batch 32"), rows)


def main() -> None:
    """Reads the command line, prints the tables and writes docs/benchmarks/block_terms.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_sample.npz and the networks")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each line of the tables of times")
    parser.add_argument("--write", default="", help="name of a page to write under docs/benchmarks")
    options = parser.parse_args()
    random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pages = ["# Block terms against CP and Tucker-2", "Written by `python -m benchmarks.block_terms --data DIR`.",
             machine.describe(("numpy", "torch", "tensorring"))]  # fmt: skip
    page, wins = latency(options.seconds)
    pages += [
        "## Time at equal parameters",
        "One thread, its processor time: medians of interleaved turns, as shares of Tucker-2 with equal ranks. "
        f"Fastest: of all that use {LEAST:.0%} of the budget or more; Tucker-2 also with ranks that are multiples of "
        "8.",
        page,
        f"Block terms take less than every Tucker-2 tried in {wins} cases.",
        "## Error and time of one layer: layer3.1.conv1 of ResNet-20",
        "From the smallest error on; where nothing has a smaller error in less time, the time is starred.",
        frontier(options.data, options.seconds),
        "## Errors of ResNet-20's block kernels at equal parameters",
        f"Mean relative errors of each stage; best of {STARTS} starts of {SWEEPS} sweeps. Then the network with all "
        f"block kernels replaced, no fine-tuning, no batch-norm repair, on {IMAGES:,} training images.",
        accuracy(options.data),
        VERDICT,
    ]
    text = "\n\n".join(pages)
    write(options.write, text)


if __name__ == "__main__":
    main()
