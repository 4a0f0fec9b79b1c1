"""The penalty is the sensitivity of the kernels as they stand, whatever the form, and can be trained against."""

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorring_torch.geometry import Geometry
from tensorring_torch.modules import dense_weight
from tensorring_torch.plan import Plan
from tensorring_torch.training.sensitivity import _relative, sensitivity
from torch import nn

import tensorring as tg

torch.set_num_threads(1)
SHAPE = (6, 4, 3, 2)
RNG = np.random.default_rng(0)
TENSORS = {
    "cp": tg.random.cp((6, 4, 6), rank=3, rng=0),
    "cp4": tg.random.cp(SHAPE, rank=3, rng=0),
    "tucker-cp": tgt.TuckerCPTensor(
        tg.random.cp((3, 2, 6), rank=4, rng=0), RNG.standard_normal((6, 3)), RNG.standard_normal((4, 2))
    ),
    "tr": tg.random.tr(SHAPE, ranks=(2, 3, 2, 2), rng=0),
    "tt": tg.random.tt(SHAPE, ranks=(2, 3, 2), rng=0),
    "tucker": tg.random.tucker(SHAPE, ranks=2, rng=0),
    "cut (rows)": tg.cut_svd(RNG.standard_normal(SHAPE), modes=(0, 3), ranks=2).tensor,
    "cut (inputs ride)": tg.cut_svd(RNG.standard_normal(SHAPE), modes=(0, 1), ranks=2).tensor,
}


def plan_and_weights(tensor, conv, merge):
    """The kernels one by one, or the first ones merged."""
    links = tuple(kernel.link for kernel in tgt.chain._kernels(tensor, conv.kernel_size))
    starts = (0, *range(1 + merge, len(links)))
    blocks = conv.groups if tensor.shape[0] < conv.out_channels else 1
    plan = Plan(Geometry.of(conv), links, blocks).merged(starts)
    layers = tgt.chain.Chain((tensor,) * blocks, plan, starts).layers(conv)
    return plan, [layer.weight.detach() for layer in layers if isinstance(layer, nn.Conv2d)]


def by_jacobian(plan, weights):
    jacobians = torch.autograd.functional.jacobian(lambda *w: dense_weight(plan, w), tuple(weights))
    return sum(j.abs().square().sum() for j in jacobians)


@pytest.mark.parametrize("form", TENSORS)
@pytest.mark.parametrize("merge", [0, 1])
@pytest.mark.parametrize("conv", [nn.Conv2d(4, 6, (3, 2)), nn.Conv2d(8, 6, (3, 2), groups=2),
                                  nn.Conv2d(8, 12, (3, 2), groups=2)])  # fmt: skip
def test_it_is_the_sum_of_all_squared_derivatives(form, merge, conv):
    plan, weights = plan_and_weights(TENSORS[form], conv.double(), merge)
    value, squared = sensitivity(plan, weights)
    torch.testing.assert_close(value, by_jacobian(plan, weights), rtol=1e-12, atol=0)
    torch.testing.assert_close(squared, dense_weight(plan, weights).square().sum(), rtol=1e-12, atol=0)


@given(st.integers(1, 5), st.integers(0, 1000), st.booleans())
def test_of_a_cp_it_is_the_sum_in_the_papers(rank, seed, split):
    """ss = Σ_n I_n Σ_r Π_{m≠n} ‖u_{m,r}‖², in factors that are balanced as they should."""
    tensor = tg.random.cp(SHAPE if split else (6, 4, 6), rank=rank, rng=seed)
    plan, weights = plan_and_weights(tensor, nn.Conv2d(4, 6, (3, 2)).double(), 0)
    balanced = tg.balance(tensor)
    squares = [np.sum(np.square(factor), axis=0) for factor in balanced.factors]
    expected = sum(n * np.sum(np.prod(squares[:k] + squares[k + 1 :], axis=0)) for k, n in enumerate(tensor.shape))
    value, squared = sensitivity(plan, weights)
    assert float(value) == pytest.approx(expected, rel=1e-10)
    assert float(value) == pytest.approx(tg.sensitivity(balanced), rel=1e-10)
    lambdas = np.abs(tensor.weights) * np.prod([np.linalg.norm(factor, axis=0) for factor in tensor.factors], axis=0)
    share, count = lambdas / float(squared) ** 0.5, tensor.ndim
    layers = tgt.chain.Chain((tensor,), plan, tuple(range(count))).layers(nn.Conv2d(4, 6, (3, 2)).double())
    penalty = float(tgt.sensitivity_penalty(layers).detach())
    assert penalty == pytest.approx(np.sum(share ** (2 - 2 / count)), rel=1e-10)


