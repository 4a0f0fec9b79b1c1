"""Measured latency, by a clock that ticks as told: who runs when, how often, and what is remembered."""

import copy
import math

import pytest
import tensorring_torch as tgt
import torch
from tensorring_torch.latency import Stopwatch
from tensorring_torch.layout import channels_last, has_channels_last, laid_out
from torch import nn

torch.set_num_threads(1)


class Clock:
    """Seconds pass only where something says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Slow(nn.Module):
    """Takes so many seconds by the clock, the next of `times` in each run, and notes who ran."""

    def __init__(self, clock, times, runs=None, name=""):
        super().__init__()
        self.name = name
        # Copies are made of modules: what is to be seen is shared.
        self.shared = Shared(clock, times, [] if runs is None else runs)

    def forward(self, x, scale=1.0):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        shared = self.shared
        shared.clock.now += scale * shared.times[min(shared.count, len(shared.times) - 1)]
        shared.count += 1
        shared.runs.append((self.name, x.shape, x.is_contiguous(memory_format=torch.channels_last)))
        return x

    def extra_repr(self):
        return self.name


class Shared:
    def __init__(self, clock, times, runs):
        self.clock, self.times, self.runs, self.count = clock, times, runs, 0

    def __deepcopy__(self, memo):
        return self


X = torch.zeros(2, 3, 4, 4)


def slow(clock, times, runs=None, name=""):
    return Slow(clock, times if isinstance(times, list) else [times], runs, name)


def test_medians_of_runs_in_turn():
    clock, runs = Clock(), []
    a, b = slow(clock, [9, 9, 1, 1, 1, 7], runs, "a"), slow(clock, [9, 9, 3, 2, 2, 2], runs, "b")
    assert Stopwatch(clock=clock, repeats=3, seconds=0).measure([a, b], X) == [1, 2]
    order = "".join(name for name, *_ in runs)
    assert order == "baabbaabba"  # two rounds to warm up, three that count, forwards and backwards
    assert a.training
    assert b.training


def test_runs_are_added_until_the_median_is_known():
    clock = Clock()
    steady, noisy = slow(clock, 1.0), slow(clock, [0.0, 0.0] + [1.0, 1.2] * 500)
    watch = Stopwatch(clock=clock, seconds=math.inf)
    watch.measure([steady], X)
    assert steady.shared.count == 2 + 9
    assert Stopwatch(clock=clock, seconds=20.0).measure([noisy], X)[0] in (1.0, 1.1, 1.2)
    assert 15 <= noisy.shared.count <= 22  # by time: its median is not known to 3 %
    jumps = slow(clock, [0.0, 0.0] + [1.0, 1.0, 1.0, 5.0] * 500)
    assert Stopwatch(clock=clock, seconds=1e4).measure([jumps], X) == [1.0]
    assert 9 < jumps.shared.count < 100  # a quarter of outliers is no matter


def test_each_make_is_measured_once():
    clock = Clock()
    watch, layers = Stopwatch(clock=clock), [slow(clock, 1.0, name="a"), slow(clock, 2.0, name="b")]
    assert watch.measure(layers, X) == [1.0, 2.0]
    counts = [layer.shared.count for layer in layers]
    assert watch.measure(layers, X) == [1.0, 2.0]
    assert watch.measure([slow(clock, 7.0, name="b")], torch.ones_like(X)) == [2.0]
    assert [layer.shared.count for layer in layers] == counts
    # Other sizes, other dtypes, other threads: other times.
    assert watch.measure(layers[1:], torch.zeros(1, 3, 4, 4)) == [2.0]
    assert watch.measure(layers[1:], X.double()) == [2.0]
    torch.set_num_threads(2)
    try:
        assert watch.measure(layers[1:], X) == [2.0]
    finally:
        torch.set_num_threads(1)
    assert layers[1].shared.count == 4 * counts[1]
    assert len(watch.known) == 5
    assert watch.measure([], X) == []


def test_what_has_drifted_since_is_divided_out():
    clock = Clock()
    watch, dense = Stopwatch(clock=clock), slow(clock, 1.0, name="dense")
    assert watch.measure([dense, slow(clock, 0.5, name="a")], X) == [1.0, 0.5]
    dense.shared.times = [3.0]  # the machine is now three times slower
    assert watch.measure([dense, slow(clock, 1.8, name="b")], X) == [1.0, pytest.approx(0.6)]
    assert watch.measure([dense, slow(clock, 1.8, name="b")], X)[0] == 1.0


def test_layers_of_one_make_and_of_others():
    """By what is printed and by the shapes held, not by the numbers."""
    watch = Stopwatch(seconds=0.0, repeats=1)
    conv = nn.Conv2d(3, 8, 3)
    others = [nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(3, 8, 3).train()]
    others.append(tgt.decompose_layer(conv, format="cut", ranks=2))
    times = watch.measure([conv, nn.Conv2d(3, 8, 3), *others], X)
    assert times[0] == times[1] == times[4]
    assert len(watch.known) == 4
    watch.measure([copy.deepcopy(conv).double()], X.double())
    assert len(watch.known) == 5
    assert all(0 < seconds < math.inf for seconds in times)


def test_every_kind_of_input_and_nothing_is_touched():
    clock = Clock()
    for inputs, seconds in ((X, 2.0), ((X, 3.0), 6.0), ([X], 2.0), ({"x": X, "scale": 0.5}, 1.0)):
        assert Stopwatch(clock=clock).measure([slow(clock, 2.0)], inputs) == [seconds]
    norm = nn.BatchNorm2d(3)
    before = copy.deepcopy(norm.state_dict())
    (seconds,) = Stopwatch(seconds=0.0).measure([norm], torch.randn(2, 3, 4, 4))
    assert seconds > 0
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert norm.training
    with pytest.raises(RuntimeError, match="channels"):
        Stopwatch().measure([nn.Conv2d(4, 4, 1)], X)


def test_layouts_are_measured_by_themselves():
    clock = Clock()
    watch, conv = Stopwatch(clock=clock), nn.Conv2d(3, 8, 3)
    for module in (conv, channels_last(conv)):
        for x in (X, laid_out(X)):
            watch.measure([module], x)
    assert len(watch.known) == 4


def test_channels_last_where_there_are_channels():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv3d(2, 4, 3), nn.Conv1d(2, 4, 3), nn.Linear(4, 4))
    turned = channels_last(model)
    assert turned[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert turned[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert has_channels_last(turned)
    assert not has_channels_last(model)
    for kernel in (nn.Conv2d(8, 4, 1), nn.Conv3d(1, 4, 3)):  # either layout is contiguous: strides alone tell
        assert has_channels_last(channels_last(kernel))
        assert not has_channels_last(kernel)
        x = torch.zeros(2, kernel.in_channels, *[5] * (kernel.weight.ndim - 2))
        out = channels_last(kernel)(x)
        assert out.stride() == laid_out(out).stride()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), turned.parameters(), strict=True))
    assert turned[0](X).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("format", ["cut", "tucker", "cp", "tr"])
def test_chains_are_laid_out_like_the_layer(format):
    """But where an index rides along in the batch: then every fold would be a copy."""
    torch.manual_seed(0)
    layers = tgt.decompose_layer(channels_last(nn.Conv2d(8, 8, 3)), format=format, tol=0.5)
    rides = any(isinstance(part, tgt.FoldBond) for part in layers)
    if rides:
        assert not has_channels_last(layers)
    else:
        assert all(w.is_contiguous(memory_format=torch.channels_last) for w in layers.parameters() if w.ndim == 4)
        assert layers(laid_out(torch.zeros(1, 8, 5, 5))).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_waited_for():
    layer = nn.Linear(2048, 2048).cuda()
    x = torch.randn(8192, 2048, device="cuda")
    small, large = Stopwatch().measure([layer, nn.Sequential(*[layer] * 8)], x)
    assert large > 4 * small
