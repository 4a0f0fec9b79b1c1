"""How far the outputs of two networks are apart."""

import pytest
import torch
from tensorring_torch.calibration.parts import distances

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_squares_of_the_difference_over_those_of_what_was_wanted(dtype, scale):
    """Also where the sum of squares is beyond the dtype, as in half precision."""
    generator = torch.Generator().manual_seed(0)
    wanted = (scale * torch.randn(4, 8, 16, 16, generator=generator, dtype=torch.float64)).to(dtype)
    given = (1.1 * wanted).requires_grad_()
    found = distances({"a": given, "b": given}, {"a": wanted, "c": wanted})
    assert set(found) == {"a"}
    exact = given.detach().double() - wanted.double()
    weight = wanted.double().square().sum()
    eps = torch.finfo(dtype).eps
    assert float(found["a"].detach()) == pytest.approx(float(exact.square().sum() / weight), rel=64 * eps)
    found["a"].backward()
    assert given.grad is not None
    apart = (given.grad.double() - 2 * exact / weight).norm()
    tiny = float(torch.finfo(dtype).smallest_normal) * given.numel() ** 0.5  # gradients of half precision vanish there
    assert float(apart) <= 64 * eps * float((2 * exact / weight).norm()) + tiny


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_and_zero_outputs_have_finite_gradients(dtype):
    y = torch.ones(2, 3, dtype=dtype)
    for given, wanted, distance in ((y, y, 0.0), (2 * y, 0 * y, 4.0), (0 * y, 0 * y, 0.0)):
        given = given.clone().requires_grad_()
        found = distances({"": given}, {"": wanted})[""]
        assert float(found.detach()) == pytest.approx(distance, rel=4 * torch.finfo(dtype).eps)
        found.backward()
        assert given.grad is not None
        assert given.grad.isfinite().all()
