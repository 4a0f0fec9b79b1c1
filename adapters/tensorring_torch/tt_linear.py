"""Linear layers as TT-matrices: inputs and outputs are split into factors, and each core works on one pair of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

import tensorring as tg
from tensorring_torch.checks import check_layer, host_weight
from tensorring_torch.geometry import Geometry
from tensorring_torch.kinds import layer_of
from tensorring_torch.modules import to_torch

Factors = tuple[tuple[int, ...], tuple[int, ...]]


class TTLinear(nn.Module):
    """y = x @ W.mT + bias with W[(n_1, …, n_d), (m_1, …, m_d)] = G_1[n_1, m_1] ⋯ G_d[n_d, m_d].

    Parameters
    ----------
    factors
        ((n_1, …, n_d), (m_1, …, m_d)): the sizes into which the outputs and the inputs are split.
    ranks
        The d − 1 bonds between the cores.
    bias
        The bias of the layer.
    dtype, device
        Of the cores, which are empty until something is put into them: `tt_linear` and `load` do.

    Raises
    ------
    ValueError
        If the numbers of factors and ranks do not belong together.

    Notes
    -----
    `.cores[k]` is the matrix (n_k·r_k, r_{k-1}·m_k) of core G_k: each step is one matrix product, and nothing is
    permuted. `.weight` is not there: `dense_layer` makes it.

    References
    ----------
    A. Novikov et al. 2015, "Tensorizing neural networks", arXiv 1509.06569.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> train = tgt.tt_linear(torch.nn.Linear(64, 32), factors=((4, 8), (8, 8)), ranks=5)
    >>> [tuple(core.shape) for core in train.cores]
    [(20, 8), (8, 40)]
    """

    def __init__(
        self,
        factors: Factors,
        ranks: Sequence[int],
        bias: nn.Parameter | None,
        *,
        dtype: Any = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        outputs, inputs = factors
        if not len(outputs) == len(inputs) == len(ranks) + 1:
            raise ValueError(
                f"got factors={factors}, ranks={tuple(ranks)}; they are d outputs, d inputs and d - 1 ranks"
            )
        self.factors, self.ranks = factors, tuple(ranks)
        sizes = zip(outputs, inputs, pairwise((1, *ranks, 1)), strict=True)
        shapes = [(n * right, left * m) for n, m, (left, right) in sizes]
        self.cores = nn.ParameterList(torch.empty(shape, dtype=dtype, device=device) for shape in shapes)
        self.register_parameter("bias", bias)

    @property
    def geometry(self) -> Geometry:
        """That of the layer that it stands for."""
        outputs, inputs = map(math.prod, self.factors)
        return Geometry(inputs, outputs, ())

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) -> (…, outputs)."""
        y = self._product(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)  # y is shorter under autocast

    def _product(self, x: Tensor) -> Tensor:
        y, (*cores, last) = x, self.cores
        for k, core in enumerate(cores, start=1):  # (images and n done, r·m, m to come) -> (…, n·r, m to come)
            y = core @ y.reshape(-1, core.shape[1], math.prod(self.factors[1][k:]))
        y = y.reshape(-1, last.shape[1]) @ last.mT  # nothing is to come: one product, not one for each image
        return y.reshape(*x.shape[:-1], self.geometry.out_channels)

    def dense(self) -> nn.Linear:
        """The one layer that it stands for, with memory of its own."""
        with torch.inference_mode(False), torch.no_grad():
            core = self.cores[0]
            identity = torch.eye(self.geometry.in_channels, dtype=core.dtype, device=core.device)
            bias = None if self.bias is None else nn.Parameter(self.bias.clone(), self.bias.requires_grad)
            trained = any(core.requires_grad for core in self.cores)
            return cast(
                nn.Linear,
                layer_of(self.geometry, self._product(identity).mT, bias, trained=trained).train(self.training),
            )

    def extra_repr(self) -> str:
        """The sizes."""
        ends = f"{self.geometry.in_channels} -> {self.geometry.out_channels}"
        return f"{ends}, factors={self.factors}, ranks={self.ranks}, bias={self.bias is not None}"


