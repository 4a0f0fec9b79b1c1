"""The search for the smallest network that keeps a score: on stand-ins for networks within budgets."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorring_torch.budget import Budget
from tensorring_torch.report import Compressed, Cost, LayerReport, Report
from tensorring_torch.search import STEPS, searched
from torch import nn

import tensorring as tg

PARAMETERS = 10**6


class Net(nn.Module):
    """A network that is nothing but its size."""

    def __init__(self, fraction=1.0):
        super().__init__()
        self.fraction = fraction
        self.norm = nn.BatchNorm1d(2)


def network(fraction, *, rank=None, **more):
    """As a budget would give it."""
    cost = Cost(round(PARAMETERS * fraction), round(PARAMETERS * fraction), fraction)
    before = Cost(PARAMETERS, PARAMETERS, 1.0)
    layer = LayerReport("conv", "cut", (rank or cost.parameters,), before, cost)
    return Compressed(Net(fraction), Report((layer,), before, cost, ("found within it",), **more))


class Within:
    """Networks that use up their budgets, but for steps; below `least` there are none."""

    def __init__(self, name="parameters", *, grain=None, least=0.0):
        self.name, self.grain, self.least, self.asked = name, grain, least, []

    def __call__(self, budget):
        (fraction,) = budget.asked.values()
        assert budget == Budget(**{self.name: fraction})
        self.asked.append(fraction)
        if fraction < self.least:
            raise tg.BudgetError("too small", tg.Allocation((), 0.0, (self.least,), 0.0))
        return network(max(self.least, fraction if self.grain is None else self.grain * (fraction // self.grain)))


def search(at, evaluate, *, max_drop=0.01, minimize="parameters", callback=None):
    return searched(Net(), at, evaluate=evaluate, max_drop=max_drop, minimize=minimize, callback=callback)


def falling(border, steepness=1.0):
    """A score that loses the hundredth that is allowed at the border."""
    return lambda net: 0.9 - 0.01 * (1 + steepness * (border - net.fraction)) * (net.fraction < 1)


@given(st.floats(0.02, 0.95), st.sampled_from(["parameters", "macs", "time"]))
def test_the_smallest_that_keeps_the_score(border, minimize):
    at = Within({"time": "latency"}.get(minimize, minimize))
    result = search(at, falling(border), minimize=minimize)
    assert border - 1e-6 <= result.model.fraction <= 1.06 * border
    assert len(at.asked) <= STEPS == 7
    assert result.report.notes[:2] == ("found within it", "the dense network scores 0.9, and at most 0.01 may be lost")
    assert not result.report.interrupted


@given(st.integers(0, 2**31), st.floats(0, 0.5))
def test_scores_need_not_fall(seed, max_drop):
    """Whatever the scores, what is returned keeps the drop, and nothing smaller that was tried does."""
    torch.manual_seed(seed)
    scores, at = {1.0: 0.9}, Within()
    result = search(at, lambda net: scores.setdefault(net.fraction, float(torch.rand(()))), max_drop=max_drop)
    assert 0.9 - scores[result.model.fraction] <= max_drop + 1e-9
    kept = [fraction for fraction, score in scores.items() if 0.9 - score <= max_drop]
    assert result.model.fraction == pytest.approx(min(kept))
    assert len(at.asked) <= STEPS


def test_each_network_is_evaluated_once_in_eval_mode_and_as_a_copy():
    seen, model, at = [], Net(), Within(grain=0.2, least=0.2)

    def evaluate(net):
        assert not any(part.training for part in net.modules())
        seen.append(net.fraction)
        score = falling(0.5)(net)
        net.fraction = None
        return torch.tensor(score)

    result = searched(model, at, evaluate=evaluate, max_drop=0.01, minimize="parameters")
    assert result.model.fraction == pytest.approx(0.6)
    assert result.model.training
    assert model.fraction == 1
    assert model.training
    assert len(set(seen)) == len(seen)
    assert len(seen) - 1 < len(at.asked)


def test_what_a_network_really_costs_is_where_the_search_goes_on():
    at = Within(grain=0.06)
    search(at, lambda net: 1.0 if net.fraction > 0.1 else 0.0)
    assert at.asked[:2] == pytest.approx([0.125, math.sqrt(0.12 / 64)])
    assert 0.11 < at.asked[-1] < 0.12


def test_budgets_that_cannot_be_met_are_too_small():
    result = search(Within(least=0.3), lambda net: 1.0)
    assert 0.3 <= result.model.fraction < 0.32
    assert "parameters 0.125: cannot be met" in result.report.notes
    with pytest.raises(tg.BudgetError, match="too small"):
        search(Within(least=2.0), lambda net: 1.0)


def test_where_everything_loses_too_much_the_network_stays_dense():
    result = search(Within(), falling(1.0, 100.0))
    assert result.model.fraction == 1
    assert result.report.after == result.report.before
    (layer,) = result.report.layers
    assert (layer.form, layer.ranks, layer.after) == ("dense", (), layer.before)
    assert "no network that was tried kept the score" in layer.reason
    assert "parameters 0.125: scores 0.015, too much is lost" in result.report.notes


def test_those_who_watch_see_what_was_tried():
    told = []
    result = search(Within(), falling(0.3), callback=lambda *args: told.append(args))
    assert [(done, total) for done, total, _ in told] == [(k, STEPS) for k in range(1, len(told) + 1)]
    assert tuple(line for *_, line in told) == result.report.notes[2:]
    assert told[1][2] == "parameters 0.354: scores 0.890536, kept"


def test_a_drop_of_exactly_so_many_of_a_thousand_is_kept():
    for right in range(500, 1000):
        result = search(Within(), lambda net, right=right: (right - 10 * (net.fraction < 1)) / 1000)
        assert result.model.fraction < 0.02


@pytest.mark.parametrize("where", ["budget", "inside", "evaluate", "callback"])
def test_an_interrupt_returns_the_best_so_far(where):
    at, done = Within(), []

    def within(budget):
        if len(done) == 3 and where == "budget":
            raise KeyboardInterrupt
        found = at(budget)
        return network(found.model.fraction, interrupted=len(done) == 3 and where == "inside")

    def evaluate(net):
        if len(done) == 3 and where == "evaluate":
            raise KeyboardInterrupt
        return falling(0.3)(net)

    def callback(*args):
        done.append(args)
        if len(done) == 3 and where == "callback":
            raise KeyboardInterrupt

    result = search(within, evaluate, callback=callback)
    assert result.model.fraction == pytest.approx(math.sqrt(0.125))
    assert result.report.interrupted
    assert result.report.notes[-1] == "interrupted after 3 of at most 7 networks"


def test_interrupts_before_anything_was_kept():
    def interrupt(*_):
        raise KeyboardInterrupt

    result = search(Within(), falling(1.0, 100.0), callback=interrupt)
    assert result.model.fraction == 1
    assert result.report.interrupted
    for at, evaluate in ((interrupt, lambda net: 1.0), (Within(), interrupt)):
        with pytest.raises(KeyboardInterrupt):
            search(at, evaluate)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TypeError, "NoneType from evaluate for the dense network; it returns a number"),
        ("good", TypeError, "str from evaluate"),
        (torch.zeros(2), TypeError, "Tensor from evaluate"),
        (float("nan"), ValueError, "nan from evaluate for the dense network"),
        (math.inf, ValueError, "inf from evaluate for the dense network"),
        (-math.inf, ValueError, "-inf"),
    ],
)
def test_scores_that_are_none(value, error, message):
    with pytest.raises(error, match=message):
        search(Within(), lambda net: value)


def test_scores_that_are_none_later_on():
    with pytest.raises(ValueError, match=r"nan from evaluate for the network at parameters 0\.125"):
        search(Within(), lambda net: 1.0 if net.fraction == 1 else math.nan)
    result = search(Within(), lambda net: 1.0 if net.fraction > 0.4 else -math.inf)
    assert 0.4 < result.model.fraction < 0.43

    def failing(net):
        if net.fraction < 1:
            raise RuntimeError("no images")
        return 1.0

    with pytest.raises(RuntimeError, match="no images") as caught:
        search(Within(), failing)
    assert caught.value.__notes__ == ["in evaluate, called with the network at parameters 0.125"]
