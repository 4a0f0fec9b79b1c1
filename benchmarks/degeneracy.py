"""Degeneracy: what plain fits and stable ones end with, on trained kernels and on tensors that are known, and the cost.

python -m benchmarks.degeneracy --part kernels --data DIR --kernels 3    # prints; the page: benchmarks.run
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

import tensorring as tg
from benchmarks import machine
from benchmarks.cases import block_kernels, power_law_kernel
from benchmarks.direct import NO_DATA
from benchmarks.known import known, norm_ratio, timed
from benchmarks.problems import with_noise
from benchmarks.tables import table, write
from tensorring.decompose._arguments import prepare
from tensorring.decompose.iterative._chain.correction import corrected_ring
from tensorring.decompose.iterative._chain.ring_sweep import ring_sweeps
from tensorring.decompose.iterative._cp.correction import Correction
from tensorring.decompose.iterative._cp.space import CPSpace
from tensorring.decompose.iterative._cp.starts import starts

NETWORKS, RATIOS, SWEEPS = ("resnet20", "resnet56"), (2, 4, 6), 500
# Of the goals: the error beside plain's; ‖λ‖/‖x‖ on most kernels and on all, by ratio; the time beside plain's.
ERROR, MOST, SHARE, ALL, TIME, SWEEP_COST = 1.01, 1.5, 0.8, {2: 3.0, 4: 2.5, 6: 2.5}, 3.0, 2.5
SHOWN = 30
# Starts of the stable method: what the time allows.
STARTS = {2: 2, 4: 3, 6: 3}


@dataclass(frozen=True)
class Fitted:
    """One method on one kernel."""

    error: float
    size: float
    seconds: float


@dataclass(frozen=True)
class Pair:
    """A kernel by the plain method and by the stable one."""

    network: str
    name: str
    ratio: int
    rank: int
    plain: Fitted
    stable: Fitted
    faster: Fitted

    @property
    def error(self) -> float:
        """The stable one's error over the plain one's."""
        return self.stable.error / self.plain.error

    def keeps(self, size: float) -> bool:
        """Error and norm within their goals."""
        return self.error <= ERROR and self.stable.size <= size


def rank_at(shape: tuple[int, ...], ratio: float) -> int:
    """The number of terms whose parameters are those of the dense tensor over `ratio`."""
    return max(1, round(np.prod(shape) / ratio / sum(shape)))


def pair(network: str, name: str, kernel: np.ndarray, ratio: int) -> Pair:
    """One kernel, (outputs, inputs, height · width) in double precision, by both, one after the other."""
    x = kernel.reshape(*kernel.shape[:2], -1).astype(float)
    rank = rank_at(x.shape, ratio)
    runs: tuple[Callable[[], tuple[float, float]], ...] = (
        lambda: plain_sweeps(x, rank),
        lambda: measured(x, tg.cp_stable(x, rank=rank, n_starts=STARTS[ratio], rng=0)),
        lambda: measured(x, tg.cp_als(x, rank=rank, stall=0, max_sweeps=SWEEPS)),
    )
    plain, stable, faster = (Fitted(*found, seconds) for found, seconds in map(timed, runs))
    return Pair(network, name, ratio, rank, plain, stable, faster)


def plain_sweeps(x: np.ndarray, rank: int) -> tuple[float, float]:
    """Error and ‖λ‖/‖x‖ of alternating least squares as in the textbooks, from the start of `cp_als`."""
    space = CPSpace(x, rank, float(np.linalg.norm(x)))
    factors: Sequence[np.ndarray] = [np.ascontiguousarray(u.T) for u in starts(x, rank, "hosvd", 1, 0)[0]()]
    for _ in range(SWEEPS):
        fit = space.sweep(factors)
        factors = fit.factors
    return fit.error, fit.size


def measured(x: np.ndarray, found: tg.Decomposition[tg.CPTensor]) -> tuple[float, float]:
    """Error and ‖λ‖/‖x‖."""
    return found.error, norm_ratio(found.tensor, x)


def fitted(data: Path, most: int | None) -> list[Pair]:
    """All kernels, or so many of each network, evenly spaced."""
    jobs = []
    for network in NETWORKS:
        kernels = list(block_kernels(data, network).items())
        kernels = kernels if most is None else kernels[:: -(-len(kernels) // most)]
        jobs += [(network, name, kernel, ratio) for ratio in RATIOS for name, kernel in kernels]
    pair(*jobs[-1])  # loads what the first one would pay for
    return [pair(*job) for job in tqdm(jobs, desc="kernels")]


def kernels(data: Path, most: int | None = None) -> str:
    """The table of trained kernels, and the kernels that miss a goal."""
    pairs = fitted(data, most)
    groups = [[p for p in pairs if (p.network, p.ratio) == (n, r)] for n in NETWORKS for r in RATIOS]
    head = (
        "network", "ratio", "kernels", "error / plain, median", "most", f"above {ERROR}", "‖λ‖/‖x‖ plain, median",
        "most", "stable, median", "most", "≤ 1.5", "≤ 2.5", "≤ 3", "seconds, plain", "stable", "stable / plain",
        "error / cp_als, median", "most", "‖λ‖/‖x‖ cp_als, median", "seconds",
    )  # fmt: skip
    text = table(head, [summary(group) for group in groups])
    text += "\n\n" + table(("goal", "network", "ratio", "seen"), [row for group in groups for row in goals(group)])
    late = sorted((p for p in pairs if not p.keeps(ALL[p.ratio])), key=lambda p: -p.stable.size)
    text += f"\n\nKernels whose error is above {ERROR} × plain's, or ‖λ‖/‖x‖ above the goal for all: {len(late)}."
    if late:
        rows = [
            (p.network, p.name, p.ratio, p.rank, f"{p.error:.4f}", f"{p.plain.size:.2f}", f"{p.stable.size:.2f}")
            for p in late[:SHOWN]
        ]
        text += "\n\n" + table(("network", "kernel", "ratio", "rank", "error / plain", "plain", "stable"), rows)
    return text


def summary(group: Sequence[Pair]) -> tuple[object, ...]:
    """A network at a ratio: errors, norms, seconds."""
    errors = [p.error for p in group]
    plain, stable = [p.plain.size for p in group], [p.stable.size for p in group]
    seconds = [sum(p.plain.seconds for p in group), sum(p.stable.seconds for p in group)]
    shares = (f"{np.mean([size <= bound for size in stable]):.0%}" for bound in (1.5, 2.5, 3.0))
    sizes = (f"{value:.2f}" for sizes in (plain, stable) for value in (median(sizes), max(sizes)))
    return (
        group[0].network, group[0].ratio, len(group), f"{median(errors):.4f}", f"{max(errors):.4f}",
        sum(error > ERROR for error in errors), *sizes, *shares, *(f"{value:.1f}" for value in seconds),
        f"{seconds[1] / seconds[0]:.2f}", *extrapolated(group),
    )  # fmt: skip


def extrapolated(group: Sequence[Pair]) -> tuple[str, ...]:
    """The same beside `cp_als` with its extrapolation."""
    errors = [p.stable.error / p.faster.error for p in group]
    sizes, seconds = [p.faster.size for p in group], sum(p.faster.seconds for p in group)
    return f"{median(errors):.4f}", f"{max(errors):.4f}", f"{median(sizes):.2f}", f"{seconds:.1f}"


def goals(group: Sequence[Pair]) -> Iterator[tuple[object, ...]]:
    """Asked and seen, for a network at a ratio."""
    network, ratio, count = group[0].network, group[0].ratio, len(group)
    bound = ALL[ratio]
    inside = sum(p.keeps(bound) for p in group)
    verdict = "met" if inside == count else "**missed**"
    yield f"error ≤ {ERROR} × plain and ‖λ‖/‖x‖ ≤ {bound} on all", network, ratio, f"{inside} of {count}: {verdict}"
    if ratio > 2:
        inside = sum(p.keeps(MOST) for p in group)
        verdict = "met" if inside >= SHARE * count else "**missed**"
        yield f"the same and ≤ {MOST} on {SHARE:.0%}", network, ratio, f"{inside / count:.0%}: {verdict}"
    time = sum(p.stable.seconds for p in group) / sum(p.plain.seconds for p in group)
    verdict = "met" if time <= TIME else "**missed**"
    yield f"time ≤ {TIME:g} × plain", network, ratio, f"{time:.2f}: {verdict}"


def sweeps(count: int = 50, rounds: int = 9) -> str:
    """A sweep of correction against one of alternating least squares, medians of rounds in turn."""
    x = power_law_kernel(64).reshape(64, 64, 9).astype(float)
    rank = rank_at(x.shape, 4)
    begins = {
        "after plain sweeps": tg.cp_als(x, rank=rank, stall=0, max_sweeps=SWEEPS),
        "after cp_stable": tg.cp_stable(x, rank=rank, n_starts=3, rng=0),
    }
    rows = [_cp_sweeps(x, name, start, count, rounds) for name, start in begins.items()]
    for shape, rank in (((64, 64, 9), 8), ((60, 60, 60), 3)):
        rows.append(_ring_sweeps(shape, rank, rounds))
    head = ("tensor", "sweep of least squares, ms", "sweep of correction, ms", "correction / least squares", "asked")
    return table(head, rows)


def _cp_sweeps(
    x: np.ndarray, name: str, start: tg.Decomposition[tg.CPTensor], count: int, rounds: int
) -> tuple[object, ...]:
    rank, norm = start.tensor.rank, float(np.linalg.norm(x))
    *head, last = start.tensor.factors
    factors = [*head, last * start.tensor.weights]
    space, correction = CPSpace(x, rank, norm), Correction(x, rank, norm, exponent=4 / 3)

    def least_squares() -> int:
        state: Sequence[np.ndarray] = [np.ascontiguousarray(u.T) for u in factors]
        for _ in range(count):
            state = space.sweep(state).factors
        return count

    def corrects() -> int:
        state = correction.start(factors, start.error)
        for _ in range(count):
            state = correction.sweep(state, 1.005 * start.error)
        return count

    title = f"CP, 64×64×9, R {rank}, {name}: ‖λ‖/‖x‖ {norm_ratio(start.tensor, x):.1f}"
    return _sweep_row(title, _in_turn((least_squares, corrects), rounds), f"≤ {SWEEP_COST}")


def _ring_sweeps(shape: tuple[int, ...], rank: int, rounds: int) -> tuple[object, ...]:
    """Of corrections all that each one takes: the sweep, the gauge, the error measured."""
    x = with_noise(tg.random.tr(shape, ranks=rank, rng=0).to_dense(), 1.0, np.random.default_rng(0))
    problem, start = prepare(x, tol=None), tg.tr_als(x, ranks=rank, stall=0, max_sweeps=50)

    def least_squares() -> int:
        return sum(1 for _ in islice(ring_sweeps(problem.x, problem.norm, start.tensor.cores), 10))

    def corrects() -> int:
        return sum(1 for _ in islice(corrected_ring(problem, start.tensor.cores, 1.05 * start.error), 10)) - 1

    name = f"ring, {'×'.join(map(str, shape))}, ranks {rank}"
    return _sweep_row(name, _in_turn((least_squares, corrects), rounds), "–")


def _in_turn(runs: Sequence[Callable[[], int]], rounds: int) -> list[float]:
    """Seconds a sweep, medians over rounds in turn, of functions that tell how many they made; the first is a trial."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + 1):
        for run, seconds in zip(runs, times, strict=True):
            start = time.perf_counter()
            made = run()
            if turn:
                seconds.append((time.perf_counter() - start) / made)
    return [median(seconds) for seconds in times]


