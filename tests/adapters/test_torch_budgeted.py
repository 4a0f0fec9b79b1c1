"""Whole networks within budgets: what is promised of cost, function, data and interrupts."""

import copy
import itertools

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from tensorring_torch.calibration.data import batches_of, first_of
from tensorring_torch.latency import Stopwatch
from tensorring_torch.layout import channels_last, has_channels_last
from torch import nn

import tensorring as tg

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("few_options")


class Small(nn.Module):
    """Every place where a bias can go, groups, an in-place sum, and something else than layers."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.body = nn.Conv2d(12, 12, 3, padding=1, groups=2)
        self.bare = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.scale, self.relu = nn.Parameter(torch.ones(12, 1, 1)), nn.ReLU(inplace=True)
        self.head = nn.Linear(48, 5, bias=False)

    def forward(self, x):
        h = self.relu(self.norm(self.stem(x)))
        h = h + self.bare(self.relu(self.body(h))) * self.scale
        return self.head(nn.functional.adaptive_avg_pool2d(h, 2).flatten(1))


class Untraceable(Small):
    def forward(self, x):
        if x.sum() > 1e9:
            return x
        return super().forward(x)


def made(kind=Small, count=96):
    torch.manual_seed(0)
    model, x = kind(), torch.randn(count, 3, 6, 6) + torch.randn(count, 3, 1, 1)
    for _ in range(20):
        model(x)
    return model.eval(), x


def size(model):
    return sum(p.numel() for p in model.parameters())


def error(net, model, x):
    with torch.no_grad():
        return float((net(x) - model(x)).norm() / model(x).norm())


def macs(model, x):
    """Counted by hooks, from the weights and outputs of the layers that run."""
    total = []

    def note(layer, args, out):
        places = out.numel() // (out.shape[1] if out.ndim == 4 else out.shape[-1])
        total.append(layer.weight.numel() * places)

    handles = [part.register_forward_hook(note) for part in model.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return sum(total)


@pytest.mark.parametrize(
    ("parameters", "work", "formats"),
    [(0.2, None, None), (0.5, 0.4, ("cut",)), (0.8, 0.7, ("tucker", "cut")), (0.4, 0.9, ("cp",))],
)
@pytest.mark.parametrize("by_data", [True, False])
def test_budgets_are_kept_by_the_network_itself(parameters, work, formats, by_data):
    model, x = made()
    state = copy.deepcopy(model.state_dict())
    budget = tgt.Budget(parameters=parameters, macs=work)
    result = tgt.compress(model, x[:2], budget=budget, calibration=x if by_data else None, formats=formats)
    report = result.report
    assert size(result.model) <= parameters * size(model)
    assert (report.before.parameters, report.after.parameters) == (size(model), size(result.model))
    assert (report.before.multiply_adds, report.after.multiply_adds) == (macs(model, x[:2]), macs(result.model, x[:2]))
    assert work is None or macs(result.model, x[:2]) <= work * macs(model, x[:2])
    for layer in report.layers:
        assert layer.after.parameters == size(result.model.get_submodule(layer.name))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert error(result.model, model, x) < 1


@pytest.mark.parametrize("kind", [Small, Untraceable])
def test_dense_is_always_a_candidate(kind):
    model, x = made(kind)
    for calibration in (x, None):
        result = tgt.compress(model, x[:2], budget=tgt.Budget(parameters=1.0, macs=1.0), calibration=calibration)
        assert error(result.model, model, x) == 0
        assert {layer.form for layer in result.report.layers} == {"dense"}


@pytest.mark.parametrize("kind", [Small, Untraceable])
def test_data_lower_the_error_of_the_outputs(kind):
    model, x = made(kind)
    budget = tgt.Budget(parameters=0.5)
    by_data, plain = (tgt.compress(model, x[:2], budget=budget, calibration=each) for each in (x[:64], None))
    assert error(by_data.model, model, x[64:]) < 0.7 * error(plain.model, model, x[64:])
    noted = any("could not be traced" in note for note in by_data.report.notes)
    assert noted == (kind is Untraceable)


def test_the_same_for_the_same_data():
    model, x = made()
    first, again = (
        tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.2), calibration=x).model.state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(value, again[key]) for key, value in first.items())


def test_budgets_out_of_reach_say_how_far_it_got():
    model, x = made()
    for calibration in (x, None):
        with pytest.raises(tg.BudgetError, match=r"parameters 0\.\d+ where 0.01 was asked") as caught:
            tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.01), calibration=calibration)
        assert set(caught.value.closest.choices) == {"stem", "body", "bare", "head"}
    with pytest.raises(tg.BudgetError, match=r"macs 0\.\d+ where 0.001 was asked"):
        tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.5, macs=0.001))


class Work(Stopwatch):
    """A clock by which time is work: a second for each number stored, and a share of it for the whole network."""

    overhead = 0.0

    def measure(self, modules, inputs):
        return [
            size(module) * (1 + self.overhead * any(isinstance(p, Small) for p in module.modules())) + 1e-9
            for module in modules
        ]


@pytest.mark.parametrize("overhead", [0.0, 0.5])
def test_latency_is_kept_on_the_clock(monkeypatch, overhead):
    monkeypatch.setattr("tensorring_torch.budgeted.Stopwatch", type("Clock", (Work,), {"overhead": overhead}))
    model, x = made()
    result = tgt.compress(model, x[:2], budget=tgt.Budget(latency=0.6), calibration=x, formats=("cut",))
    assert result.report.after.seconds <= 0.6 * result.report.before.seconds * (1 + 1e-6)
    assert size(result.model) <= 0.6 * size(model) + 1
    with pytest.raises(tg.BudgetError, match=r"latency 0\.\d+ where 0.01 was asked"):
        tgt.compress(model, x[:2], budget=tgt.Budget(latency=0.01), formats=("cut",))


def test_a_faster_layout_counts_and_is_named(monkeypatch):
    """Channels last twice as fast: half of the time takes nothing else, and 0.3 takes 0.6 of the work."""

    class ByLayout(Work):
        def measure(self, modules, inputs):
            found = zip(modules, super().measure(modules, inputs), strict=True)
            return [seconds / (1 + has_channels_last(module)) for module, seconds in found]

    monkeypatch.setattr("tensorring_torch.budgeted.Stopwatch", ByLayout)
    model, x = made()
    for latency, left in ((0.5, 1.0), (0.3, 0.6)):
        result = tgt.compress(model, x[:2], budget=tgt.Budget(latency=latency), calibration=x, formats=("cut",))
        assert "channels last: that alone makes the dense network 2.00 × as fast" in result.report.notes
        assert has_channels_last(result.model)
        assert result.report.after.seconds <= latency * result.report.before.seconds * (1 + 1e-6)
        assert 0.7 * left * size(model) <= size(result.model) <= left * size(model) + 1
        assert error(result.model, model, x) < (1e-5 if left == 1 else 1)
    assert not has_channels_last(model)
    with pytest.raises(tg.BudgetError, match=r"latency 0\.\d+ where 0.01 was asked"):
        tgt.compress(model, x[:2], budget=tgt.Budget(latency=0.01), formats=("cut",))


class Viewing(Small):
    """Its forward takes a view that memory with the channels last does not have."""

    def forward(self, x):
        h = self.relu(self.norm(self.stem(x)))
        h = nn.functional.adaptive_avg_pool2d(h + self.bare(self.relu(self.body(h))) * self.scale, 2)
        return self.head(h.view(len(h), -1))


def test_networks_that_do_not_run_in_a_layout_stay_in_theirs(monkeypatch):
    class Running(Work):
        def measure(self, modules, inputs):
            for module in modules:
                module(inputs)
            return super().measure(modules, inputs)

    monkeypatch.setattr("tensorring_torch.budgeted.Stopwatch", Running)
    monkeypatch.setattr("tensorring_torch.budgeted._CHANGED", 0.0)  # all factors are adjusted
    model, x = made(Viewing)
    with pytest.raises(RuntimeError, match="view"):
        channels_last(model)(x)
    for budget in (tgt.Budget(latency=0.7), tgt.Budget(parameters=0.3)):
        result = tgt.compress(model, x[:32], budget=budget, calibration=x, formats=("cut",))
        assert not has_channels_last(result.model)
        assert error(result.model, model, x) < 1
    assert any("adjusted together" in note for note in result.report.notes)


def test_networks_that_never_get_fast_enough_are_an_error(monkeypatch):
    class Stuck(Work):
        def measure(self, modules, inputs):
            return [
                1.0 if isinstance(module, Small) else found
                for module, found in zip(modules, super().measure(modules, inputs), strict=True)
            ]

    monkeypatch.setattr("tensorring_torch.budgeted.Stopwatch", Stuck)
    model, x = made()
    with pytest.raises(tg.BudgetError, match=r"latency .* was asked"):
        tgt.compress(model, x[:2], budget=tgt.Budget(latency=0.9), formats=("cut",))


@pytest.mark.parametrize("by_data", [True, False])
@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupt_returns_the_best_so_far(by_data, after):
    model, x = made()
    told = []

    def callback(*args):
        told.append(args)
        if len(told) == after:
            raise KeyboardInterrupt

    options = {"calibration": x} if by_data else {}
    result = tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.2), callback=callback, **options)
    assert [(done, total) for done, total, _ in told] == [(k + 1, 4) for k in range(after)]
    assert result.report.interrupted
    assert result.report.notes[-1] == f"interrupted after {after} of 4 layers"
    assert result.report.after.parameters == size(result.model)
    assert np.isfinite(error(result.model, model, x))
    reasons = [layer.reason for layer in result.report.layers]
    assert reasons.count("interrupted before its turn") == 4 - after


def test_modes_and_what_is_frozen_survive_and_results_travel(tmp_path):
    model, x = made()
    model.train()
    model.norm.eval()
    model.body.weight.requires_grad_(False)
    model.body.bias.requires_grad_(True)
    model.head.requires_grad_(False)
    result = tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.2), calibration=x).model
    assert result.training
    assert not result.norm.training
    assert all(part.training for part in result.bare.modules())
    assert not any(p.requires_grad for p in result.head.parameters())
    assert [p.requires_grad for name, p in result.body.named_parameters()] == [
        name.endswith("bias") for name, _ in result.body.named_parameters()
    ]
    result.eval()
    with torch.no_grad():
        expected = result(x)
        torch.testing.assert_close(copy.deepcopy(result)(x), expected, rtol=0, atol=0)
    tgt.save(tmp_path / "small", result)
    loaded = tgt.load(tmp_path / "small", made()[0]).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), expected)
    result.train()(x).square().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("by_data", [True, False])
def test_dtypes(dtype, by_data):
    model, x = made()
    model, x = model.to(dtype), x.to(dtype)
    options = {"calibration": x} if by_data else {}
    result = tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.23), **options)
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert error(result.model, model, x) < 1


def test_in_inference_mode():
    model, x = made()
    with torch.inference_mode():
        inside = x * 1
        result = tgt.compress(model, inside[:2], budget=tgt.Budget(parameters=0.2), calibration=inside).model
    result.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in result.parameters())


@pytest.mark.parametrize("kind", ["linear", "conv", "one output"])
def test_a_network_that_is_one_layer(kind):
    torch.manual_seed(0)
    model = {
        "linear": nn.Linear(12, 10),
        "conv": nn.Conv2d(4, 8, 3),
        "one output": nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 1)),
    }[kind]
    x = torch.randn(40, 4, 5, 5) if kind == "conv" else torch.randn(40, 12)
    for calibration in (x, None):
        result = tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.7), calibration=calibration)
        assert size(result.model) <= 0.7 * size(model)
        assert error(result.model, model, x) < 1


def test_ways_that_data_decide_and_layers_that_they_do_not_reach():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.often, self.never = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.first(x)
            return self.never(x) if x.shape[0] == 1 else self.often(x) if (x.mean() < 0) else x

    torch.manual_seed(0)
    model, x = Gate().eval(), torch.randn(90, 8)
    with torch.no_grad():
        wet = [b for b in x.split(3) if float(model.first(b).mean()) < 0]
        dry = [b for b in x.split(3) if float(model.first(b).mean()) >= 0]
    assert wet
    assert dry
    example = wet[0]
    result = tgt.compress(model, example, budget=tgt.Budget(parameters=0.8), calibration=wet + dry)
    assert all(torch.isfinite(p).all() for p in result.model.parameters())
    result = tgt.compress(model, example[:1], budget=tgt.Budget(parameters=0.9), calibration=wet)
    assert all(torch.isfinite(p).all() for p in result.model.parameters())


def test_one_image_and_images_all_alike():
    model, x = made()
    for data in (x[:1], torch.zeros(20, 3, 6, 6)):
        result = tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.2), calibration=data)
        assert all(torch.isfinite(value).all() for value in result.model.state_dict().values())


def test_layers_that_are_never_fitted_and_weights_that_are_broken():
    model, x = made()
    result = tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.8), exclude="body", calibration=x)
    assert torch.equal(result.model.body.weight, model.body.weight)
    with torch.no_grad():
        model.bare.weight[0, 0, 0, 0] = float("nan")
    for calibration in (x, None):
        with pytest.raises(ValueError, match="NaN or inf"):
            tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.8), calibration=calibration)
    wave = nn.Sequential(nn.Linear(6, 6, dtype=torch.complex64), nn.Linear(6, 6, dtype=torch.complex64))
    with pytest.raises(ValueError, match="complex weights"):
        tgt.compress(wave, torch.zeros(2, 6, dtype=torch.complex64), budget=tgt.Budget(parameters=0.8))


BAD = float("nan") * torch.ones(4, 3, 6, 6)


@pytest.mark.parametrize(
    ("calibration", "kind", "message"),
    [
        (torch.zeros(5, 3, 6, 7), ValueError, r"batch 0 has shape \(5, 3, 6, 7\); .* \('n', 3, 6, 6\)"),
        ([torch.zeros(2, 3, 6, 6), torch.zeros(2, 4, 6, 6)], ValueError, "batch 1 has shape"),
        (torch.zeros(3, 6, 6), ValueError, "batch 0 has shape"),
        (torch.zeros(()), ValueError, "batch 0 has shape"),
        (torch.zeros(0, 3, 6, 6), ValueError, "batch 0 has shape"),
        ([], ValueError, "no batch"),
        (BAD, ValueError, "batch 0 holds NaN or inf"),
        (torch.zeros(2, 3, 6, 6, dtype=torch.float64), ValueError, "torch.float64, the example input of torch.float32"),
        (3, TypeError, "got a int for calibration"),
        ([np.zeros((2, 3, 6, 6))], TypeError, "holds a ndarray where a tensor is needed"),
        ([()], ValueError, "batch 0 has 0 inputs, the example 1"),
    ],
)
def test_calibration_that_is_none(calibration, kind, message):
    model, x = made()
    with pytest.raises(kind, match=message):
        tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.5), calibration=calibration)


def test_of_a_loader_the_labels_are_left_out():
    model, x = made()
    data = torch.utils.data.TensorDataset(x, torch.zeros(len(x), dtype=torch.long))
    batches = batches_of(torch.utils.data.DataLoader(data, 40), x[:2], model)
    assert [[tuple(value.shape) for value in batch] for batch in batches] == [[(n, 3, 6, 6)] for n in (40, 40, 16)]
    assert [len(batch[0]) for batch in batches_of(torch.cat([x, x]), x[:2], model)] == [128, 64]
    assert [len(first_of(batches, n)) for n in (1, 40, 41, 1000)] == [1, 1, 2, 3]
    with pytest.raises(TypeError, match="keyword arguments"):
        batches_of(x, {"x": x[:2]}, model)
    given = x.clone()
    endless = itertools.islice(itertools.repeat((x, None)), 2)
    tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.2), calibration=endless)
    assert torch.equal(x, given)
