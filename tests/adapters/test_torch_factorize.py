"""Factored layers from scratch: weights that vary as they should, within the budget, the same for the same seed."""

import copy
import math

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorring_torch.layer import plan_of
from tensorring_torch.training.factorize import FORMATS, draw
from torch import nn

import tensorring as tg

torch.set_num_threads(1)

LAYERS = {
    "linear": (lambda: nn.Linear(20, 24), (20,)),
    "conv": (lambda: nn.Conv2d(6, 10, 3, padding=1), (6, 5, 5)),
    "strided": (lambda: nn.Conv2d(6, 10, (3, 2), stride=2), (6, 5, 5)),
    "pointwise": (lambda: nn.Conv2d(12, 16, 1), (12, 4, 4)),
    "groups": (lambda: nn.Conv2d(12, 16, 3, groups=2), (12, 5, 5)),
    "conv1d": (lambda: nn.Conv1d(8, 12, 5), (8, 9)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3), (4, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 10, 3, groups=2), (8, 4, 4)),
}


def drawn(model, x, budget, format, count):
    """The weights of the first layer, drawn again and again."""
    chain = tgt.factorize_like(model, x, budget=tgt.Budget(parameters=budget), format=format).model[0]
    for seed in range(count):
        draw(chain, torch.Generator().manual_seed(seed))
        yield chain, weights(chain)


def weights(module):
    dense = tgt.dense_layer(module) if plan_of(module) else module
    return dense.weight.detach().double()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", LAYERS)
def test_an_entry_of_the_weight_has_the_variance_of_kaiming_he(kind, format):
    """By Monte Carlo over seeds, of entries far apart, and within their own sampling error."""
    make, size = LAYERS[kind]
    torch.manual_seed(0)
    model, x = nn.Sequential(make()), torch.rand(2, *size)
    fan_in = math.prod(weights(model[0]).shape) / model(x).shape[1]
    draws = [weight for _, weight in drawn(model, x, 0.6, format, 60)]
    squares = torch.stack(draws).square().mean(tuple(range(1, draws[0].ndim + 1))).numpy() * fan_in / 2
    mean, deviation = squares.mean(), squares.std(ddof=1) / math.sqrt(len(squares))
    assert abs(mean - 1) < 5 * deviation
    assert deviation < 0.2
    entries = torch.stack(draws).flatten(1)
    assert float(entries.mean().abs()) < 5 * float(entries.std()) / math.sqrt(len(draws))


@pytest.mark.parametrize("format", FORMATS)
def test_all_paths_are_counted_so_every_entry_varies_alike(format):
    """Fourth moments are large: many seeds of a small layer, entry by entry."""
    model, x = nn.Sequential(nn.Conv2d(4, 6, 3)), torch.rand(1, 4, 3, 3)
    draws = [weight for _, weight in drawn(model, x, 0.7, format, 300)]
    squares = torch.stack(draws).flatten(1).square() * 36 / 2
    z = (squares.mean(0) - 1) / (squares.std(0) / math.sqrt(len(draws)))
    assert float(z.abs().max()) < 7
    assert abs(float(z.mean())) < 1


def test_factors_are_balanced_as_noise_would_have_it():
    """Σ_k ‖∂W/∂K_k‖² is the same for each kernel, in the mean: by autograd."""
    from tensorring_torch.modules import dense_weight

    model, x = nn.Sequential(nn.Conv2d(16, 24, 3)), torch.rand(1, 16, 5, 5)
    shares = []
    for chain, _ in drawn(model, x, 0.3, "tucker", 30):
        kernels = [layer.weight for layer in chain]
        direction = torch.randn(24, 16, 3, 3)
        slopes = torch.autograd.grad((dense_weight(chain.plan, kernels) * direction).sum(), kernels)
        shares.append([float(slope.square().sum()) for slope in slopes])
    means = np.mean(shares, axis=0)
    assert means.max() / means.min() < 1.5
    deviations = [float(layer.weight.detach().std()) for layer in chain]
    assert max(deviations) < 1.3 * min(deviations)


