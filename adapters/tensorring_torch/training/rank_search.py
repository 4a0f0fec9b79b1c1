"""The smallest rank of each layer that a score allows, one layer at a time: bisection."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from torch import nn

from tensorring_torch.calibration.fits import forms
from tensorring_torch.checks import check_formats, check_model
from tensorring_torch.geometry import Geometry
from tensorring_torch.layer import decompose_layer
from tensorring_torch.replace import duplicate, put
from tensorring_torch.report import Progress
from tensorring_torch.score import Evaluate, score_of
from tensorring_torch.select import Selection, candidates
from tensorring_torch.trace import input_shapes

_ROUNDING = 1e-9  # scores are often counts divided by counts


def search_ranks(
    model: nn.Module,
    example_input: Any,
    *,
    evaluate: Evaluate,
    max_drop: float = 0.01,
    format: str = "cp",
    include: Selection = None,
    exclude: Selection = None,
    callback: Progress | None = None,
) -> dict[str, int]:
    """{layer: R}: the least R with evaluate(model, that layer alone of rank R) ≥ evaluate(model) − max_drop.

    Parameters
    ----------
    model
        Any nn.Module; it is not changed.
    example_input
        What the model takes, as in `compress`: one forward pass of a copy tells which layers are called.
    evaluate
        `evaluate(network)` is the score of a network, higher is better, such as the accuracy on images that are used
        for nothing else. It is called with copies in eval mode.
    max_drop
        How much lower the score may be, for each layer alone.
    format
        A format whose rank is one number: "cp", the stable CP, or "cut". A matrix is always cut.
    include, exclude
        Which layers, as in `compress`.
    callback
        `callback(done, total, name)` after each layer.

    Returns
    -------
    dict[str, int]
        In network order; what `Schedule` takes as `ranks`. Layers of which no rank with fewer parameters kept the score
        are left out: they stay dense. Ctrl-C returns the layers done so far.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind or out of range, no layer can be decomposed, a weight holds NaN or inf, or
        `evaluate` returns no number.

    Notes
    -----
    Bisection over 1 … R_max, at which the layer stores as much as it does dense: log2 R_max fits and calls of
    `evaluate` a layer. It takes a score that is kept at some rank to be kept at all higher ones; where scores go up and
    down the rank found keeps the score, or is left out, but a smaller one may do. Drops of single layers add up once
    all are exchanged, and that is what training in between (`Schedule`) is for.

    References
    ----------
    A.-H. Phan et al. 2020, "Stable low-rank tensor decomposition for compression of convolutional neural network",
    arXiv 2008.05441.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Flatten())
    >>> x = torch.rand(5, 4, 6, 6)
    >>> y = model(x).detach()
    >>> evaluate = lambda network: -float((network(x).detach() - y).norm() / y.norm())
    >>> ranks = tgt.search_ranks(model, x, evaluate=evaluate, max_drop=0.9)
    >>> list(ranks)
    ['0']
    """
    check_model(model)
    check_formats([format], ["cp", "cut"])
    if not callable(evaluate):
        raise TypeError(f"got evaluate={evaluate!r}; it is a function that takes a network and returns its score")
    if isinstance(max_drop, bool) or not isinstance(max_drop, Real) or not float(max_drop) >= 0:
        raise ValueError(f"got max_drop={max_drop!r}; it is how much lower a score may be, a number, 0 or more")
    found = candidates(model, input_shapes(model, example_input), include=include, exclude=exclude)
    waiting = [(each.name, each.layer) for each in found if each.reason is None]
    if not waiting:
        reasons = "; ".join(f"{each.name!r}: {each.reason}" for each in found)
        raise ValueError(f"got a {type(model).__name__} without a layer to decompose ({reasons or 'none'})")
    ranks = {}
    try:
        dense = score_of(evaluate, duplicate(model).eval(), "the dense network")
        if math.isinf(dense):
            raise ValueError(f"got {dense} from evaluate for the dense network; a drop is told from a finite score")
        least = dense - float(max_drop) - _ROUNDING * max(1.0, abs(dense))
        for done, (name, layer) in enumerate(waiting, start=1):
            rank = _smallest(model, name, layer, format, evaluate, least)
            ranks |= {} if rank is None else {name: rank}
            if callback is not None:
                callback(done, len(waiting), name)
    except KeyboardInterrupt:
        pass
    return ranks


def _smallest(
    model: nn.Module, name: str, layer: nn.Module, format: str, evaluate: Evaluate, least: float
) -> int | None:
    """None where no rank with fewer parameters scores `least`."""
    shape = Geometry.of(layer).weight_shape
    fewer = 1 - 1 / math.prod(shape)
    most = max(form.ranks(shape, fewer)[0] for form in forms(format, shape))
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        try:
            small = decompose_layer(layer, format=format, ranks=middle)
        except ValueError as error:
            error.add_note(f"in layer {name!r}")
            raise
        network = put(duplicate(model), {name: small}).eval()
        if score_of(evaluate, network, f"the network with layer {name!r} at rank {middle}") >= least:
            high = middle
        else:
            low = middle
    return high if high <= most else None
