"""Kernels of many inputs: what the metric of whole patches gains over that of channels alone, and what it costs.

python -m benchmarks.wide [--write wide.md]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from tensorring_torch.calibration.fits import FORMATS, Form, Target, forms, softened
from tqdm import tqdm

from benchmarks import machine
from benchmarks.tables import table, write

SIZES, SHARE, PATCHES, BATCH = ((128, 128), (256, 256), (512, 512)), 0.2, 8000, 512
RANK, NOISE = 60, 0.05
CURVE_SWEEPS, SWEEPS = 60, 400


def patches(channels: int, rng: np.random.Generator) -> np.ndarray:
    """3 × 3 patches (n, channels·9) of mixed smooth random fields after a ReLU, centred: neighbours are alike."""
    mix = rng.standard_normal((channels, channels)) * np.exp(-4 * np.arange(channels) / channels)[:, None]
    found = np.empty((PATCHES, channels * 9), np.float32)
    for start in range(0, PATCHES, BATCH):
        rows = found[start : start + BATCH]
        field = rng.standard_normal((len(rows), channels, 4, 4))
        field = field[..., :-1, :] + field[..., 1:, :]
        field = field[..., :-1] + field[..., 1:]
        rows[:] = np.maximum(np.tensordot(field, mix, axes=(1, 1)).transpose(0, 3, 1, 2), 0).reshape(len(rows), -1)
    return found - found.mean(0)


def target(outputs: int, channels: int) -> Target:
    """A kernel of a low rank with noise on it, and what it sees and does, from a fixed seed."""
    rng = np.random.default_rng(0)
    u = patches(channels, rng)
    kernel = rng.standard_normal((outputs, RANK)) @ rng.standard_normal((RANK, channels * 9)) / RANK
    kernel += NOISE * rng.standard_normal(kernel.shape)
    gamma = np.cov(rng.standard_normal((outputs, 2 * outputs)))
    s = (u.T @ u).astype(np.float64) / len(u)
    return Target(kernel.reshape(outputs, channels, 3, 3), s, softened(gamma))


def by_channels(x: Target) -> Target:
    """The same kernel where S is known of channels only."""
    assert x.inputs is not None
    channels, taps = x.kernel.shape[1], x.kernel[0, 0].size
    split = x.inputs.reshape(channels, taps, channels, taps)
    return replace(x, inputs=np.trace(split, axis1=1, axis2=3) / taps)


def compared(x: Target, form: Form) -> tuple[str, ...]:
    """Errors in the whole metric, of fits in either, and seconds: both begin at the same fit of a curve."""
    ranks, norm = form.ranks(x.kernel.shape, SHARE), x.squared(x.matrix)
    narrow = by_channels(x)
    begin = form.fit(narrow, ranks, None, CURVE_SWEEPS)
    cells: list[str] = []
    for each in (replace(narrow, final=True), replace(x, final=True)):
        start = time.perf_counter()
        tensor = form.fit(each, ranks, begin, SWEEPS)
        seconds = time.perf_counter() - start
        cells += [f"{(x.error(tensor) / norm) ** 0.5:.3f}", f"{seconds:.1f}"]
    return (" × ".join(map(str, ranks)), *cells)


def main() -> None:
    """Reads the command line, prints the table and writes docs/benchmarks/wide.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", default="", help="name of a page to write under docs/benchmarks")
    options = parser.parse_args()
    rows = []
    for outputs, channels in tqdm(SIZES):
        x = target(outputs, channels)
        found = {form.key: form for name in FORMATS for form in forms(name, x.kernel.shape)}
        for form in found.values():
            name = form.name if form.name != "cut" else f"cut {form.key[1]}"
            rows.append((f"{outputs} × {channels * 9:,}", name, *compared(x, form)))
    head = ("outputs × inputs", "form", "ranks", "channels: error", "s", "whole patches: error", "s")
    write(options.write, "\n\n".join([
        "# Kernels of many inputs: metrics of whole patches and of channels",
        "Written by `python -m benchmarks.wide --write wide.md`.",
        machine.describe(("numpy", "scipy", "tensorring")),
        f"Kernels (O, I, 3, 3) of rank {RANK} and noise, fitted by {SHARE:.0%} of their entries, as `compress` "
        "fits the layers it has chosen. ‖E‖² = tr(Γ E S Eᵀ) with S the covariance of patches of smooth random "
        "fields behind a ReLU, in which neighbours are alike as in images. Errors are relative and in that norm, "
        "whichever the fit was in: that of the channels (S of a channel pair, its mean over the kernel's "
        "entries), or of whole patches. Both begin at the same fit. Curves are fitted by channels beyond 1,152 "
        "inputs, cuts at the outputs beyond 2,304; final fits by whole patches up to 8,192.",
        table(head, rows),
    ]))  # fmt: skip


if __name__ == "__main__":
    main()
