"""The pictures of docs/tutorials/when_cp_degenerates.md: `python docs/examples/degeneracy.py`, offline, under a minute.

Needs matplotlib (`pip install 'tensorring[plot]'`), and torch and scikit-learn for the last two pictures.
"""

from __future__ import annotations

import argparse
import copy
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import digits_cnn
import matplotlib as mpl
import numpy as np
import tensorring_torch as tgt
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image
from torch import nn
from tqdm import tqdm

import tensorring as tg

IMAGES = Path(__file__).resolve().parent.parent / "tutorials" / "images"
# Okabe and Ito's colours, told apart by everyone.
PLAIN, STABLE, THIRD, GREY = "#D55E00", "#0072B2", "#009E73", "#777777"
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "figure.dpi": 110, "savefig.dpi": 110, "lines.linewidth": 1.8, "lines.markersize": 5,
    "figure.constrained_layout.use": True,
}  # fmt: skip
SWEEPS = (10, 30, 100, 300, 1_000, 3_000)


def norm_ratio(t: tg.CPTensor, x: np.ndarray) -> float:
    """‖λ‖/‖x‖, λ being the norms of the terms."""
    return float(np.linalg.norm(term_norms(t)) / np.linalg.norm(x))


def term_norms(t: tg.CPTensor) -> np.ndarray:
    """λ, whatever the scaling of the factors."""
    return np.abs(t.weights) * math.prod(np.linalg.norm(factor, axis=0) for factor in t.factors)


def term(t: tg.CPTensor, r: int) -> np.ndarray:
    """One rank-one term as an array."""
    return tg.CPTensor(t.weights[r : r + 1], [factor[:, r : r + 1] for factor in t.factors]).to_dense()


def moving_peak() -> np.ndarray:
    """A peak on three axes that moves a little: of border rank 2, and 5 % of noise."""
    grid = np.linspace(-3, 3, 31)
    peak, slope = np.exp(-(grid**2)), -2 * grid * np.exp(-(grid**2))
    modes = ((peak, peak, slope), (peak, slope, peak), (slope, peak, peak))
    x = sum(np.einsum("i,j,k", *three) for three in modes)
    noise = np.random.default_rng(0).standard_normal(x.shape)
    return x + 0.05 * np.linalg.norm(x) / np.linalg.norm(noise) * noise


def without_best_fit() -> np.ndarray:
    """The first Gaussian 2 × 2 × 2 tensor of negative hyperdeterminant: it has no best approximation of rank 2."""
    rng = np.random.default_rng(0)
    while True:
        x = rng.standard_normal((2, 2, 2))
        a, b = x[:, :, 0], x[:, :, 1]
        first, second = np.linalg.det(a), np.linalg.det(b)
        if (np.linalg.det(a + b) - first - second) ** 2 < 4 * first * second:
            return x


def draw_terms() -> None:
    """The terms of a moving peak, plain and stable: two that cancel, and two that do not."""
    x = moving_peak()
    plain = tg.cp_als(x, rank=2, stall=0, max_sweeps=1_000)
    stable = tg.cp_stable(x, rank=2, max_norm=3.0)
    figure, axes = plt.subplots(2, 4, figsize=(8.4, 4.3))
    for row, (name, found) in zip(axes, (("plain", plain), ("stable", stable)), strict=True):
        t, k = found.tensor, 19  # a slice on the flank of the peak
        panels = [("term 1", term(t, 0)), ("term 2", term(t, 1)), ("their sum", t.to_dense()), ("the data", x)]
        for axis, (title, panel) in zip(row, panels, strict=True):
            heat_map(axis, panel[:, :, k], title)
        label = f"{name}: error {found.error:.4f}\n‖λ‖/‖x‖ = {norm_ratio(t, x):.1f}"
        row[0].set_ylabel(label, color=PLAIN if name == "plain" else STABLE)
    save(figure, "terms.png")


