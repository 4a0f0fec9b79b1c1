"""Linear layers as TT-matrices: the same function, whatever the factors, and back."""

import copy
import json
import math

import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorring_torch.replace import put
from tensorring_torch.tt_linear import _even
from torch import nn

import tensorring as tg

torch.set_num_threads(1)
DTYPES = {torch.float32: 1e-5, torch.float64: 1e-12, torch.complex128: 1e-12}


@st.composite
def trains(draw):
    """Factors, ranks and a linear layer of such sizes."""
    count = draw(st.integers(1, 4))
    factors = tuple(tuple(draw(st.integers(1, 4)) for _ in range(count)) for _ in "nm")
    ranks = tuple(draw(st.integers(1, 5)) for _ in range(count - 1))
    torch.manual_seed(draw(st.integers(0, 50)))
    bias, dtype = draw(st.booleans()), draw(st.sampled_from(list(DTYPES)))
    return factors, ranks, nn.Linear(math.prod(factors[1]), math.prod(factors[0]), bias=bias, dtype=dtype)


def written_out(train):
    """W, entry by entry, from the cores as the formula has them."""
    outputs, inputs = train.factors
    whole = torch.ones(1, 1, 1, dtype=train.cores[0].dtype)  # (n done, m done, r)
    for core, n, m in zip(train.cores, outputs, inputs, strict=True):
        core = core.detach().reshape(n, -1, whole.shape[2], m)
        whole = torch.einsum("pqr,nsrm->pnqms", whole, core).flatten(2, 3).flatten(0, 1)
    return whole[:, :, 0]


@given(trains(), st.lists(st.integers(0, 3), max_size=2))
def test_it_computes_what_it_says(case, shape):
    factors, ranks, linear = case
    bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone())
    train = tgt.TTLinear(factors, ranks, bias, dtype=linear.weight.dtype)
    for core in train.cores:
        nn.init.normal_(core)
    dense, tolerance = tgt.dense_layer(train), DTYPES[linear.weight.dtype]
    assert (dense.weight - written_out(train)).norm() <= 10 * tolerance * written_out(train).norm()
    x = torch.randn(*shape, linear.in_features, dtype=linear.weight.dtype)
    torch.testing.assert_close(
        train(x), dense(x), rtol=1e-3, atol=100 * tolerance * float(dense.weight.detach().abs().max())
    )
    assert (train(x).shape, repr(dense)) == (linear(x).shape, repr(linear))


@given(trains(), st.sampled_from([0.0, 0.3, 0.8]))
def test_fitted_to_a_tolerance(case, tol):
    factors, _, linear = case
    before = linear.weight.detach().clone()
    train = tgt.tt_linear(linear, factors=factors, tol=tol)
    assert train.factors == factors
    dense = tgt.dense_layer(train)
    assert (dense.weight - before).norm() <= (tol + 100 * DTYPES[before.dtype]) * before.norm()
    assert torch.equal(linear.weight, before)
    assert (dense.bias is None) == (linear.bias is None)


def test_factors_that_nobody_chose():
    assert [_even(n, 2) for n in (1, 7, 12, 36, 97)] == [(1, 1), (1, 7), (3, 4), (6, 6), (1, 97)]
    assert [_even(n, 3) for n in (8, 30, 768)] == [(2, 2, 2), (2, 3, 5), (8, 8, 12)]
    linear = nn.Linear(60, 84)
    assert tgt.tt_linear(linear, ranks=2).factors == ((7, 12), (6, 10))
    kron = torch.from_numpy(tg.random.tt((16, 16, 16), ranks=2, rng=0).to_dense())
    with torch.no_grad():
        linear = nn.Linear(64, 64).double()
        linear.weight.copy_(kron.reshape(4, 4, 4, 4, 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(64, 64))
    found = tgt.tt_linear(linear, tol=1e-10)
    assert (found.factors, found.ranks) == (((4, 4, 4), (4, 4, 4)), (2, 2))


def test_an_ordinary_module(tmp_path):
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 12, bias=False)).eval()
    model[2].weight.requires_grad_(False)
    small = put(copy.deepcopy(model), {key: tgt.tt_linear(model[int(key)], ranks=3) for key in ("0", "2")})
    assert [p.requires_grad for p in small.parameters()] == [True, True, True, False, False]
    x = torch.randn(5, 24)
    small(x).sum().backward()
    assert small[0].bias.grad is not None
    assert torch.equal(copy.deepcopy(small)(x), small(x))
    tgt.save(tmp_path / "x", small)
    again = tgt.load(tmp_path / "x", model)
    assert torch.equal(again(x), small(x))
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in small.parameters()]
    assert not again[0].training
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert small(x).dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(again, (x,)).module()(x), small(x))


@pytest.mark.parametrize("change", [{"factors": [[4, 8], [4, 7]]}, {"factors": 3}, {"factors": [[32], [24], [1]]},
    {"ranks": [10**400]}, {"ranks": [0]}, {"ranks": [True]}, {"ranks": [3, 3]}, {"ranks": None}])  # fmt: skip
def test_files_that_do_not_fit(change, tmp_path):
    linear = nn.Linear(24, 32)
    tgt.save(tmp_path / "x", tgt.tt_linear(linear, ranks=3))
    with safe_open(tmp_path / "x", framework="pt") as file:
        metadata = file.metadata()
    layers = {"": json.loads(metadata["layers"])[""] | change}
    save_file(load_file(tmp_path / "x"), tmp_path / "x", metadata | {"layers": json.dumps(layers)})
    with pytest.raises(ValueError, match="the plan of layer ''"):
        tgt.load(tmp_path / "x", linear)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tgt.tt_linear(nn.Conv2d(3, 4, 1), tol=0.1), TypeError, "Conv2d.*decompose_layer"),
        (lambda: tgt.tt_linear(nn.ReLU(), tol=0.1), TypeError, "ReLU"),
        (lambda: tgt.tt_linear(nn.Linear(6, 4)), (TypeError, ValueError), "tol.*ranks|ranks.*tol"),
        (lambda: tgt.tt_linear(nn.Linear(6, 4), factors=((2, 2), (2, 2)), tol=0.1), ValueError, r"\(4, 6\)"),
        (lambda: tgt.tt_linear(nn.Linear(6, 4), factors=((4,), (2, 3)), tol=0.1), ValueError, "as many"),
        (lambda: tgt.TTLinear(((2, 2), (2, 3)), (), None), ValueError, "d - 1 ranks"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
