"""Compression step by step, with training in between: all layers a little further, or some layers at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tensorring_torch.attention import open_attention
from tensorring_torch.budget import Budget
from tensorring_torch.checks import check_model
from tensorring_torch.forms.tr import Caps
from tensorring_torch.latency import Stopwatch
from tensorring_torch.layer import decompose_layer, dense_layer, plan_of
from tensorring_torch.model import compress
from tensorring_torch.replace import duplicate, put
from tensorring_torch.report import Compressed, Report
from tensorring_torch.select import Selection, candidates
from tensorring_torch.trace import input_shapes, multiply_adds
from tensorring_torch.training.comparison import compared
from tensorring_torch.training.influence import influences
from tensorring_torch.training.step import Step

ORDERS = ("influence", "forward", "backward")
# Fractions are of counts: a count is met where its fraction is, but for rounding.
_ROUNDING = 1e-9


class Schedule:
    """The network within a budget after all steps; between them it is yours to train on.

    With `steps` all layers are compressed in each, k of n to the budget's fraction to the power k/n, from the products
    of the factors as they were trained. With `layers_at_once` so many layers go straight to what the budget leaves
    them, each from its trained weight, while the others stay as they are. Give one of the two.

    Parameters
    ----------
    model
        Any nn.Module; it is not changed.
    example_input
        What the model takes, as in `compress`.
    budget
        A `Budget` of the network after the last step; by layers one of parameters, of multiply-adds, or of both.
    ranks
        In place of a budget, by layers: {name: caps} as in `decompose_layer`, such as `search_ranks` finds; no other
        layer is changed, and weights are fitted without data.
    steps, layers_at_once
        How many steps, or how many layers in each.
    order
        By layers: "influence", those first that change the outputs least when they alone are compressed (without
        calibration: those of the smallest relative error); "forward" and "backward" as in the network; or a list of all
        names.
    formats
        As in `compress`; with `ranks` one format, "cp" unless told.
    calibration
        Unlabelled inputs, as in `compress`. It is used in each step, so a generator is read once and kept.
    include, exclude
        Which layers, as in `compress`; with `ranks` these are named already.

    Attributes
    ----------
    model
        The network as it stands: after the last step taken, trained on if that was assigned.
    report
        On all layers as they stand against those of the network given; errors include what training changed.
    order
        By layers: the names, in the order in which their turn comes.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind or out of range, or layers are named that cannot be changed.
    tensorring.BudgetError
        If the budget cannot be met: the last step is tried first, when the schedule is made.

    Notes
    -----
    `for step in schedule` gives one `Step` after the other, `len(schedule)` is their number. A step is made when its
    turn comes, so it sees what was trained before. What is not assigned is not lost: `schedule.model` is then the
    network as it was compressed. After a Ctrl-C or a `break` another `for` goes on with the steps that are left; one
    that was interrupted on its way is made again.

    Optimizers hold parameters of the network before: make a new one in each step, as `fine_tune` does. Making a
    schedule costs a `compress` (by its weights alone where `steps` are given) and, for the order by influence, a pass
    of 256 inputs for each layer; each step costs a `compress` of its layers.

    References
    ----------
    All layers weakly, again and again: J. Gusak et al. 2019, "MUSCO: multi-stage compression of neural networks", arXiv
    1903.09973. One layer at a time: M. Astrid, S.-I. Lee 2017, "CP-decomposition with tensor power method for
    convolutional neural networks compression", arXiv 1701.07148.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.ReLU(), torch.nn.Linear(24, 2))
    >>> data = torch.rand(40, 16), torch.arange(40) % 2
    >>> schedule = tgt.Schedule(model, data[0][:1], budget=tgt.Budget(parameters=0.4), steps=2)
    >>> for step in schedule:
    ...     step.model = tgt.fine_tune(step.model, model, data, epochs=1).model
    >>> schedule.report.after.parameters <= 0.4 * schedule.report.before.parameters
    True
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Any,
        *,
        budget: Budget | None = None,
        ranks: Mapping[str, Caps] | None = None,
        steps: int | None = None,
        layers_at_once: int | None = None,
        order: str | Sequence[str] = "influence",
        formats: str | Iterable[str] | None = None,
        calibration: Any = None,
        include: Selection = None,
        exclude: Selection = None,
    ) -> None:
        check_model(model)
        self._select: dict[str, Any] = {"include": include, "exclude": exclude}
        _check_sizes(budget, ranks, formats, self._select)
        _check_steps(steps, layers_at_once, order, budget)
        self._dense, self._example = duplicate(model), example_input
        if budget is None or budget.latency is None:
            open_attention(self._dense)  # once: its projections have the same names in all steps
        self._shapes = input_shapes(self._dense, example_input)
        self._found = candidates(self._dense, self._shapes, **self._select)
        self._budget, self._ranks, self._at_once = budget, ranks, layers_at_once
        self._formats = formats if formats is None or isinstance(formats, str) else tuple(formats)
        self._calibration = calibration if calibration is None or isinstance(calibration, Tensor) else list(calibration)
        self._step: Step | None = None
        planned = _finished(self._planned())
        self._rows = {layer.name: layer for layer in planned.report.layers if layer.form != "dense"}
        self.order = self._ordered(order, planned.model) if layers_at_once is not None else ()
        self._taken, self._total = 0, steps or -(-len(self.order) // (layers_at_once or 1))

    @property
    def model(self) -> nn.Module:
        """The network as it stands."""
        return self._dense if self._step is None else self._step.model

    @property
    def report(self) -> Report:
        """What became of the layers so far."""
        return compared(self._dense, self.model, self._shapes, {each.name: each.reason or "" for each in self._found})

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[Step]:
        while self._taken < self._total:
            compressed = _finished(self._next())
            names = (each.name for each in self._found if self._is_new(compressed.model, each.name))
            self._taken += 1
            self._step = Step(compressed, tuple(names), self._taken, self._total)
            yield self._step

    def _is_new(self, model: nn.Module, name: str) -> bool:
        plan = plan_of(model.get_submodule(name))
        return plan is not None and plan != plan_of(self.model.get_submodule(name))

    def _next(self) -> Compressed:
        if self._at_once is None:
            return self._further((self._taken + 1) / self._total)
        names = self.order[self._taken * self._at_once :][: self._at_once]
        return self._layers(names) if self._ranks is None else self._at_ranks(self.model, names)

    def _planned(self) -> Compressed:
        """All that is to be done, done at once: whether it can be, and by layers what each of them comes to."""
        if self._ranks is not None:
            fixed = {each.name: each.reason for each in self._found}
            for name in self._ranks:
                if fixed.get(name, "no layer that can be decomposed") is not None:
                    known = ", ".join(repr(name) for name, reason in fixed.items() if reason is None)
                    why = fixed.get(name) or "there is none"
                    raise ValueError(f"got ranks of {name!r}: {why}; the layers are {known or 'none'}")
            return self._at_ranks(self._dense, [name for name in fixed if name in self._ranks])
        assert self._budget is not None
        return self._within(self._dense, self._budget.asked, by_data=self._at_once is not None, **self._select)

    def _ordered(self, order: str | Sequence[str], small: nn.Module) -> tuple[str, ...]:
        """The names of the layers that are to change, as their turn comes."""
        names = list(self._rows)
        if not isinstance(order, str):
            known = [each.name for each in self._found]
            missing, unknown = (
                [name for name in some if name not in others] for some, others in ((names, order), (order, known))
            )
            if missing or unknown:
                got = f"without {missing[0]!r}, which is to change" if missing else f"with {unknown[0]!r}"
                raise ValueError(f"got an order {got}; it lists each of {', '.join(map(repr, names))}")
            return tuple(name for name in dict.fromkeys(order) if name in self._rows)
        if order != "influence":
            return tuple(names if order == "forward" else reversed(names))
        scores = {name: row.error for name, row in self._rows.items()}
        if self._calibration is not None:
            scores = influences(self._dense, small, names, self._example, self._calibration)
        return tuple(sorted(names, key=lambda name: scores[name]))

    def _further(self, share: float) -> Compressed:
        """All layers, multiplied out, to the budget to the power `share`."""
        assert self._budget is not None
        now = {each.name: self.model.get_submodule(each.name) for each in self._found if each.reason is None}
        products = {name: dense_layer(module) for name, module in now.items() if plan_of(module) is not None}
        base = put(duplicate(self.model), products)
        dense, costs = self._costs(self._dense), self._costs(base)  # layers may have got biases, which count
        if self._budget.latency is not None:  # and what came of earlier steps another layout
            dense["latency"], costs["latency"] = Stopwatch().measure([self._dense, base], self._example)
        asked = {name: fraction**share * dense[name] / costs[name] for name, fraction in self._budget.asked.items()}
        return self._within(base, asked, **self._select)

    def _layers(self, names: Sequence[str]) -> Compressed:
        """Some layers, to what was planned for them; all else stays."""
        assert self._budget is not None
        costs, rows = self._costs(self.model), [self._rows[name] for name in names]
        saved = {
            "parameters": sum(row.before.parameters - row.after.parameters for row in rows),
            "macs": sum(row.before.multiply_adds - row.after.multiply_adds for row in rows),
        }
        asked = {name: 1 - saved[name] / costs[name] for name in self._budget.asked}
        return self._within(self.model, asked, include=list(names))

    def _at_ranks(self, model: nn.Module, names: Sequence[str]) -> Compressed:
        """Some layers at the ranks given."""
        assert self._ranks is not None
        format: Any = self._formats or "cp"
        new = {
            name: decompose_layer(model.get_submodule(name), format=format, ranks=self._ranks[name]) for name in names
        }
        small = put(duplicate(model), new)
        return Compressed(small, compared(model, small, self._shapes, dict.fromkeys(names, "at the ranks given")))

    def _within(
        self, model: nn.Module, asked: Mapping[str, float], *, by_data: bool = True, **select: Any
    ) -> Compressed:
        budget = Budget(**{name: min(1.0, fraction * (1 + _ROUNDING)) for name, fraction in asked.items()})
        data = self._calibration if by_data else None
        return compress(model, self._example, budget=budget, formats=self._formats, calibration=data, **select)

    def _costs(self, model: nn.Module) -> dict[str, float]:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return {"parameters": parameters, "macs": multiply_adds(model, input_shapes(model, self._example))}


def _finished(compressed: Compressed) -> Compressed:
    """KeyboardInterrupt where that ended it early: a step is made whole or not at all."""
    if compressed.report.interrupted:
        raise KeyboardInterrupt
    return compressed


def _check_sizes(budget: Any, ranks: Any, formats: Any, select: Mapping[str, Selection]) -> None:
    if (budget is None) == (ranks is None):
        got = "neither budget nor ranks" if ranks is None else "budget and ranks"
        raise ValueError(f"got {got}; give one: budget=Budget(parameters=0.25), or ranks={{name: rank}}")
    if budget is not None and not isinstance(budget, Budget):
        raise TypeError(f"got budget={budget!r}; it is a Budget, such as Budget(parameters=0.25)")
    if ranks is not None and (not isinstance(ranks, Mapping) or not ranks):
        raise TypeError(f"got ranks={ranks!r}; they are {{name: rank}} of the layers that are to change")
    if ranks is not None and not isinstance(formats, str | None):
        raise TypeError(f"got formats={formats!r} with ranks; give the one format that they are ranks of")
    if ranks is not None and any(each is not None for each in select.values()):
        raise ValueError("got include or exclude with ranks, which name the layers")


def _check_steps(steps: Any, layers_at_once: Any, order: Any, budget: Budget | None) -> None:
    given = {"steps": steps, "layers_at_once": layers_at_once}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        got = " and ".join(named) or "neither steps nor layers_at_once"
        raise ValueError(f"got {got}; give one: steps=3 for all layers in each, or layers_at_once=1")
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"got {name}={value!r}; it is an int, 1 or more")
    if isinstance(order, str) and order not in ORDERS:
        raise ValueError(f"got order={order!r}; it is one of {', '.join(map(repr, ORDERS))}, or a list of names")
    if steps is not None and (budget is None or order != "influence"):
        what = "ranks, which are final" if budget is None else "an order, which layers_at_once has"
        raise ValueError(f"got steps with {what}; give layers_at_once")
    if layers_at_once is not None and budget is not None and budget.latency is not None:
        raise ValueError(f"got {budget} with layers_at_once; latency is of the whole network: give steps")
