"""Chains of small kernels that may stand in for a layer's weight: fitted by the core, merged by cost, built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tensorring as tg
from tensorring_torch.forms import btd, cp, cut, tr, tucker
from tensorring_torch.geometry import Call, Calls, Geometry, Size
from tensorring_torch.layout import has_channels_last, lay_out
from tensorring_torch.modules import Kernel, sequence, stage_weights, to_torch
from tensorring_torch.plan import Costs, Link, Plan

KERNELS: dict[type[tg.LowRankTensor], Callable[[Any, Size], list[Kernel]]] = {
    tg.TRTensor: tr.kernels,
    tg.TTTensor: tr.kernels,
    tg.TuckerTensor: tucker.kernels,
    tg.CutTensor: cut.kernels,
    tg.CPTensor: cp.kernels,
    cp.TuckerCPTensor: cp.kernels_around_core,
    tg.BlockTermTensor: btd.kernels,
}
FITS: dict[str, Callable[..., list[tg.Decomposition[Any]]]] = {
    "cut": cut.fit,
    "tucker": tucker.fit,
    "tt": tr.fit_train,
    "tr": tr.fit_ring,
    "cp": cp.fit,
    "cp4": cp.fit_split,
    "tucker-cp": cp.fit_core,
    "btd": btd.fit,
}
# What `compress` tries unless told: the direct ones. The others iterate, and their depthwise kernels run slowly.
DIRECT = ("cut", "tucker", "tt", "tr")


@dataclass(frozen=True)
class Use:
    """A layer's geometry, its calls in one forward pass, and what is to be small: "macs", "parameters" or "time"."""

    geometry: Geometry
    calls: Calls
    minimize: str = "macs"

    @classmethod
    def unknown(cls, geometry: Geometry, minimize: str) -> Use:
        """One large image: what a layer is planned for when its use is not known."""
        return cls(geometry, (Call(1, geometry.generous_size),), minimize)

    @property
    def dense_plan(self) -> Plan:
        """The layer as it is."""
        outputs, inputs, *size = self.geometry.weight_shape
        return Plan(self.geometry, (Link(outputs, inputs, tuple(size)),))

    def cost(self, plan: Plan) -> Costs:
        """What plans are compared by."""
        return plan.cost(self.calls, self.minimize)

    def one_group(self) -> Use:
        """The same use of each group by itself."""
        return replace(self, geometry=self.geometry.one_group())


@dataclass(frozen=True)
class Chain:
    """Low-rank tensors, one for all groups of a layer or one for each, and the cheapest plan to build them by."""

    tensors: tuple[tg.LowRankTensor, ...]
    plan: Plan
    starts: tuple[int, ...]
    error: float = math.nan

    @classmethod
    def of(cls, tensors: Sequence[tg.LowRankTensor], use: Use, *, form: str = "", error: float = math.nan) -> Chain:
        """The cheapest of all ways to merge neighbouring kernels."""
        tensors = _padded(tensors)
        links = tuple(kernel.link for kernel in _kernels(tensors[0], use.geometry.kernel))
        form = form or tensors[0].format
        if isinstance(tensors[0], tg.CutTensor):
            form += str(tensors[0].modes)
        plan = Plan(use.geometry, links, len(tensors), form, tensors[0].ranks)
        _, starts = plan.cheapest(use.calls, use.minimize)
        return cls(tuple(tensors), plan.merged(starts), starts, error)

    @property
    def degeneracy(self) -> float | None:
        """How far terms cancel, ‖λ‖/‖x̂‖ in the worst of the tensors; None for formats in which nothing can."""
        found = [getattr(tensor, "cp", tensor) for tensor in self.tensors]
        if not isinstance(found[0], (tg.CPTensor, tg.TRTensor, tg.TTTensor)):
            return None
        return max(float(tg.degeneracy(tensor).norm_ratio) for tensor in found)

    def layers(self, like: nn.Module) -> nn.Sequential:
        """The layers, with dtype, device, bias, training mode and requires_grad of `like`."""
        stored: Any = like.weight
        # Merged in the longer of the two dtypes, and rounded once.
        dtype = torch.promote_types(to_torch(self.tensors[0].arrays[0]).dtype, stored.dtype)
        tensors = [tensor.astype(str(dtype).removeprefix("torch.")) for tensor in self.tensors]
        weights = stage_weights([_kernels(tensor, self.plan.geometry.kernel) for tensor in tensors], self.starts)
        return assembled(self.plan, weights, like)