def heat_map(axis: Axes, values: np.ndarray, title: str) -> None:
    """A matrix on a scale of its own, symmetric about zero, with the largest size told."""
    top = float(np.abs(values).max())
    image = axis.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
    axis.set(xticks=[], yticks=[], title=f"{title}: up to ±{top:.2g}")
    axis.spines[:].set_visible(False)
    bar = axis.figure.colorbar(image, ax=axis, shrink=0.8, ticks=[-top, 0, top])
    bar.ax.set_yticklabels([f"−{top:.2g}", "0", f"{top:.2g}"], fontsize=7)
    bar.outline.set_visible(False)


def draw_growth() -> None:
    """Norm ratios and errors over sweeps: of a CP, and of a ring."""
    cube = without_best_fit()
    box = np.random.default_rng(2).standard_normal((4, 4, 4))
    cp = {"init": "random", "rng": 0, "rank": 2}
    ring = {"init": "random", "rng": 1, "ranks": 2}
    columns: Sequence[tuple[str, Callable[[int, bool], tuple[float, float]]]] = (
        ("CP of rank 2, a 2 × 2 × 2 tensor", lambda n, held: _cp_point(cube, n, held, cp)),
        ("ring of ranks 2, a 4 × 4 × 4 tensor", lambda n, held: _ring_point(box, n, held, ring)),
    )
    figure, axes = plt.subplots(2, 2, figsize=(8, 4.6), sharex=True)
    for (norms, errors), (title, point) in zip(axes.T, columns, strict=True):
        for held, colour, name in ((False, PLAIN, "plain"), (True, STABLE, "stable")):
            points = [point(n, held) for n in tqdm(SWEEPS, desc=f"{title}, {name}", leave=False)]
            norms.plot(SWEEPS, [size for size, _ in points], "o-", color=colour, label=name)
            errors.plot(SWEEPS, [error for _, error in points], "o-", color=colour, label=name)
        norms.set(xscale="log", yscale="log", title=title)
        norms.set_yticks([1, 10, 100, 1_000], ["1", "10", "100", "1,000"])
        norms.minorticks_off()
        norms.set_ylim(1, 1_000)
        errors.set(xscale="log", xlabel="sweeps allowed")
        errors.set_xticks([10, 100, 1_000], ["10", "100", "1,000"])
    axes[0, 0].set_ylabel("‖λ‖/‖x‖")
    axes[0, 1].set_ylabel("amplification of noise")
    axes[1, 0].set_ylabel("relative error")
    axes[0, 0].legend()
    save(figure, "growth.png")


def _cp_point(x: np.ndarray, sweeps: int, held: bool, options: dict[str, object]) -> tuple[float, float]:
    if held:
        found = tg.cp_stable(x, max_sweeps=sweeps, max_norm=5.0, **options)
    else:
        found = tg.cp_als(x, max_sweeps=sweeps, stall=0, **options)
    return norm_ratio(found.tensor, x), found.error


def _ring_point(x: np.ndarray, sweeps: int, held: bool, options: dict[str, object]) -> tuple[float, float]:
    method = tg.tr_stable if held else tg.tr_als
    found = method(x, max_sweeps=sweeps, stall=0, **options)
    return tg.degeneracy(tg.balance(found.tensor)).norm_ratio, found.error


