"""One layer: a low-rank tensor becomes layers, layers become one dense layer, a layer is decomposed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import tensorring as tg
from tensorring_torch.chain import FITS, Chain, Use, fitted
from tensorring_torch.checks import check_formats, check_layer, checked_tensors, host_weight
from tensorring_torch.forms.tr import Caps
from tensorring_torch.geometry import Geometry, Plan
from tensorring_torch.modules import convolution, dense_weight


def build_layer(tensor: tg.LowRankTensor | Sequence[tg.LowRankTensor], *, like: nn.Conv2d) -> nn.Sequential:
    """layers(x) = conv2d(x, tensor) + bias: plain torch layers that compute `like` with another weight.

    Parameters
    ----------
    tensor
        A TRTensor, TTTensor, TuckerTensor or CutTensor of the shape (O, I/groups, h, w) of the weight, fitted by
        anyone. For a layer with groups also a sequence of one tensor for each group, of shape (O/groups, I/groups,
        h, w), of one format; smaller ranks are filled up with zeros.
    like
        The layer to stand in for: its stride, padding, padding mode, dilation, groups, bias, dtype, device, training
        mode and `requires_grad` are taken over. It is not changed, and shares no memory with the result.

    Returns
    -------
    nn.Sequential
        Of nn.Conv2d, and of FoldBond / UnfoldBond where a ring's bond rides along in the batch. Of all ways to merge
        neighbouring kernels it is the one with the fewest multiply-adds on large images. `.plan` says which.

    Raises
    ------
    TypeError
        If `tensor` or `like` is of another type, or would lose an imaginary part.
    ValueError
        If the shapes do not fit, or the weight of `like` is computed from something else.

    Notes
    -----
    Costs the contraction of small kernels. Layers with a fold need a batch: (N, C, H, W).
    Order of the ring's layers: Kim et al. 2016 (arXiv 1511.06530) for Tucker-2, Zhao et al. 2016 for the ring.

    Examples
    --------
    >>> import torch, tensorring as tg, tensorring_torch as tgt
    >>> conv = torch.nn.Conv2d(16, 32, 3, stride=2, padding=1)
    >>> layers = tgt.build_layer(tg.random.tt((32, 16, 3, 3), ranks=(4, 4, 3), rng=0), like=conv)
    >>> layers(torch.zeros(1, 16, 8, 8)).shape
    torch.Size([1, 32, 4, 4])
    """
    check_layer(like)
    tensors = checked_tensors(tensor, like)
    return Chain.of(tensors, Use.unknown(Geometry.of(like))).layers(like)


def dense_layer(module: nn.Sequential) -> nn.Conv2d:
    """dense_layer(build_layer(t, like=conv)).weight = t.to_dense(): the one convolution that the layers make together.

    Parameters
    ----------
    module
        What `build_layer`, `decompose_layer`, `compress` or `load` put in place of a layer, trained further or not.

    Returns
    -------
    nn.Conv2d
        With the stride, padding and other options of the layer that was decomposed, and the current weights: equal up
        to rounding. It shares no memory with `module`.

    Raises
    ------
    TypeError
        If `module` was not made by this package.
    ValueError
        If its layers were exchanged for others.

    Examples
    --------
    >>> import torch, tensorring as tg, tensorring_torch as tgt
    >>> conv = torch.nn.Conv2d(16, 32, 3, padding="same")
    >>> tgt.dense_layer(tgt.build_layer(tg.random.tr((32, 16, 3, 3), ranks=2, rng=0), like=conv))
    Conv2d(16, 32, kernel_size=(3, 3), stride=(1, 1), padding=same)
    """
    plan = plan_of(module)
    if plan is None:
        raise TypeError(f"got a {type(module).__name__} without a plan; it takes what build_layer returns")
    convs = [layer for layer in module if isinstance(layer, nn.Conv2d)]
    if [Geometry.of(conv) for conv in convs] != [stage.conv for stage in plan.stages]:
        raise ValueError(f"got layers that do not follow their plan {plan}; only their weights may be changed")
    weights, bias = [conv.weight for conv in convs], convs[-1].bias
    with torch.inference_mode(False), torch.no_grad():
        weight = dense_weight(plan, weights).clone(memory_format=torch.contiguous_format)
        weight = nn.Parameter(weight, any(w.requires_grad for w in weights))
        bias = None if bias is None else nn.Parameter(bias.clone(), bias.requires_grad)
    return convolution(plan.geometry, weight, bias).train(module.training)


def decompose_layer(
    conv: nn.Conv2d, *, format: str = "tr", tol: float | None = None, ranks: Caps = None
) -> nn.Sequential:
    """‖weight − dense_layer(result).weight‖ ≤ tol·‖weight‖: tensorring's fit of the weight, then `build_layer`.

    Parameters
    ----------
    conv
        The layer; it is not changed.
    format
        "tr" the ring of four cores, "tt" the train over (I, h, w, O), "tucker" Tucker-2, "cut" the best of the four
        cuts: at the output channels, at the input channels, and between height and width, either first.
    tol
        The relative Frobenius error allowed, in [0, 1).
    ranks
        Caps, which win over `tol`: for "tr" (r_0 … r_3) as in TRTensor, for "tt" the three bonds in the order above,
        for "tucker" (r_out, r_in), for "cut" one number. An int stands for all.

    Returns
    -------
    nn.Sequential
        As from `build_layer`. Among the candidates of the format the one with the fewest multiply-adds on large
        images; with groups and no caps, the groups together or each by itself, whichever needs fewer. It may need more
        than `conv` does: `compress` keeps such layers dense.

    Raises
    ------
    TypeError, ValueError
        If `conv` is no plain nn.Conv2d, the format is unknown, neither `tol` nor `ranks` is given, or they are not
        what the decomposition takes.

    Notes
    -----
    Costs what the decomposition costs; half precision is decomposed in float32.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> layers = tgt.decompose_layer(torch.nn.Conv2d(16, 32, 3), format="tucker", ranks=(8, 4))
    >>> [tuple(layer.weight.shape) for layer in layers]
    [(4, 16, 1, 1), (8, 4, 3, 3), (32, 8, 1, 1)]
    """
    check_formats([format], list(FITS))
    check_layer(conv)
    use = Use.unknown(Geometry.of(conv))
    chains = fitted(host_weight(conv.weight), use, format=format, tol=tol, ranks=ranks)
    return min(chains, key=lambda chain: use.cost(chain.plan)).layers(conv)


def plan_of(module: Any) -> Plan | None:
    """The plan of a module that this package built."""
    plan = vars(module).get("plan") if isinstance(module, nn.Sequential) else None
    return plan if isinstance(plan, Plan) else None
