"""Layer after layer in the order of the network: each is fitted to the dense outputs, from inputs it will really see.

What earlier layers did to the inputs is undone by later ones as far as a kernel can: the target is the kernel of least
squares from the compressed network's patches to the dense network's outputs. Where the output goes into a residual sum,
the target repairs the other summand too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

import tensorring as tg
from tensorring_torch.calibration.fits import Form, Ranks, Target, fewer_terms, softened
from tensorring_torch.calibration.graph import Surrounding, surroundings
from tensorring_torch.calibration.moments import Moments
from tensorring_torch.calibration.observe import Seen, recorded, thinned
from tensorring_torch.calibration.walk import Walk
from tensorring_torch.chain import Chain, Use
from tensorring_torch.kinds import canonical_weight
from tensorring_torch.replace import put

# L-BFGS iterations of a fit: it begins at that of the curve.
_SWEEPS = 400


@dataclass(frozen=True)
class Choice:
    """What a layer is to become: form, ranks, and for each group a tensor to begin with; no form: it stays dense."""

    use: Use
    form: Form | None = None
    ranks: Ranks = ()
    begin: tuple[tg.LowRankTensor, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """What a layer became: a chain, or None where it stays dense; its relative error in the norm of the fit, and plain.

    Errors are those of the target, which is not the layer's own kernel where its inputs have changed.
    """

    chain: Chain | None
    metric_error: float | None
    error: float


class Sequence:
    """The walk through a network that exchanges its layers, one by one.

    Parameters
    ----------
    graph
        The dense network, traced.
    ours
        Its copy, changed in place; in eval mode.
    batches
        Unlabelled data, positional arguments.
    choices
        {name: what the layer is to become}.
    seen
        {name: what `observed` found}, for the weights of output errors.
    seed
        Of the positions that are looked at.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        ours: nn.Module,
        batches: list[tuple[Any, ...]],
        choices: Mapping[str, Choice],
        seen: Mapping[str, Seen],
        *,
        seed: int = 0,
    ) -> None:
        self.ours, self._choices, self._seen = ours, choices, seen
        self._walk, self._around = Walk(graph, ours, batches), surroundings(graph)
        self._generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def run(self) -> Iterator[tuple[str, Fitted]]:
        """Each layer after it was exchanged."""
        for node in self._walk.nodes():
            if node.op != "call_module":
                continue
            inside = [name for name in self._choices if f"{name}.".startswith(f"{node.target}.")]
            for name in inside:
                surrounding = self._around.get(name, Surrounding())
                moments = self._moments(node, name, surrounding)
                yield name, self._exchanged(name, surrounding, moments)

    def _moments(self, node: fx.Node, name: str, surrounding: Surrounding) -> list[Moments]:
        """Of the patches in the compressed network and the outputs that are wanted."""
        walk, layer = self._walk, self._walk.dense.get_submodule(name)
        with recorded(walk.dense, [name]) as wanted:
            walk.run(node, "dense")
        with recorded(self.ours, [name]) as given:
            walk.run(node, "ours")
        repair = self._repair(surrounding) if len(wanted) == len(walk) else None
        sums = Seen()
        for k, ((_, _, z), (_, x, _)) in enumerate(zip(wanted, given, strict=True)):
            target = z if repair is None or repair[k].shape != z.shape else z + repair[k]
            sums.add(layer, x, target, thinned(layer, z, self._generator))
        return sums.moments

    def _repair(self, surrounding: Surrounding) -> list[Tensor] | None:
        """What the other summand lacks, in units of the layer's output."""
        if surrounding.other is None:
            return None
        dense, ours = self._walk.value(surrounding.other)
        gain = self._gain(surrounding)
        missing = [a - b for a, b in zip(dense, ours, strict=True)]
        if gain is None:
            return missing
        return [each / gain.reshape(-1, *(1,) * (each.ndim - 2)) for each in missing]

    def _gain(self, surrounding: Surrounding) -> Tensor | None:
        """What the batch norm after the layer multiplies its output by."""
        if surrounding.norm is None:
            return None
        norm: Any = self.ours.get_submodule(surrounding.norm)
        scale = torch.rsqrt(norm.running_var + norm.eps)
        return scale if norm.weight is None else scale * norm.weight

    def _exchanged(self, name: str, surrounding: Surrounding, moments: list[Moments]) -> Fitted:
        layer, choice = self.ours.get_submodule(name), self._choices[name]
        kernels = [_retargeted(kernel, each) for kernel, each in zip(_blocks(layer), moments, strict=True)]
        outputs = [None if part is None else softened(part) for part in self._seen[name].blocks]
        targets = [
            Target(kernel, _host(each.covariance), weights)
            for kernel, each, weights in zip(kernels, moments, outputs, strict=True)
        ]
        chain, matrices = None, [target.matrix for target in targets]
        if choice.form is not None:
            begin = choice.begin or (None,) * len(targets)
            fits = [
                choice.form.fit(target, choice.ranks, fewer_terms(start, choice.ranks), _SWEEPS)
                for target, start in zip(targets, begin, strict=True)
            ]
            matrices = [np.reshape(fit.to_dense(), each.matrix.shape) for fit, each in zip(fits, targets, strict=True)]
            chain = Chain.of(fits, choice.use, form=choice.form.name)
        shift = np.concatenate([_host(m.output) - w @ _host(m.patch) for m, w in zip(moments, matrices, strict=True)])
        self._put(name, layer, chain, np.concatenate(kernels), torch.from_numpy(shift), surrounding)
        missing = [target.matrix - matrix for target, matrix in zip(targets, matrices, strict=True)]
        squared = sum(target.squared(each) for target, each in zip(targets, missing, strict=True))
        whole = sum(target.squared(target.matrix) for target in targets)
        plain = np.linalg.norm(np.concatenate(missing)) / (np.linalg.norm(np.concatenate(kernels)) or 1.0)
        return Fitted(chain, float(np.sqrt(squared / (whole or 1.0))), float(plain))

    def _put(
        self, name: str, layer: Any, chain: Chain | None, kernel: np.ndarray, shift: Tensor, surrounding: Surrounding
    ) -> None:
        """The layer in place of the old one; its mean output is right, by its own bias or by the batch norm's."""
        norm: Any = None if surrounding.norm is None else self.ours.get_submodule(surrounding.norm)
        if layer.bias is not None or norm is None:
            layer.bias = nn.Parameter(shift.to(layer.weight), layer.weight.requires_grad)
        elif norm.bias is not None:
            gain = self._gain(surrounding)
            assert gain is not None
            norm.bias += gain * shift.to(norm.bias)
        else:
            norm.running_mean -= shift.to(norm.running_mean)
        if chain is not None:
            put(self.ours, {name: chain.layers(layer)})
        else:
            canonical_weight(layer).copy_(torch.from_numpy(kernel))


def _blocks(layer: Any) -> list[np.ndarray]:
    """The kernel of each group, in double precision."""
    weight = _host(canonical_weight(layer))
    return list(np.split(weight, getattr(layer, "groups", 1)))


def _retargeted(kernel: np.ndarray, moments: Moments) -> np.ndarray:
    return tg.retarget(kernel, _host(moments.covariance), _host(moments.cross))


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()