class Net(nn.Module):
    """Blocks, a norm, a table, attention, and a parameter that nobody begins anew."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.full((8,), 3.0))
        self.table, self.attention = nn.Embedding(11, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.body = nn.Sequential(nn.Conv1d(8, 24, 3, padding=1), nn.BatchNorm1d(24), nn.ReLU(), nn.Conv1d(24, 24, 3))
        self.head = nn.Linear(24, 20)

    def forward(self, x):
        h = self.table(x) + self.token
        h = h + self.attention(h, h, h)[0]
        return self.head(self.body(h.transpose(1, 2)).mean(2))


def test_it_is_from_scratch_and_the_model_stays():
    torch.manual_seed(0)
    model, x = Net(), torch.arange(10).reshape(2, 5)
    model(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    model.eval().body.train()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = tgt.factorize_like(model, x, budget=tgt.Budget(parameters=0.6))
    assert torch.equal(torch.rand(3), expected), "the global random state was touched"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    new = found.model
    assert plan_of(new.body[3]).form == "tr"
    assert plan_of(new.head).form == "cut(0,)"
    assert found.report.notes == ("not begun anew: token",)
    for name, value in new.named_parameters():
        assert bool((value == 3.0).all()) == (name == "token"), name
    assert torch.equal(new.body[1].weight, torch.ones(24))
    assert float(new.body[1].running_mean.abs().max()) == 0
    assert not new.attention.out_proj.bias.any(), "its owner has the last word"
    assert [m.training for m in (new, new.body, new.body[3], new.head)] == [False, True, True, False]
    reasons = {row.name: row.reason for row in found.report.layers}
    assert reasons["table"] == "a table is not factored from scratch"
    new(x).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in new.parameters())


def test_the_same_seed_gives_the_same_network_and_another_another():
    model, x = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(72, 10)), torch.rand(1, 4, 5, 5)
    runs = [tgt.factorize_like(model, x, budget=tgt.Budget(parameters=0.5), seed=seed).model for seed in (1, 1, 2)]
    states = [torch.cat([value.flatten() for value in run.state_dict().values()]) for run in runs]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert len({tuple(value.shape) for value in states}) == 1


@settings(max_examples=25)
@given(
    st.sampled_from(FORMATS), st.floats(0.12, 1.0), st.one_of(st.none(), st.floats(0.2, 1.0)), st.integers(1, 12),
    st.sampled_from([1, 2, 3]), st.booleans(),
)  # fmt: skip
def test_the_network_is_within_the_budget_and_says_what_it_costs(format, parameters, macs, width, kernel, strided):
    model = nn.Sequential(
        nn.Conv2d(3, 2 * width, kernel, padding=1, stride=1 + strided), nn.ReLU(),
        nn.Conv2d(2 * width, 16, 3, groups=2, padding=1), nn.Flatten(), nn.Linear(16 * 64 // (1 + strided), 12),
    )  # fmt: skip
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        model[4] = nn.Linear(model[:4](x).shape[1], 12)
    budget = tgt.Budget(parameters=parameters, macs=macs)
    try:
        found = tgt.factorize_like(model, x, budget=budget, format=format)
    except tg.BudgetError as refused:
        found, error = None, refused
    if found is None:
        assert "out of reach: at ranks of one" in str(error)
        assert max(a / b for a, b in zip(error.closest.costs, budget.asked.values(), strict=True)) > 1
        return
    before, after = found.report.before, found.report.after
    assert before.parameters == sum(p.numel() for p in model.parameters())
    assert after.parameters == sum(p.numel() for p in found.model.parameters()) <= parameters * before.parameters
    assert macs is None or after.multiply_adds <= macs * before.multiply_adds
    assert found.model(x).shape == model(x).shape


def test_a_larger_budget_is_used():
    model, x = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1), nn.Conv2d(48, 32, 3)), torch.rand(1, 32, 6, 6)
    for format in FORMATS:
        sizes = [
            tgt.factorize_like(model, x, budget=tgt.Budget(parameters=share), format=format).report.after.parameters
            for share in (0.1, 0.2, 0.4)
        ]
        assert sizes[0] < sizes[1] < sizes[2]
        whole = sum(p.numel() for p in model.parameters())
        for share, size in zip((0.1, 0.2, 0.4), sizes, strict=True):
            assert size > 0.6 * share * whole, format


def test_chains_of_the_model_are_drawn_anew_too():
    model = nn.Sequential(tgt.decompose_layer(nn.Conv2d(8, 12, 3), format="cp", ranks=4), nn.Conv2d(12, 12, 3))
    x = torch.rand(1, 8, 7, 7)
    draws = [tgt.factorize_like(model, x, budget=tgt.Budget(parameters=0.7), seed=seed).model[0] for seed in range(40)]
    squares = np.array([float(weights(chain).square().mean()) * 72 / 2 for chain in draws])
    assert draws[0].plan == model[0].plan
    assert abs(squares.mean() - 1) < 5 * squares.std() / math.sqrt(40)


def test_dtypes_and_requires_grad_are_kept():
    model = nn.Sequential(nn.Conv2d(6, 8, 3, dtype=torch.bfloat16), nn.Conv2d(8, 8, 3, dtype=torch.bfloat16))
    model[0].requires_grad_(False)
    with torch.inference_mode():
        new = tgt.factorize_like(model, torch.rand(1, 6, 6, 6).bfloat16(), budget=tgt.Budget(parameters=0.5)).model
    assert {p.dtype for p in new.parameters()} == {torch.bfloat16}
    assert [p.requires_grad for p in new.parameters()] == [name[0] == "1" for name, _ in new.named_parameters()]
    new(torch.rand(1, 6, 6, 6).bfloat16()).sum().backward()


@pytest.mark.parametrize("format", FORMATS)
def test_it_trains(format):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 2)
    )
    y = torch.arange(160) % 2
    x = torch.rand(160, 1, 8, 8) + 0.3 * y[:, None, None, None] * torch.linspace(-1, 1, 8)
    small = tgt.factorize_like(model, x[:1], budget=tgt.Budget(parameters=0.6), format=format, include="2").model
    tuned = tgt.fine_tune(small, None, (x, y), epochs=8, lr=0.03, batch_size=20)
    assert tuned.history[-1].loss < 0.66


def test_errors_say_what_was_got_and_the_way_out():
    model, x = nn.Sequential(nn.Conv2d(4, 8, 3)), torch.rand(1, 4, 5, 5)
    good = {"budget": tgt.Budget(parameters=0.5)}
    for options, error, words in [
        ({"budget": 0.5}, TypeError, r"got budget=0.5; it is a Budget, such as Budget\(parameters=0.25\)"),
        ({"budget": tgt.Budget(latency=0.5)}, ValueError, "ranks are found by counting: give parameters or macs"),
        (
            {"budget": tgt.Budget(parameters=0.01)},
            tg.BudgetError,
            "at ranks of one the network has parameters 0.088 where 0.01",
        ),
        (good | {"format": "btd"}, ValueError, "got format='btd'; known formats are cp, cut, tr, tt, tucker"),
        (good | {"exclude": "*"}, ValueError, "without a layer to factor .'0': excluded"),
    ]:
        with pytest.raises(error, match=words):
            tgt.factorize_like(model, x, **options)
    with pytest.raises(TypeError, match="got a int for the model"):
        tgt.factorize_like(3, x, **good)
    complex_ = nn.Sequential(nn.Linear(6, 6, dtype=torch.complex64))
    with pytest.raises(ValueError, match="complex weights are not drawn"):
        tgt.factorize_like(complex_, torch.rand(1, 6, dtype=torch.complex64), **good)
