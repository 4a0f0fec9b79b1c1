"""Expanded layers fold to what they were, or to the best product of two layers within the tolerance."""

import copy
import math

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tensorring_torch.plan import Plan
from test_torch_expand import Block, can_be_expanded, matrices_of
from test_torch_layer import DTYPES, LAYERS, assert_close
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tensorring as tg

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def weight_of(module):
    """The matrices of a layer, or of what a chain makes: in double precision, multiplied by torch."""
    return matrices_of(tgt.dense_layer(copy.deepcopy(module).double()) if isinstance(module, nn.Sequential) else module)


def difference(a, b):
    return math.sqrt(sum(float((p.double() - q.double()).square().sum()) for p, q in zip(a, b, strict=True)))


@given(LAYERS, st.integers(2, 4))
def test_nothing_allowed_it_is_the_layer_again(case, factors):
    layer, x = case
    assume(can_be_expanded(layer))
    folded = tgt.fold(nn.Sequential(tgt.expand(layer, factors)), tol=0.0)
    with torch.no_grad():
        assert_close(folded.model(x), layer(x), DTYPES[layer.weight.dtype])
    (report,) = folded.report.layers
    if report.form == "dense":
        assert repr(folded.model[0]) == repr(layer)
        assert report.after == report.before
    assert all(module.training == layer.training for module in folded.model[0].modules())
    assert all(
        p.requires_grad == layer.weight.requires_grad for n, p in folded.model.named_parameters() if "weight" in n
    )


def moved(layer, factors, seed):
    """What training might have made of it."""
    wide = tgt.expand(layer, factors)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter += 0.1 * parameter.abs().mean() * torch.randn_like(parameter)
    return wide


@given(LAYERS, st.integers(2, 3), st.sampled_from([0.05, 0.3, 0.6, 0.9]), st.integers(0, 99))
def test_the_tolerance_is_kept_at_the_least_rank(case, factors, tol, seed):
    layer, x = case
    assume(can_be_expanded(layer))
    wide = moved(layer, factors, seed)
    before = copy.deepcopy(wide.state_dict())
    folded = tgt.fold(wide, tol=tol, example_input=x if x.numel() and x.shape[0] else None)
    assert all(torch.equal(value, before[name]) for name, value in wide.state_dict().items())
    old, new = weight_of(wide), weight_of(folded.model)
    norm, floor = difference(old, [torch.zeros_like(part) for part in old]), 50 * torch.finfo(layer.weight.dtype).eps
    error = difference(old, new) / norm
    assert error <= tol + floor
    (report,) = folded.report.layers
    assert report.error == pytest.approx(error, abs=floor)
    assert report.after.parameters <= report.before.parameters
    assert report.before.parameters == sum(p.numel() for p in layer.parameters())
    assert report.after.parameters == sum(p.numel() for p in folded.model.parameters())
    ranks = [_rank(part, tol) for part in old]
    rows, columns = old[0].shape
    thin = max(ranks) * (rows + columns) < rows * columns
    assert (report.form != "dense") == thin
    if thin:
        assert report.ranks == (max(ranks),)
        assert len(folded.model) == 2
    assert f"rank {max(ranks)} of {min(rows, columns)}" in report.reason


def _rank(matrix, tol):
    """The least rank within the tolerance, by NumPy."""
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    tails = np.sqrt(np.append(np.cumsum(values[::-1] ** 2)[::-1], 0))
    return max(1, int(np.argmax(tails <= tol * tails[0])))


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 12, 3, stride=2), nn.ConvTranspose2d(8, 12, 3), nn.Linear(20, 12),
                                   nn.Conv1d(8, 12, 5, groups=2)], ids=lambda layer: type(layer).__name__)  # fmt: skip
