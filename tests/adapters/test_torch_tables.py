"""Lookup tables within budgets: rows count by how often they are read, and none is forgotten."""

import copy

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from tensorring_torch.calibration.fits import Target, forms, softened
from tensorring_torch.calibration.moments import Readings
from tensorring_torch.calibration.observe import observed
from tensorring_torch.latency import Stopwatch
from torch import nn

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("few_options")
ROWS = 60


class Words(nn.Module):
    """A table, a position added to what is read, and two layers."""

    def __init__(self, **options):
        super().__init__()
        self.table, self.place = nn.Embedding(ROWS, 16, **options), nn.Embedding(8, 16)
        self.body, self.head = nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, words):
        h = self.table(words) + self.place(torch.arange(words.shape[1]))
        return self.head(self.body(h).relu().mean(1))


class Branching(Words):
    def forward(self, words):
        return super().forward(words) if words.sum() >= 0 else words


def made(kind=Words, **options):
    """Words of a text: the later ones ever rarer, the last third never."""
    torch.manual_seed(0)
    model = kind(**options).eval()
    words = torch.distributions.Geometric(0.1).sample((200, 8)).long().clamp_max(ROWS * 2 // 3 - 1)
    return model, words


def size(model):
    return sum(p.numel() for p in model.parameters())


def error(ours, model, words):
    with torch.no_grad():
        return float((ours(words) - model(words)).norm() / model(words).norm())


@pytest.mark.parametrize("kind", [Words, Branching])
@pytest.mark.parametrize("by_data", [True, False])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}, {"sparse": True}, {"scale_grad_by_freq": True}])
def test_tables_count_in_budgets(kind, by_data, options, tmp_path):
    model, words = made(kind, **options)
    state = copy.deepcopy(model.state_dict())
    data = {"calibration": words} if by_data else {}
    result = tgt.compress(model, words[:2], budget=tgt.Budget(parameters=0.45), **data)
    assert size(result.model) <= 0.45 * size(model)
    rows = {row.name: row for row in result.report.layers}
    assert rows["table"].form == "cut(0,)", "the largest layer cannot stay"
    assert rows["table"].after.parameters == size(result.model.table)
    assert result.model.table[0].padding_idx == options.get("padding_idx")
    assert result.model.table[1].bias is None
    assert 0 < error(result.model, model, words) < 1
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    tgt.save(tmp_path / "small", result.model)
    assert error(tgt.load(tmp_path / "small", made(kind, **options)[0]), result.model, words) == 0


def test_frozen_networks_on_indices_tell_what_errors_do_too():
    """There is no input to differentiate by, and no parameter."""
    model, words = made()
    free = observed(model, ["table", "body"], [(words,)])
    frozen = observed(copy.deepcopy(model).requires_grad_(False), ["table", "body"], [(words,)])
    for name, each in free.items():
        np.testing.assert_allclose(frozen[name].blocks[0], each.blocks[0], rtol=1e-5)


def test_readings_are_shares_and_no_row_is_forgotten():
    readings = Readings(4, 3)
    readings.add(torch.tensor([[0, 0], [0, 1]]))
    readings.add(torch.tensor([1, 1, 2, 0]))
    found = readings.moments()
    expected = (np.array([4, 3, 1, 0]) / 8 + 1 / 4) / 2
    np.testing.assert_allclose(found.covariance.numpy(), expected)
    assert found.variance == pytest.approx(expected.mean())
    assert found.output.shape == (3,)


@pytest.mark.parametrize("weighed", [True, False])
def test_a_diagonal_is_the_matrix_that_it_stands_for(weighed):
    rng = np.random.default_rng(0)
    kernel, shares = rng.standard_normal((6, 30)), rng.random(30) + 0.01
    a = rng.standard_normal((6, 8))
    gamma = softened(a @ a.T) if weighed else None
    diagonal, matrix = Target(kernel, shares, gamma), Target(kernel, np.diag(shares), gamma)
    assert diagonal.squared(kernel) == pytest.approx(matrix.squared(kernel), rel=1e-12)
    (form,) = forms("cp", kernel.shape)
    fits = [form.fit(each, (3,), None, 50) for each in (diagonal, matrix)]
    np.testing.assert_allclose(fits[0].to_dense(), fits[1].to_dense(), rtol=1e-3, atol=1e-4)
    assert diagonal.error(fits[0]) <= matrix.error(fits[1]) * (1 + 1e-9), "without the ridge of a matrix"


def test_words_that_are_read_often_are_met_better():
    model, words = made()
    budget = tgt.Budget(parameters=0.6)
    ours = tgt.compress(model, words[:2], budget=budget, calibration=words, include="table").model
    plain = tgt.compress(model, words[:2], budget=budget, include="table").model
    assert error(ours, model, words) < error(plain, model, words)
    with torch.no_grad():
        missing = [(each.table(torch.arange(ROWS)) - model.table.weight).square().sum(1) for each in (ours, plain)]
    often, never = slice(0, 8), slice(ROWS * 2 // 3, None)
    assert missing[0][often].mean() < missing[1][often].mean()
    assert missing[0][never].mean() < model.table.weight[never].square().sum(1).mean(), "rare ones are kept in part"


def test_tables_within_latency_budgets_and_measured_scores(monkeypatch):
    class Clock(Stopwatch):
        """A second for each number; modules must run on what they are timed with."""

        def measure(self, modules, inputs):
            for module in modules:
                module(inputs)
            return [size(module) + 1e-9 for module in modules]

    monkeypatch.setattr("tensorring_torch.budgeted.Stopwatch", Clock)
    model, words = made()
    result = tgt.compress(model, words[:2], budget=tgt.Budget(latency=0.5), calibration=words, formats="cut")
    assert size(result.model) <= 0.5 * size(model)
    measured = tgt.compress(model, words[:2], budget=tgt.Budget(parameters=0.5), calibration=words, scores="measured")
    assert error(measured.model, model, words) < 1


def test_the_steps_of_a_schedule_take_tables_along():
    model, words = made()
    steps = tgt.Schedule(model, words[:2], budget=tgt.Budget(parameters=0.5), steps=2, calibration=words)
    sizes = [size(step.model) for step in steps]
    assert sizes[1] <= 0.5 * size(model) < sizes[0] < size(model)
