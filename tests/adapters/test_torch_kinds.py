"""Every kind of layer: what is built, counted, penalised, saved and exported. (That it computes the same: layer.)"""

import copy

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tensorring_torch.chain import Chain, Use
from tensorring_torch.geometry import Call, Geometry
from tensorring_torch.kinds import canonical_weight, layer_of
from tensorring_torch.modules import dense_weight
from tensorring_torch.trace import calls_of, input_shapes
from tensorring_torch.training.sensitivity import sensitivity
from test_torch_layer import LAYERS, random_tensor, weight_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tensorring as tg

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

KINDS = [
    (nn.Conv1d(8, 12, 5, stride=2, padding=2, padding_mode="reflect"), (2, 8, 11)),
    (nn.Conv3d(6, 8, (3, 2, 3), padding=1, groups=2), (2, 6, 5, 6, 4)),
    (nn.ConvTranspose1d(8, 6, 4, stride=2, padding=1), (2, 8, 5)),
    (nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 8, 5, 4)),
    (nn.ConvTranspose3d(6, 8, (3, 1, 2), stride=(2, 2, 1), dilation=(1, 1, 2)), (2, 6, 3, 4, 3)),
    (nn.Linear(12, 10), (3, 4, 12)),
    (nn.Embedding(20, 9, padding_idx=2, scale_grad_by_freq=True), None),
]
IDS = [type(layer).__name__ for layer, _ in KINDS]


def input_of(shape):
    return torch.randint(20, (3, 4)) if shape is None else torch.randn(shape)


@given(LAYERS)
def test_the_canonical_weight_there_and_back(case):
    layer, x = case
    geometry = Geometry.of(layer)
    weight = canonical_weight(layer)
    assert torch.equal(weight, weight_of(layer))
    assert tuple(weight.shape) == geometry.weight_shape
    bias = getattr(layer, "bias", None)
    again = layer_of(geometry, weight.detach(), bias)
    assert (type(again), repr(again)) == (type(layer), repr(layer))
    assert torch.equal(again.weight, layer.weight)
    assert Geometry.of(again) == geometry
    with torch.no_grad():
        assert torch.equal(again(x), layer(x))


@given(st.data(), LAYERS)
def test_outputs_and_multiply_adds_are_counted_as_torch_does(data, case):
    layer, x = case
    assume(x.numel())
    geometry = Geometry.of(layer)
    tensor = random_tensor(data.draw, geometry.weight_shape)
    chain = Chain.of(
        [tensor], Use(geometry, calls_of(geometry, [x.shape]), data.draw(st.sampled_from(["macs", "time"])))
    )
    layers = chain.layers(layer)
    assume(x.ndim == len(geometry.kernel) + 2 or all(stage.riders == 1 for stage in chain.plan.stages))
    (call,) = calls_of(geometry, [x.shape])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        y = layers(x)
    assert tuple(y.shape[y.ndim - len(call.size) :]) == geometry.outputs(call.size)
    assert counter.get_total_flops() // 2 == chain.plan.multiply_adds((call,))
    assert chain.plan.parameters == sum(stage.conv.parameters for stage in chain.plan.stages)


@settings(max_examples=20)
@given(st.data(), LAYERS)
def test_sensitivity_is_that_of_the_kernels(data, case):
    layer, _ = case
    layers = tgt.build_layer(random_tensor(data.draw, Geometry.of(layer).weight_shape), like=layer.double())
    weights = [canonical_weight(part).detach() for part in layers if hasattr(part, "weight")]
    value, squared = sensitivity(layers.plan, weights)
    jacobians = torch.autograd.functional.jacobian(lambda *w: dense_weight(layers.plan, w), tuple(weights))
    torch.testing.assert_close(value, sum(j.square().sum() for j in jacobians))
    torch.testing.assert_close(squared, dense_weight(layers.plan, weights).square().sum())
    tgt.sensitivity_penalty(layers)


@pytest.mark.parametrize(("layer", "shape"), KINDS, ids=IDS)
def test_saved_loaded_copied_and_traced(layer, shape, tmp_path):
    model, x = nn.Sequential(copy.deepcopy(layer)), input_of(shape)
    ((name, shapes),) = [item for item in input_shapes(model, x).items() if item[0]]
    assert (name, shapes) == ("0", [x.shape])
    for format in ("tr", "cut", "cp"):
        small = nn.Sequential(tgt.decompose_layer(layer, format=format, ranks=3, minimize="parameters"))
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
        tgt.save(tmp_path / "x", small)
        again = tgt.load(tmp_path / "x", model)
        assert torch.equal(again(x), small(x))
        assert torch.equal(copy.deepcopy(small)(x), small(x))
        assert repr(tgt.dense_layer(again[0])) == repr(layer)
        again(x).abs().sum().backward()
        assert all(p.grad is not None for p in again.parameters())
    with pytest.raises(ValueError, match="does not fit"):
        tgt.load(tmp_path / "x", nn.Sequential(nn.Conv2d(8, 6, 3)))


