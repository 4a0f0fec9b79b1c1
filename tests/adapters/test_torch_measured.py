"""Measured scores are the divergence of the outputs with one layer exchanged, by whatever way the network runs."""

import copy

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from tensorring_torch.budgeted import Budgeted
from tensorring_torch.chain import Chain
from torch import nn
from torch.nn import functional

X = torch.rand(160, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """Writes into values that are still needed, calls a layer twice, and may take a course that depends on the data."""

    def __init__(self, *, traceable: bool) -> None:
        super().__init__()
        self.traceable = traceable
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.inside = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1, groups=2))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        if not self.traceable and x.sum() < 0:
            return self.head(x)
        x = functional.relu_(self.norm(self.stem(x)))
        y = self.twice(functional.relu_(self.twice(x)))
        y += x
        x = y + self.inside(y.clone())
        return self.head(x.mean((2, 3)))


def network(**options):
    torch.manual_seed(0)
    return Residual(**options).eval()


def prepared(model, **options):
    return Budgeted(model, X[:1], asked={"parameters"}, formats=("cp", "cut"), calibration=X, **options)._layers


@torch.no_grad()
@pytest.mark.parametrize("traceable", [True, False])
def test_scores_are_the_divergence_with_one_layer_exchanged(traceable):
    model = network(traceable=traceable)
    before = copy.deepcopy(model.state_dict())
    layers = prepared(model, scores="measured")
    wanted = functional.log_softmax(model(X.clone()).double(), dim=1)
    count = 0
    for name, options in layers.options.items():
        assert options[0].score == 0  # dense
        for option in options:
            if option.is_fitted:
                other = copy.deepcopy(model)
                parent, _, child = name.rpartition(".")
                chain = Chain.of(option.begin, layers.uses[name])
                setattr(other.get_submodule(parent), child, chain.layers(model.get_submodule(name)))
                ours = functional.log_softmax(other(X.clone()).double(), dim=1)
                exact = float((wanted.exp() * (wanted - ours)).sum())
                assert option.score == pytest.approx(exact, rel=1e-3, abs=1e-9)
                count += 1
    assert count > 20
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_between_fits_the_correction_is_a_line_of_logarithms():
    model = network(traceable=True)
    predicted, layers = prepared(model), prepared(model, scores="measured")
    for name, options in layers.options.items():
        for key in {option.form.key for option in options[1:]}:
            own = [k for k, option in enumerate(options) if option.form and option.form.key == key]
            own.sort(key=lambda k: options[k].parameters)
            ratio = np.log([options[k].score / predicted.options[name][k].score for k in own])
            ends = [j for j, k in enumerate(own) if options[k].is_fitted]
            sizes = np.log([options[k].parameters for k in own])
            np.testing.assert_allclose(ratio, np.interp(sizes, sizes[ends], ratio[ends]), atol=1e-9)


def test_compress_by_measured_scores():
    model = network(traceable=True)
    budget = tgt.Budget(parameters=0.4)
    ours, again = (tgt.compress(model, X[:1], budget=budget, calibration=X, scores="measured") for _ in range(2))
    assert ours.report.after.parameters <= 0.4 * ours.report.before.parameters
    assert all(torch.equal(a, b) for a, b in zip(ours.model.parameters(), again.model.parameters(), strict=True))


def test_what_is_refused():
    model, budget = network(traceable=True), tgt.Budget(parameters=0.5)
    with pytest.raises(ValueError, match="got scores='kl'; they are 'predicted' or 'measured'"):
        tgt.compress(model, X[:1], budget=budget, calibration=X, scores="kl")
    with pytest.raises(ValueError, match="without calibration"):
        tgt.compress(model, X[:1], budget=budget, scores="measured")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))
    with pytest.raises(ValueError, match=r"got outputs of shape \(160,\).*second axis"):
        tgt.compress(flat, X[:1], budget=budget, calibration=[X], scores="measured")
