"""The penalty against its closed form, the gradient written out, and what it does in training."""

import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_torch_layer import LAYERS
from torch import nn

import tensorring as tg

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def apart(matrix):
    """Σ(σ² − 1)²: ‖M·Mᴴ − I‖² of the shorter side, by another route."""
    return (torch.linalg.svdvals(matrix.detach().double()) ** 2 - 1).square().sum()


@pytest.mark.parametrize("factors", [2, 3, 4])
def test_of_linear_layers(factors):
    torch.manual_seed(0)
    wide = tgt.expand(nn.Linear(9, 6, dtype=torch.float64), factors)
    v, u = wide[0].weight, wide[-1].weight
    assert v.shape == (6, 9)
    expected = (v @ v.T - torch.eye(6)).square().sum() + (u.T @ u - torch.eye(6)).square().sum()
    penalty = tgt.orthogonality_penalty(wide)
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(penalty, apart(v) + apart(u))
    penalty.backward()
    torch.testing.assert_close(u.grad, 4 * u @ (u.T @ u - torch.eye(6)))
    torch.testing.assert_close(v.grad, 4 * (v @ v.T - torch.eye(6)) @ v)
    assert all(layer.weight.grad is None for layer in wide[1:-1]), "nothing is asked of what lies between"


CONVOLUTIONS = [
    (nn.Conv2d(4, 6, 3, stride=2, bias=False), lambda v, u: [v.flatten(1), u.flatten(1).T]),
    (nn.Conv3d(4, 6, (3, 1, 2)), lambda v, u: [v.flatten(1), u.flatten(1).T]),
    # torch holds the weight of a transposed convolution with its inputs first
    (nn.ConvTranspose2d(4, 6, 3), lambda v, u: [v.flatten(1), u.flatten(1)]),
    (nn.Conv1d(8, 6, 5, groups=2), lambda v, u: [p for a, b in zip(v.chunk(2), u.chunk(2), strict=True)
                                                 for p in (a.flatten(1), b.flatten(1).T)]),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "matrices"), CONVOLUTIONS, ids=lambda value: type(value).__name__)
def test_of_convolutions(layer, matrices):
    wide = tgt.expand(layer.double(), 3)
    expected = sum(apart(matrix) for matrix in matrices(wide[0].weight, wide[-1].weight))
    torch.testing.assert_close(tgt.orthogonality_penalty(wide).detach(), expected)


@given(LAYERS, st.integers(2, 3))
def test_autograd_agrees_with_differences(case, factors):
    layer, _ = case
    try:
        wide = tgt.expand(layer.double().requires_grad_(), factors)
    except ValueError:  # depthwise, or an embedding
        assert tgt.orthogonality_penalty(layer) == 0
        return
    penalty = tgt.orthogonality_penalty(wide)
    first, last = wide[0].weight, wide[-1].weight
    gradients = torch.autograd.grad(penalty, (first, last))
    for parameter, gradient in zip((first, last), gradients, strict=True):
        torch.manual_seed(0)
        direction, step = torch.randn_like(parameter), 1e-5
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
                values.append(tgt.orthogonality_penalty(wide))
                parameter -= sign * step * direction
        slope = (values[0] - values[1]) / (2 * step)
        scale = 1 + (gradient.norm() * direction.norm()).item() + penalty.item()
        assert float(slope - (gradient * direction).sum()) == pytest.approx(0, abs=1e-6 * scale)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradcheck(dtype):
    wide = tgt.expand(nn.Sequential(nn.Conv1d(2, 3, 2, dtype=dtype), nn.Linear(3, 4, dtype=dtype)))
    names = [name for name, _ in wide.named_parameters() if "weight" in name]

    def penalty(*weights):
        for name, weight in zip(names, weights, strict=True):
            owner = wide.get_submodule(name.removesuffix(".weight"))
            owner._parameters["weight"] = weight
        return tgt.orthogonality_penalty(wide)

    weights = [wide.get_parameter(name).detach().requires_grad_() for name in names]
    assert not penalty(*weights).is_complex()
    assert torch.autograd.gradcheck(penalty, weights)


def test_of_compressed_layers_and_of_none():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 9, 3)
    assert float(tgt.orthogonality_penalty(nn.Sequential(conv, nn.ReLU()))) == 0
    tucker = tgt.decompose_layer(conv, format="tucker", ranks=(3, 4), minimize="parameters")
    assert len(tucker) == 3
    expected = apart(tucker[0].weight.flatten(1)) + apart(tucker[2].weight.flatten(1))
    torch.testing.assert_close(tgt.orthogonality_penalty(tucker).double(), expected, rtol=1e-5, atol=1e-5)
    for format in ("cp", "tr", "cut", "tucker-cp"):
        layers = tgt.decompose_layer(conv, format=format, ranks=3, minimize="parameters")
        tgt.orthogonality_penalty(nn.Sequential(layers, tucker)).backward()
        assert layers[0].weight.grad.isfinite().all()
    whole = tgt.build_layer(tg.random.tr((9, 8, 3, 3), ranks=9, rng=0), like=conv)
    assert len(whole) == 1
    assert float(tgt.orthogonality_penalty(whole)) == 0, "one dense layer is no product"


def test_at_orthonormal_factors_it_is_zero_and_the_middle_holds_the_singular_values():
    torch.manual_seed(0)
    wide = tgt.expand(nn.Linear(7, 5, bias=False, dtype=torch.float64), 3)
    for layer in (wide[0], wide[2]):
        nn.init.orthogonal_(layer.weight)
    assert float(tgt.orthogonality_penalty(wide).detach()) == pytest.approx(0, abs=1e-24)
    values = torch.linalg.svdvals(wide[1].weight)
    torch.testing.assert_close(torch.linalg.svdvals(tgt.dense_layer(wide).weight), values)


def test_descent_makes_the_outer_factors_orthonormal():
    torch.manual_seed(0)
    wide = tgt.expand(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 4, 2)), 3)
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.02)
    for _ in range(300):
        penalty = tgt.orthogonality_penalty(wide)
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    assert float(penalty.detach()) < 1e-6


def test_half_precision_is_computed_in_single():
    wide = tgt.expand(nn.Linear(8, 8))
    half = tgt.orthogonality_penalty(wide.bfloat16())
    assert half.dtype == torch.float32
    half.backward()
    assert wide[0].weight.grad.dtype == torch.bfloat16


def test_exchanged_layers_are_told():
    wide = tgt.expand(nn.Linear(4, 4))
    wide[0] = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="got layers that do not follow their plan"):
        tgt.orthogonality_penalty(wide)
