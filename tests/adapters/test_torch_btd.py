"""The layers of block terms: 1×1, grouped h×w, 1×1, equal to the dense convolution with the same tensor."""

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from torch import nn

import tensorring as tg

torch.set_num_threads(1)


def with_weight(conv, weight):
    """The dense layer with another weight."""
    dense = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, stride=conv.stride, padding=conv.padding,
        dilation=conv.dilation, groups=conv.groups, padding_mode=conv.padding_mode, dtype=conv.weight.dtype,
    )  # fmt: skip
    dense.load_state_dict({"weight": torch.from_numpy(weight).reshape(conv.weight.shape), "bias": conv.bias})
    return dense


@pytest.mark.parametrize("modes", [(0, 1), (0, 1, 2, 3), (0,), (1,), (0, 1, 3), (2, 3)])
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("options", [{}, {"stride": (2, 1), "padding": 1, "dilation": 2, "padding_mode": "circular"}])
def test_layers_compute_the_convolution(modes, merged, options):
    conv = nn.Conv2d(5, 7, (3, 2), dtype=torch.float64, **options)
    if merged and max(modes) > 1:
        pytest.skip("height and width are one mode")
    weight = conv.weight.detach().numpy().reshape((7, 5, 6) if merged else (7, 5, 3, 2))
    tensor = tg.btd_als(weight, terms=3, ranks=2, modes=modes, max_sweeps=2, rng=0).tensor
    layers, x = tgt.build_layer(tensor, like=conv), torch.randn(2, 5, 11, 12, dtype=torch.float64)
    torch.testing.assert_close(layers(x), with_weight(conv, tensor.to_dense())(x), rtol=0, atol=1e-12)
    back = tgt.dense_layer(layers).weight.detach().numpy().reshape(weight.shape)
    np.testing.assert_allclose(back, tensor.to_dense(), rtol=0, atol=1e-13)


def test_the_form_it_is_made_for():
    layers = tgt.decompose_layer(nn.Conv2d(16, 32, 3, padding=1), format="btd", ranks=(3, 4, 2))
    assert [(tuple(layer.weight.shape), layer.groups) for layer in layers] == [
        ((6, 16, 1, 1), 1), ((12, 2, 3, 3), 3), ((32, 12, 1, 1), 1)
    ]  # fmt: skip


def test_scales_are_shared_out_over_the_layers():
    conv = nn.Conv2d(16, 16, 3, dtype=torch.float64)
    tensor = tg.random.btd((16, 16, 9), terms=3, ranks=(4, 4, 9), rng=0)
    tensor = tensor.with_arrays([tensor.cores * np.array([1e6, 1.0, 0.0])[:, None, None, None], *tensor.factors])
    first, middle, last = (layer.weight.detach() for layer in tgt.build_layer(tensor, like=conv))
    norms = torch.stack([
        first.reshape(3, -1).norm(dim=1), middle.reshape(3, -1).norm(dim=1),
        last.reshape(16, 3, -1).movedim(1, 0).flatten(1).norm(dim=1),
    ])  # fmt: skip
    torch.testing.assert_close(norms[:, :2], norms[:1, :2].expand(3, 2))
    assert torch.isfinite(norms).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_decompose_layer_keeps_tol(groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 24, 3, groups=groups, dtype=torch.float64)
    for tol in (0.9, 0.7):
        layers = tgt.decompose_layer(conv, format="btd", tol=tol)
        approximation, x = tgt.dense_layer(layers), torch.randn(2, 16, 6, 6, dtype=torch.float64)
        assert (approximation.weight - conv.weight).norm() <= (tol + 1e-10) * conv.weight.norm()
        torch.testing.assert_close(layers(x), approximation(x))


def test_the_groups_of_a_layer_may_differ_in_their_terms():
    conv = nn.Conv2d(8, 12, 3, groups=2, dtype=torch.float64)
    parts = [tg.random.btd((6, 4, 9), terms=terms, ranks=(2, 3, 2), rng=terms) for terms in (2, 3)]
    layers, x = tgt.build_layer(parts, like=conv), torch.randn(2, 8, 6, 6, dtype=torch.float64)
    dense = with_weight(conv, np.concatenate([part.to_dense() for part in parts]))
    torch.testing.assert_close(layers(x), dense(x))


def test_no_terms_reach_a_tolerance_of_nothing():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="did not reach"):
        tgt.decompose_layer(nn.Conv2d(8, 8, 3), format="btd", tol=1e-3)


def test_ranks_that_are_none_are_refused():
    with pytest.raises(ValueError, match="terms, L_out, L_in"):
        tgt.decompose_layer(nn.Conv2d(8, 8, 3), format="btd", ranks=(2, 2))


def test_compress_takes_it_and_saves_it(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
    x = torch.randn(1, 3, 8, 8)
    result = tgt.compress(model, x, tol=0.8, formats=["btd"])
    tgt.save(tmp_path / "model.safetensors", result.model)
    twin = tgt.load(tmp_path / "model.safetensors", model)
    torch.testing.assert_close(twin(x), result.model(x))
    assert "btd" in str(result.report)
