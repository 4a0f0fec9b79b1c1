"""Rows of patches times the canonical weight are the layer's output, for every option."""

import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given
from tensorring_torch.kinds import canonical_weight
from tensorring_torch.patches import patches
from test_torch_layer import convolutions
from torch import nn

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


@given(convolutions())
def test_patches_times_the_weight_are_the_outputs(case):
    conv, x = case
    conv.bias = None
    with torch.no_grad():
        expected = conv(x if x.ndim == len(conv.kernel_size) + 2 else x[None])
        rows = patches(conv, x)
        weight = canonical_weight(conv).flatten(1)
    positions = expected[:, 0].numel()
    if conv.groups == 1:
        assert rows.shape == (positions, weight.shape[1])
        rows = rows[None]
    assert rows.shape == (conv.groups, positions, weight.shape[1])
    outputs = (rows @ weight.unflatten(0, (conv.groups, -1)).mT).permute(1, 0, 2).flatten(1)
    got = outputs.reshape(len(expected), *expected.shape[2:], conv.out_channels).movedim(-1, 1)
    torch.testing.assert_close(got, expected, rtol=1e-4 if x.dtype == torch.float32 else 1e-10, atol=1e-4)


@pytest.mark.parametrize("conv", [nn.Conv1d(4, 6, 3), nn.Conv3d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, 2, 1)])
def test_without_a_batch(conv):
    x = torch.randn(4, *[5] * len(conv.kernel_size))
    assert torch.equal(patches(conv, x), patches(conv, x[None]))


def test_a_linear_layer_of_any_shape_of_input():
    layer, x = nn.Linear(5, 7, bias=False), torch.randn(2, 3, 5)
    torch.testing.assert_close(patches(layer, x) @ canonical_weight(layer).mT, layer(x).flatten(0, 1))


def test_gradients_pass_and_complex_numbers_too():
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False, dtype=torch.complex128)
    x = torch.randn(1, 2, 4, 5, dtype=torch.complex128, requires_grad=True)
    rows = patches(conv, x)
    torch.testing.assert_close((rows @ conv.weight.flatten(1).mT).mT.reshape(1, 3, 4, 5), conv(x))
    (gradient,) = torch.autograd.grad(rows.abs().square().sum(), x)
    assert gradient.shape == x.shape


def test_other_layers():
    with pytest.raises(TypeError, match="BatchNorm1d"):
        patches(nn.BatchNorm1d(3), torch.zeros(2, 3))
    assert tgt.patches.patches is patches
