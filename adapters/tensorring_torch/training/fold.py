"""Products of linear layers become one layer again, or two thin ones: what `expand` made is undone and truncated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

import tensorring as tg
from tensorring_torch.chain import Chain, Use
from tensorring_torch.checks import check_model, host_weight
from tensorring_torch.kinds import canonical_weight
from tensorring_torch.layer import convolutions_of, dense_layer, plan_of
from tensorring_torch.layout import has_channels_last, lay_out
from tensorring_torch.modules import dense_weight
from tensorring_torch.plan import Plan
from tensorring_torch.replace import duplicate, put
from tensorring_torch.report import Compressed
from tensorring_torch.select import chains
from tensorring_torch.trace import input_shapes
from tensorring_torch.training.comparison import compared
from tensorring_torch.training.expand import FORM, cut_mode

Ranks = int | Mapping[str, int] | str | None
VBMF = "vbmf"


def fold(model: nn.Module, *, tol: float | None = None, ranks: Ranks = None, example_input: Any = None) -> Compressed:
    """‖W − new weight‖ ≤ tol·‖W‖ for the one weight W that the factors of each expanded layer make, at the least rank.

    With tol=0 and no ranks to save it is `expand` undone: the same function, in the layers that there were.

    Parameters
    ----------
    model
        What `expand` made, trained on or not; it is not changed.
    tol
        The relative Frobenius error allowed for each weight, in [0, 1). Give this or `ranks`.
    ranks
        The rank of each weight: one int for all, {name of the layer: int} (layers that are not named are merged), or
        "vbmf": those that `tg.vbmf_rank` finds, at least 1. Of a layer with groups, of each of them.
    example_input
        What the model takes, as in `compress`: then the report counts multiply-adds, which are 0 in it otherwise.

    Returns
    -------
    Compressed
        `.model`: a convolution k×k to r channels and a 1×1 convolution, of transposed ones a 1×1 and then the k×k, two
        matrices of linear layers; where two would not have fewer parameters than the one dense layer (which is from
        r = O·I·k·k/(O + I·k·k) on), that one, not truncated. Layers that were not expanded are as they were. `.report`
        says of each what was done, with which error, and why; "before" is the dense network that was expanded.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind or out of range, not one of tol and ranks is given, the model has no expanded
        layers, `ranks` names what is none, or a weight holds NaN or inf (a note names the layer).

    Notes
    -----
    W counts as the matrix (O, I·k·k), of a transposed convolution as (I, O·k·k), of each group by itself, as in
    `expand`: this is where training made it low in rank. It is multiplied out in double precision, so that directions
    in which factors are zero are found at tol=0, and cut by `tg.cut_svd`; errors in the report are those of the layers
    returned. Both layers get the same share of each singular value (`tg.balance`), as further training needs. Cost: an
    SVD of each weight.

    `vbmf_rank` takes W for a matrix of low rank in noise; of a square one it never finds more than half the rank.

    References
    ----------
    X. Zhang, I. R. Alkhouri, R. Wang 2024, arXiv 2405.03089 (truncation to a tolerance); Y. He, L. Jiang, D. Wu 2024,
    arXiv 2408.16289 (VBMF).

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 1))
    >>> folded = tgt.fold(tgt.expand(model), ranks={"0": 5})
    >>> [tuple(layer.weight.shape) for layer in folded.model[0]], folded.model[2]
    ([(5, 8, 3, 3), (16, 5, 1, 1)], Conv2d(16, 4, kernel_size=(1, 1), stride=(1, 1)))
    >>> [(layer.form, layer.ranks) for layer in folded.report.layers]
    [('cut(0,)', (5,)), ('dense', ())]
    """
    check_model(model)
    found = [each for each in chains(model) if getattr(plan_of(each.layer), "form", None) == FORM]
    _check_goal(model, tol, ranks, [each.name for each in found])
    shapes = {} if example_input is None else input_shapes(model, example_input)
    reasons, merged, cut = dict[str, str](), dict[str, nn.Module](), dict[str, nn.Module]()
    for name, layer, reason in found:
        reasons[name] = reason or ""
        if reason is None:
            merged[name] = _merged(layer)
            reasons[name], layers = _folded(layer, merged[name], name, tol, ranks)
            cut |= {} if layers is None else {name: layers}
    with torch.inference_mode(False):
        dense, folded = (put(duplicate(model), layers) for layers in (merged, merged | cut))
    return Compressed(folded, compared(dense, folded, shapes, reasons))


def _merged(layer: nn.Module) -> nn.Module:
    """The dense layer that an expanded one stands for, laid out alike."""
    dense: nn.Module = dense_layer(layer)
    if has_channels_last(layer):
        lay_out(dense)
    return dense


def _folded(
    layer: nn.Module, dense: nn.Module, name: str, tol: float | None, ranks: Ranks
) -> tuple[str, nn.Sequential | None]:
    """Why, and the two layers that take the place of an expanded one; None where it is merged."""
    asked = ranks.get(name) if isinstance(ranks, Mapping) else ranks
    if tol is None and asked is None:
        return "merged: no rank was given", None
    plan = plan_of(layer)
    assert plan is not None
    mode = cut_mode(plan.geometry)
    try:
        parts = [_cut(part, mode, tol, asked) for part in np.split(_weight(layer, plan), plan.geometry.groups)]
    except (TypeError, ValueError) as error:
        error.add_note(f"in layer {name!r}")
        raise
    chain = Chain.of(parts, Use.unknown(plan.geometry, "parameters"))
    rank, full = chain.tensors[0].ranks[0], plan.ranks[0]
    if len(chain.plan.links) == 1:
        return f"merged: rank {rank} of {full} costs no less", None
    why = f"the least at tol={tol:g}" if tol is not None else "found by VBMF" if asked == VBMF else "as asked"
    return f"rank {rank} of {full}, {why}", chain.layers(dense)


def _weight(layer: nn.Module, plan: Plan) -> Any:
    """The canonical weight that the factors make, multiplied in double precision."""
    assert isinstance(layer, nn.Sequential)
    weights = [canonical_weight(conv).detach() for conv in convolutions_of(layer, plan)]
    return host_weight(dense_weight(plan, [w.to(torch.promote_types(w.dtype, torch.float64)) for w in weights]))


def _cut(part: np.ndarray, mode: int, tol: float | None, rank: Any) -> tg.CutTensor:
    if rank == VBMF:
        rank = max(1, tg.vbmf_rank(np.moveaxis(part, mode, 0).reshape(part.shape[mode], -1)))
    # Of one scale: with all singular values on one side the next training may diverge.
    return tg.balance(tg.cut_svd(part, modes=mode, tol=tol, ranks=rank).tensor)


def _check_goal(model: nn.Module, tol: Any, ranks: Any, names: list[str]) -> None:
    """ValueError unless there is something to fold, and either a tolerance or ranks of it; the core looks at `tol`."""
    if not names:
        raise ValueError(f"got a {type(model).__name__} without expanded layers; expand makes them")
    if (tol is None) == (ranks is None):
        got = "neither tol nor ranks" if tol is None else f"tol={tol!r} and ranks={ranks!r}"
        raise ValueError(f"got {got}; give one: tol=0.1, ranks=8, ranks={{{names[0]!r}: 8}} or ranks={VBMF!r}")
    wrong = [name for name in (ranks if isinstance(ranks, Mapping) else ()) if name not in names]
    if wrong:
        raise ValueError(f"got ranks of {wrong[0]!r}; the expanded layers are {', '.join(map(repr, names))}")
    for rank in ranks.values() if isinstance(ranks, Mapping) else [ranks]:
        if not (rank is None and tol is not None) and rank != VBMF and (type(rank) is not int or rank < 1):
            raise ValueError(f"got ranks={rank!r}; a rank is an int of at least 1, or {VBMF!r} finds all of them")
