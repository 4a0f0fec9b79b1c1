"""The CP forms: fitted stably, exact at full rank, counted as they are, undone, saved and exported."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorring_torch.forms import cp
from torch import nn

import tensorring as tg

torch.set_num_threads(1)
FORMS = ("cp", "cp4", "tucker-cp")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


def kernel_of_rank(shape, rank, seed=0):
    """A weight that is a CP tensor, with height and width one mode or two."""
    size = shape[2:] if len(shape) == 4 else ()
    tensor = tg.random.cp((*shape[:2], *size), rank=rank, rng=seed)
    return torch.from_numpy(tensor.to_dense())


def conv_of(weight, **options):
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], **options).to(weight.dtype)
    with torch.no_grad():
        conv.weight.copy_(weight)
    return conv


def relative(got, expected):
    return float(((got - expected).norm() / expected.norm()).detach())


@st.composite
def small_convolutions(draw):
    """Kernels so small that their full rank is small too, with all options."""
    groups = draw(st.integers(1, 2))
    padding = draw(st.one_of(st.just("valid"), st.just("same"), st.tuples(st.integers(0, 2), st.integers(0, 2))))
    conv = nn.Conv2d(
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        draw(st.sampled_from([(1, 1), (3, 1), (1, 3), (3, 3)])),
        stride=1 if padding == "same" else draw(st.integers(1, 2)),
        padding=padding,
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        groups=groups,
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(list(TOLERANCE))),
    )
    torch.manual_seed(draw(st.integers(0, 50)))
    for parameter in conv.parameters():
        nn.init.normal_(parameter)
    return conv, torch.randn(draw(st.integers(1, 2)), conv.in_channels, 9, 8, dtype=conv.weight.dtype)


@settings(max_examples=20)
@given(small_convolutions(), st.sampled_from(FORMS))
def test_at_full_rank_it_is_the_layer(case, format):
    conv, x = case
    full = math.prod(conv.weight.shape)
    layers = tgt.decompose_layer(conv, format=format, ranks=full)
    dense = tgt.dense_layer(layers)
    assert repr(dense) == repr(conv)
    assert relative(dense.weight, conv.weight) <= TOLERANCE[x.dtype]
    with torch.no_grad():
        assert relative(layers(x), conv(x)) <= TOLERANCE[x.dtype]


@pytest.mark.parametrize("format", FORMS)
def test_a_tolerance_is_kept(format):
    conv = conv_of(kernel_of_rank((12, 8, 3, 3), 3) + 0.01 * kernel_of_rank((12, 8, 3, 3), 6, seed=1), padding=1)
    for tol in (0.05, 0.3):
        layers = tgt.decompose_layer(conv, format=format, tol=tol)
        assert relative(tgt.dense_layer(layers).weight, conv.weight) <= tol + 1e-6
        assert layers.plan.form == format
        assert layers.plan.ranks[-1] <= 4


def test_what_is_built():
    """1×1, depthwise with stride, padding and dilation, 1×1 with the bias; four and five layers for the others."""
    conv = nn.Conv2d(32, 48, 3, stride=2, padding=2, dilation=2, padding_mode="circular")
    layers = tgt.decompose_layer(conv, format="cp", ranks=10)
    assert [tuple(layer.weight.shape) for layer in layers] == [(10, 32, 1, 1), (10, 1, 3, 3), (48, 10, 1, 1)]
    entry, middle, output = layers
    assert (middle.groups, middle.stride, middle.padding, middle.dilation) == (10, (2, 2), (2, 2), (2, 2))
    assert (middle.padding_mode, entry.stride, output.stride) == ("circular", (1, 1), (1, 1))
    assert entry.bias is middle.bias is None
    assert torch.equal(output.bias, conv.bias)
    assert sum(layer.weight.numel() for layer in layers) == layers.plan.parameters == 10 * (32 + 48 + 9)
    split = tgt.decompose_layer(conv, format="cp4", ranks=10)
    assert [tuple(layer.weight.shape[2:]) for layer in split] == [(1, 1), (3, 1), (1, 3), (1, 1)]
    assert [layer.groups for layer in split] == [1, 10, 10, 1]
    five = tgt.decompose_layer(nn.Conv2d(32, 48, 3), format="tucker-cp", ranks=(12, 8, 20))
    shapes = [(8, 32, 1, 1), (20, 8, 1, 1), (20, 1, 3, 3), (12, 20, 1, 1), (48, 12, 1, 1)]
    assert [tuple(layer.weight.shape) for layer in five] == shapes
    assert five.plan.ranks == (12, 8, 20)


def test_what_is_cheaper_in_work_may_store_more():
    """Before a stride a 1×1 kernel works on four times as many places as the dense one."""
    conv = nn.Conv2d(16, 32, 3, stride=2)
    by_work = tgt.decompose_layer(conv, format="cp", ranks=62)
    by_storage = tgt.decompose_layer(conv, format="cp", ranks=62, minimize="parameters")
    assert len(by_work) == 1
    assert by_storage.plan.parameters == 62 * (16 + 32 + 9) < by_work.plan.parameters


def test_columns_and_rows_stand_apart_only_where_it_is_cheaper():
    """Where two more passes over the image cost more than they save, they are one depthwise kernel."""
    conv = nn.Conv2d(16, 16, 3, padding=1)
    model = nn.Sequential(conv)
    nn.init.zeros_(conv.weight)
    with torch.no_grad():
        conv.weight += kernel_of_rank((16, 16, 3, 3), 2).float()
    x = torch.zeros(1, 16, 32, 32)
    by_time = tgt.compress(model, x, tol=0.01, formats=["cp4"], minimize="time").model[0]
    by_work = tgt.compress(model, x, tol=0.01, formats=["cp4"], minimize="macs").model[0]
    assert [layer.kernel_size for layer in by_work] == [(1, 1), (3, 1), (1, 3), (1, 1)]
    assert [layer.kernel_size for layer in by_time] == [(1, 1), (3, 3), (1, 1)]
    assert relative(tgt.dense_layer(by_time).weight, conv.weight) <= 0.01 + 1e-5


def test_a_core_in_orthonormal_matrices_keeps_its_error():
    weight = np.random.default_rng(0).standard_normal((16, 12, 3, 3))
    for ranks, tol in (((8, 6, 9), None), (None, 0.7)):
        for found in cp.fit_core(weight, tol=tol, ranks=ranks, cost=None):
            error = tg.relative_error(weight.reshape(16, 12, 9), found.tensor.cp)
            assert found.error == pytest.approx(error, rel=1e-9)
            assert tol is None or error <= tol * (1 + 1e-9)


def test_scales_are_shared_out_as_training_needs():
    """‖u_{n,r}‖² in proportion to the sizes of the modes, whatever the scales that came."""
    tensor = tg.CPTensor([5.0, -0.1], [f * s for f, s in zip(tg.random.cp((8, 6, 9), rank=2, rng=0).factors,
                                                             (1e4, 1e-3, 1.0), strict=True)])  # fmt: skip
    conv = nn.Conv2d(6, 8, 3).double()
    entry, middle, output = (layer.weight.detach() for layer in tgt.build_layer(tensor, like=conv))
    norms = torch.stack([entry.square().sum((1, 2, 3)), middle.square().sum((1, 2, 3)), output.square().sum((0, 2, 3))])
    shares = norms / norms.sum(0)
    expected = torch.tensor([6.0, 9.0, 8.0], dtype=torch.float64) / 23
    torch.testing.assert_close(shares, expected[:, None].expand(3, 2))


def test_groups_together_and_each_by_itself():
    weight = torch.cat([kernel_of_rank((6, 5, 3, 3), 2, seed) for seed in range(2)])
    conv = nn.Conv2d(10, 12, 3, groups=2, padding=1).double()
    with torch.no_grad():
        conv.weight.copy_(weight)
    tensors = [tg.random.cp((6, 5, 3, 3), rank=2, rng=seed) for seed in range(2)]
    tensors[1] = tg.CPTensor(tensors[1].weights[:1], [factor[:, :1] for factor in tensors[1].factors])
    layers = tgt.build_layer(tensors, like=conv)
    expected = np.concatenate([tensor.to_dense() for tensor in tensors])
    assert relative(tgt.dense_layer(layers).weight, torch.from_numpy(expected)) < 1e-12
    for format in FORMS:
        found = tgt.decompose_layer(conv, format=format, tol=1e-4)
        assert relative(tgt.dense_layer(found).weight, conv.weight) <= 1.1e-4
        x = torch.randn(2, 10, 7, 6).double()
        with torch.no_grad():
            assert relative(found(x), conv(x)) <= 1e-3


def test_reports_tell_how_far_terms_cancel():
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=2))
    x = torch.zeros(1, 3, 12, 12)
    result = tgt.compress(model, x, tol=0.5, formats=FORMS)
    replaced = [layer for layer in result.report.layers if layer.form != "dense"]
    assert replaced
    for layer in replaced:
        assert layer.form in FORMS
        assert 0 < layer.degeneracy < 20
        assert f"{layer.degeneracy:.2f}" in str(result.report)
    assert "degeneracy" in str(result.report).splitlines()[0]
    result = tgt.compress(model, x, tol=0.5, formats=["cut"])
    assert all(layer.degeneracy is None for layer in result.report.layers)
    assert sum(p.numel() for p in result.model.parameters()) == result.report.after.parameters


def test_an_interrupt_of_a_fit_ends_the_call(monkeypatch):
    real = tg.cp_stable

    def interrupted(x, **options):
        return replace(real(x, **options), stop=tg.Stop.interrupted, converged=False)

    monkeypatch.setattr(tg, "cp_stable", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tgt.decompose_layer(nn.Conv2d(4, 4, 3), format="cp", ranks=2)


def test_a_tolerance_that_is_not_reached_is_an_error_or_stays_dense(monkeypatch):
    real = tg.cp_stable
    monkeypatch.setattr(tg, "cp_stable", lambda x, **options: replace(real(x, **options), converged=False))
    conv = nn.Conv2d(4, 4, 3)
    with pytest.raises(ValueError, match="'cp' did not reach"):
        tgt.decompose_layer(conv, format="cp", tol=0.5)
    report = tgt.compress(conv, torch.zeros(1, 4, 6, 6), tol=0.5, formats=["cp"]).report
    assert report.layers[0].form == "dense"


def test_the_same_layer_gives_the_same_layers():
    conv = nn.Conv2d(6, 5, 3)
    runs = [tgt.decompose_layer(conv, format="tucker-cp", ranks=4).state_dict() for _ in range(2)]
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


def test_complex_half_and_memory_formats():
    conv = nn.Conv2d(3, 2, 3, dtype=torch.complex128)
    layers = tgt.decompose_layer(conv, format="cp", ranks=6)
    x = torch.randn(1, 3, 6, 6, dtype=torch.complex128)
    assert relative(layers(x), conv(x)) < 1e-9
    conv = nn.Conv2d(8, 8, 3, padding=1).to(torch.bfloat16)
    assert {p.dtype for p in tgt.decompose_layer(conv, format="cp", ranks=4).parameters()} == {torch.bfloat16}
    conv = nn.Conv2d(8, 8, 3, padding=1).to(memory_format=torch.channels_last)
    layers = tgt.decompose_layer(conv, format="cp", ranks=4)
    x = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    assert relative(layers(x), tgt.dense_layer(layers)(x)) < 1e-5


@pytest.mark.filterwarnings("ignore")  # of torch's own exporter
def test_exported_to_onnx():
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    conv = nn.Conv2d(12, 8, 3, stride=2, padding=1)
    x = torch.randn(2, 12, 9, 9)
    layers = tgt.decompose_layer(conv, format="tucker-cp", ranks=(4, 5, 6)).eval()
    file = io.BytesIO()
    torch.onnx.export(torch.export.export(layers, (x,)), (), dynamo=True, verbose=False).save(file)
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert relative(torch.from_numpy(got), layers(x)) < 1e-5
