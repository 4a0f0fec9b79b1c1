"""Moments of what layers see, and what their errors do to the outputs of the network."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorring_torch.calibration import moments as module
from tensorring_torch.calibration.moments import Accumulator
from tensorring_torch.calibration.observe import observed, recorded
from torch import nn

torch.set_num_threads(1)


@given(
    st.integers(0, 2**31),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.tuples(st.integers(1, 6), st.integers(1, 4)),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from([0.0, 1.0, 300.0]),
)
def test_moments_are_those_of_numpy(seed, counts, sizes, dtype, mean):
    rng = np.random.default_rng(seed)
    parts = [[torch.from_numpy(rng.standard_normal((n, m)) + mean).to(dtype) for m in sizes] for n in counts]
    sums = Accumulator()
    for u, z in parts:
        sums.add(u, z)
    found = sums.moments()
    u, z = (np.concatenate([part[k].double().numpy() for part in parts]) for k in (0, 1))
    whole = np.cov(np.concatenate([u, z], axis=1), rowvar=False, bias=True).reshape(sum(sizes), -1)
    rounding = 1e-12 if dtype == torch.float64 else 4e-6
    scale = 1 + np.abs(whole).max()
    n = sizes[0]
    np.testing.assert_allclose(found.patch.numpy(), u.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.output.numpy(), z.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.cross.numpy(), whole[n:, :n], rtol=0, atol=rounding * scale)
    np.testing.assert_allclose(found.covariance.numpy(), whole[:n, :n], rtol=0, atol=(rounding + 2e-6) * scale)
    assert np.linalg.eigvalsh(found.covariance.numpy()).min() >= -1e-9 * scale
    around_zero = found.uncentred()
    second = u.T @ u / len(u)
    np.testing.assert_allclose(around_zero.covariance.numpy(), second, rtol=0, atol=5e-6 * (1 + np.abs(second).max()))
    assert not around_zero.patch.any()


@pytest.mark.parametrize("repeats", [20, 300, 2000])
@pytest.mark.parametrize("kinds", [2, 9, 36])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_moments_of_rows_that_are_alike_are_definite(repeats, kinds, scale):
    """Of equal images, say: rounding then has one direction, and there are fewer directions than inputs."""
    for seed in range(5):
        rows = 0.4 + scale * torch.randn(kinds, 54, generator=torch.Generator().manual_seed(seed))
        u = rows.repeat(repeats, 1)
        sums = Accumulator()
        sums.add(u, u[:, :2])
        found = sums.moments().covariance
        exact = torch.cov(rows.double().T, correction=0)
        assert not torch.linalg.cholesky_ex(found).info
        assert float((found - exact).norm()) <= 1e-4 * float(exact.norm()) + 1e-7


def test_of_wide_patches_only_the_variance_is_known(monkeypatch):
    monkeypatch.setattr(module, "WIDEST", 3)
    u, z = torch.randn(50, 4, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64)
    sums = Accumulator()
    sums.add(u[:20], z[:20])
    sums.add(u[20:], z[20:])
    found = sums.moments()
    assert found.covariance is None
    assert found.variance == pytest.approx(float(u.var(0, correction=0).mean()))
    torch.testing.assert_close(found.output, z.mean(0))
    assert found.uncentred().covariance is None


@pytest.mark.parametrize("counts", [(50,), (20, 30), (1, 9, 40)])
def test_of_wide_patches_of_images_channels_are_told_apart(monkeypatch, counts):
    """The covariance of channels is the mean of the diagonal blocks of the whole one."""
    monkeypatch.setattr(module, "WIDEST", 5)
    channels, entries = 3, 4
    rng = np.random.default_rng(len(counts))
    u = torch.from_numpy(rng.standard_normal((50, 12)) @ rng.standard_normal((12, 12)) + 3)
    z = torch.from_numpy(rng.standard_normal((50, 2)))
    sums = Accumulator(entries)
    for part, outputs in zip(u.split(counts), z.split(counts), strict=True):
        sums.add(part, outputs)
    found = sums.moments()

    def expected(whole):
        return np.trace(whole.reshape(channels, entries, channels, entries), axis1=1, axis2=3) / entries

    whole = np.cov(u.numpy(), rowvar=False, bias=True)
    assert found.cross is None
    np.testing.assert_allclose(found.covariance.numpy(), expected(whole), rtol=3e-6)
    assert found.variance == pytest.approx(np.trace(whole) / 12, rel=3e-6)
    around_zero = found.uncentred()
    np.testing.assert_allclose(around_zero.covariance.numpy(), expected(u.mT.numpy() @ u.numpy() / 50), rtol=3e-6)
    assert around_zero.cross is None


def jacobian_route(model, name, x):
    """Σ_positions gᵀg of the outputs, averaged over images: every derivative, by torch's own Jacobian."""
    layer, total = model.get_submodule(name), 0.0
    for image in x:
        with torch.no_grad(), recorded(model, [name]) as calls:
            model(image[None])
        shape = calls[0][2].shape

        def rest(z, image=image):
            handle = layer.register_forward_hook(lambda *_: z.clone())
            try:
                return model(image[None]).flatten()
            finally:
                handle.remove()

        matrix = torch.autograd.functional.jacobian(rest, calls[0][2])
        rows = matrix.reshape(len(matrix), shape[1], -1)
        total = total + torch.einsum("kop,kqp->oq", rows, rows)
    return total / len(x)


