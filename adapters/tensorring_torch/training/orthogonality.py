"""How far the outer factors of expanded and compressed layers are from orthonormal, as a penalty for training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tensorring_torch.kinds import canonical_weight
from tensorring_torch.layer import convolutions_of, plan_of
from tensorring_torch.modules import block_kernels


def orthogonality_penalty(model: nn.Module) -> Tensor:
    """Σ over factored layers of ‖V·Vᴴ − I‖² + ‖Uᴴ·U − I‖², V being the first factor and U the last.

    The kernel of the first layer of a chain, (r, I, *kernel), is the matrix V (r, I·k·k); that of the last,
    (O, r, *kernel), is U (O·k·k, r). So a layer is U·V or, with more factors, U·S·V with S what lies between, of which
    nothing is asked. At 0 the singular values of the layer's weight are those of S.

    Parameters
    ----------
    model
        What `expand` made, or any network with layers of `compress`, `build_layer`, `decompose_layer` or `load`.

    Returns
    -------
    Tensor
        A real scalar with a gradient with respect to the first and last kernels; 0 where no layer is factored.

    Raises
    ------
    ValueError
        If the layers of a chain were exchanged for others.

    Notes
    -----
    With two factors alone nothing is left that could hold singular values, and the penalty draws them all to 1: then no
    rank is lower than another, and `vbmf_rank` finds none. Expand with `factors=3`, whose S may have any.

    In general it is Σ(σ_i² − 1)² over the singular values of V and of U. Where a matrix has fewer rows (columns) than
    would have to be orthonormal, those of its other side are meant, which differs by a constant. Groups count each by
    itself. Of other forms than products of matrices the outer two kernels count: of Tucker its two factors, of a CP the
    matrices of the channels. Half precision is computed in float32.

    Taken over from the paper are the penalty Σ‖UᵀU − I‖² + ‖VᵀV − I‖² on the factors and ranks by VBMF (`fold`). That
    a full matrix S may stand between them, and that factors begin where the trained weight is (`expand`), is ours.

    Costs one product of each matrix with itself, and nothing that grows with images.

    References
    ----------
    Y. He, L. Jiang, D. Wu 2024, "Convolutional neural network compression based on low-rank decomposition", arXiv
    2408.16289.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> model = tgt.expand(torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.ReLU()), factors=3)
    >>> loss = model(torch.rand(2, 4, 5, 5)).square().mean() + 1e-2 * tgt.orthogonality_penalty(model)
    >>> loss.backward()
    """
    return sum((_apart(matrix) for matrix in _outer(model)), torch.zeros(()))


def _outer(model: nn.Module) -> Iterator[Tensor]:
    """(r, everything else) of the first and the last kernel of each chain, r being their bond with the others."""
    for module in model.modules():
        plan = plan_of(module)
        if plan is None or len(plan.links) == 1:
            continue
        assert isinstance(module, nn.Sequential)
        for kernels in block_kernels(plan, [canonical_weight(conv) for conv in convolutions_of(module, plan)]):
            yield kernels[0].weight.flatten(1)
            yield kernels[-1].weight.transpose(0, 1).flatten(1)


def _apart(matrix: Tensor) -> Tensor:
    """‖M·Mᴴ − I‖² along the shorter side."""
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    gram = matrix @ matrix.mH if matrix.shape[0] <= matrix.shape[1] else matrix.mH @ matrix
    apart = gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return (apart * apart.conj()).real.sum()
