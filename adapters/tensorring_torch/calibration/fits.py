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

# Of the mean of S's diagonal.
_RIDGE = 1e-5
# Up to so many inputs curves are fitted in the whole metric, of which an iteration takes the square, times the rank; up
# to so many where one decomposition does it (five seconds); and up to so many final fits are, of any form.
_CURVES, _CUTS, _FINAL = 1152, 2304, 8192
# Multiply-adds of an iteration from which on there are fewer of them.
_CHEAP = 1e8

Ranks = tuple[int, ...]
Metric = dict[tuple[int, ...], np.ndarray]


@dataclass(frozen=True)
class Target:
    """A kernel (O, I, *size), and the norm in which it is to be met: ‖E‖² = tr(Γ E S Eᴴ), E as a matrix (O, I·size).

    `inputs` is S, the covariance of the patches that the layer sees, or of their channels alone (I, I), whatever the
    kernel's entry, or of a table the diagonal (I,) that it is; `outputs` is Γ, what an error of its outputs does to
    those of the network. None stands for the identity, of S times `variance`. A `final` fit may take long: it is in
    the whole metric where those of curves, of very many inputs, weigh channels alone.
    """

    kernel: np.ndarray
    inputs: np.ndarray | None = None
    outputs: np.ndarray | None = None
    variance: float = 1.0
    final: bool = False

    @property
    def matrix(self) -> np.ndarray:
        """The kernel as (O, I·size)."""
        return self.kernel.reshape(len(self.kernel), -1)

    def is_whole(self, *, at_once: bool = False) -> bool:
        """Whether S counts as a whole, not on the channels alone: in a fit of iterations, or in one decomposition."""
        if self.inputs is None or self.kernel.ndim == 2:
            return True
        most = _FINAL if self.final else _CUTS if at_once else _CURVES
        return self.by_entries and len(self.inputs) <= most

    @property
    def by_entries(self) -> bool:
        """Whether S tells entries of the kernel apart, and not channels alone."""
        return self.inputs is None or len(self.inputs) == self.matrix.shape[1]

    def metric(self, order: int, *, at_once: bool = False) -> Metric | None:
        """For a tensor of so many modes, the first being the outputs.

        Where S is not whole it is that of the channels alone, its mean over the kernel's entries. A diagonal is left
        to the fit, which scales columns; a layer that sees nothing is fitted as it is.
        """
        found: Metric = {}
        if self.outputs is not None and self.outputs.any():
            found[0,] = self.outputs
        if self.inputs is None or self.inputs.ndim == 1 or not self.inputs.any():
            return found or None
        if self.is_whole(at_once=at_once):
            found[tuple(range(1, order))] = _ridged(self.inputs)
            return found
        channels = self.kernel.shape[1]
        taps = len(self.inputs) // channels
        split = self.inputs.reshape(channels, taps, channels, taps)
        found[1,] = _ridged(np.trace(split, axis1=1, axis2=3) / taps)  # of one entry: S is of the channels already
        return found

    def squared(self, matrix: np.ndarray) -> float:
        """‖E‖² of an error (O, I·size), or of the kernel itself."""
        left = matrix if self.outputs is None else self.outputs @ matrix
        if self.inputs is None:
            right = self.variance * matrix
        elif self.inputs.ndim == 1:
            right = matrix * self.inputs
        else:  # as columns of channels, where S is of those alone
            columns = matrix.reshape(len(matrix), len(self.inputs), -1)
            right = np.tensordot(columns, self.inputs, axes=(1, 0)).swapaxes(1, 2).reshape(matrix.shape)
        return max(0.0, float(np.vdot(left, right)))

    def affordable(self, sweeps: int, rank: int) -> int:
        """So many sweeps, or of large kernels fewer, but ten."""
        whole = self.inputs is not None and self.is_whole()
        flops = rank * (2 * self.matrix.shape[1] ** 2 if whole else 6 * self.kernel.size)
        return min(sweeps, max(10, int(sweeps * _CHEAP / flops)))

    def error(self, tensor: tg.LowRankTensor) -> float:
        """‖E‖² of a low-rank tensor in place of the kernel."""
        return self.squared(self.matrix - np.asarray(tensor.to_dense(), np.float64).reshape(self.matrix.shape))


def _ridged(inputs: np.ndarray) -> np.ndarray:
    """Where inputs never went the kernel is kept as far as nothing is lost by it."""
    return inputs + _RIDGE * np.trace(inputs) / len(inputs) * np.eye(len(inputs))