def draw_tradeoff() -> None:
    """The error of W against the size of its terms: the law, and what three ways of fitting reach."""
    w = np.zeros((2, 2, 2))
    w[0, 0, 1] = w[0, 1, 0] = w[1, 0, 0] = 1
    figure, axis = plt.subplots(figsize=(6, 3.8))
    errors = np.geomspace(5e-6, 0.15, 100)
    law = np.sqrt((1 + math.sqrt(3) * errors) ** 3 / (2 * math.sqrt(3) * errors) / 3)
    axis.plot(law, errors, color=GREY, label="error · Σλ² = (1 + √3 error)³/(2√3)")
    tolerances = (0.1, 0.03, 0.01, 0.003, 0.0003)
    rough = tg.cp_als(w, rank=2, stall=0, max_sweeps=1_000, init="random", rng=0).tensor
    series = {
        "plain, 10 to 1,000 sweeps": (
            PLAIN, "s", [tg.cp_als(w, rank=2, stall=0, max_sweeps=n, init="random", rng=0) for n in SWEEPS[:5]]),
        "stabilize, tol 0.1 to 0.0003": (
            THIRD, "D", [tg.stabilize(w, rough, tol=tol, max_sweeps=5_000) for tol in tolerances]),
        "cp_stable, max_norm 2, 5, 10, 20": (
            STABLE, "o", [tg.cp_stable(w, rank=2, max_norm=bound) for bound in (2.0, 5.0, 10.0, 20.0)]),
    }  # fmt: skip
    for name, (colour, marker, found) in series.items():
        axis.plot([norm_ratio(f.tensor, w) for f in found], [f.error for f in found], marker, color=colour, label=name)
    axis.set(xscale="log", yscale="log", xlabel="size of the terms, ‖λ‖/‖x‖", ylabel="relative error")
    axis.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axis.minorticks_off()
    axis.legend()
    save(figure, "tradeoff.png")


