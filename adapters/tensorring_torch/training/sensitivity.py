"""How much noise in the kernels of compressed layers is amplified, as a penalty for training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tensorring_torch.kinds import canonical_weight
from tensorring_torch.layer import convolutions_of, plan_of
from tensorring_torch.modules import Kernel, block_kernels, compose, pointwise
from tensorring_torch.plan import Plan


def sensitivity_penalty(model: nn.Module) -> Tensor:
    """Σ over compressed layers of ss / (N·m^{1/N}·‖W‖^{2−2/N}): add a multiple of it to the loss that trains them.

    ss is the sensitivity lim E‖ΔW‖²/s² of the layer's weight W (m entries) to noise of variance s² in every entry of
    its N kernels, exact and as they stand. It is large where terms grow and cancel, and where scales are shared out
    badly. The divisor makes it a number without scale, so that one multiple serves all layers and nothing is gained by
    making weights larger or smaller: a dense layer and a balanced term of rank one have 1, a balanced CP has
    Σ_r (λ_r/‖W‖)^{2−2/N}.

    Parameters
    ----------
    model
        A network that `compress` returned, or any with layers of `build_layer`, `decompose_layer` or `load`.

    Returns
    -------
    Tensor
        A real scalar with a gradient with respect to the kernels; 0 where no layer is compressed.

    Raises
    ------
    ValueError
        If the layers of a chain were exchanged for others.

    Notes
    -----
    Costs the contraction of each chain's kernels twice, and nothing that grows with images or batches. Half precision
    is computed in float32. Kernels that `build_layer` merged count as one.

    References
    ----------
    P. Tichavský, A.-H. Phan, A. Cichocki 2019, "Sensitivity in tensor decomposition"; A.-H. Phan et al. 2020, arXiv
    2008.05441.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> model = torch.nn.Sequential(tgt.decompose_layer(torch.nn.Conv2d(8, 16, 3), format="tucker", ranks=4))
    >>> loss = model(torch.rand(2, 8, 5, 5)).square().mean() + 1e-3 * tgt.sensitivity_penalty(model)
    >>> loss.backward()
    """
    layers = [(module, plan) for module in model.modules() if (plan := plan_of(module)) is not None]
    return sum((_relative(plan, _weights(module, plan)) for module, plan in layers), torch.zeros(()))


def _weights(module: nn.Module, plan: Plan) -> list[Tensor]:
    assert isinstance(module, nn.Sequential)
    weights = [canonical_weight(conv) for conv in convolutions_of(module, plan)]
    return [w.float() if w.dtype in (torch.float16, torch.bfloat16) else w for w in weights]


def _relative(plan: Plan, weights: Sequence[Tensor]) -> Tensor:
    value, squared = sensitivity(plan, weights)
    count = len(weights)
    tiny = torch.finfo(squared.dtype).tiny  # a weight of zeros: no number, but no division by zero either
    scale = squared.clamp_min(tiny) ** (1 - 1 / count)
    divisor: Tensor = count * plan.geometry.parameters ** (1 / count) * scale
    return value / divisor


def sensitivity(plan: Plan, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Σ_k ‖∂W/∂K_k‖², the squares of all derivatives of W by the entries of the plan's kernels K_k, and ‖W‖².

    W is linear in each kernel: what comes before it and what comes after enter by their Gram matrices over the
    channels that ride along, in each group.
    """
    blocks = [_of_block(plan, kernels) for kernels in block_kernels(plan, weights)]
    values, squares = zip(*blocks, strict=True)
    return torch.stack(values).sum(), torch.stack(squares).sum()


def _of_block(plan: Plan, kernels: Sequence[Kernel]) -> tuple[Tensor, Tensor]:
    outputs, inputs, *_ = plan.geometry.weight_shape
    before, after = [_identity(inputs, kernels[0])], [_identity(outputs // plan.blocks, kernels[0])]
    for kernel in kernels:
        before.append(compose(before[-1], kernel))
    for kernel in kernels[:0:-1]:
        after.insert(0, compose(kernel, after[0]))
    terms = [_derivative(*three) for three in zip(before[:-1], kernels, after, strict=True)]
    whole = before[-1].weight
    return torch.stack(terms).sum(), (whole * whole.conj()).real.sum()


def _derivative(before: Kernel, kernel: Kernel, after: Kernel) -> Tensor:
    """‖∂W/∂K‖² where W = after ∘ K ∘ before: one derivative for each entry of K, through all channels that ride."""
    link = kernel.link
    riders = before.weight.shape[0] // link.inputs
    a = before.weight.reshape(riders, link.groups, link.inputs // link.groups, -1)
    b = after.weight.reshape(len(after.weight), riders, link.groups, link.outputs // link.groups, -1)
    if riders == 1:
        squares = [(part * part.conj()).real for part in (a, b)]
        ends = squares[0].sum((0, 2, 3)) * squares[1].sum((0, 1, 3, 4))
    else:
        ends = torch.einsum("bgqn,cgqn->gbc", a, a.conj()) * torch.einsum("pbgam,pcgam->gbc", b, b.conj())
    return math.prod(link.size) * ends.real.sum()


def _identity(size: int, like: Kernel) -> Kernel:
    return pointwise(torch.eye(size, dtype=like.weight.dtype, device=like.weight.device), len(like.link.size))
