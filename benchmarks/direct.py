"""The direct methods on a photograph, a noisy cube, a large kernel and the kernels of trained networks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

import tensorring as tg
from benchmarks import cases, machine
from benchmarks.tables import table, write

METHODS: dict[str, Callable[..., tg.Decomposition]] = {
    "tt_svd": tg.tt_svd,
    "tr_svd": tg.tr_svd,
    "tr_reduced_storage": tg.tr_reduced_storage,
    "tucker_hosvd": tg.tucker_hosvd,
    "compress": tg.compress,
}
HEAD = ("tensor", "method", "format", "ranks", "parameters", "ratio", "asked", "made", "seconds", "extra memory")
# On the same tensors, whole tables at p; the published code's own figures, not run again here.
PUBLISHED = {
    ("resnet20", 0.5): 130_402,
    ("resnet20", 0.3): 212_161,
    ("resnet56", 0.5): 396_482,
    ("resnet56", 0.3): 643_182,
}


NO_DATA = "Not run: no --data with the pretrained networks was given."


def peak_memory(fn: Callable[[], object]) -> int:
    """Bytes allocated at the peak of a call, in Python and NumPy."""
    tracemalloc.start()
    fn()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def row(name: str, x: np.ndarray, method: str, tol: float) -> tuple[object, ...]:
    """One line of the table: the median of five calls, memory from a call of its own."""
    fn = METHODS[method]
    seconds = median(machine.times_of(lambda: fn(x, tol=tol)))
    memory = peak_memory(lambda: fn(x, tol=tol)) / x.nbytes
    result = fn(x, tol=tol)
    t = result.tensor
    return (
        name, method, t.format, t.ranks, f"{t.parameter_count:,}", f"{result.ratio:.2f}", tol, f"{result.error:.5f}",
        f"{seconds:.3f}", f"{memory:.2f} × x",
    )  # fmt: skip


def every_method() -> str:
    """The photograph, the digits and the noisy cube by every method."""
    tensors = {"photograph": cases.photograph(), "digits": cases.digits(), "noisy cube": cases.noisy_cube()}
    jobs = [
        (name, x, method, tol)
        for name, x in tensors.items()
        for tol in ((0.1, 0.15, 1e-12) if name == "noisy cube" else (0.05, 0.1))
        for method in (("tt_svd", "tucker_hosvd") if name == "noisy cube" else METHODS)
    ]
    return table(HEAD, [row(*job) for job in tqdm(jobs, desc="tensors")])


def large_kernel() -> str:
    """A 512 × 512 × 3 × 3 kernel against one LAPACK SVD of its unfolding, in turn."""
    x = cases.power_law_kernel()
    ours, svd = [], []
    for _ in tqdm(range(5), desc="large kernel"):
        ours.append(machine.best_of(lambda: tg.tr_reduced_storage(x, tol=0.5), 1))
        svd.append(machine.best_of(lambda: np.linalg.svd(x.reshape(512, -1), full_matrices=False), 1))
    result = tg.tr_reduced_storage(x, tol=0.5)
    line = (result.tensor.ranks, f"{result.tensor.parameter_count:,}", f"{result.error:.4f}", f"{median(ours):.2f}",
            f"{median(svd):.2f}", f"{median(a / b for a, b in zip(ours, svd, strict=True)):.2f}")  # fmt: skip
    return table(("ranks", "parameters", "error", "ours, s", "one SVD, s", "ratio"), [line])


def networks(data: Path) -> str:
    """All block kernels of the pretrained networks at one error each."""
    rows = list(_network_rows(data))
    head = (
        "network",
        "error asked",
        "largest made",
        "dense",
        "ours",
        "published",
        "ours / published",
        "seconds, all kernels",
    )
    return table(head, rows)


def _network_rows(data: Path) -> Iterator[tuple[object, ...]]:
    for (network, tol), published in tqdm(PUBLISHED.items(), desc="networks"):
        kernels = list(cases.block_kernels(data, network).values())
        seconds = median(machine.times_of(lambda: [tg.tr_reduced_storage(k, tol=tol) for k in kernels], 3))  # noqa: B023
        results = [tg.tr_reduced_storage(k, tol=tol) for k in kernels]
        # A kernel stays dense where nothing is smaller, as in the published count.
        ours = sum(min(r.tensor.parameter_count, k.size) for r, k in zip(results, kernels, strict=True))
        dense = sum(k.size for k in kernels)
        yield (network, tol, f"{max(r.error for r in results):.4f}", f"{dense:,}", f"{ours:,}", f"{published:,}",
               f"{ours / published:.3f}", f"{seconds:.2f}")  # fmt: skip


def kernels_by_every_method(data: Path, tol: float = 0.5) -> str:
    """All block kernels of two networks by every method, at one error each."""
    rows = []
    for network in ("resnet20", "resnet56"):
        kernels = list(cases.block_kernels(data, network).values())
        for method, fn in tqdm(METHODS.items(), desc=network):
            job = [partial(fn, kernel, tol=tol) for kernel in kernels]
            seconds = median(machine.times_of(lambda job=job: [call() for call in job], 3))
            memory = max(peak_memory(call) / kernel.nbytes for call, kernel in zip(job, kernels, strict=True))
            results = [call() for call in job]
            stored = sum(min(r.tensor.parameter_count, k.size) for r, k in zip(results, kernels, strict=True))
            worst = max(result.error for result in results)
            rows.append((network, method, f"{stored:,}", f"{worst:.4f}", f"{seconds:.2f}", f"{memory:.1f} × x"))
    return table(
        ("network", "method", "parameters", "largest error", "seconds, all kernels", "extra memory, most"), rows
    )


def main(data: Path | None) -> None:
    """Runs all and writes docs/benchmarks/direct.md."""
    parts = [
        "# Direct decompositions",
        "Written by `make bench ARGS='--data DIR'`. Medians; errors are relative; extra memory is the peak allocated "
        "during the call.",
        machine.describe(("numpy", "scipy", "tensorring")),
        "## Every method\n\n" + every_method(),
        "## A 512 × 512 × 3 × 3 kernel, mode singular values k^-½, error 0.5\n\n" + large_kernel(),
        "## Kernels of trained networks, `tr_reduced_storage`\n\n" + (networks(data) if data else NO_DATA),
        "## Kernels of trained networks by every method, error 0.5\n\n"
        + (kernels_by_every_method(data) if data else NO_DATA),
    ]
    write("direct.md", "\n\n".join(parts))