def small_network() -> nn.Module:
    """Three convolutions and a linear layer, trained on the digits."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((1, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    model = nn.Sequential(*layers[:6], nn.MaxPool2d(2), *layers[6:], *pool)
    digits_cnn.train(model, *digits_cnn.load_images()[:2], epochs=4)
    return model


def fit(conv: nn.Conv2d, held: bool) -> tg.Decomposition[tg.CPTensor]:
    """The kernel as a CP of an eighth of its parameters, (outputs, inputs, 9)."""
    kernel = conv.weight.detach().numpy()
    x = kernel.reshape(*kernel.shape[:2], -1).astype(float)
    rank = round(x.size / 8 / sum(x.shape))
    return tg.cp_stable(x, rank=rank) if held else tg.cp_als(x, rank=rank, stall=0, max_sweeps=500)


def draw_kernel(conv: nn.Conv2d) -> None:
    """The terms of a trained kernel: how large they are, and what the largest look like at their strongest tap."""
    kernel = conv.weight.detach().numpy()
    x = kernel.reshape(*kernel.shape[:2], -1).astype(float)
    figure = plt.figure(figsize=(8.4, 5))
    bars, *rows = figure.subfigures(3, 1, height_ratios=(1.15, 1, 1))
    axis = bars.subplots()
    for k, (held, colour, name) in enumerate(((False, PLAIN, "plain"), (True, STABLE, "stable"))):
        t = fit(conv, held).tensor
        norms = np.sort(term_norms(t))[::-1] / np.linalg.norm(x)
        label = f"{name}: error {tg.relative_error(x, t):.3f}, ‖λ‖/‖x‖ {np.linalg.norm(norms):.1f}"
        axis.bar(np.arange(1, t.rank + 1) + 0.4 * k - 0.2, norms, 0.4, color=colour, label=label)
        _draw_row(rows[k], t, x, f"{name}", colour)
    axis.axhline(1, color=GREY, linewidth=1, linestyle="--")
    axis.set(yscale="log", xlabel="term", ylabel="‖term‖ / ‖x‖", xticks=[1, 5, 10, 15, 20])
    axis.legend(ncols=2, loc="upper right")
    save(figure, "kernel.png")


def _draw_row(figure: plt.Figure, t: tg.CPTensor, x: np.ndarray, name: str, colour: str) -> None:
    """The four largest terms, the sum and the kernel: 32 outputs × 32 inputs, all on the scale of the kernel."""
    largest, middle = np.argsort(-term_norms(t))[:4], 4
    top = float(np.abs(x[:, :, middle]).max())
    panels = [(f"term {k + 1}", term(t, r), int(np.argmax(np.abs(t.factors[2][:, r])))) for k, r in enumerate(largest)]
    panels += [(f"sum of all {t.rank}", t.to_dense(), middle), ("the kernel", x, middle)]
    axes = figure.subplots(1, len(panels))
    for axis, (title, panel, tap) in zip(axes, panels, strict=True):
        image = axis.imshow(panel[:32, :32, tap], cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
        axis.set(xticks=[], yticks=[], title=title)
        axis.spines[:].set_visible(False)
    axes[0].set_ylabel(name, color=colour)
    figure.colorbar(image, ax=axes[-1], shrink=0.8)


def draw_tuning(model: nn.Module, epochs: int, seeds: int) -> None:
    """What noise on the factors does to a kernel, and what fine-tuning makes of the network."""
    figure, (noise, losses) = plt.subplots(1, 2, figsize=(8, 3.4))
    images, labels, held_images, held_labels = digits_cnn.load_images()
    for held, colour, name in ((False, PLAIN, "plain"), (True, STABLE, "stable")):
        small = copy.deepcopy(model)
        for k, layer in enumerate(model):
            if isinstance(layer, nn.Conv2d) and layer.in_channels > 1:
                small[k] = tgt.build_layer(fit(layer, held).tensor.astype("float32"), like=layer)
        _draw_noise(noise, model[3], fit(model[3], held).tensor, colour, name)
        for seed in tqdm(range(seeds), desc=f"fine-tuning, {name}", leave=False):
            data = {"loader": (images, labels), "validation": (held_images, held_labels)}
            tuned = tgt.fine_tune(small, None, epochs=epochs, lr=0.05, clip=None, seed=seed, **data)
            line = [epoch.validation_loss for epoch in tuned.history]
            losses.plot(range(len(line)), line, "o-", color=colour, label=name if seed == 0 else None, alpha=0.8)
    noise.set(
        xscale="log", yscale="log", xlabel="noise on the factors, relative", ylabel="change of the kernel, relative"
    )
    noise.legend()
    losses.set(yscale="log", xlabel="epochs of fine-tuning", ylabel="cross-entropy, held-out images")
    losses.legend()
    save(figure, "tuning.png")


def _draw_noise(axis: Axes, conv: nn.Conv2d, t: tg.CPTensor, colour: str, name: str) -> None:
    """Seen, and foretold by the sensitivity: the change that noise on the entries of all factors makes."""
    t, rng = tg.balance(t), np.random.default_rng(0)
    x, size = t.to_dense(), math.sqrt(sum(float(np.sum(u**2)) for u in t.factors) / t.parameter_count)
    levels, seen = np.geomspace(1e-3, 0.1, 7), []
    for level in levels:
        factors = [u + level * size * rng.standard_normal(u.shape) for u in t.factors]
        seen.append(np.linalg.norm(tg.CPTensor(t.weights, factors).to_dense() - x) / np.linalg.norm(x))
    foretold = levels * size * math.sqrt(tg.sensitivity(t)) / np.linalg.norm(x)
    axis.plot(levels, foretold, color=colour, label=f"{name}: by tg.sensitivity")
    axis.plot(levels, seen, "o", color=colour, label=f"{name}: seen")


def save(figure: plt.Figure, name: str) -> None:
    """Writes a picture of few kilobytes."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)


def main() -> None:
    """Draws all five."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning")
    parser.add_argument("--seeds", type=int, default=3, help="of fine-tuning")
    options = parser.parse_args()
    mpl.use("Agg")
    with mpl.rc_context(STYLE):
        draw_terms()
        draw_growth()
        draw_tradeoff()
        model = small_network()
        draw_kernel(model[3])
        draw_tuning(model, options.epochs, options.seeds)
    print(f"Five pictures in {IMAGES}")


if __name__ == "__main__":
    main()