def test_gradients_are_those_of_the_jacobian(monkeypatch):
    monkeypatch.setattr("tensorring_torch.calibration.observe._PROBES", 3000)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 5)).double().eval()
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    expected = jacobian_route(copy.deepcopy(model), "0", x)
    (found,) = observed(model, ["0"], [(x,)])["0"].blocks
    assert np.linalg.norm(found - expected.numpy()) < 0.1 * float(expected.norm())  # 3,000 draws


def test_the_prediction_is_exact_on_a_linear_network(monkeypatch):
    """tr(Γ E S Eᵀ) is the variance of what E does to the outputs: one position, no rectifier."""
    monkeypatch.setattr("tensorring_torch.calibration.observe._PROBES", 4000)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).double().eval()
    x = torch.randn(60, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    seen = observed(model, ["0"], [(x[:25],), (x[25:],)])["0"]
    error = torch.randn(5, 6, dtype=torch.float64)
    change = (x - x.mean(0)) @ error.T @ model[1].weight.detach().T
    e, s = error.numpy(), seen.moments[0].covariance.numpy()
    assert np.trace(seen.blocks[0] @ e @ s @ e.T) == pytest.approx(float(change.square().sum(1).mean()), rel=0.1)


class Outputs(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layer, self.shape = nn.Linear(4, 4), shape

    def forward(self, x):
        z = self.layer(x)
        z = z + self.layer(torch.relu(z))  # called twice
        return self.shape(z)


@pytest.mark.parametrize(
    "shape",
    [
        lambda z: (None, (z, z)),
        lambda z: {"loss": None, "logits": z},
        lambda z: z.mean(),
        lambda z: z[:, :1],
        lambda z: z[:, :, None, None],
    ],
    ids=["tuple", "dict", "scalar", "one column", "map"],
)
def test_outputs_of_every_shape_and_layers_called_twice(shape):
    torch.manual_seed(0)
    x, model = torch.randn(7, 4), Outputs(shape).eval()
    seen = observed(model, ["layer"], [(x[:3],), (x[3:],)])["layer"]
    assert np.isfinite(seen.blocks[0]).all()
    assert np.trace(seen.blocks[0]) > 0
    with torch.no_grad():
        inputs = torch.cat([x, torch.relu(model.layer(x))])
    np.testing.assert_allclose(seen.moments[0].patch.numpy(), inputs.mean(0).numpy(), atol=1e-6)


def test_outputs_that_have_no_gradient_and_those_that_are_none():
    x = torch.randn(5, 4)
    seen = observed(Outputs(lambda z: z.argmax(1)).eval(), ["layer"], [(x,)])["layer"]
    assert seen.blocks == [None]
    assert seen.moments[0].patch.shape == (4,)
    for wrong in ("text", [], None):
        with pytest.raises(TypeError, match="its output is a tensor first"):
            observed(Outputs(lambda z, wrong=wrong: wrong).eval(), ["layer"], [(x,)])


def test_what_comes_next_may_write_into_the_outputs():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 1)
    model, x = nn.Sequential(nn.ReLU(inplace=True), layer, nn.ReLU(inplace=True)).eval(), torch.randn(4, 2, 3, 3)
    before = x.clone()
    seen = observed(model, ["1"], [(x,)])["1"]
    assert torch.equal(x, before)
    with torch.no_grad():
        z = layer(x.relu())
    torch.testing.assert_close(seen.moments[0].output.float(), z.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    with torch.no_grad(), recorded(model, ["1"]) as calls:
        model(x.clone())
    assert torch.equal(calls[0][2], z)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_nothing_of_the_model_is_changed():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    model = nn.Sequential(nn.Linear(4, 8), encoder, nn.Flatten(), nn.BatchNorm1d(24), nn.Linear(24, 3)).eval()
    model[0].requires_grad_(False)
    names = ["0", "1.layers.0.linear1", "1.layers.1.linear2", "4"]
    state, trained = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        seen = observed(model, names, [(torch.randn(6, 3, 4),)])
    assert all(np.trace(seen[name].blocks[0]) > 0 for name in names)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert trained == [p.requires_grad for p in model.parameters()]
    assert not any(part._forward_hooks or part.training for part in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_the_same_for_the_same_seed():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Conv1d(3, 2, 3)).eval(), torch.randn(4, 2, 40)
    state = torch.get_rng_state()
    first, again, other = (observed(model, ["0", "2"], [(x,)], seed=seed)["0"].blocks[0] for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
