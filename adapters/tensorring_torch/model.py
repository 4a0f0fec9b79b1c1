"""A whole network, by a tolerance, within a budget or as small as a score allows. The work is done elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

from torch import nn

from tensorring_torch.budget import Budget
from tensorring_torch.budgeted import Budgeted
from tensorring_torch.chain import DIRECT, FITS
from tensorring_torch.checks import check_formats, check_minimize, check_model, is_quantised
from tensorring_torch.factored import OWNERS
from tensorring_torch.kinds import KINDS
from tensorring_torch.report import Compressed, Progress
from tensorring_torch.search import MEASURES, searched
from tensorring_torch.select import Selection
from tensorring_torch.tolerance import to_tolerance


def compress(  # noqa: PLR0913 - three ways to say how far to go, and what all of them share
    model: nn.Module,
    example_input: Any,
    *,
    tol: float | None = None,
    budget: Budget | None = None,
    minimize: str = "macs",
    formats: str | Iterable[str] | None = None,
    calibration: Any = None,
    evaluate: Callable[[nn.Module], Any] | None = None,
    max_drop: float | None = None,
    include: Selection = None,
    exclude: Selection = None,
    scores: str = "predicted",
    callback: Progress | None = None,
) -> Compressed:
    """A smaller network: every layer within `tol`, all layers within `budget`, or `evaluate` within `max_drop`.

    With `tol`, ‖weight − new weight‖ ≤ tol·‖weight‖ in each layer, in the form that costs least. With `budget` the
    network costs at most these fractions of the dense one, and forms and ranks are chosen layer by layer so that its
    outputs change least. With `evaluate` the smallest budget is searched at which evaluate(new) ≥ evaluate(model) −
    max_drop. Give exactly one of the three.

    Parameters
    ----------
    model
        Any nn.Module; it is not changed.
    example_input
        What the model takes: a tensor, a tuple of positional or a dict of keyword arguments. A forward pass of a copy
        in eval mode tells the sizes that each layer sees.
    tol
        The relative Frobenius error allowed for the weight of each layer, in [0, 1).
    budget
        A `Budget`: fractions of the dense network's parameters, multiply-adds or measured latency, any of them.
    minimize
        With `tol`, what is to be small in each layer. "macs": the multiply-adds of that forward pass; "parameters": the
        numbers stored; "time": an estimate that also counts the numbers which each layer reads and writes, and channels
        in the groups of 16 that processors work on. The fewest multiply-adds are often not the fastest: each further
        layer moves the image once more. With `evaluate`, what the budget is of: "time" is then the measured latency.
        With `budget` it plays no part.
    formats
        Some of those of `decompose_layer`. With `tol` by default "cut", "tucker", "tt", "tr": the CP forms store least,
        but are searched by iteration, for seconds to minutes a layer, and run slowly on processors where channels are
        few. With a budget some of "cp", "cut", "tucker"; by default what suits the budget.
    calibration
        With `budget` or `evaluate`: unlabelled inputs, a tensor or an iterable of batches, some hundred images. Layers
        are then fitted, in network order, to what the dense network puts out on the first 1,024; without, to the
        weights. Where the outputs have changed by more than 4 % of their squares, all factors are adjusted together in
        the end, on all inputs given.
    evaluate
        `evaluate(network)` is the score of a network, higher is better, such as the accuracy on images that are used
        for nothing else. It is called about eight times, with copies in eval mode.
    max_drop
        How much lower the score may be; 0.01 unless told.
    include, exclude
        Which layers: name patterns as in `fnmatch` ("encoder.*"), types of modules, or a list of both. What matches a
        module stands for everything in it; `exclude` wins.
    scores
        With `calibration`, what options of a layer are compared by. "predicted": what their errors do to the squares of
        the network's outputs, to first order; "measured": the KL divergence of its outputs, then taken as logits along
        the second axis, with that layer alone exchanged, on some 384 inputs. It takes half a minute more for a
        ResNet-20, and gave no better networks there, at 6.5 and 8 times fewer parameters.
    callback
        `callback(done, total, name)` after each layer, and after each step of an adjustment of all factors together;
        with `evaluate` after each network.

    Returns
    -------
    Compressed
        `.model`, a new model with the same training modes, dtypes and devices; `.report`, which prints as a table.
        A layer stays as it is where no form is cheaper, and where it cannot be replaced: depthwise, tied, quantised,
        weight-normed, never called; the report says why.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, no layer of the model can be decomposed, the model does not run on the
        example, or a weight holds NaN or inf (a note names the layer).
    tensorring.BudgetError
        A ValueError: if the budget cannot be met.

    Notes
    -----
    Knows convolutions of one, two and three axes, transposed too, and nn.Linear. With a budget, or `tol` and
    minimize="parameters", also nn.Embedding: with `calibration` its rows count by how often they are read. With a
    budget, but of latency, also nn.MultiheadAttention, which becomes a module of the same calls and function whose
    projections are layers, named q_proj, k_proj, v_proj and out_proj; where none of these is cut it stays itself. With
    `tol` and minimize="parameters" its weights, and those of nn.LSTM, nn.GRU, nn.RNN and their cells, are stored as
    products (`factor_weights`): storage shrinks, time does not. Otherwise these stay as they are.

    A model that reads attributes of a layer itself, such as `self.conv.weight`, no longer finds them where it was
    replaced.

    With `tol` it costs a forward pass and a few decompositions a layer. `tol` bounds the error of weights, not of the
    network's output, and half precision adds its own rounding. Ctrl-C returns the best so far: with `tol` the layers
    done, the others dense; the report's notes say how far it came.

    With `budget` it costs six fits of each form a layer (of large kernels three) and a longer one of that which is
    chosen: on two cores half a minute for a ResNet-20, a good minute for a ResNet-56, and as much again where factors
    are adjusted together; 10 to 80 s for each convolution of 4,608 inputs, by its form. With a latency the network
    comes back with the channels last, and batch norms that are in eval mode folded (`fold_norms`), where that is
    faster. Only the costs are bounded: how far the outputs are off is predicted.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3))
    >>> compressed = tgt.compress(model, torch.zeros(1, 3, 12, 12), tol=0.5)
    >>> compressed.model(torch.zeros(1, 3, 12, 12)).shape
    torch.Size([1, 32, 8, 8])
    >>> compressed.report.after.multiply_adds < compressed.report.before.multiply_adds
    True

    The whole network at a third of its parameters:

    >>> third = tgt.compress(model, torch.zeros(1, 3, 12, 12), budget=tgt.Budget(parameters=1 / 3)).report
    >>> third.after.parameters <= third.before.parameters / 3
    True
    """
    check_model(model)
    check_minimize(minimize)
    _check_goal(tol, budget, evaluate, max_drop=max_drop, calibration=calibration)
    _check_layers(model)
    names = (formats,) if isinstance(formats, str) else None if formats is None else tuple(formats)
    where: dict[str, Any] = {"include": include, "exclude": exclude}
    _check_scores(scores, calibration)
    if tol is not None:
        names = DIRECT if names is None else names
        check_formats(names, list(FITS))
        return to_tolerance(model, example_input, tol=tol, minimize=minimize, formats=names, callback=callback, **where)
    asked = [MEASURES[minimize][0]] if budget is None else budget.asked
    network = Budgeted(
        model, example_input, asked=asked, formats=names, calibration=calibration, scores=scores, **where
    )
    if budget is not None:
        return network.at(budget, callback=callback)
    assert evaluate is not None
    drop = 0.01 if max_drop is None else max_drop
    return searched(model, network.at, evaluate=evaluate, max_drop=drop, minimize=minimize, callback=callback)


def _check_goal(tol: Any, budget: Any, evaluate: Any, *, max_drop: Any, calibration: Any) -> None:
    """One of the three, of its kind, and of the rest only what goes with it."""
    given = {"tol": tol, "budget": budget, "evaluate": evaluate}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        got = " and ".join(names) or "none of tol, budget and evaluate"
        raise ValueError(f"got {got}; give one: tol=0.3, budget=Budget(parameters=0.5), or evaluate with max_drop")
    if tol is not None:
        _check_number("tol", tol, "the relative error allowed for each layer, in [0, 1)", below=1.0)
    if budget is not None and not isinstance(budget, Budget):
        raise TypeError(f"got budget={budget!r}; it is a Budget, such as Budget(parameters=0.5)")
    if evaluate is not None and not callable(evaluate):
        raise TypeError(f"got evaluate={evaluate!r}; it is a function that takes a network and returns its score")
    if max_drop is not None:
        if evaluate is None:
            raise ValueError(f"got max_drop={max_drop!r} without evaluate, the function whose score may drop")
        _check_number("max_drop", max_drop, "how much lower than the dense network's a score may be, 0 or more")
    if calibration is not None and tol is not None:
        raise ValueError(
            "got calibration with tol, which bounds errors of weights; data counts with budget or evaluate"
        )


def _check_scores(scores: Any, calibration: Any) -> None:
    if scores not in ("predicted", "measured"):
        raise ValueError(f"got scores={scores!r}; they are 'predicted' or 'measured'")
    if scores == "measured" and calibration is None:
        raise ValueError("got scores='measured' without calibration, the inputs to measure on")


def _check_number(name: str, value: Any, meaning: str, *, below: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):  # NumPy's floats are Real too
        raise TypeError(f"got {name}={value!r}; it is a number: {meaning}")
    if not 0 <= float(value) < below:
        raise ValueError(f"got {name}={value!r}; it is {meaning}")


def _check_layers(model: nn.Module) -> None:
    """ValueError where there is nothing to decompose, whatever else is said."""
    if any(isinstance(part, (*KINDS, *OWNERS)) or is_quantised(part) for part in model.modules()):
        return
    found = dict.fromkeys(type(part).__name__ for part in model.modules() if not any(part.children()))
    known = ", ".join(f"nn.{kind.__name__}" for kind in KINDS)
    raise ValueError(
        f"got a {type(model).__name__} in which nothing can be decomposed: it is made of {', '.join(found)}; what can "
        f"be are {known}, and the weights of recurrent layers and attention"
    )
