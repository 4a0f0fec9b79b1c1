"""One layer: a low-rank tensor becomes layers, layers become one dense layer, a layer is decomposed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import tensorring as tg
from tensorring_torch.chain import FITS, Chain, Use, fitted
from tensorring_torch.checks import check_formats, check_layer, check_minimize, checked_tensors, host_weight
from tensorring_torch.forms.tr import Caps
from tensorring_torch.geometry import Geometry, Plan
from tensorring_torch.modules import convolution, dense_weight


def build_layer(
    tensor: tg.LowRankTensor | Sequence[tg.LowRankTensor], *, like: nn.Conv2d, minimize: str = "macs"
) -> nn.Sequential:
    """layers(x) = conv2d(x, tensor) + bias: plain torch layers that compute `like` with another weight.

    Parameters
    ----------
    tensor
        A TRTensor, TTTensor, TuckerTensor, CutTensor, CPTensor, TuckerCPTensor or BlockTermTensor of the shape
        (O, I/groups, h, w) of the weight, fitted by anyone. The last three may hold height and width as one mode,
        (O, I/groups, h·w): for a CP only so is the filter of each term any h×w matrix, and not a column times a row,
        while block terms are to hold both whole (`modes=(0, 1)`). For a layer with groups also a sequence
        of one tensor for each group, of shape (O/groups, I/groups, h, w), of one format; smaller ranks are filled up
        with zeros.
    like
        The layer to stand in for: its stride, padding, padding mode, dilation, groups, bias, dtype, device, training
        mode and `requires_grad` are taken over. It is not changed, and shares no memory with the result.
    minimize
        What the way to merge neighbouring kernels is chosen by: "macs", the multiply-adds on a large image,
        "parameters" or "time", as in `compress`. Where the layer strides they may differ: what comes before a depthwise
        kernel works on the whole image.

    Returns
    -------
    nn.Sequential
        Of nn.Conv2d, and of FoldBond / UnfoldBond where a ring's bond rides along in the batch. Of all ways to merge
        neighbouring kernels, from none to the single dense one, it is the cheapest. `.plan` says which.

    Raises
    ------
    TypeError
        If `tensor` or `like` is of another type, or would lose an imaginary part.
    ValueError
        If the shapes do not fit, or the weight of `like` is computed from something else.

    Notes
    -----
    Costs the contraction of small kernels. Layers with a fold need a batch: (N, C, H, W).
    The scales of a CP's terms are shared out over the layers as `tg.balance` does, which training needs.

    References
    ----------
    Tucker-2: Y.-D. Kim et al. 2016, arXiv 1511.06530. CP: V. Lebedev et al. 2015, arXiv 1412.6553. Ring: Q. Zhao et al.
    2016, arXiv 1606.05535.

    Examples
    --------
    >>> import torch, tensorring as tg, tensorring_torch as tgt
    >>> conv = torch.nn.Conv2d(16, 32, 3, stride=2, padding=1)
    >>> layers = tgt.build_layer(tg.random.tt((32, 16, 3, 3), ranks=(4, 4, 3), rng=0), like=conv)
    >>> layers(torch.zeros(1, 16, 8, 8)).shape
    torch.Size([1, 32, 4, 4])
    """
    check_minimize(minimize)
    check_layer(like)
    tensors = checked_tensors(tensor, like)
    return Chain.of(tensors, Use.unknown(Geometry.of(like), minimize)).layers(like)


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
    convs = convolutions_of(module, plan)
    weights, bias = [conv.weight for conv in convs], convs[-1].bias
    with torch.inference_mode(False), torch.no_grad():
        weight = dense_weight(plan, weights).clone(memory_format=torch.contiguous_format)
        weight = nn.Parameter(weight, any(w.requires_grad for w in weights))
        bias = None if bias is None else nn.Parameter(bias.clone(), bias.requires_grad)
    return convolution(plan.geometry, weight, bias).train(module.training)


def decompose_layer(
    conv: nn.Conv2d, *, format: str = "tr", tol: float | None = None, ranks: Caps = None, minimize: str = "macs"
) -> nn.Sequential:
    """‖weight − dense_layer(result).weight‖ ≤ tol·‖weight‖: tensorring's fit of the weight, then `build_layer`.

    Parameters
    ----------
    conv
        The layer; it is not changed.
    format
        "tr" the ring of four cores, "tt" the train over (I, h, w, O), "tucker" Tucker-2, "cut" the best of the four
        cuts: at the output channels, at the input channels, and between height and width, either first. "cp" the stable
        CP of (O, I, h·w): 1×1, depthwise h×w, 1×1; "cp4" that of (O, I, h, w), whose filters are columns and rows;
        "tucker-cp" Tucker-2, then the stable CP of its core: 1×1, 1×1, depthwise, 1×1, 1×1. "btd" block terms, with a
        ridge: 1×1, h×w in groups, 1×1.
    tol
        The relative Frobenius error allowed, in [0, 1).
    ranks
        Caps, which win over `tol`: for "tr" (r_0 … r_3) as in TRTensor, for "tt" the three bonds in the order above,
        for "tucker" (r_out, r_in), for "cut", "cp" and "cp4" one number, for "tucker-cp" (r_out, r_in, terms), for
        "btd" (terms, L_out, L_in). An int stands for all.
    minimize
        As in `build_layer`.

    Returns
    -------
    nn.Sequential
        As from `build_layer`. Among the candidates of the format the one that costs least; with groups and no caps, the
        groups together or each by itself, whichever costs less. It may cost more than `conv` does: `compress` keeps
        such layers dense.

    Raises
    ------
    TypeError, ValueError
        If `conv` is no plain nn.Conv2d, the format is unknown, neither `tol` nor `ranks` is given, or they are not
        what the decomposition takes; for the CP forms also if they do not reach `tol`.

    Notes
    -----
    Costs what the decomposition costs; half precision is decomposed in float32. The CP forms go through `tg.cp_stable`
    (and start from nothing random but its seed 0): terms that grow and cancel would spoil any training that follows.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> layers = tgt.decompose_layer(torch.nn.Conv2d(16, 32, 3), format="tucker", ranks=(8, 4))
    >>> [tuple(layer.weight.shape) for layer in layers]
    [(4, 16, 1, 1), (8, 4, 3, 3), (32, 8, 1, 1)]
    """
    check_formats([format], list(FITS))
    check_minimize(minimize)
    check_layer(conv)
    use = Use.unknown(Geometry.of(conv), minimize)
    chains = fitted(host_weight(conv.weight), use, format=format, tol=tol, ranks=ranks)
    best = min(chains, key=lambda chain: use.cost(chain.plan), default=None)
    if best is None:
        raise ValueError(f"got tol={tol!r}, which format={format!r} did not reach: allow more, or give ranks")
    return best.layers(conv)


def plan_of(module: Any) -> Plan | None:
    """The plan of a module that this package built."""
    plan = vars(module).get("plan") if isinstance(module, nn.Sequential) else None
    return plan if isinstance(plan, Plan) else None


def convolutions_of(module: nn.Sequential, plan: Plan) -> list[nn.Conv2d]:
    """The convolutions that a module was built of, in the order in which data passes them; ValueError if exchanged."""
    convs = [layer for layer in module if isinstance(layer, nn.Conv2d)]
    if [Geometry.of(conv) for conv in convs] != [stage.conv for stage in plan.stages]:
        raise ValueError(f"got layers that do not follow their plan {plan}; only their weights may be changed")
    return convs