@dataclass(frozen=True)
class Form:
    """A format: its ranks for a share of the kernel's entries, a tensor of zeros with them, and the fit.

    Two with the same `key` are the same. Where it is `nested` the first terms of a fit are the fit at fewer.
    """

    name: str
    key: Hashable
    ranks: Callable[[tuple[int, ...], float], Ranks]
    blank: Callable[[tuple[int, ...], Ranks], tg.LowRankTensor]
    fit: Callable[[Target, Ranks, Any, int], tg.LowRankTensor]
    nested: Callable[[Target], bool] = lambda target: False


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
    return _ended(
        tg.cp_stable(
            x, rank=ranks[0], metric=target.metric(3), init=start, max_sweeps=target.affordable(sweeps, ranks[0]), rng=0
        )
    )


def _ended(found: tg.Decomposition[Any]) -> tg.LowRankTensor:
    if found.stop is tg.Stop.interrupted:
        raise KeyboardInterrupt  # the best so far of one layer is no network
    return found.tensor


def _cp_ranks(shape: tuple[int, ...], share: float) -> Ranks:
    outputs, inputs, *size = shape
    return (max(1, int(share * math.prod(shape) / (outputs + inputs + math.prod(size)))),)


def _blank_cp(shape: tuple[int, ...], ranks: Ranks) -> tg.LowRankTensor:
    merged = (*shape[:2], math.prod(shape[2:]))
    return tg.CPTensor(np.ones(ranks[0]), tuple(np.zeros((n, ranks[0])) for n in merged))


def _fit_tucker(target: Target, ranks: Ranks, init: Any, sweeps: int) -> tg.LowRankTensor:
    x, metric = target.kernel, target.metric(target.kernel.ndim)
    return _ended(
        tg.tucker_hooi(x, ranks=ranks, modes=(0, 1), metric=metric, max_sweeps=target.affordable(sweeps, ranks[1]))
    )


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
        x, diagonal = target.kernel, target.inputs is not None and target.inputs.ndim == 1
        # At the outputs the best cut is one SVD, however many inputs there are.
        metric = target.metric(x.ndim, at_once=modes == (cut.OUTPUT,))
        scale = np.sqrt(target.inputs) if diagonal else np.ones(())
        found = tg.cut_svd(x * scale, modes=modes, ranks=ranks[0], metric=metric).tensor
        return tg.CutTensor(found.left, found.right / scale, found.modes) if diagonal else found

    def ranks(shape: tuple[int, ...], share: float) -> Ranks:
        rows = math.prod(shape[mode] for mode in modes)
        columns = math.prod(shape) // rows
        return (max(1, min(rows, columns, int(share * math.prod(shape) / (rows + columns)))),)

    def blank(shape: tuple[int, ...], ranks: Ranks) -> tg.LowRankTensor:
        left = [n for mode, n in enumerate(shape) if mode in modes]
        right = [n for mode, n in enumerate(shape) if mode not in modes]
        return tg.CutTensor(np.zeros((*left, ranks[0])), np.zeros((ranks[0], *right)), modes)

    def nested(target: Target) -> bool:
        """Whether one side alone has a metric: the fit is an SVD, each of its terms beside the others."""
        metric = target.metric(target.kernel.ndim, at_once=modes == (cut.OUTPUT,)) or {}
        return all(set(group) <= set(modes) or not set(group) & set(modes) for group in metric)

    return Form("cut", ("cut", modes), ranks, blank, fit, nested)


_FORMS: Mapping[str, Form] = {
    "cp": Form("cp", "cp", _cp_ranks, _blank_cp, _fit_cp),
    "tucker": Form("tucker", "tucker", _tucker_ranks, _blank_tucker, _fit_tucker),
}
FORMATS = ("cp", "cut", "tucker")


def fewer_terms(tensor: tg.LowRankTensor | None, ranks: Ranks) -> tg.LowRankTensor | None:
    """The largest terms of a CP, where a fit of a lower rank begins; the first ones of a cut; else None."""
    if tensor is None or tensor.ranks[0] < ranks[0]:
        return None
    if isinstance(tensor, tg.CutTensor):
        return tg.CutTensor(tensor.left[..., : ranks[0]], tensor.right[: ranks[0]], tensor.modes)
    if not isinstance(tensor, tg.CPTensor):
        return None
    sizes = np.prod([np.linalg.norm(factor, axis=0) for factor in tensor.factors], axis=0) * tensor.weights
    kept = np.sort(np.argsort(-sizes, kind="stable")[: ranks[0]])
    return tg.CPTensor(tensor.weights[kept], tuple(factor[:, kept] for factor in tensor.factors))
