"""What makes a network faster without changing what it computes: tried, counted, named, and travelling in files."""

import pytest
import tensorring_torch as tgt
import torch
from tensorring_torch.equivalent import fastest
from tensorring_torch.latency import Stopwatch
from tensorring_torch.layout import channels_last, has_channels_last
from torch import nn

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("few_options")


class Net(nn.Module):
    """A norm after a layer without bias, one after a layer with bias, and one that cannot be folded."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.body, self.after = nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.last, self.head = nn.BatchNorm2d(12), nn.Linear(12, 5)

    def forward(self, x):
        h = self.norm(self.stem(x)).relu()
        h = self.last(h + self.after(self.body(h)).relu())
        return self.head(h.mean((2, 3)))


class Untraceable(Net):
    def forward(self, x):
        return x if x.sum() > 1e9 else super().forward(x)


class Reading(Net):
    """Its forward asks the norm itself."""

    def forward(self, x):
        return super().forward(x) + self.norm.eps


def made(kind=Net):
    torch.manual_seed(0)
    model, x = kind(), torch.randn(96, 3, 6, 6) + torch.randn(96, 3, 1, 1)
    for _ in range(20):
        model(x)
    return model.eval(), x


def norms(model):
    return [name for name, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)]


def clock(layout=1.0, norm=0.0):
    """A second for each number of a weight, times `layout` with the channels last; and so many for each norm."""

    class Clock(Stopwatch):
        def measure(self, modules, inputs):
            for module in modules:
                module(inputs)  # it must run
            weights = [
                sum(p.numel() for p in each.parameters() if p.ndim > 1) + norm * len(norms(each)) for each in modules
            ]
            return [
                (w + 1e-9) * (layout if has_channels_last(each) else 1)
                for w, each in zip(weights, modules, strict=True)
            ]

    return Clock


@pytest.mark.parametrize(
    ("layout", "norm", "left", "note"),
    [
        (1.0, 0.0, 3, ""),
        (0.99, 1.0, 3, ""),
        (0.5, 0.0, 3, "channels last: that alone makes the dense network 2.00 × as fast"),
        (1.1, 1e3, 1, "batch norms folded: that alone makes the dense network "),
        (0.5, 1e3, 1, "batch norms folded and channels last: that alone makes the dense network "),
    ],
)
def test_the_fastest_is_taken_and_nothing_for_nothing(layout, norm, left, note):
    model, x = made()
    found, gain, told = fastest(model, x[:4], clock(layout, norm)(), trained=False)
    assert [each[: len(note)] for each in told] == ([note] if note else [])
    assert len(norms(found)) == left
    assert has_channels_last(found) == ("channels last" in note)
    before, after = clock(layout, norm)().measure([model, found], x[:4])
    assert gain == pytest.approx(before / after)
    assert len(norms(model)) == 3
    with torch.no_grad():
        torch.testing.assert_close(found(x), model(x), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_folded_stays():
    model, x = made()
    assert norms(fastest(model, x[:4], clock(norm=1e3)(), trained=True)[0]) == norms(model)
    assert "training mode" in fastest(model, x[:4], clock(norm=1e3)(), trained=True)[2][0]
    for kind, why in ((Untraceable, "graph cannot be traced"), (Reading, "has no attribute 'eps'")):
        found, gain, told = fastest(made(kind)[0], x[:4], clock(norm=1e3)(), trained=False)
        assert (len(norms(found)), gain) == (3, 1.0), kind
        assert [each.partition(": could not be tried: ")[0] for each in told] == [
            "batch norms folded",
            "batch norms folded and channels last",
        ]
        assert all(why in each for each in told)
    found, gain, told = fastest(model, {"x": x[:4]}, clock(norm=1e3)(), trained=False)
    assert len(norms(found)) == 3
    assert told[0] == "batch norms were not folded: the example input is a dict, and folding takes positional ones"
    found, gain, told = fastest(channels_last(model), x[:4], clock(layout=0.5)(), trained=False)
    assert (has_channels_last(found), gain, told) == (True, 1.0, [])


@pytest.mark.parametrize("latency", [0.9, 0.35])
@pytest.mark.parametrize("by_data", [True, False])
def test_a_latency_budget_counts_folded_norms_names_them_and_is_kept(monkeypatch, latency, by_data, tmp_path):
    kind = clock(layout=1.1, norm=400.0)
    monkeypatch.setattr("tensorring_torch.budgeted.Stopwatch", kind)
    model, x = made()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    data = {"calibration": x} if by_data else {}
    result = tgt.compress(model, x[:2], budget=tgt.Budget(latency=latency), formats=("cut",), **data)
    report, small = result.report, result.model
    assert norms(small) == ["last"]
    assert any(note.startswith("batch norms folded: that alone makes the dense network") for note in report.notes)
    before, after = kind().measure([model, small], x[:2])
    assert (report.before.seconds, report.after.seconds) == (pytest.approx(before), pytest.approx(after))
    assert after <= latency * before * (1 + 1e-6)
    sizes = [sum(p.numel() for p in each.parameters()) for each in (model, small)]
    assert [report.before.parameters, report.after.parameters] == sizes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        apart = float((small(x) - model(x)).norm() / model(x).norm())
    assert apart < (1e-4 if latency == 0.9 else 1.0), "nothing but norms need go for the larger one"
    tgt.save(tmp_path / "small", small)
    for dense in (made()[0], tgt.fold_norms(made()[0], x[:2])):
        again = tgt.load(tmp_path / "small", dense)
        with torch.no_grad():
            assert torch.equal(again(x), small(x))


def test_norms_in_training_stay_and_the_report_says_so(monkeypatch):
    monkeypatch.setattr("tensorring_torch.budgeted.Stopwatch", clock(norm=400.0))
    model, x = made()
    model.train()
    result = tgt.compress(model, x[:2], budget=tgt.Budget(latency=0.8), calibration=x, formats=("cut",))
    assert norms(result.model) == norms(model)
    assert "batch norms were not folded: the network was given in training mode" in result.report.notes


def test_steps_towards_a_latency_are_of_the_network_as_given(monkeypatch):
    """What the first step gained by the layout does not count again in the second."""
    kind = clock(layout=0.5)
    monkeypatch.setattr("tensorring_torch.budgeted.Stopwatch", kind)
    monkeypatch.setattr("tensorring_torch.training.schedule.Stopwatch", kind)
    model, x = made()
    steps = tgt.Schedule(model, x[:2], budget=tgt.Budget(latency=0.3), steps=2, formats="cut", calibration=x)
    for k, step in enumerate(steps, start=1):
        before, after = kind().measure([model, step.model], x[:2])
        most = 0.3 ** (k / 2)
        assert 0.7 * most * before < after <= most * before * (1 + 1e-6)


def test_files_of_another_network_are_still_refused(tmp_path):
    """Only what the file says is an identity may become one, and only a norm."""
    model, x = made()
    folded = tgt.fold_norms(model, x[:2])
    tgt.save(tmp_path / "folded", folded)
    loaded = tgt.load(tmp_path / "folded", model)
    assert norms(loaded) == ["last"]
    assert loaded.stem.bias is not None
    assert model.stem.bias is None
    model.norm = nn.GroupNorm(3, 12)
    with pytest.raises(ValueError, match=r"tensor 'norm.weight' is in the model but not in the file"):
        tgt.load(tmp_path / "folded", model)
    model, _ = made()
    tgt.save(tmp_path / "dense", model)
    del model.after
    with pytest.raises(ValueError, match=r"in the file but not in the model"):
        tgt.load(tmp_path / "dense", model)
