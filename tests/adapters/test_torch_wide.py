"""Kernels of many inputs: channels alone while curves are made, everything in the final fit, as far as memory goes."""

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from tensorring_torch.calibration import fits, moments
from tensorring_torch.calibration.fits import Target, forms, softened
from torch import nn

torch.set_num_threads(1)


def positive(rng, n):
    a = rng.standard_normal((n, 2 * n)) * np.exp(rng.standard_normal(n))[:, None]
    return a @ a.T / n


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 2, 3), (3, 2, 2, 1, 2), (4, 3, 1)])
@pytest.mark.parametrize("weighed", [True, False])
def test_a_norm_of_channels_is_one_of_entries_that_are_alike(shape, weighed):
    rng = np.random.default_rng(0)
    kernel, s = rng.standard_normal(shape), positive(rng, shape[1])
    gamma = softened(positive(rng, shape[0])) if weighed else None
    entries = int(np.prod(shape[2:]))
    alone, whole = Target(kernel, s, gamma), Target(kernel, np.kron(s, np.eye(entries)), gamma)
    assert alone.by_entries == (entries == 1)
    assert whole.by_entries
    assert alone.squared(kernel.reshape(shape[0], -1)) == pytest.approx(whole.squared(whole.matrix), rel=1e-12)
    metric = alone.metric(len(shape))
    assert set(metric) == ({(0,)} if weighed else set()) | {tuple(range(1, len(shape))) if entries == 1 else (1,)}
    merged = Target(kernel.reshape(*shape[:2], -1), np.kron(s, np.eye(entries)), gamma)
    for form in (form for name in fits.FORMATS for form in forms(name, merged.kernel.shape)):
        ranks = form.ranks(merged.kernel.shape, 0.5)
        said = (Target(merged.kernel, s, gamma), merged)
        errors = [each.error(form.fit(each, ranks, None, 200)) for each in said]
        within = 1e-8 if all(form.nested(each) for each in said) else 0.05  # one SVD, or iterations that end apart
        assert errors[0] == pytest.approx(errors[1], rel=within), "the same norm, said in two ways"


@pytest.mark.parametrize("name", fits.FORMATS)
def test_final_fits_are_in_the_whole_norm(monkeypatch, name):
    """Where neighbouring entries see nearly the same, channels alone know nothing of it."""
    monkeypatch.setattr(fits, "_CURVES", 10)
    monkeypatch.setattr(fits, "_CUTS", 10)
    rng = np.random.default_rng(1)
    kernel = rng.standard_normal((8, 6, 3, 3))
    s = np.kron(positive(rng, 6), 0.02 * np.eye(9) + np.ones((9, 9)))
    curve, final = Target(kernel, s), Target(kernel, s, final=True)
    assert not curve.is_whole()
    assert final.is_whole()
    for form in forms(name, kernel.shape):
        ranks = form.ranks(kernel.shape, 0.4)
        begin = form.fit(curve, ranks, None, 100)
        ended = form.fit(final, ranks, begin, 300)
        assert final.error(ended) <= final.error(begin) * (1 + 1e-9)
    assert final.error(ended) < 0.7 * final.error(begin), "for the last way of them at least it matters"


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize(("widest", "told"), [(50, True), (72, False)])
def test_channels_alone_beyond_what_memory_holds_and_the_report_names_it(monkeypatch, widest, told):
    monkeypatch.setattr("tensorring_torch.calibration.curves._SHARES", (0.7, 0.3))
    monkeypatch.setattr("tensorring_torch.calibration.sequence._SWEEPS", 40)
    monkeypatch.setattr(moments, "WIDEST", widest)
    torch.manual_seed(0)
    model, x = Wide().eval(), torch.randn(64, 3, 6, 6).cumsum(3)
    found = tgt.compress(model, x[:1], budget=tgt.Budget(parameters=0.6), calibration=x)
    plain = tgt.compress(model, x[:1], budget=tgt.Budget(parameters=0.6))
    notes = [note for note in found.report.notes if "weighed by channels alone" in note]
    assert notes == (["second: 72 inputs to each output, weighed by channels alone"] if told else [])
    with torch.no_grad():
        ours, theirs = (float((each.model(x) - model(x)).norm()) for each in (found, plain))
    assert ours < theirs
