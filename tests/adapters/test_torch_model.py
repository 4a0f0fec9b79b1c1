"""Whole networks: the tolerance kept in every layer, the rest untouched, the counts right, the reasons given."""

import copy

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

torch.set_num_threads(1)


class Zoo(nn.Module):
    """A convolution of every kind that a network may hold."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Sequential(nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1)) for _ in "ab"])
        self.branches = nn.ModuleDict({"wide": nn.Conv2d(16, 24, (1, 5), stride=2, padding=(0, 2), bias=False)})
        self.grouped = nn.Conv2d(24, 24, 3, groups=2)
        self.depthwise = nn.Conv2d(24, 24, 3, groups=24, padding=1)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(24, 8, 1))
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.alias = self.shared
        self.tied_a, self.tied_b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.tied_b.weight = self.tied_a.weight
        self.twice = nn.Conv2d(8, 8, 3, padding="same", padding_mode="circular")
        self.never = nn.Conv2d(8, 8, 3)
        self.hooked = nn.Conv2d(8, 8, 3)
        self.hooked.register_forward_hook(lambda *_: None)
        self.head = nn.Linear(8, 5)
        for parameter in self.blocks[0].parameters():
            parameter.requires_grad_(False)
        self.blocks[1].eval()

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        x = self.normed(self.depthwise(self.grouped(self.branches["wide"](x))))
        x = self.tied_b(self.tied_a(self.alias(self.shared(x))))
        x = self.twice(self.twice(x))
        return self.head(self.hooked(x).mean((2, 3)))


@pytest.fixture
def zoo():
    torch.manual_seed(0)
    return Zoo()


def kept(report):
    return {layer.name: layer.reason for layer in report.layers if layer.form == "dense"}


def count(model, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).eval()(x)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("minimize", ["macs", "parameters", "time"])
@pytest.mark.parametrize("tol", [0.0, 0.3, 0.6])
def test_compress_keeps_tol_counts_right_and_touches_nothing(zoo, tol, minimize):
    x = torch.randn(2, 3, 16, 16)
    before, modes = copy.deepcopy(zoo.state_dict()), [m.training for m in zoo.modules()]
    result = tgt.compress(zoo, x, tol=tol, minimize=minimize)
    assert all(torch.equal(value, before[name]) for name, value in zoo.state_dict().items())
    assert [m.training for m in zoo.modules()] == modes
    assert not any(m._forward_pre_hooks for m in (*zoo.modules(), *result.model.modules()))
    assert not result.model.blocks[1][1].training
    assert result.model.stem.training
    assert not any(p.requires_grad for p in result.model.blocks[0].parameters())
    report = result.report
    assert report.before == (sum(p.numel() for p in zoo.parameters()), count(zoo, x), None)
    assert report.after == (sum(p.numel() for p in result.model.parameters()), count(result.model, x), None)
    assert_layers(zoo, result, tol, minimize)
    mine, theirs = dict(result.model.named_parameters()), set(map(id, zoo.parameters()))
    assert not theirs & set(map(id, mine.values()))


def assert_layers(model, result, tol, minimize):
    for layer in result.report.layers:
        new, old = result.model.get_submodule(layer.name), model.get_submodule(layer.name)
        assert layer.before.parameters == sum(p.numel() for p in old.parameters())
        assert layer.after.parameters == sum(p.numel() for p in new.parameters())
        assert layer.reason
        if layer.form == "dense":
            assert layer.before == layer.after
            assert layer.error == 0
            continue
        if minimize != "time":
            key = ("parameters", "macs").index(minimize)
            assert layer.after[key] < layer.before[key]
        error = float(((tgt.dense_layer(new).weight - old.weight).norm() / old.weight.norm()).detach())
        assert error <= tol + 1e-5
        assert error == pytest.approx(layer.error, abs=1e-5)


def test_layers_that_stay_and_why(zoo):
    reasons = kept(tgt.compress(zoo, torch.randn(2, 3, 16, 16), tol=0.6).report)
    for name, reason in {
        "depthwise": "depthwise",
        "normed": "weight norm",
        "shared": "tied",
        "tied_a": "tied",
        "tied_b": "tied",
        "never": "does not call",
        "hooked": "hooks",
    }.items():
        assert reason in reasons.pop(name)
    assert all("no form" in reason for reason in reasons.values())
    assert {"blocks.0.1", "blocks.1.1", "grouped", "twice"}.isdisjoint(reasons)


@pytest.mark.filterwarnings("ignore")  # torch says that old weight norm and tracing are to go
def test_old_weight_norm_pruned_and_scripted_layers_stay():
    model = nn.Sequential(
        nn.utils.weight_norm(nn.Conv2d(3, 8, 3)), prune.l1_unstructured(nn.Conv2d(8, 8, 3), "weight", amount=0.3)
    )
    x = torch.randn(1, 3, 8, 8)
    expected = model(x)
    result = tgt.compress(model, x, tol=0.5)
    assert ["weight norm" in reason for reason in kept(result.report).values()] == [True, True]
    assert torch.equal(result.model(x), expected)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    model.append(torch.jit.trace(nn.Conv2d(8, 8, 3), model(x)))
    assert tgt.compress(model, x, tol=0.5).model(x).shape == (1, 8, 4, 4)


def test_compressing_twice_leaves_chains_whole(zoo):
    x = torch.randn(1, 3, 16, 16)
    once = tgt.compress(zoo, x, tol=0.3).model
    twice = tgt.compress(once, x, tol=0.6)
    assert any("already" in reason for reason in kept(twice.report).values())
    for module in twice.model.modules():
        if hasattr(module, "plan"):
            tgt.dense_layer(module)


@pytest.mark.filterwarnings("ignore")  # torch says that this is to go
def test_quantised_layers_stay():
    quantized = pytest.importorskip("torch.ao.nn.quantized")
    model = nn.Conv2d(3, 8, 3)  # its forward does not call q, whose kernels are not everywhere
    model.add_module("q", quantized.Conv2d(8, 8, 3))
    model = nn.ModuleDict({"holder": model})
    model.forward = lambda x: x
    assert kept(tgt.compress(model, torch.randn(1, 3, 8, 8), tol=0.0).report)["holder.q"] == "quantised"


def test_one_layer_alone_and_every_kind_of_input():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3)
    x = torch.randn(2, 16, 8, 8)
    for example in (x, (x,), [x], {"input": x}, x[0]):
        result = tgt.compress(conv, example, tol=0.6)
        assert isinstance(result.model, nn.Sequential)
        assert result.model(x).shape == (2, 16, 6, 6)
    result.model(x[0])  # seen without a batch, so no bond may need one
    assert isinstance(conv, nn.Conv2d)


def test_formats_and_progress(zoo):
    seen = []
    x = torch.randn(1, 3, 16, 16)
    result = tgt.compress(zoo, x, tol=0.5, formats=["tucker"], callback=lambda *args: seen.append(args))
    assert {layer.form for layer in result.report.layers if layer.name != "head"} <= {"dense", "tucker"}
    total = len(result.report.layers)
    assert [(done, all_) for done, all_, _ in seen] == [(k, total) for k in range(1, total + 1)]
    best = tgt.compress(zoo, x, tol=0.5).report.after
    for format in ("tr", "tt", "tucker", "cut"):
        assert best.multiply_adds <= tgt.compress(zoo, x, tol=0.5, formats=format).report.after.multiply_adds


def test_an_interrupt_keeps_what_is_done_and_leaves_the_model_alone(zoo):
    before, names = copy.deepcopy(zoo.state_dict()), [type(m) for m in zoo.modules()]
    x = torch.randn(1, 3, 16, 16)

    def interrupt(done, total, name):
        if done == 3:
            raise KeyboardInterrupt

    result = tgt.compress(zoo, x, tol=0.5, callback=interrupt)
    assert [type(m) for m in zoo.modules()] == names
    assert all(torch.equal(value, before[name]) for name, value in zoo.state_dict().items())
    report, whole = result.report, tgt.compress(zoo, x, tol=0.5).report
    assert report.interrupted
    assert not whole.interrupted
    assert report.layers[:3] == whole.layers[:3]
    for now, then in zip(report.layers[3:], whole.layers[3:], strict=True):
        assert now.form == "dense"
        assert now.reason == ("interrupted before its turn" if then.form != "dense" else then.reason)
    assert report.notes == (f"interrupted after 3 of {len(whole.layers)} layers",)
    assert report.before == whole.before
    assert report.after.parameters == sum(p.numel() for p in result.model.parameters())


def test_buffers_of_the_model_are_not_touched_by_the_trace():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            self.calls += 1
            return self.conv(x)

    model = Counting()
    result = tgt.compress(model, torch.randn(1, 3, 8, 8), tol=0.5)
    assert model.calls == result.model.calls == 0


def test_a_network_of_zeros_and_one_that_is_a_linear_layer():
    conv = nn.Conv2d(8, 8, 3, padding=1)
    nn.init.zeros_(conv.weight)
    result = tgt.compress(conv, torch.randn(1, 8, 8, 8), tol=0.0)
    assert torch.equal(result.model(torch.ones(1, 8, 8, 8)), conv(torch.ones(1, 8, 8, 8)))
    report = tgt.compress(nn.Linear(3, 4), torch.zeros(5, 3), tol=0.0).report
    assert [layer.form for layer in report.layers] == ["dense"]
    assert report.before == report.after == (16, 60, None)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tol": 1.0}, ValueError, r"1\.0.*\[0, 1\)"),
        ({"tol": -1}, ValueError, "-1"),
        ({"tol": float("nan")}, ValueError, "nan"),
        ({"tol": None}, ValueError, "none of tol, budget and evaluate.*give one"),
        ({"budget": tgt.Budget(macs=0.5)}, ValueError, "got tol and budget; give one"),
        ({"evaluate": len, "max_drop": 0.1}, ValueError, "got tol and evaluate; give one"),
        ({"max_drop": 0.1}, ValueError, "max_drop=0.1 without evaluate"),
        ({"calibration": torch.zeros(1, 3, 8, 8)}, ValueError, "calibration with tol.*budget or evaluate"),
        ({"tol": None, "budget": 0.5}, TypeError, r"0\.5.*Budget\(parameters=0\.5\)"),
        ({"tol": None, "evaluate": 0.9}, TypeError, r"0\.9.*function that takes a network"),
        ({"tol": None, "evaluate": len, "max_drop": -0.1}, ValueError, r"-0\.1.*0 or more"),
        ({"tol": None, "evaluate": len, "max_drop": float("nan")}, ValueError, "nan"),
        ({"tol": None, "evaluate": len, "max_drop": "1 %"}, TypeError, "'1 %'.*number"),
        ({"tol": True}, TypeError, "True"),
        ({"minimize": "watts"}, ValueError, "'watts'.*'macs'.*'parameters'.*'time'"),
        ({"formats": ["tr", "cpd"]}, ValueError, "'cpd'.*cut, tucker, tt, tr"),
        ({"formats": "cpd"}, ValueError, "'cpd'"),
        ({"formats": []}, ValueError, "formats"),
        ({"include": "cnv"}, ValueError, "include='cnv'.*matches no module"),
        ({"exclude": 3}, TypeError, "exclude=3"),
        ({"model": nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))}, ValueError, "ReLU, BatchNorm2d; what can.*nn.Conv2d"),
        ({"model": nn.ReLU()}, ValueError, "got a ReLU"),
        (
            {"example_input": torch.zeros(1, 4, 8, 8)},
            ValueError,
            "does not run on: RuntimeError: .*expected.* 3 channels",
        ),
        ({"example_input": {"image": torch.zeros(1, 3, 8, 8)}}, ValueError, "does not run on: TypeError.*image"),
        ({"example_input": None}, ValueError, "does not run on"),
        ({"model": nn.Sequential(nn.LazyConv2d(4, 3))}, ValueError, "lazy"),
        ({"model": "resnet"}, TypeError, "str.*nn.Module"),
    ],
)
def test_bad_requests(change, error, message):
    arguments = {"model": nn.Conv2d(3, 4, 3), "example_input": torch.zeros(1, 3, 8, 8), "tol": 0.5} | change
    with pytest.raises(error, match=message):
        tgt.compress(arguments.pop("model"), arguments.pop("example_input"), **arguments)


def test_what_the_model_said_of_its_example_is_the_cause():
    with pytest.raises(ValueError, match="tuple of positional") as caught:
        tgt.compress(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8).double(), tol=0.5)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_nan_names_the_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    model[0].weight.data[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="nan") as caught:
        tgt.compress(model, torch.zeros(1, 3, 8, 8), tol=0.5)
    assert "'0'" in caught.value.__notes__[0]
    model = nn.ModuleDict({"rnn": nn.GRU(8, 8)})
    model["rnn"].weight_hh_l0.data[3, 2] = np.inf
    model.forward = model["rnn"].forward
    with pytest.raises(ValueError, match="inf") as caught:
        tgt.compress(model, torch.zeros(2, 1, 8), tol=0.5, minimize="parameters")
    assert "'rnn'" in caught.value.__notes__[0]


def test_what_is_made_in_inference_mode_can_be_trained():
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    with torch.inference_mode():
        result = tgt.compress(model, torch.randn(1, 8, 9, 9), tol=0.7)
        dense = tgt.dense_layer(tgt.decompose_layer(model[2], format="cut", ranks=2))
    for made in (result.model, nn.Sequential(model[0], dense)):
        made(torch.randn(2, 8, 9, 9)).sum().backward()
        assert all(parameter.grad is not None for parameter in made.parameters())
