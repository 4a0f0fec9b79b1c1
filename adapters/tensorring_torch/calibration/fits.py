"""Low-rank tensors of a layer's kernel, fitted by the core where the data puts weight on errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import tensorring as tg
from tensorring_torch.forms import cut

# How much of the identity is added to Γ of mean diagonal 1: it was found for small errors, and from few images.
_IDENTITY = 0.5

Ranks = tuple[int, ...]
Metric = dict[tuple[int, ...], np.ndarray]


@dataclass(frozen=True)
class Target:
    """A kernel (O, I, *size), and the norm in which it is to be met: ‖E‖² = tr(Γ E S Eᴴ), E as a matrix (O, I·size).

    `inputs` is S, the covariance of the patches that the layer sees; `outputs` is Γ, what an error of its outputs does
    to those of the network. None stands for the identity.
    """

    kernel: np.ndarray
    inputs: np.ndarray | None = None
    outputs: np.ndarray | None = None

    @property
    def matrix(self) -> np.ndarray:
        """The kernel as (O, I·size)."""
        return self.kernel.reshape(len(self.kernel), -1)

    def metric(self, order: int) -> Metric | None:
        """For a tensor of so many modes, the first being the outputs."""
        found = {} if self.outputs is None else {(0,): self.outputs}
        if self.inputs is not None:
            found[tuple(range(1, order))] = self.inputs
        return found or None

    def squared(self, matrix: np.ndarray) -> float:
        """‖E‖² of an error (O, I·size), or of the kernel itself."""
        left = matrix if self.outputs is None else self.outputs @ matrix
        right = matrix if self.inputs is None else matrix @ self.inputs
        return max(0.0, float(np.vdot(left, right)))

    def error(self, tensor: tg.LowRankTensor) -> float:
        """‖E‖² of a low-rank tensor in place of the kernel."""
        return self.squared(self.matrix - np.asarray(tensor.to_dense(), np.float64).reshape(self.matrix.shape))


@dataclass(frozen=True)
class Form:
    """A format: its ranks for a share of the kernel's entries, a tensor of zeros with them, and the fit.

    Two with the same `key` are the same.
    """

    name: str
    key: Hashable
    ranks: Callable[[tuple[int, ...], float], Ranks]
    blank: Callable[[tuple[int, ...], Ranks], tg.LowRankTensor]
    fit: Callable[[Target, Ranks, Any, int], tg.LowRankTensor]


def softened(outputs: np.ndarray) -> np.ndarray:
    """Γ towards the identity."""
    size = len(outputs)
    return outputs / (np.trace(outputs) / size or 1.0) + _IDENTITY * np.eye(size)


def forms(name: str, shape: Sequence[int]) -> list[Form]:
    """Those that a format has for kernels of a shape: the cut one for each way to cut."""
    if name == "cut" or len(shape) == 2:  # nothing is smaller than the cut of a matrix
        return [_cut(modes) for modes in cut.modes(len(shape))]
    if name not in _FORMS:
        raise ValueError(f"got the format {name!r} with a budget; it is one of {', '.join(map(repr, FORMATS))}")
    return [_FORMS[name]]


def _fit_cp(target: Target, ranks: Ranks, init: Any, sweeps: int) -> tg.LowRankTensor:
    x = target.kernel.reshape(*target.kernel.shape[:2], -1)
    start = init if isinstance(init, tg.CPTensor) else "hosvd"
    return tg.cp_stable(x, rank=ranks[0], metric=target.metric(3), init=start, max_sweeps=sweeps, rng=0).tensor


def _cp_ranks(shape: tuple[int, ...], share: float) -> Ranks:
    outputs, inputs, *size = shape
    return (max(1, int(share * math.prod(shape) / (outputs + inputs + math.prod(size)))),)


def _blank_cp(shape: tuple[int, ...], ranks: Ranks) -> tg.LowRankTensor:
    merged = (*shape[:2], math.prod(shape[2:]))
    return tg.CPTensor(np.ones(ranks[0]), tuple(np.zeros((n, ranks[0])) for n in merged))


def _fit_tucker(target: Target, ranks: Ranks, init: Any, sweeps: int) -> tg.LowRankTensor:
    x, metric = target.kernel, target.metric(target.kernel.ndim)
    return tg.tucker_hooi(x, ranks=ranks, modes=(0, 1), metric=metric, max_sweeps=sweeps).tensor


def _tucker_ranks(shape: tuple[int, ...], share: float) -> Ranks:
    """The same part p of both kinds of channels: p²·O·I·size + p·(O² + I²) entries."""
    outputs, inputs, *_ = shape
    whole, ends = math.prod(shape), outputs**2 + inputs**2
    part = (math.sqrt(ends**2 + 4 * share * whole**2) - ends) / (2 * whole)
    return (max(1, round(part * outputs)), max(1, round(part * inputs)))


def _blank_tucker(shape: tuple[int, ...], ranks: Ranks) -> tg.LowRankTensor:
    ends = [np.zeros((n, r)) for n, r in zip(shape[:2], ranks, strict=True)]
    return tg.TuckerTensor(np.zeros((*ranks, *shape[2:])), (*ends, *(np.eye(n) for n in shape[2:])))


def _cut(modes: tuple[int, ...]) -> Form:
    def fit(target: Target, ranks: Ranks, init: Any, sweeps: int) -> tg.LowRankTensor:
        x = target.kernel
        return tg.cut_svd(x, modes=modes, ranks=ranks[0], metric=target.metric(x.ndim)).tensor

    def ranks(shape: tuple[int, ...], share: float) -> Ranks:
        rows = math.prod(shape[mode] for mode in modes)
        columns = math.prod(shape) // rows
        return (max(1, min(rows, columns, int(share * math.prod(shape) / (rows + columns)))),)

    def blank(shape: tuple[int, ...], ranks: Ranks) -> tg.LowRankTensor:
        left = [n for mode, n in enumerate(shape) if mode in modes]
        right = [n for mode, n in enumerate(shape) if mode not in modes]
        return tg.CutTensor(np.zeros((*left, ranks[0])), np.zeros((ranks[0], *right)), modes)

    return Form("cut", ("cut", modes), ranks, blank, fit)


_FORMS: Mapping[str, Form] = {
    "cp": Form("cp", "cp", _cp_ranks, _blank_cp, _fit_cp),
    "tucker": Form("tucker", "tucker", _tucker_ranks, _blank_tucker, _fit_tucker),
}
FORMATS = ("cp", "cut", "tucker")


def fewer_terms(tensor: tg.LowRankTensor | None, ranks: Ranks) -> tg.LowRankTensor | None:
    """The largest terms of a CP: where a fit of a lower rank begins."""
    if not isinstance(tensor, tg.CPTensor) or tensor.rank < ranks[0]:
        return None
    sizes = np.prod([np.linalg.norm(factor, axis=0) for factor in tensor.factors], axis=0) * tensor.weights
    kept = np.sort(np.argsort(-sizes, kind="stable")[: ranks[0]])
    return tg.CPTensor(tensor.weights[kept], tuple(factor[:, kept] for factor in tensor.factors))