def tt_linear(
    layer: nn.Linear,
    *,
    factors: Factors | None = None,
    tol: float | None = None,
    ranks: int | Sequence[int] | None = None,
) -> TTLinear:
    """‖weight − dense_layer(result).weight‖ ≤ tol·‖weight‖: the weight as a TT-matrix, by `tg.tt_svd`.

    Parameters
    ----------
    layer
        The layer; it is not changed.
    factors
        ((n_1, …, n_d), (m_1, …, m_d)): how the outputs and the inputs are split, with the layer's sizes as products.
        By default as evenly as possible in two; with `tol` alone in two or three, whichever stores less.
    tol
        The relative Frobenius error allowed, in [0, 1).
    ranks
        Caps of the d − 1 bonds, which win over `tol`. An int stands for all.

    Returns
    -------
    TTLinear
        With dtype, device, bias, training mode and requires_grad of `layer`.

    Raises
    ------
    TypeError, ValueError
        If `layer` is no plain nn.Linear, the factors do not multiply to its sizes, neither `tol` nor `ranks` is given,
        or they are not what `tg.tt_svd` takes.

    Notes
    -----
    How much is stored depends on how inputs and outputs happen to be ordered, other than for a cut (`decompose_layer`):
    compare the two. It is made for storage: between two cores lie up to r times the numbers of the input, so in large
    batches it is slower than the dense layer unless ranks are small. `compress` does not try this form.

    References
    ----------
    A. Novikov et al. 2015, "Tensorizing neural networks", arXiv 1509.06569.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> small = tgt.tt_linear(torch.nn.Linear(256, 128), ranks=4)
    >>> small.factors, sum(p.numel() for p in small.parameters())
    (((8, 16), (16, 16)), 1664)
    """
    check_layer(layer)
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"got a {type(layer).__name__}; TT-matrices stand in for nn.Linear: see decompose_layer")
    sizes = (layer.out_features, layer.in_features)
    if factors is not None and (len(set(map(len, factors))), *map(math.prod, factors)) != (1, *sizes):
        raise ValueError(
            f"got factors={factors}; they are as many of the outputs as of the inputs, of products {sizes}"
        )
    counts = (2, 3) if tol is not None and ranks is None else (2,)
    ways = [(_even(sizes[0], d), _even(sizes[1], d)) for d in counts] if factors is None else [factors]
    built = [_fitted(layer, way, tol, ranks) for way in ways]
    return min(built, key=lambda train: sum(core.numel() for core in train.cores))


def _fitted(layer: nn.Linear, factors: Factors, tol: float | None, ranks: int | Sequence[int] | None) -> TTLinear:
    d, weight = len(factors[0]), host_weight(layer.weight)
    pairs = weight.reshape(*factors[0], *factors[1]).transpose([k for n in range(d) for k in (n, d + n)])
    found = tg.tt_svd(pairs.reshape([n * m for n, m in zip(*factors, strict=True)]), tol=tol, ranks=ranks)
    bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)
    train = TTLinear(factors, found.tensor.ranks, bias, dtype=layer.weight.dtype, device=layer.weight.device)
    for matrix, core, outputs in zip(train.cores, found.tensor.cores, factors[0], strict=True):
        steps = to_torch(core).unflatten(1, (outputs, -1)).permute(1, 3, 0, 2)  # (r, n, m, s) -> (n, s, r, m)
        matrix.data.copy_(steps.reshape(matrix.shape))
        matrix.requires_grad_(layer.weight.requires_grad)
    return train.train(layer.training)


def _even(size: int, count: int) -> tuple[int, ...]:
    """So many factors of a number, ascending, as near to each other as they can be."""
    return min(_splits(size, count, 1), key=sum)


def _splits(size: int, count: int, least: int) -> Iterator[tuple[int, ...]]:
    if count == 1:
        yield (size,)
        return
    for first in range(least, int(size ** (1 / count) + 1e-9) + 1):
        if size % first == 0:
            yield from ((first, *rest) for rest in _splits(size // first, count - 1, first))


def skeleton(entry: Any, like: Any, *, held: int) -> TTLinear:
    """The layer of a file's entry, without memory for its numbers yet; ValueError if it is no TT-matrix of `like`."""
    outputs, inputs = entry["factors"]
    numbers = [*outputs, *inputs, *entry["ranks"]]
    if any(type(number) is not int or not 0 < number <= held for number in numbers):
        raise ValueError(f"got {numbers}: factors and ranks are positive ints, no larger than the file")
    if (math.prod(outputs), math.prod(inputs)) != (like.out_features, like.in_features):
        raise ValueError(f"got factors {outputs}, {inputs} for {like.out_features} outputs, {like.in_features} inputs")
    bias = None if like.bias is None else nn.Parameter(like.bias.to("meta"), like.bias.requires_grad)
    train = TTLinear((tuple(outputs), tuple(inputs)), entry["ranks"], bias, dtype=like.weight.dtype, device="meta")
    return train.requires_grad_(like.weight.requires_grad).train(like.training)