@pytest.mark.parametrize("format", ["cut", "tucker", "tt", "tr", "cp", "cp4", "tucker-cp"])
@pytest.mark.parametrize(("layer", "shape"), KINDS, ids=IDS)
def test_every_format_keeps_its_tolerance_and_is_exact_at_full_rank(layer, shape, format):
    torch.manual_seed(0)
    layer, x = copy.deepcopy(layer).double(), input_of(shape)
    x = x.double() if x.is_floating_point() else x
    weight = canonical_weight(layer)
    full = {"ranks": weight.numel() if weight.ndim > 2 else min(weight.shape)} if "cp" in format else {"tol": 1e-14}
    with torch.no_grad():
        torch.testing.assert_close(tgt.decompose_layer(layer, format=format, **full)(x), layer(x), rtol=0, atol=1e-9)
    near = canonical_weight(tgt.dense_layer(tgt.decompose_layer(layer, format=format, tol=0.5)))
    assert (near - weight).norm() <= (0.5 + 1e-6) * weight.norm()


def test_an_axis_grows_where_its_kernel_acts_and_as_late_as_possible():
    layer = nn.ConvTranspose2d(32, 32, (4, 1), stride=(2, 3), padding=(1, 0), output_padding=(0, 2))
    layers = tgt.build_layer(tg.random.tr((32, 32, 4, 1), ranks=(4, 1, 4, 4), rng=0), like=layer, minimize="parameters")
    assert [type(part) for part in layers] == [nn.Conv2d, nn.ConvTranspose2d, nn.ConvTranspose2d]
    assert [part.stride for part in layers] == [(1, 1), (2, 1), (1, 3)]
    assert [part.output_padding for part in layers[1:]] == [(0, 0), (0, 2)]
    assert layers(torch.zeros(1, 32, 5, 5)).shape == layer(torch.zeros(1, 32, 5, 5)).shape
    assert torch.equal(layers[-1].bias, layer.bias)


def test_a_volume_is_filtered_axis_by_axis():
    layer = nn.Conv3d(16, 24, 3, stride=(1, 2, 1), padding=1)
    ring = tgt.build_layer(
        tg.random.tr((24, 16, 3, 3, 3), ranks=(3, 1, 3, 3, 3), rng=0), like=layer, minimize="parameters"
    )
    assert [part.kernel_size for part in ring] == [(1, 1, 1), (3, 1, 1), (1, 3, 1), (1, 1, 3), (1, 1, 1)]
    split = tgt.decompose_layer(layer, format="cp4", ranks=6)
    assert [part.groups for part in split] == [1, 6, 6, 6, 1] or len(split) == 3
    merged = tgt.decompose_layer(layer, format="cp", ranks=6)
    assert [part.kernel_size for part in merged] == [(1, 1, 1), (3, 3, 3), (1, 1, 1)]


def test_a_sparse_embedding_stays_one():
    layer = nn.Embedding(30, 8, padding_idx=-1, sparse=True)
    small = tgt.decompose_layer(layer, ranks=3)
    assert [type(part) for part in small] == [nn.Embedding, nn.Linear]
    assert small[0].padding_idx == layer.padding_idx == 29
    small(torch.tensor([1, 4, 29])).sum().backward()
    assert small[0].weight.grad.is_sparse
    assert small[0].weight.grad.to_dense()[29].abs().sum() == 0
    torch.testing.assert_close(small(torch.tensor(29)), torch.zeros(8))


def test_planned_by_what_was_asked_for():
    """Looking up is no work, so an embedding is always planned for storage; a matrix of high rank stays one."""
    rng = np.random.default_rng(0)
    matrix = tg.cut_svd(rng.standard_normal((8, 30)), modes=(0,), ranks=3).tensor
    for minimize in ("macs", "parameters", "time"):
        assert len(tgt.build_layer(matrix, like=nn.Embedding(30, 8), minimize=minimize)) == 2
    wide = tg.cut_svd(rng.standard_normal((8, 9)), modes=(0,), ranks=6).tensor
    assert len(tgt.build_layer(wide, like=nn.Linear(9, 8))) == 1


@pytest.mark.parametrize(("layer", "shape"), KINDS, ids=IDS)
@pytest.mark.parametrize("format", ["tr", "cp"])
def test_torch_export(layer, shape, format):
    small, x = tgt.decompose_layer(layer, format=format, ranks=2).eval(), input_of(shape)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(small, (x,)).module()(x), small(x))


def test_a_fold_knows_how_many_axes_images_have():
    for axes, names in ((1, "N, C, W"), (2, "N, C, H, W"), (3, "N, C, D, H, W")):
        fold, size = tgt.FoldBond(2, 3, axes), (5,) * axes
        x = torch.randn(2, 12, *size)
        assert fold(x).shape == (4, 6, *size)
        assert torch.equal(tgt.UnfoldBond(2, 3)(fold(x)), x)
        with pytest.raises(ValueError, match=rf"need a batch \({names}\)"):
            fold(x[0])


def test_what_a_call_is():
    conv, linear, embedding = (
        Geometry.of(layer) for layer in (nn.Conv3d(2, 3, 1), nn.Linear(4, 5), nn.Embedding(6, 7))
    )
    assert calls_of(conv, [torch.Size((2, 4, 5, 6)), torch.Size((9, 2, 4, 5, 6))]) == (
        Call(1, (4, 5, 6)),
        Call(9, (4, 5, 6)),
    )
    assert calls_of(linear, [torch.Size((2, 3, 4)), torch.Size((4,))]) == (Call(6, ()), Call(1, ()))
    assert calls_of(embedding, [torch.Size((2, 3)), torch.Size(())]) == (Call(6, ()), Call(1, ()))
