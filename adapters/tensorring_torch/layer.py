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
from tensorring_torch.geometry import Geometry
from tensorring_torch.kinds import KINDS, canonical_weight, layer_of
from tensorring_torch.modules import dense_weight
from tensorring_torch.plan import Plan
from tensorring_torch.tt_linear import TTLinear


def build_layer(
    tensor: tg.LowRankTensor | Sequence[tg.LowRankTensor], *, like: nn.Module, minimize: str = "macs"
) -> nn.Sequential:
    """layers(x) = like(x) with `tensor` for its weight: plain torch layers that compute `like` with another weight.

    Parameters
    ----------
    tensor
        A TRTensor, TTTensor, TuckerTensor, CutTensor, CPTensor, TuckerCPTensor or BlockTermTensor of the shape
        (O, I/groups, *kernel) of the canonical weight, fitted by anyone. For a transposed convolution that is its
        weight with outputs before inputs, for an nn.Linear (O, I), for an nn.Embedding (D, V). The last three formats
        may hold height and width as one mode, (O, I/groups, h·w): for a CP only so is the filter of each term any h×w
        matrix, and not a column times a row, while block terms are to hold both whole (`modes=(0, 1)`). For a layer
        with groups also a sequence of one tensor for each group, of shape (O/groups, I/groups, *kernel), of one format;
        smaller ranks are filled up with zeros.
    like
        The layer to stand in for: nn.Conv1d, 2d, 3d, nn.ConvTranspose1d, 2d, 3d, nn.Linear or nn.Embedding. Its stride,
        padding, padding mode, dilation, groups, bias, dtype, device, training mode and `requires_grad` are taken over.
        It is not changed, and shares no memory with the result.
    minimize
        What the way to merge neighbouring kernels is chosen by: "macs", the multiply-adds on a large image,
        "parameters" or "time", as in `compress`. Where the layer strides they may differ: what comes before a depthwise
        kernel works on the whole image. An nn.Embedding is always planned for its parameters.

    Returns
    -------
    nn.Sequential
        Of layers of the kind of `like` (an nn.Embedding and an nn.Linear, plain 1×1 convolutions around the transposed
        ones), and of FoldBond / UnfoldBond where a ring's bond rides along in the batch. Of all ways to merge
        neighbouring kernels, from none to the single dense one, it is the cheapest. `.plan` says which.

    Raises
    ------
    TypeError
        If `tensor` or `like` is of another type, or would lose an imaginary part.
    ValueError
        If the shapes do not fit, or the weight of `like` is computed from something else.

    Notes
    -----
    Costs the contraction of small kernels. Layers with a fold need a batch: (N, C, *size).
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


def dense_layer(module: nn.Module) -> Any:
    """dense_layer(build_layer(t, like=conv)).weight = t.to_dense(): the one layer that the layers make together.

    Parameters
    ----------
    module
        What `build_layer`, `decompose_layer`, `tt_linear`, `compress` or `load` put in place of a layer, trained on or
        not.

    Returns
    -------
    nn.Module
        Of the kind that was decomposed, with its stride, padding and other options and the current weights: equal up to
        rounding. It shares no memory with `module`.

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
    if isinstance(module, TTLinear):
        return module.dense()
    plan = plan_of(module)
    if plan is None or not isinstance(module, nn.Sequential):
        raise TypeError(f"got a {type(module).__name__} without a plan; it takes what build_layer returns")
    convs = convolutions_of(module, plan)
    weights, bias = [canonical_weight(conv) for conv in convs], getattr(convs[-1], "bias", None)
    with torch.inference_mode(False), torch.no_grad():
        weight = dense_weight(plan, weights).clone(memory_format=torch.contiguous_format)
        bias = None if bias is None else nn.Parameter(bias.clone(), bias.requires_grad)
        trained = any(w.requires_grad for w in weights)
        return layer_of(plan.geometry, weight, bias, trained=trained).train(module.training)


def decompose_layer(
    layer: nn.Module, *, format: str = "tr", tol: float | None = None, ranks: Caps = None, minimize: str = "macs"
) -> nn.Sequential:
    """‖weight − dense_layer(result).weight‖ ≤ tol·‖weight‖: tensorring's fit of the weight, then `build_layer`.

    Parameters
    ----------
    layer
        A layer of the kinds that `build_layer` takes; it is not changed.
    format
        "tr" the ring of four cores, "tt" the train over (I, h, w, O), "tucker" Tucker-2, "cut" the best of the four
        cuts: at the output channels, at the input channels, and between height and width, either first. With one axis
        or three they have a core less or more, and there are two or eight cuts; the matrix of an nn.Linear or an
        nn.Embedding is always cut, whatever the format. "cp" the stable
        CP of (O, I, h·w): 1×1, depthwise h×w, 1×1; "cp4" that of (O, I, h, w), whose filters are columns and rows;
        "tucker-cp" Tucker-2, then the stable CP of its core: 1×1, 1×1, depthwise, 1×1, 1×1. "btd" block terms, with a
        ridge: 1×1, h×w in groups, 1×1.
    tol
        The relative Frobenius error allowed, in [0, 1).
    ranks
        Caps, which win over `tol`: for "tr" (r_0 … r_3) as in TRTensor, for "tt" the three bonds in the order above,
        for "tucker" (r_out, r_in), for "cut", "cp", "cp4" and every matrix one number, for "tucker-cp" (r_out, r_in,
        terms), for "btd" (terms, L_out, L_in). An int stands for all.
    minimize
        As in `build_layer`.

    Returns
    -------
    nn.Sequential
        As from `build_layer`. Among the candidates of the format the one that costs least; with groups and no caps, the
        groups together or each by itself, whichever costs less. It may cost more than `layer` does: `compress` keeps
        such layers dense.

    Raises
    ------
    TypeError, ValueError
        If `layer` is of no such kind or not a plain one, the format is unknown, neither `tol` nor `ranks` is given, or
        they are not what the decomposition takes; for the CP forms also if they do not reach `tol`.

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
    check_layer(layer)
    use = Use.unknown(Geometry.of(layer), minimize)
    chains = fitted(host_weight(canonical_weight(layer)), use, format=format, tol=tol, ranks=ranks)
    best = min(chains, key=lambda chain: use.cost(chain.plan), default=None)
    if best is None:
        raise ValueError(f"got tol={tol!r}, which format={format!r} did not reach: allow more, or give ranks")
    return best.layers(layer)


def plan_of(module: Any) -> Plan | None:
    """The plan of a module that this package built."""
    plan = vars(module).get("plan") if isinstance(module, nn.Sequential) else None
    return plan if isinstance(plan, Plan) else None


def convolutions_of(module: nn.Sequential, plan: Plan) -> list[nn.Module]:
    """The layers that a module was built of, in the order in which data passes them; ValueError if exchanged."""
    convs = [layer for layer in module if isinstance(layer, KINDS)]
    if [Geometry.of(conv) for conv in convs] != [stage.conv for stage in plan.stages]:
        raise ValueError(f"got layers that do not follow their plan {plan}; only their weights may be changed")
    return convs