def test_the_error_at_a_rank_is_the_least_there_is(layer):
    wide = moved(layer.double(), 2, 0)
    for rank in (1, 2, 3):
        folded = tgt.fold(wide, ranks=rank)
        values = [np.linalg.svd(part.numpy(), compute_uv=False) for part in weight_of(wide)]
        least = math.sqrt(sum((v[rank:] ** 2).sum() for v in values) / sum((v**2).sum() for v in values))
        assert folded.report.layers[0].error == pytest.approx(least, rel=1e-10)
        assert folded.report.layers[0].ranks == folded.model.plan.ranks == (rank,)
        assert "as asked" in folded.report.layers[0].reason
    assert tgt.fold(wide, ranks=100).report.layers[0].form == "dense"


def test_the_two_layers_are_of_one_scale():
    """All singular values on one side made the next training diverge."""
    torch.manual_seed(0)
    layer = nn.Linear(30, 20, dtype=torch.float64)
    with torch.no_grad():
        layer.weight *= 100
    first, last = tgt.fold(tgt.expand(layer), ranks=4).model
    torch.testing.assert_close(first.weight.square().mean(1), last.weight.square().mean(0), rtol=1e-10, atol=0)


def test_directions_without_weight_are_found_at_no_tolerance():
    """Factors of which some channels died, in single precision: the rank is that of the product."""
    torch.manual_seed(0)
    wide = tgt.expand(nn.Sequential(nn.Conv2d(16, 16, 3, bias=False), nn.Linear(16, 32)), 3)
    with torch.no_grad():
        for chain in wide:
            chain[1].weight[5:] = 0
    folded = tgt.fold(wide, tol=0.0)
    assert [layer.ranks for layer in folded.report.layers] == [(5,), (5,)]
    assert max(layer.error for layer in folded.report.layers) < 1e-6


def test_ranks_of_signals_in_noise_are_found():
    torch.manual_seed(0)
    layers = [nn.Conv2d(30, 40, 3), nn.ConvTranspose2d(40, 30, 3), nn.Linear(100, 60), nn.Linear(50, 50)]
    expected = (3, 3, 3, 1)  # there is none in the last, which keeps one direction all the same
    with torch.no_grad():
        for layer, rank in zip(layers, expected, strict=True):
            nn.init.normal_(layer.weight)
            if rank > 1:
                u, v = torch.randn(len(layer.weight), rank), torch.randn(rank, layer.weight[0].numel())
                layer.weight += 2 * (u @ v).reshape(layer.weight.shape)
    wide = tgt.expand(nn.Sequential(*layers))
    report = tgt.fold(wide, ranks="vbmf").report
    assert [layer.ranks for layer in report.layers] == [(rank,) for rank in expected]
    assert all("found by VBMF" in layer.reason for layer in report.layers)
    found = [tg.vbmf_rank(weight_of(chain)[0].numpy()) for chain in wide]
    assert found == [3, 3, 3, 0]


def test_some_layers_of_a_network(tmp_path):
    torch.manual_seed(0)
    dense = nn.Sequential(Block(), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(8, 5)).eval()
    x = torch.randn(3, 4, 6, 6)
    wide = tgt.expand(dense, exclude="4")
    folded = tgt.fold(wide, ranks={"0.conv2": 2, "2": 1}, example_input=x)
    report = {layer.name: layer for layer in folded.report.layers}
    assert list(report) == ["0.conv1", "0.conv2", "0.shortcut.0", "2"]
    assert [layer.form for layer in report.values()] == ["dense", "cut(0,)", "dense", "cut(0,)"]
    assert report["0.conv1"].reason == "merged: no rank was given"
    assert report["0.conv1"].error < 1e-6
    assert repr(folded.model[0].shortcut) == repr(dense[0].shortcut)
    assert torch.equal(folded.model[4].weight, dense[4].weight)
    for model, total in ((dense, folded.report.before), (folded.model, folded.report.after)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x)
        assert counter.get_total_flops() // 2 == total.multiply_adds
        assert sum(p.numel() for p in model.parameters()) == total.parameters
    assert tgt.fold(wide, tol=0.5).report.before.multiply_adds == 0
    tgt.save(tmp_path / "small", folded.model)
    assert torch.equal(tgt.load(tmp_path / "small", dense)(x), folded.model(x))
    tgt.sensitivity_penalty(folded.model).backward()
    again = tgt.expand(folded.model)
    assert isinstance(again[0].conv1.plan, Plan)
    assert again[0].conv2.plan == folded.model[0].conv2.plan