def _sweep_row(name: str, seconds: Sequence[float], asked: str) -> tuple[object, ...]:
    plain, corrected = seconds
    return name, f"{1e3 * plain:.3f}", f"{1e3 * corrected:.3f}", f"{corrected / plain:.2f}", asked


TITLES = {
    "kernels": "Kernels of trained networks",
    "sweep": "The cost of a sweep of correction",
    "known": "Tensors that are known",
}
TEXTS = {
    "kernels": "All kernels of the residual blocks as (outputs, inputs, 9), in double precision, at 1/ratio of their "
    f"parameters. Plain: {SWEEPS} sweeps of alternating least squares from singular vectors, nothing else. Stable: "
    "`cp_stable` of three starts (at 1/2: two). Last: `cp_als`, which extrapolates (stall=0, the same sweeps). One "
    "after the other, kernel after kernel; seconds are sums over the kernels.",
    "sweep": "Bound: 1.005 × the error of the start (rings: 1.05 ×). `Correction.sweep` against `CPSpace.sweep`, fifty "
    "from where plain sweeps end and fifty from where `cp_stable` does; for rings a sweep of `corrected_ring`, its "
    "gauge and the error that it measures included, against one of `tr_als`.",
    "known": "Where theory tells what can be reached.",
}


def run(part: str, data: Path | None, most: int | None = None) -> str:
    """One part of the page."""
    if part == "kernels":
        return kernels(data, most) if data else NO_DATA
    return sweeps() if part == "sweep" else known()