@pytest.mark.parametrize("form", ["tr", "tt"])
def test_of_a_ring_it_is_that_of_its_cores(form):
    plan, weights = plan_and_weights(TENSORS[form], nn.Conv2d(4, 6, (3, 2)).double(), 0)
    assert float(sensitivity(plan, weights)[0]) == pytest.approx(tg.sensitivity(TENSORS[form]), rel=1e-10)


def test_noise_is_amplified_as_it_says():
    plan, weights = plan_and_weights(TENSORS["cp4"], nn.Conv2d(4, 6, (3, 2)).double(), 0)
    generator = torch.Generator().manual_seed(0)
    step, exact, changes = 1e-4, dense_weight(plan, weights), []
    for _ in range(2000):
        moved = [w + step * torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
        changes.append(float((dense_weight(plan, moved) - exact).square().sum()) / step**2)
    assert np.mean(changes) == pytest.approx(float(sensitivity(plan, weights)[0]), rel=0.05)


@pytest.mark.parametrize("form", TENSORS)
def test_its_gradient(form):
    conv = nn.Conv2d(4, 6, (3, 2)).double()
    plan, weights = plan_and_weights(TENSORS[form], conv, 0)
    inputs = [w.requires_grad_() for w in weights]
    assert torch.autograd.gradcheck(lambda *w: _relative(plan, w), inputs)


def test_complex_kernels():
    plan, weights = plan_and_weights(
        tg.random.tr(SHAPE, ranks=2, rng=0, dtype="complex128"), nn.Conv2d(4, 6, (3, 2), dtype=torch.complex128), 0
    )
    value, squared = sensitivity(plan, weights)
    assert not value.is_complex()
    torch.testing.assert_close(squared, dense_weight(plan, weights).abs().square().sum(), rtol=1e-12, atol=0)
    step, changes = 1e-4, []
    for w in weights:
        for k in range(w.numel()):
            moved = [v.clone() for v in weights]
            next(v for v, old in zip(moved, weights, strict=True) if old is w).view(-1)[k] += step
            changes.append(float((dense_weight(plan, moved) - dense_weight(plan, weights)).abs().square().sum()))
    assert sum(changes) / step**2 == pytest.approx(float(value), rel=1e-6)


def test_a_network():
    """One number without scale for all layers; its gradient makes terms that cancel smaller."""
    model = nn.Sequential(nn.Conv2d(4, 6, (3, 2)), nn.ReLU(), nn.Conv2d(6, 6, 1))
    assert float(tgt.sensitivity_penalty(model)) == 0
    factors = [RNG.standard_normal((n, 2)) for n in (6, 4, 6)]
    for factor in factors:
        factor[:, 1] = factor[:, 0] + 0.01 * factor[:, 1]
    cancelling = tg.CPTensor(np.array([1.0, -1.0]), factors)
    model[0] = tgt.build_layer(cancelling, like=model[0])
    single = tgt.build_layer(tg.random.cp((6, 6, 9), rank=1, rng=0), like=nn.Conv2d(6, 6, 3))
    before = tgt.sensitivity_penalty(model)
    assert float(before.detach()) > 100
    assert float(tgt.sensitivity_penalty(single).detach()) == pytest.approx(1, rel=1e-5)
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-7 * parameter.grad
    assert tgt.sensitivity_penalty(model) < before
    with torch.no_grad():
        for layer in model[0]:
            layer.weight *= 3
    assert float(tgt.sensitivity_penalty(model).detach()) == pytest.approx(float(before.detach()), rel=0.1)
    half = tgt.sensitivity_penalty(model.half())
    assert half.dtype == torch.float32
    assert half.isfinite()


def test_weights_of_zeros_divide_nothing():
    layers = tgt.build_layer(TENSORS["cp"], like=nn.Conv2d(4, 6, (3, 2)))
    for parameter in layers.parameters():
        nn.init.zeros_(parameter)
    assert tgt.sensitivity_penalty(layers).isfinite()