def test_compressed_layers_are_left_alone():
    model = nn.Sequential(tgt.decompose_layer(nn.Linear(9, 9), ranks=2), nn.Linear(9, 9))
    wide = tgt.expand(model)
    folded = tgt.fold(wide, ranks=1)
    assert [layer.name for layer in folded.report.layers] == ["1"]
    assert repr(folded.model[0]) == repr(model[0])
    twice = nn.Sequential(wide[1], nn.ReLU(), wide[1])
    report = tgt.fold(nn.Sequential(twice, tgt.expand(nn.Linear(9, 9))), ranks=1).report
    assert [(layer.name, layer.form) for layer in report.layers] == [("0.0", "expanded"), ("1", "cut(0,)")]
    assert "tied" in report.layers[0].reason


def test_zeros_and_layouts():
    conv = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    nn.init.zeros_(conv.weight)
    for tol, ranks in ((0.0, None), (None, "vbmf")):
        folded = tgt.fold(tgt.expand(nn.Sequential(conv)), tol=tol, ranks=ranks)
        assert folded.report.layers[0].ranks == (1,)
        assert folded.report.layers[0].error == 0
        assert folded.model[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        folded = tgt.fold(tgt.expand(nn.Linear(8, 8)), ranks=2)
    folded.model(torch.ones(1, 8)).sum().backward()
    half = tgt.fold(tgt.expand(nn.Linear(8, 8).bfloat16()), ranks=2)
    assert all(p.dtype == torch.bfloat16 for p in half.model.parameters())


WIDE = tgt.expand(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tgt.fold(WIDE), ValueError, "got neither tol nor ranks; give one: tol=0.1, ranks=8, ranks={'0': 8}"),
        (lambda: tgt.fold(WIDE, tol=0.1, ranks=3), ValueError, "got tol=0.1 and ranks=3; give one"),
        (lambda: tgt.fold(WIDE, ranks="aic"), ValueError, "got ranks='aic'; a rank is an int of at least 1, or 'vbmf'"),
        (lambda: tgt.fold(WIDE, ranks=0), ValueError, "got ranks=0; a rank is an int of at least 1"),
        (lambda: tgt.fold(WIDE, ranks=True), ValueError, "got ranks=True"),
        (lambda: tgt.fold(WIDE, ranks={"1": 1.5}), ValueError, "got ranks=1.5"),
        (lambda: tgt.fold(WIDE, ranks={"1": None}), ValueError, "got ranks=None"),
        (lambda: tgt.fold(WIDE, ranks={"2": 1}), ValueError, "got ranks of '2'; the expanded layers are '0', '1'"),
        (lambda: tgt.fold(WIDE, tol=1.5), ValueError, "got tol=1.5"),
        (lambda: tgt.fold(WIDE, tol="a"), TypeError, "got tol='a'"),
        (lambda: tgt.fold(nn.Linear(2, 2), tol=0.1), ValueError, "got a Linear without expanded layers; expand makes"),
        (lambda: tgt.fold([], tol=0.1), TypeError, "got a list for the model"),
        (lambda: tgt.fold(WIDE, tol=0.1, example_input=torch.ones(1, 3)), ValueError, "does not run on"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_weight_that_is_not_finite_is_named():
    wide = copy.deepcopy(WIDE)
    with torch.no_grad():
        wide[1][0].weight[0, 1] = math.inf
    for options in ({"tol": 0.1}, {"ranks": "vbmf"}):
        with pytest.raises(ValueError, match=r"is (nan|inf|-inf)") as caught:
            tgt.fold(wide, **options)
        assert caught.value.__notes__ == ["in layer '1'"]