def main(data: Path | None) -> None:
    """Measures each part in a process of its own on one thread, and writes docs/benchmarks/degeneracy.md."""
    texts = [
        "# Degeneracy",
        "Written by `make bench ARGS='--only degeneracy --data DIR'`; a part alone: `python -m benchmarks.degeneracy "
        "--part sweep`. ‖λ‖/‖x‖: the norms of the rank-one terms beside that of the tensor; where it is large they "
        "cancel. Everything on one thread, in processes of their own. What it means: "
        "[When CP degenerates](../tutorials/when_cp_degenerates.md).",
        machine.describe(("numpy", "scipy", "tensorring")),
    ]
    settings = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
    for part, title in TITLES.items():
        command = [sys.executable, "-m", "benchmarks.degeneracy", "--part", part]
        command += ["--data", str(data)] if data else []
        done = subprocess.run(command, env=os.environ | settings, check=True, stdout=subprocess.PIPE, text=True)
        texts.append(f"## {title}\n\n{TEXTS[part]}\n\n{done.stdout.strip()}")
    write("degeneracy.md", "\n\n".join(texts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=list(TITLES), required=True, help="printed, on as many threads as are set")
    parser.add_argument("--data", type=Path, help="folder with cifar10_resnet20.npz and cifar10_resnet56.npz")
    parser.add_argument("--kernels", type=int, help="so many of each network, for a quick look")
    options = parser.parse_args()
    print(run(options.part, options.data, options.kernels))
