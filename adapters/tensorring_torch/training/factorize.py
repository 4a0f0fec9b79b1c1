"""Factored layers to train from scratch: ranks by counting alone, factors drawn so that weights vary as they should."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

import tensorring as tg
from tensorring_torch.budget import Budget
from tensorring_torch.calibration.fits import forms
from tensorring_torch.chain import Chain, Use
from tensorring_torch.checks import check_formats, check_model
from tensorring_torch.geometry import Geometry
from tensorring_torch.kinds import canonical_weight
from tensorring_torch.layer import convolutions_of, plan_of
from tensorring_torch.modules import dense_weight
from tensorring_torch.replace import duplicate, put
from tensorring_torch.report import Compressed
from tensorring_torch.select import Selection, candidates
from tensorring_torch.trace import Shapes, calls_of, input_shapes, multiply_adds, unbatched
from tensorring_torch.training.comparison import compared

FORMATS = ("cp", "cut", "tr", "tt", "tucker")
_HALVINGS = 20  # of the interval in which the share lies


def factorize_like(
    model: nn.Module,
    example_input: Any,
    *,
    budget: Budget,
    format: str = "tr",
    seed: int = 0,
    include: Selection = None,
    exclude: Selection = None,
) -> Compressed:
    """The network with factored layers to train from scratch: E|W|² = 2/fan_in for the weight W that factors make.

    All layers get the same share of the parameters that they have dense, the largest at which the network is within the
    budget; ranks follow from it by counting. Nothing of the numbers in `model` is kept.

    Parameters
    ----------
    model
        Any nn.Module, trained or not; it is not changed.
    example_input
        What the model takes, as in `compress`.
    budget
        A `Budget` of parameters, of multiply-adds, or of both.
    format
        "tr" rings of nearly equal bonds, as in TRN; "tt" trains over (I, h, w, O) of equal bonds; "cp"; "cut", of all
        cuts the one with the fewest multiply-adds; "tucker", Tucker-2 with the same part of both kinds of channels. A
        matrix is always cut.
    seed
        Of all that is drawn: on one machine the same seed gives the same network.
    include, exclude
        Which layers, as in `compress`.

    Returns
    -------
    Compressed
        `.model`, a new model in the training modes of the one given; `.report`, whose errors are against the weights of
        `model` and mean little. Layers stay dense where no rank is smaller and where `compress` could not replace them,
        tables (nn.Embedding) and complex weights too. All modules with a `reset_parameters` are begun anew; parameters
        of others stay as they are, and a note names them.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, the format is unknown, or no layer can be factored.
    tensorring.BudgetError
        A ValueError: if ranks of one are too many.

    Notes
    -----
    Of a chain all kernels have entries of one variance, normal and independent: that is the balance at which noise in
    them changes W least (the sensitivity is the same for each). An entry of W is a sum over all paths through the
    bonds, which are uncorrelated, so that variance is (2/(fan_in·paths))^(1/kernels). fan_in is I/groups·Π kernel,
    also of transposed convolutions. Entries of W are not normal: the fewer paths, the heavier the tails; and at a rank
    of one they are far from independent, and train badly: layers of few channels are better excluded.

    Costs no fit, a forward pass of a copy, and for each layer memory for its dense weight. The global random state of
    torch is as it was before.

    References
    ----------
    W. Wang et al. 2018, "Wide compression: tensor ring nets", arXiv 1802.09052. The variance of dense layers: K. He et
    al. 2015, "Delving deep into rectifiers", arXiv 1502.01852.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(16, 32, 3), torch.nn.BatchNorm2d(32), torch.nn.ReLU())
    >>> small = tgt.factorize_like(model, torch.zeros(1, 16, 8, 8), budget=tgt.Budget(parameters=0.2))
    >>> small.report.layers[0].form, small.report.layers[0].ranks
    ('tr', (3, 4, 4, 4))
    """
    check_model(model)
    check_formats([format], FORMATS)
    if not isinstance(budget, Budget):
        raise TypeError(f"got budget={budget!r}; it is a Budget, such as Budget(parameters=0.25)")
    if budget.latency is not None:
        raise ValueError(f"got {budget}; ranks are found by counting: give parameters or macs")
    shapes = input_shapes(model, example_input)
    found = candidates(model, shapes, include=include, exclude=exclude)
    reasons = {each.name: each.reason or _unsuited(each.layer) for each in found}
    if all(reasons.values()):
        told = "; ".join(f"{name!r}: {reason}" for name, reason in reasons.items())
        raise ValueError(f"got a {type(model).__name__} without a layer to factor ({told or 'none'})")
    chosen = _Counted(model, shapes, [name for name in reasons if not reasons[name]], format).within(budget)
    fresh, untouched = _begun_anew(model, seed)
    small = put(fresh, {name: chain.layers(fresh.get_submodule(name)) for name, chain in chosen.items()})
    generator = torch.Generator().manual_seed(seed)
    for module in small.modules():
        if plan_of(module) is not None:  # also those that were chains already
            draw(cast(nn.Sequential, module), generator)
    why = {
        name: "the same share for all" if name in chosen else reasons[name] or "no rank is smaller" for name in reasons
    }
    notes = [f"not begun anew: {', '.join(untouched)}"] if untouched else []
    return Compressed(small, compared(model, small, shapes, why, notes=notes))


def _unsuited(layer: Any) -> str | None:
    if isinstance(layer, nn.Embedding):
        return "a table is not factored from scratch"
    return "complex weights are not drawn" if layer.weight.is_complex() else None


class _Counted:
    """Layers as chains of zeros, at a share of their parameters."""

    def __init__(self, model: nn.Module, shapes: Shapes, names: list[str], format: str) -> None:
        self._model, self._shapes, self._names, self._format = model, shapes, names, format
        self._whole = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "macs": multiply_adds(model, shapes),
        }

    def within(self, budget: Budget) -> dict[str, Chain]:
        """The chains of the largest share at which the network is within a budget; BudgetError where none is."""
        asked = {name: fraction * self._whole[name] for name, fraction in budget.asked.items()}

        def kept(chains: Mapping[str, Chain]) -> bool:
            return all(self._cost(chains)[name] <= limit for name, limit in asked.items())

        best, low, high = self.at(0.0, budget), 0.0, 1.0
        if not kept(best):
            costs = self._cost(best)
            reached = {name: costs[name] / self._whole[name] for name in asked}
            told = ", ".join(
                f"{name} {value:.3f} where {budget.asked[name]:g} was asked" for name, value in reached.items()
            )
            closest = tg.Allocation(dict.fromkeys(best, 1), math.inf, tuple(reached.values()), -math.inf)
            raise tg.BudgetError(f"got {budget}, out of reach: at ranks of one the network has {told}", closest)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            chains = self.at(middle, budget)
            if kept(chains):
                best, low = chains, middle
            else:
                high = middle
        return best

    def at(self, share: float, budget: Budget) -> dict[str, Chain]:
        """All layers at a share of their parameters, without those that would be no smaller."""
        minimize = "macs" if budget.macs is not None else "parameters"
        found = {name: self._chain(name, share, minimize) for name in self._names}
        return {name: chain for name, chain in found.items() if chain is not None}

    def _chain(self, name: str, share: float, minimize: str) -> Chain | None:
        geometry, sizes = Geometry.of(self._model.get_submodule(name)), self._shapes[name]
        use, groups = Use(geometry, calls_of(geometry, sizes), minimize), geometry.groups
        tensors = _blank(self._format, geometry.one_group().weight_shape, share)
        chains = [
            Chain.of([tensor] * groups, use, form=self._format if geometry.kernel else "cut") for tensor in tensors
        ]
        if unbatched(geometry, sizes):  # a folded bond needs a batch to ride in
            chains = [chain for chain in chains if all(stage.riders == 1 for stage in chain.plan.stages)]
        smaller = [chain for chain in chains if use.cost(chain.plan)[0] < use.cost(use.dense_plan)[0]]
        return min(smaller, key=lambda chain: chain.plan.multiply_adds(use.calls), default=None)

    def _cost(self, chains: Mapping[str, Chain]) -> dict[str, int]:
        """Of the whole network."""
        costs = dict(self._whole)
        for name, chain in chains.items():
            geometry, calls = chain.plan.geometry, calls_of(chain.plan.geometry, self._shapes[name])
            costs["parameters"] -= geometry.parameters - chain.plan.parameters
            costs["macs"] -= Use(geometry, calls).dense_plan.multiply_adds(calls) - chain.plan.multiply_adds(calls)
        return costs


def _blank(format: str, shape: tuple[int, ...], share: float) -> list[tg.LowRankTensor]:
    """Tensors of zeros with about this share of the entries: one, or one for each way to cut."""
    if format in ("tr", "tt") and len(shape) > 2:
        return [_ring(shape, share) if format == "tr" else _train(shape, share)]
    return [form.blank(shape, form.ranks(shape, share)) for form in forms(format, shape)]


def _ring(shape: tuple[int, ...], share: float) -> tg.TRTensor:
    """All bonds r, r²·Σn entries; then one after the other one more, as far as that goes."""
    most = share * math.prod(shape)
    bonds = [max(1, math.isqrt(int(most / sum(shape))))] * len(shape)
    for k in reversed(range(len(shape))):
        wider = [*bonds[:k], bonds[k] + 1, *bonds[k + 1 :]]
        if sum(map(math.prod, _cores(shape, wider))) <= most:
            bonds = wider
    return tg.TRTensor(tuple(map(np.zeros, _cores(shape, bonds))))


def _cores(shape: tuple[int, ...], bonds: Sequence[int]) -> list[tuple[int, int, int]]:
    return list(zip(bonds, shape, (*bonds[1:], bonds[0]), strict=True))


def _train(shape: tuple[int, ...], share: float) -> tg.TRTensor:
    """A train over (I, *size, O) of bonds r, at the ends no wider than these: r²·Σsize + r·(I + O) entries."""
    outputs, inputs, *size = shape
    ends, inner = outputs + inputs, sum(size)
    bond = max(1, int((math.sqrt(ends**2 + 4 * inner * share * math.prod(shape)) - ends) / (2 * inner)))
    bonds = [min(bond, outputs), 1, min(bond, inputs), *(bond for _ in size[1:])]
    return tg.TRTensor(tuple(map(np.zeros, _cores(shape, bonds))))


def _begun_anew(model: nn.Module, seed: int) -> tuple[nn.Module, list[str]]:
    """A copy whose modules have initialised themselves, and the names of parameters that none of them owns up to."""
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    untouched = []
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(list(devices)):
        fresh = duplicate(model)
        torch.manual_seed(seed)
        for name, module in reversed(list(fresh.named_modules())):  # what sets its parts otherwise has the last word
            reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
            own = [f"{name}.{key}".lstrip(".") for key, _ in module.named_parameters(recurse=False)]
            if callable(reset):
                reset()
            else:
                untouched += own
    return fresh, untouched


@torch.no_grad()
def draw(chain: nn.Sequential, generator: torch.Generator) -> None:
    """E|W|² = 2/fan_in for every entry of the weight, from kernels of one variance."""
    plan = plan_of(chain)
    assert plan is not None
    convs: list[Any] = convolutions_of(chain, plan)
    ones = [torch.ones_like(canonical_weight(conv), dtype=torch.float32) for conv in convs]
    paths = float(dense_weight(plan, ones).flatten()[0])  # as many in every entry
    fan_in = math.prod(plan.geometry.weight_shape[1:])
    scale = (2 / (fan_in * paths)) ** (0.5 / len(convs))
    for conv in convs:
        conv.weight.copy_(scale * torch.randn(conv.weight.shape, generator=generator, dtype=torch.float64))
