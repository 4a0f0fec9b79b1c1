"""Tensors of which theory tells what a fit can reach: W, 2 × 2 × 2, matrix products, collinear columns, a ring."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
from tqdm import tqdm

import tensorring as tg
from benchmarks.problems import collinear, cp_dense
from benchmarks.tables import table
from tensorring.decompose.iterative._cp.space import CPSpace

# Errors e of the best rank-2 fits of W, and bounds on ‖λ‖/‖W‖.
W_ERRORS, W_NORMS = (0.03, 0.01, 0.003), (3.2, 5.5, 10.0)
CUBES, CHECKPOINTS = 20, (1_000, 5_000, 20_000)
# ⟨m, n, p⟩, the rank, and what is known of it.
PRODUCTS = (
    ((2, 2, 2), 7, "rank 7"),
    ((2, 2, 3), 11, "rank 11"),
    ((3, 3, 2), 15, "rank 15"),
    ((3, 3, 3), 23, "rank at most 23"),
    ((2, 2, 3), 10, "border rank 10"),
)
SEEDS, EXACT = 12, 1e-10
COLLINEAR = 6
RING_SWEEPS = (100, 500, 2_000, 5_000)


def norm_ratio(t: tg.CPTensor, x: np.ndarray) -> float:
    """‖λ‖/‖x‖, λ being the norms of the terms."""
    norms = math.prod(np.linalg.norm(factor, axis=0) for factor in t.factors)
    return float(np.linalg.norm(t.weights * norms) / np.linalg.norm(x))


def w_tensor() -> np.ndarray:
    """W = a∘a∘b + a∘b∘a + b∘a∘a: rank 3, border rank 2."""
    x = np.zeros((2, 2, 2))
    x[0, 0, 1] = x[0, 1, 0] = x[1, 0, 0] = 1
    return x


def w_law(error: float) -> float:
    """Σ λ² of α·((a + t·b)^⊗3 − (a − t·b)^⊗3), 2·α·t = 1, whose relative error is e: (1 + √3·e)³/(2√3·e)."""
    return (1 + math.sqrt(3) * error) ** 3 / (2 * math.sqrt(3) * error)


def product_tensor(m: int, n: int, p: int) -> np.ndarray:
    """⟨m, n, p⟩, the tensor of the product of an m × n with an n × p matrix: (mn, np, pm), ones and zeros."""
    x = np.zeros((m * n, n * p, p * m))
    for i, j, k in np.ndindex(m, n, p):
        x[i * n + j, j * p + k, k * m + i] = 1
    return x


def without_best_fit(count: int) -> Iterator[np.ndarray]:
    """Gaussian 2 × 2 × 2 tensors of negative hyperdeterminant: none of them has a best approximation of rank 2."""
    rng = np.random.default_rng(0)
    while count:
        x = rng.standard_normal((2, 2, 2))
        a, b = x[:, :, 0], x[:, :, 1]
        first, second = np.linalg.det(a), np.linalg.det(b)
        if (np.linalg.det(a + b) - first - second) ** 2 < 4 * first * second:
            count -= 1
            yield x


def growth(x: np.ndarray, rank: int, checkpoints: tuple[int, ...], seed: int = 0) -> list[float]:
    """‖λ‖/‖x‖ of plain alternating least squares, without any extrapolation, after so many sweeps."""
    space = CPSpace(x, rank, float(np.linalg.norm(x)))
    rng, found = np.random.default_rng(seed), []
    factors = tuple(rng.standard_normal((rank, n)) for n in x.shape)
    for sweep in range(1, max(checkpoints) + 1):
        fit = space.sweep(factors)
        factors = fit.factors
        if sweep in checkpoints:
            found.append(fit.size)
    return found


def timed(fn: Callable[[], tg.Decomposition]) -> tuple[tg.Decomposition, float]:
    """A result, and the seconds that it took."""
    start = time.perf_counter()
    return fn(), time.perf_counter() - start


def w_rows() -> Iterator[tuple[object, ...]]:
    """W at rank 2, by an error and by a bound on the norm."""
    x = w_tensor()
    for error in W_ERRORS:
        rough = tg.cp_als(x, rank=2, init="random", rng=0, tol=error, stall=0, max_sweeps=20_000)
        yield _w_row(f"stabilize, tol {error}", x, tg.stabilize(x, rough.tensor, tol=error))
    for bound in W_NORMS:
        yield _w_row(f"cp_stable, max_norm {bound}", x, tg.cp_stable(x, rank=2, max_norm=bound))


def _w_row(name: str, x: np.ndarray, found: tg.Decomposition) -> tuple[object, ...]:
    ratio = norm_ratio(found.tensor, x)
    squares = (ratio * float(np.linalg.norm(x))) ** 2
    return name, f"{found.error:.3g}", f"{ratio:.2f}", f"{squares / w_law(found.error):.4f}", found.stop.value


def growth_rows() -> list[tuple[object, ...]]:
    """2 × 2 × 2 tensors without a best fit, by plain sweeps and by the stable method."""
    cubes = list(without_best_fit(CUBES))
    plain = np.array([growth(x, 2, CHECKPOINTS) for x in tqdm(cubes, desc="2 × 2 × 2")])
    rows: list[tuple[object, ...]] = [
        (f"plain sweeps, {sweeps:,}", *_spread(sizes), "–") for sweeps, sizes in zip(CHECKPOINTS, plain.T, strict=True)
    ]
    rows.append((f"the last over that at {CHECKPOINTS[1]:,} sweeps", *_spread(plain[:, 2] / plain[:, 1]), "–"))
    found = [tg.cp_stable(x, rank=2) for x in cubes]
    stops = ", ".join(f"{count} × {stop}" for stop, count in Counter(f.stop.value for f in found).items())
    rows.append(("cp_stable", *_spread([norm_ratio(f.tensor, x) for f, x in zip(found, cubes, strict=True)]), stops))
    return rows


def _spread(values: list[float] | np.ndarray) -> tuple[str, str, str]:
    return f"{min(values):.2f}", f"{median(values):.2f}", f"{max(values):.2f}"


def product_rows() -> Iterator[tuple[object, ...]]:
    """Matrix products from random starts, in turn by damped steps alone and by the stable method."""
    for shape, rank, known in PRODUCTS:
        x = product_tensor(*shape)
        runs: dict[str, list[tuple[tg.Decomposition, float]]] = {"cp_lm": [], "cp_stable": []}
        for seed in tqdm(range(SEEDS), desc=f"⟨{shape[0]},{shape[1]},{shape[2]}⟩, {rank}"):
            options = {"rank": rank, "init": "random", "rng": seed}
            runs["cp_lm"].append(timed(lambda: tg.cp_lm(x, **options)))  # noqa: B023
            runs["cp_stable"].append(timed(lambda: tg.cp_stable(x, **options)))  # noqa: B023
        for name, done in runs.items():
            exact = sum(found.error < EXACT for found, _ in done)
            border = sum(found.stop is tg.Stop.border_rank for found, _ in done)
            times = [seconds for _, seconds in done]
            title = f"⟨{shape[0]},{shape[1]},{shape[2]}⟩ at {rank} ({known})"
            counts = f"{exact} of {SEEDS}", f"{border} of {SEEDS}"
            yield title, name, *counts, f"{median(times):.2f}", f"{max(times):.2f}"


def collinear_rows() -> Iterator[tuple[object, ...]]:
    """4 × 4 × 4 of rank 5, four columns at cosine 0.99 in every mode."""
    for seed in range(COLLINEAR):
        x = cp_dense(collinear((4, 4, 4), 5, 0.99, np.random.default_rng(seed), 4))
        found, seconds = timed(lambda: tg.cp_stable(x, rank=5))  # noqa: B023
        plain, longer = timed(lambda: tg.cp_als(x, rank=5, stall=0, max_sweeps=5_000))  # noqa: B023
        size = f"{norm_ratio(found.tensor, x):.2f}"
        yield seed, f"{found.error:.1e}", size, f"{seconds:.2f}", f"{plain.error:.1e}", f"{longer:.2f}"


def ring_rows() -> Iterator[tuple[object, ...]]:
    """A Gaussian 4 × 4 × 4 as a ring of ranks 2: plain sweeps follow cores that cancel without end."""
    x = np.random.default_rng(2).standard_normal((4, 4, 4))
    for sweeps in RING_SWEEPS:
        options = {"ranks": 2, "init": "random", "rng": 1, "max_sweeps": sweeps}
        plain, stable = tg.tr_als(x, stall=0, **options), tg.tr_stable(x, **options)
        before, after = (f"{tg.degeneracy(tg.balance(found.tensor)).norm_ratio:.1f}" for found in (plain, stable))
        yield f"{sweeps:,}", f"{plain.error:.5f}", before, f"{stable.error:.5f}", after, stable.stop.value


def known() -> str:
    """All tables."""
    amount = "of ‖λ‖/‖x‖: least", "median", "most"
    parts = (
        (
            "W = aab + aba + baa at rank 2",
            "No best fit exists. α·((a + t·b)^⊗3 − (a − t·b)^⊗3) with 2·α·t = 1 makes the relative error e = t²/√3 at "
            "Σλ² = (1 + √3·e)³/(2√3·e), which for small e is the least there is (‖W‖² = 3): "
            "error times squared norm is constant. The last column but one is what was found over that.",
            table(("method", "error", "‖λ‖/‖x‖", "Σλ² over the law", "stop"), list(w_rows())),
        ),
        (
            f"{CUBES} Gaussian 2 × 2 × 2 tensors without a best fit of rank 2",
            "Negative hyperdeterminant. Plain sweeps: alternating least squares without extrapolation, from random "
            "starts.",
            table(("method", *amount, "stop"), growth_rows()),
        ),
        (
            "Matrix products",
            f"Random starts, seeds 0 to {SEEDS - 1}, in turn; exact: an error below {EXACT:g}; border rank: no best "
            "fit is what the method reports.",
            table(
                ("tensor", "method", "exact", "border rank", "seconds, median", "seconds, most"), list(product_rows())
            ),
        ),
        (
            "Collinear columns",
            "4 × 4 × 4 of rank 5, four columns at cosine 0.99 to each other in every mode; plain: `cp_als` with "
            "stall=0, 5,000 sweeps, extrapolation on.",
            table(
                ("seed", "error, stable", "‖λ‖/‖x‖", "seconds", "error, plain", "seconds, plain"),
                list(collinear_rows()),
            ),
        ),
        (
            "A ring that plain sweeps blow up",
            'x = np.random.default_rng(2).standard_normal((4, 4, 4)), ranks=2, init="random", rng=1; the norm ratio '
            "is that of `tg.degeneracy`, in the balanced gauge; plain: `tr_als` with stall=0.",
            table(
                ("sweeps", "error, plain", "norm ratio, plain", "error, stable", "norm ratio, stable", "stop"),
                list(ring_rows()),
            ),
        ),
    )
    return "\n\n".join(f"### {title}\n\n{text}\n\n{rows}" for title, text, rows in parts)
