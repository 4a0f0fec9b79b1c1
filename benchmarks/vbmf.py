"""The rank of a matrix in noise by empirical variational Bayes, in closed form; the noise's variance is found too.

S. Nakajima, M. Sugiyama, S. D. Babacan & R. Tomioka 2013, "Global analytic solution of fully-observed variational
Bayesian matrix factorization", Journal of Machine Learning Research 14, 1-37.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq, minimize_scalar


def vbmf_rank(matrix: np.ndarray) -> int:
    """The singular values above the threshold that the evidence sets, at the noise which explains the matrix best."""
    rows, columns = sorted(matrix.shape)
    squares = np.linalg.svd(matrix / (np.abs(matrix).max() or 1.0), compute_uv=False).astype(float) ** 2
    if not squares.any():
        return 0
    squares = np.maximum(squares, np.finfo(float).eps * squares[0])
    alpha = rows / columns
    threshold = _threshold(alpha)
    most = max(1, min(math.ceil(rows / (1 + alpha)) - 1, rows - 1))
    high = float(squares.sum()) / (rows * columns)
    tail = squares[most:].mean() / columns if most < rows else 0.0
    low = min(high, max(float(squares[min(most, rows - 1)]) / (columns * threshold), tail))

    def free_energy(log_variance: float) -> float:
        x = squares / (columns * math.exp(log_variance))
        kept, rest = x[x > threshold], x[x <= threshold]
        tau = _tau(kept, alpha)
        gain = kept - tau + np.log((tau + 1) / kept) + alpha * np.log(tau / alpha + 1)
        return float((rest - np.log(rest)).sum() + gain.sum())

    # The energy has kinks where a value passes the threshold: a grid finds the valley, a search its bottom.
    grid = np.linspace(math.log(low), math.log(high), 50)
    at = int(np.argmin([free_energy(point) for point in grid]))
    ends = (float(grid[max(at - 1, 0)]), float(grid[min(at + 1, 49)]))
    best = minimize_scalar(free_energy, bounds=ends, method="bounded").x if ends[0] < ends[1] else ends[0]
    return int((squares > columns * math.exp(best) * threshold).sum())


def _threshold(alpha: float) -> float:
    """The least squared singular value, over variance times columns, at which a component pays."""

    def phi(z: float) -> float:
        return math.log1p(z) / z - 0.5

    tau = brentq(lambda tau: phi(tau) + phi(tau / alpha), 1e-6, 10.0)
    return (1 + tau) * (1 + alpha / tau)


def _tau(x: np.ndarray, alpha: float) -> np.ndarray:
    below = x - (1 + alpha)
    return (below + np.sqrt(np.maximum(below**2 - 4 * alpha, 0.0))) / 2
