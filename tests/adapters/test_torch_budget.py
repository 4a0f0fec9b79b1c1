"""Budgets, and that `compress` hands each question to who answers it."""

import dataclasses

import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorring_torch.report import Compressed, Cost, Report
from torch import nn

fractions = st.floats(0, 1, exclude_min=True)


@given(fractions, st.none() | fractions, st.none() | fractions, fractions)
def test_a_budget_is_what_was_given(parameters, macs, latency, factor):
    budget = tgt.Budget(parameters, macs, latency)
    given = {"parameters": parameters, "macs": macs, "latency": latency}
    assert budget.asked == {name: value for name, value in given.items() if value is not None}
    assert budget == tgt.Budget(**budget.asked)
    with pytest.raises(dataclasses.FrozenInstanceError):
        budget.macs = 0.5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "Budget of nothing; give parameters=, macs= or latency="),
        ({"macs": 0.0}, ValueError, r"macs=0\.0.*\(0, 1\]"),
        ({"latency": 1.5}, ValueError, r"latency=1\.5"),
        ({"parameters": float("nan")}, ValueError, "parameters=nan"),
        ({"parameters": "half"}, TypeError, "parameters='half'"),
        ({"parameters": True}, TypeError, "True"),
    ],
)
def test_what_is_no_budget(arguments, error, message):
    with pytest.raises(error, match=message):
        tgt.Budget(**arguments)


@pytest.fixture
def asked(monkeypatch):
    """What the question within a budget was, answered by the dense network."""
    calls = []

    class StandIn:
        def __init__(self, model, example_input, **options):
            self.given = (model, example_input, options)

        def at(self, budget, *, callback=None):
            model, example_input, options = self.given
            calls.append((model, example_input, {**options, "budget": budget, "callback": callback}))
            (fraction,) = budget.asked.values()
            cost = Cost(100, 100, 1.0)
            return Compressed(model, Report((), cost, Cost(*(fraction * value for value in cost))))

    monkeypatch.setattr("tensorring_torch.model.Budgeted", StandIn)
    return calls


MODEL, X = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.zeros(2, 4)


def test_a_budget_goes_on_as_it_is(asked):
    budget = tgt.Budget(macs=0.5)
    given = {"calibration": [X], "scores": "measured", "include": "0", "exclude": nn.Conv2d, "callback": print}
    result = tgt.compress(MODEL, X, budget=budget, formats="cp", **given)
    assert result.model is MODEL
    assert asked == [(MODEL, X, {"asked": budget.asked, "budget": budget, "formats": ("cp",), **given})]


@pytest.mark.parametrize(("minimize", "name"), [("macs", "macs"), ("parameters", "parameters"), ("time", "latency")])
def test_a_score_is_searched_with_a_hundredth_to_lose(asked, minimize, name):
    told = []
    result = tgt.compress(
        MODEL,
        X,
        evaluate=lambda net: 1.0,
        minimize=minimize,
        calibration=[X, X],
        callback=lambda *a: told.append(a),
    )
    assert result.report.notes[0] == "the dense network scores 1, and at most 0.01 may be lost"
    assert len(told) == len(asked) > 1
    assert {tuple(options["budget"].asked) for *_, options in asked} == {(name,)}
    tgt.compress(MODEL, X, evaluate=lambda net: 1.0, max_drop=0)
    with pytest.raises(ValueError, match="nan"):
        tgt.compress(MODEL, X, evaluate=lambda net: float("nan"))


def test_a_real_network_as_small_as_a_score_allows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 8, 3)).eval()
    x = torch.randn(4, 3, 9, 9)
    expected = model(x).detach()

    def likeness(net):
        with torch.no_grad():
            return 1 - float((net(x) - expected).norm() / expected.norm())

    result = tgt.compress(model, x, evaluate=likeness, max_drop=0.5, minimize="parameters", formats=["cut"])
    assert likeness(result.model) >= 0.5
    assert result.report.after.parameters < result.report.before.parameters
    assert any(note.endswith("kept") for note in result.report.notes)
