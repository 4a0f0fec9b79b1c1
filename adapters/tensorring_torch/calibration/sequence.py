"""Layer after layer in the order of the network: each is fitted to the dense outputs, from inputs it will really see.

What earlier layers did to the inputs is undone by later ones as far as a kernel can: the target is the kernel of least
squares from the compressed network's patches to the dense network's outputs. Where the output goes into a residual sum,
the target repairs the other summand too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

import tensorring as tg
from tensorring_torch.calibration.data import Batch
from tensorring_torch.calibration.fits import Form, Ranks, Target, fewer_terms, softened
from tensorring_torch.calibration.graph import Surrounding
from tensorring_torch.calibration.moments import Moments
from tensorring_torch.calibration.observe import Seen, recorded, thinned
from tensorring_torch.calibration.walk import Walk
from tensorring_torch.chain import Chain, Use
from tensorring_torch.kinds import canonical_weight
from tensorring_torch.replace import put

# L-BFGS iterations of a fit: it begins at that of the curve.
_SWEEPS = 400
# Squared gains of a batch norm below this share of their mean belong to channels that are switched off.
_SILENT = 1e-4


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
        {name: what `observed` found}: the weights of output errors, and all that is known of layers called at several
        nodes, whose later inputs are not there when the first call comes. Without: layers are fitted to their weights.
    around
        {name: where its output goes}.
    seed
        Of the positions that are looked at.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        ours: nn.Module,
        batches: list[Batch],
        choices: Mapping[str, Choice],
        seen: Mapping[str, Seen],
        around: Mapping[str, Surrounding],
        *,
        seed: int = 0,
    ) -> None:
        self.ours, self._choices, self._seen, self._around = ours, choices, seen, around
        self._walk = Walk(graph, ours, batches)
        self._calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
        self._generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def run(self) -> Iterator[tuple[str, Fitted]]:
        """Each layer after it was exchanged."""
        left = dict(self._choices)
        for node in self._walk.nodes():
            if node.op != "call_module":
                continue
            for name in [name for name in left if f"{name}.".startswith(f"{node.target}.")]:
                del left[name]
                yield name, self._fitted(node, name)

    def _fitted(self, node: fx.Node, name: str) -> Fitted:
        table = isinstance(self._walk.dense.get_submodule(name), nn.Embedding)  # whose inputs no other layer changes
        once = self._calls[node.target] == 1 and not table
        moments, changed = self._moments(node, name) if once else (self._seen.get(name, Seen()).moments, False)
        if self._choices[name].form is None and not changed:
            return Fitted(None, 0.0, 0.0)  # nothing to make up for
        return self._exchanged(name, moments)

    def _moments(self, node: fx.Node, name: str) -> tuple[list[Moments], bool]:
        """Of patches in the compressed network and the outputs that are wanted; whether these are not what it gives."""
        walk, layer, sums, changed = self._walk, self._walk.dense.get_submodule(name), Seen(), False
        repair = self._repair(name)
        with recorded(walk.dense, [name]) as wanted, recorded(self.ours, [name]) as given:
            for batch in range(len(walk)):
                wanted.clear()
                given.clear()
                walk.run(node, "dense", batch)
                walk.run(node, "ours", batch)
                if [z.shape for _, _, z in wanted] != [z.shape for _, _, z in given]:
                    continue  # inside a node the networks may have taken different ways
                for (_, _, z), (_, x, ours) in zip(wanted, given, strict=True):
                    target = z if repair is None or repair[batch].shape != z.shape else z + repair[batch]
                    sums.add(layer, x, target, thinned(layer, z, self._generator))
                    changed = changed or not torch.equal(target, ours)
        return sums.moments, changed

    def _repair(self, name: str) -> list[Tensor] | None:
        """What the other summand lacks, in units of the layer's output."""
        surrounding = self._around.get(name, Surrounding())
        if surrounding.other is None:
            return None
        dense, ours = self._walk.value(surrounding.other)
        missing = [a - b for a, b in zip(dense, ours, strict=True)]
        norm: Any = surrounding.norm and self.ours.get_submodule(surrounding.norm)
        if not norm:
            return missing
        gain = torch.rsqrt(norm.running_var + norm.eps) * (1.0 if norm.weight is None else norm.weight)
        # 1/gain, but for channels that the norm all but switches off: those can mend nothing.
        inverse = gain / (gain.square() + _SILENT * gain.square().mean()).clamp_min(torch.finfo(gain.dtype).tiny)
        return [each * inverse.reshape(-1, *(1,) * (each.ndim - 2)) for each in missing]

    def _exchanged(self, name: str, moments: list[Moments]) -> Fitted:
        layer, choice = self.ours.get_submodule(name), self._choices[name]
        norm = self._around.get(name, Surrounding()).norm
        if choice.form is None and getattr(layer, "bias", None) is None and norm is None:
            moments = [each.uncentred() for each in moments]
        targets = self._targets(layer, name, moments)
        chain, matrices = fit(choice, targets)
        if moments and not isinstance(layer, nn.Embedding):
            means = zip(moments, matrices, strict=True)
            shift = np.concatenate([_host(each.output) - matrix @ _host(each.patch) for each, matrix in means])
            self._shift(layer, torch.from_numpy(shift), norm, new=chain is not None)
        if chain is not None:
            put(self.ours, {name: chain.layers(layer)})
        else:
            canonical_weight(layer).copy_(torch.from_numpy(np.concatenate([each.kernel for each in targets])))
        return measured(chain, targets, matrices, by_data=bool(moments))

    def _targets(self, layer: Any, name: str, moments: list[Moments]) -> list[Target]:
        """The kernels that are wanted of each group, in their norms; without moments those that are there."""
        kernels = np.split(_host(canonical_weight(layer)), getattr(layer, "groups", 1))
        if not moments:
            return [Target(kernel) for kernel in kernels]
        blocks = self._seen.get(name, Seen()).blocks or (None,) * len(kernels)
        return [
            _target(kernel, each, None if gamma is None else softened(gamma))
            for kernel, each, gamma in zip(kernels, moments, blocks, strict=True)
        ]

    def _shift(self, layer: Any, shift: Tensor, norm: str | None, *, new: bool) -> None:
        """The mean output set right, by the layer's bias, the mean of the batch norm after it, or a new bias."""
        if layer.bias is None and norm is not None:
            running: Any = self.ours.get_submodule(norm).running_mean
            running -= shift.to(running)
        elif layer.bias is not None or new:
            like = layer.weight if layer.bias is None else layer.bias
            layer.bias = nn.Parameter(shift.to(like), like.requires_grad)


