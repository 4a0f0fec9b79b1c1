"""A colour photograph and 1,797 small images at a prescribed error, by every method. Needs no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.datasets import load_digits, load_sample_image
from tqdm import tqdm

import tensorring as tg

METHODS: dict[str, Callable[..., tg.Decomposition]] = {
    "tt_svd": tg.tt_svd,
    "tr_svd": tg.tr_svd,
    "tr_reduced_storage": tg.tr_reduced_storage,
    "tr, refined": partial(tg.tr_reduced_storage, refine=True),
    "tt_als": tg.tt_als,
    "tucker_hosvd": tg.tucker_hosvd,
    "tucker_hooi": tg.tucker_hooi,
    "cut_svd, first mode": partial(tg.cut_svd, modes=0),
    "compress": tg.compress,
}
LINE = "{:<11} {:<20} {:<15} {:>10} {:>7} {:>6} {:>8} {:>8}"


def main() -> None:
    """Prints one table: method, ranks, parameters, ratio, error asked, error made, seconds."""
    tensors = {
        "photograph": load_sample_image("china.jpg").astype(np.float32),
        "digits": load_digits().images.astype(np.float32),
    }
    jobs = [(name, tol, method) for name in tensors for tol in (0.05, 0.1) for method in METHODS]
    lines = []
    for name, tol, method in tqdm(jobs, desc="images", leave=False):
        start = time.perf_counter()
        result = METHODS[method](tensors[name], tol=tol)
        seconds = time.perf_counter() - start
        t = result.tensor
        numbers = (
            f"{t.parameter_count:,}",
            f"{result.ratio:.2f}",
            f"{tol:.0%}",
            f"{result.error:.3%}",
            f"{seconds:.3f}",
        )
        lines.append(LINE.format(name, method, str(t.ranks), *numbers))
    shapes = ", ".join(f"{name} {' × '.join(map(str, x.shape))}" for name, x in tensors.items())
    print(f"Two sets of images at a prescribed error ({shapes}):\n")
    print(LINE.format("tensor", "method", "ranks", "parameters", "ratio", "asked", "made", "seconds"))
    print("\n".join(lines))
    fit_terms(tensors["photograph"])


def fit_terms(x: np.ndarray) -> None:
    """Rank-one terms for a photograph, by sweeps that a bar watches."""
    print("\nThe photograph as a sum of 40 rank-one terms:\n")
    start = time.perf_counter()
    result = tg.cp_als(x, rank=40, max_sweeps=100, rng=0, callback=tg.progress("cp_als"))
    print(result)
    print(f"  sweeps      {len(result.errors)} in {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
