"""Layers as products of linear layers, to be trained so: plain weight decay on the factors favours low rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import tensorring as tg
from tensorring_torch.chain import assembled
from tensorring_torch.checks import check_model, host_weight
from tensorring_torch.forms import cut
from tensorring_torch.geometry import Geometry
from tensorring_torch.kinds import canonical_weight
from tensorring_torch.modules import Kernel, pointwise, stage_weights
from tensorring_torch.plan import Plan
from tensorring_torch.replace import duplicate, put
from tensorring_torch.select import Candidate, Selection, candidates

# What the plan of such a chain says that it is: `fold` undoes these alone.
FORM = "expanded"


def expand(model: nn.Module, factors: int = 2, *, include: Selection = None, exclude: Selection = None) -> nn.Module:
    """expand(model)(x) = model(x) up to rounding: each layer is a product of linear layers, with nothing in between.

    Of a convolution the k×k convolution comes first, with stride and padding, then square 1×1 convolutions; of a
    transposed one they come before it, where images are small; of a linear layer matrices. So the 1×1 convolutions of
    shortcuts are expanded too: the strided one first, then a square one. What follows, a batch norm say, follows all.

    Parameters
    ----------
    model
        A network, trained or freshly built; it is not changed.
    factors
        How many layers N ≥ 2 each becomes.
    include, exclude
        Which layers, as in `compress`.

    Returns
    -------
    nn.Module
        A copy. Each layer expanded is a sequence with `.plan`, as from `build_layer`: `save` and `load`, `dense_layer`,
        `fine_tune` and `sensitivity_penalty` take it. Others stay as they are: embeddings, depthwise convolutions
        (there is one weight for each pair of channels), tied layers, those of nn.MultiheadAttention and of recurrent
        layers, those with hooks or a computed weight, and chains.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind or out of range, a selector matches nothing, no layer can be expanded, or a
        weight holds NaN or inf (a note names the layer).

    Notes
    -----
    The weight W of a layer counts as the matrix (O, I·k·k), of a transposed convolution as (I, O·k·k), of each group by
    itself. With W = U·diag(σ)·Vᴴ each factor gets diag(σ^{1/N}), the first one diag(σ^{1/N})·Vᴴ, the last one
    U·diag(σ^{1/N}): of all ways to write W as a product of N matrices these have the least sum of squares,
    (1/N)·Σ‖W_k‖² = Σ_i σ_i^{2/N}. So weight decay on the factors is a price on Σσ^{2/N} from the first step: the
    nuclear norm for N = 2, nearer to the rank for more. In between there are min(O, I·k·k) channels, the most that W
    can need, so that no W is out of reach. Where W has fewer directions than that (dead filters, a layer that begins
    with zeros), the missing ones have orthonormal vectors of average size in all factors but the last, and zeros there:
    the function is the same, and they can still be learnt, which from zeros in two factors they never could.

    Factors multiply in the dtype of the layer: float32 is exact to some 1e-6 of a layer's output. While it is trained
    the network costs more, per layer and step up to N times; `fold` ends that. Cost: an SVD of each weight, in double
    precision.

    References
    ----------
    X. Zhang, I. R. Alkhouri, R. Wang 2024, "Structure-preserving network compression via low-rank induced training
    through linear layers composition" (LoRITa), arXiv 2405.03089.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3, stride=2, padding=1), torch.nn.BatchNorm2d(16))
    >>> wide = tgt.expand(model, factors=3)
    >>> [tuple(layer.weight.shape) for layer in wide[0]]
    [(16, 8, 3, 3), (16, 16, 1, 1), (16, 16, 1, 1)]
    >>> x = torch.rand(2, 8, 9, 9)
    >>> torch.allclose(wide(x), model(x), atol=1e-5)
    True
    """
    check_model(model)
    if type(factors) is not int or factors < 2:
        raise ValueError(f"got factors={factors!r}; it is an int of at least 2: how many layers each becomes")
    unknown: dict[str, list[torch.Size]] = {name: [] for name, _ in model.named_modules()}
    found = [
        each
        for each in candidates(model, unknown, include=include, exclude=exclude)
        if not isinstance(each.layer, nn.Embedding)
    ]
    made = {each.name: _expanded(each, factors) for each in found if each.reason is None}
    if not made:
        why = "; ".join(f"{each.name!r}: {each.reason}" for each in found) or "there are no convolutions or linear ones"
        raise ValueError(f"got a {type(model).__name__} of which no layer can be expanded ({why})")
    with torch.inference_mode(False):
        return put(duplicate(model), made)


def cut_mode(geometry: Geometry) -> int:
    """The mode of the canonical weight at which factors meet: 1×1 convolutions stand where images are smallest."""
    return cut.INPUT if geometry.transposed else cut.OUTPUT


def _expanded(candidate: Candidate, factors: int) -> nn.Sequential:
    layer: Any = candidate.layer
    geometry, weight = Geometry.of(layer), host_weight(canonical_weight(layer))
    groups = np.split(weight.astype(np.result_type(weight, np.float64)), geometry.groups)
    try:
        kernels = [_kernels(part, cut_mode(geometry), factors) for part in groups]
    except ValueError as error:
        error.add_note(f"in layer {candidate.name!r}")
        raise
    links = tuple(kernel.link for kernel in kernels[0])
    plan = Plan(geometry, links, geometry.groups, FORM, tuple(link.outputs for link in links[:-1]))
    return assembled(plan, stage_weights(kernels, range(factors)), layer)


def _kernels(weight: np.ndarray, mode: int, count: int) -> list[Kernel]:
    """`count` kernels that make a weight (O, I, *size), in the order in which data passes them."""
    shape = (weight.shape[mode], *(n for k, n in enumerate(weight.shape) if k != mode))
    matrix = np.moveaxis(weight, mode, 0).reshape(shape[0], -1)
    left, values, right = _singular(matrix)
    shares, bond = values ** (1 / count), min(matrix.shape)
    # Data passes `right` first where the outputs are cut off; directions that W has not are zero in what comes last.
    first_is_left = mode != cut.OUTPUT
    left, right = (
        _completed(rows, bond) if first else np.pad(rows, ((0, bond - len(rows)), (0, 0)))
        for rows, first in ((left.T, first_is_left), (right, not first_is_left))
    )
    sizes = np.full(bond, shares.mean() if len(shares) else 1.0)
    sizes[: len(shares)] = shares
    tensor = tg.CutTensor((left.T * sizes), (sizes[:, None] * right).reshape(bond, *shape[1:]), (mode,))
    first, last = cut.kernels(tensor, weight.shape[2:])
    middle = pointwise(torch.diag(torch.from_numpy(sizes)).to(first.weight.dtype), weight.ndim - 2)
    return [first, *[middle] * (count - 2), last]


def _singular(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U, σ and Vᴴ, without what is zero to rounding."""
    # A cut at full rank leaves a matrix as it is. With a row and a column of zeros the rank is never full.
    left, right = tg.cut_svd(np.pad(matrix, ((0, 1), (0, 1))), modes=0, tol=0.0).tensor.arrays
    left, right = left[:-1], right[:, :-1]
    norms = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    values = norms[0] * norms[1]
    kept = values > 0
    return left[:, kept] / norms[0][kept], values[kept], right[kept] / norms[1][kept, None]


def _completed(rows: np.ndarray, count: int) -> np.ndarray:
    """Orthonormal rows, and others orthonormal to them and among themselves, `count` in all."""
    if len(rows) == count:
        return rows
    draws = np.random.default_rng(0).standard_normal((count - len(rows), rows.shape[1]))
    return np.concatenate([rows, _singular(draws - draws @ rows.conj().T @ rows)[2]])