def _target(kernel: np.ndarray, moments: Moments, outputs: np.ndarray | None) -> Target:
    if moments.covariance is None:
        return Target(kernel, None, outputs, moments.variance)
    covariance = _host(moments.covariance)
    if moments.cross is None or not covariance.any():  # wide; or inputs never change, and only the mean is to set right
        return Target(kernel, covariance, outputs)
    return Target(tg.retarget(kernel, covariance, _host(moments.cross)), covariance, outputs, final=True)


def fit(choice: Choice, targets: list[Target]) -> tuple[Chain | None, list[np.ndarray]]:
    """The chain that was chosen, and for each group the matrix that it stands for; the targets where it is dense."""
    if choice.form is None:
        return None, [target.matrix for target in targets]
    begin = choice.begin or (None,) * len(targets)
    fits = [
        choice.form.fit(target, choice.ranks, fewer_terms(start, choice.ranks), _SWEEPS)
        for target, start in zip(targets, begin, strict=True)
    ]
    matrices = [np.reshape(found.to_dense(), each.matrix.shape) for found, each in zip(fits, targets, strict=True)]
    return Chain.of(fits, choice.use, form=choice.form.name), matrices


def measured(chain: Chain | None, targets: list[Target], matrices: list[np.ndarray], *, by_data: bool) -> Fitted:
    """What became of a layer, with the errors of all groups together."""
    missing = [target.matrix - matrix for target, matrix in zip(targets, matrices, strict=True)]
    squared = sum(target.squared(each) for target, each in zip(targets, missing, strict=True))
    whole = sum(target.squared(target.matrix) for target in targets)
    norms = [np.linalg.norm(np.concatenate(each)) for each in (missing, [target.matrix for target in targets])]
    metric_error = float(np.sqrt(squared / (whole or 1.0))) if by_data else None
    return Fitted(chain, metric_error, float(norms[0] / (norms[1] or 1.0)))


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()
