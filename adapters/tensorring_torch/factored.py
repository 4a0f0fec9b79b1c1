"""Weights that their owners read themselves (LSTM, GRU, RNN, attention), stored as products of two thin matrices."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import tensorring as tg
from tensorring_torch.checks import host_weight
from tensorring_torch.modules import to_torch

OWNERS = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


class Product(nn.Module):
    """left @ right in place of a matrix; a matrix assigned to it is cut by the core, at the same rank."""

    def __init__(self, rank: int, start: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.rank = rank
        self.start = start  # what the first matrix that arrives is known to be cut into

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """The matrix."""
        return left @ right

    def right_inverse(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Its two factors: the best of this rank."""
        start, self.start = self.start, None
        return start or _factors(_cut(matrix, None, self.rank), matrix)

    def extra_repr(self) -> str:
        """The rank."""
        return str(self.rank)


def factor_weights(module: nn.Module, *, tol: float | None = None, ranks: int | None = None) -> nn.Module:
    """A copy of `module` in which each weight matrix W is left @ right, ‖W − left @ right‖ ≤ tol·‖W‖.

    Parameters
    ----------
    module
        An nn.LSTM, nn.GRU, nn.RNN, one of their cells or an nn.MultiheadAttention; it is not changed.
    tol
        The relative Frobenius error allowed for each matrix, in [0, 1).
    ranks
        A cap for each matrix, which wins over `tol`.

    Returns
    -------
    nn.Module
        Of the same kind, with `torch.nn.utils.parametrize`: the names of the weights stay, reading one multiplies its
        factors, and these are what is stored and trained. A matrix of which the factors would be as large stays as it
        is. `parametrize.remove_parametrizations(module, name)` makes a plain weight of it again.

    Raises
    ------
    TypeError
        If the module is of another kind.
    ValueError
        If a weight is parametrized already or shared with others in the module, or neither `tol` nor `ranks` is given.

    Notes
    -----
    Only storage shrinks: each call multiplies the factors and then works with whole matrices, so it takes a little
    longer than before. Gates (and queries, keys and values) that lie in one matrix share the right factor.
    As torch says of all parametrized modules, `torch.save(module)` does not work; state_dict, deepcopy and `save` do.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> lstm = torch.nn.LSTM(32, 64)
    >>> small = tgt.factor_weights(lstm, ranks=8)
    >>> sum(p.numel() for p in lstm.parameters()), sum(p.numel() for p in small.parameters())
    (25088, 5376)
    >>> small(torch.zeros(5, 1, 32))[0].shape
    torch.Size([5, 1, 64])
    """
    if not isinstance(module, OWNERS):
        names = "nn.LSTM, nn.GRU, nn.RNN, their cells and nn.MultiheadAttention"
        raise TypeError(f"got a {type(module).__name__}; weights are factored in {names}: see decompose_layer")
    reason = obstacle_to_factors(module)
    if reason is not None:
        raise ValueError(f"got a {type(module).__name__}: {reason}")
    small = copy.deepcopy(module)
    for owner, name in list(_matrices(small)):
        matrix = getattr(owner, name)
        found = _cut(matrix, tol, ranks)
        rank = found.tensor.ranks[0]
        if found.tensor.parameter_count < matrix.numel():
            _attach(owner, name, rank, _factors(found, matrix))
    return small


def obstacle_to_factors(module: nn.Module) -> str | None:
    """Why the weights of a module cannot be stored as products; None where they can."""
    if any(parametrize.is_parametrized(part) for part in module.modules()):
        return "it is parametrized already: remove its parametrizations first"
    if len(list(module.named_parameters(remove_duplicate=False))) > len(list(module.parameters())):
        return "it holds a weight twice: as factors they would part"
    if any(parameter.is_meta for parameter in module.parameters()):
        return "its weights are on the meta device, without numbers"
    return None


def factored_ranks(model: nn.Module) -> dict[str, dict[str, int]]:
    """{module: {weight: rank}} of all weights that are products."""
    found = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module) and not isinstance(module, parametrize.ParametrizationList):
            parts: Any = module.parametrizations
            ranks = {key: chain[0].rank for key, chain in parts.items() if isinstance(chain[0], Product)}
            if ranks:
                found[name] = ranks
    return found


def attach_empty(module: nn.Module | None, ranks: Any) -> None:
    """Products of zeros in place of some weights, for a state to be loaded; ValueError where a weight is not there."""
    for name, rank in ranks.items() if isinstance(ranks, Mapping) else [(None, None)]:
        matrix = None if module is None or name is None else module._parameters.get(name)
        if matrix is None or matrix.ndim != 2 or type(rank) is not int or not 0 < rank <= min(matrix.shape):
            raise ValueError(f"its weight {name!r} as a product of rank {rank!r} does not fit the model")
        assert module is not None
        assert name is not None
        zeros = (matrix.new_zeros(matrix.shape[0], rank), matrix.new_zeros(rank, matrix.shape[1]))
        _attach(module, name, rank, zeros)


def _matrices(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for owner in module.modules():
        yield from ((owner, name) for name, p in owner._parameters.items() if p is not None and p.ndim == 2)


def _cut(matrix: Tensor, tol: float | None, rank: int | None) -> tg.Decomposition[tg.CutTensor]:
    return tg.cut_svd(host_weight(matrix), modes=(0,), tol=tol, ranks=rank)


def _factors(found: tg.Decomposition[tg.CutTensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Of one scale each, as training needs."""
    left, right = to_torch(found.tensor.left), to_torch(found.tensor.right)
    norms = right.norm(dim=1)
    scales = torch.where(norms > 0, norms, torch.ones_like(norms)).sqrt()
    return (left * scales).to(like), (right / scales[:, None]).to(like)


def _attach(module: nn.Module, name: str, rank: int, factors: tuple[Tensor, Tensor]) -> None:
    trained = getattr(module, name).requires_grad
    with torch.inference_mode(False), torch.no_grad():
        parametrize.register_parametrization(module, name, Product(rank, factors), unsafe=True)
    parts: Any = module.parametrizations
    for factor in parts[name].parameters():
        factor.requires_grad_(trained)
    if isinstance(module, nn.RNNBase) and len(parts) == 1:
        _forget_products(module)


def _forget_products(module: Any) -> None:
    """RNNs keep the weights that they used last, which torch would refuse to copy: products have a gradient."""
    kind = type(module)  # torch made this class for this module alone
    copied = kind.__deepcopy__

    def forgetful(self: Any, memo: dict[int, Any]) -> Any:
        self._flat_weights = [None] * len(self._flat_weights)  # the next call makes them anew
        return copied(self, memo)

    kind.__deepcopy__ = forgetful