@torch.inference_mode(False)  # parameters made in inference mode could never be trained
@torch.no_grad()
def assembled(plan: Plan, weights: Sequence[Tensor], like: nn.Module) -> nn.Sequential:
    """The layers of a plan, with dtype, device, bias, training mode and requires_grad of `like`."""
    stored: Any = like.weight
    plain = [w.to(stored).clone(memory_format=torch.contiguous_format) for w in weights]
    bias: Any = getattr(like, "bias", None)
    bias = None if bias is None else nn.Parameter(bias.clone(), requires_grad=bias.requires_grad)
    layers = sequence(plan, plain, bias, trained=stored.requires_grad).train(like.training)
    # Where an index rides along in the batch, every fold would be a copy.
    if has_channels_last(like) and all(stage.riders == 1 for stage in plan.stages):
        lay_out(layers)
    return layers


def fitted(
    weight: np.ndarray, use: Use, *, format: str, tol: float | None, ranks: tr.Caps = None, blocks: int | None = None
) -> Iterator[Chain]:
    """The chains of one format; with groups and no caps, for the groups together and for each by itself.

    With `blocks`, one way alone: 1 for the groups together, else each. Of a matrix every format is the cut: none is
    smaller at the same error.
    """
    format, groups = format if use.geometry.kernel else "cut", use.geometry.groups
    ways = [1] if groups == 1 or ranks is not None else [1, groups]
    for count in ways if blocks is None else [blocks]:
        alone = use if count == 1 else use.one_group()
        parts = np.split(weight, count)
        fits = [
            FITS[format](part, tol=tol, ranks=ranks, cost=tr.cost(alone.geometry, alone.calls, alone.minimize))
            for part in parts
        ]
        for found in zip(*fits, strict=True):
            error = _joint_error([each.error for each in found], parts)
            yield Chain.of([each.tensor for each in found], use, form=format, error=error)


def _joint_error(errors: Sequence[float], parts: Sequence[np.ndarray]) -> float:
    """‖x − x̂‖/‖x‖ of blocks stacked, from that of each."""
    norms = [float(np.linalg.norm(part.astype(np.result_type(part, np.float64)))) for part in parts]
    return math.hypot(*(e * n for e, n in zip(errors, norms, strict=True))) / (math.hypot(*norms) or 1.0)


def _kernels(tensor: tg.LowRankTensor, size: Size) -> list[Kernel]:
    return next(kernels for kind, kernels in KERNELS.items() if isinstance(tensor, kind))(tensor, size)


def _padded(tensors: Sequence[tg.LowRankTensor]) -> list[tg.LowRankTensor]:
    """Tensors of one format brought to common ranks: zeros in every array change nothing that it stands for."""
    if len(tensors) == 1:
        return list(tensors)
    columns = zip(*(tensor.arrays for tensor in tensors), strict=True)
    shapes = [np.max([array.shape for array in column], axis=0) for column in columns]
    return [
        tensor.with_arrays([_grown(a, s) for a, s in zip(tensor.arrays, shapes, strict=True)]) for tensor in tensors
    ]


def _grown(array: Any, shape: np.ndarray) -> np.ndarray:
    return np.pad(to_torch(array).cpu().numpy(), [(0, new - old) for old, new in zip(array.shape, shape, strict=True)])
