"""Recurrent layers and attention with their weights as products: fewer numbers, the same function."""

import copy
import io
import json

import pytest
import tensorring_torch as tgt
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
OWNERS = {
    "lstm": lambda: nn.LSTM(12, 16, 2, bidirectional=True, proj_size=5),
    "gru": lambda: nn.GRU(12, 16, batch_first=True, bias=False),
    "rnn": lambda: nn.RNN(12, 16),
    "lstm cell": lambda: nn.LSTMCell(12, 16),
    "gru cell": lambda: nn.GRUCell(12, 16),
    "attention": lambda: nn.MultiheadAttention(12, 2, batch_first=True),
    "attention of three sizes": lambda: nn.MultiheadAttention(12, 2, kdim=12, vdim=12, add_bias_kv=True),
}


@pytest.fixture(params=OWNERS)
def owner(request):
    torch.manual_seed(0)
    return OWNERS[request.param]()


def call(module, dtype=torch.float32):
    torch.manual_seed(1)
    x = torch.randn(3, 12, dtype=dtype) if isinstance(module, nn.RNNCellBase) else torch.randn(4, 3, 12, dtype=dtype)
    return module(*(x,) * 3)[0] if isinstance(module, nn.MultiheadAttention) else module(x)[0]


def matrices(module):
    """The weights, products multiplied."""
    for name, part in module.named_modules():
        if "parametrizations" not in name:
            kept = [key for key, value in part._parameters.items() if value is not None and value.ndim == 2]
            products = list(part.parametrizations) if parametrize.is_parametrized(part) else []
            yield from ((f"{name}.{key}", getattr(part, key).detach()) for key in (*kept, *products))


@pytest.mark.parametrize("tol", [1e-6, 0.3, 0.6])
def test_every_matrix_keeps_the_tolerance(owner, tol):
    before, small = dict(matrices(owner)), tgt.factor_weights(owner, tol=tol)
    for name, matrix in matrices(small):
        assert (matrix - before[name]).norm() <= (tol + 1e-5) * before[name].norm()
    assert sum(p.numel() for p in small.parameters()) <= sum(p.numel() for p in owner.parameters())
    assert type(owner) in (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.MultiheadAttention)
    if tol < 0.1:
        torch.testing.assert_close(call(small), call(owner))


def test_it_is_the_same_module_with_other_weights(owner):
    small, dense = tgt.factor_weights(owner, ranks=2), tgt.factor_weights(owner, ranks=2)
    assert sum(p.numel() for p in small.parameters()) < 0.6 * sum(p.numel() for p in owner.parameters())
    for part in list(dense.modules()):
        for name in list(part.parametrizations) if parametrize.is_parametrized(part) else []:
            parametrize.remove_parametrizations(part, name)
    for training in (True, False):
        torch.testing.assert_close(call(small.train(training)), call(dense.train(training)))
    with torch.no_grad():
        torch.testing.assert_close(call(small), call(dense))


def test_trained_copied_and_of_other_dtypes(owner):
    small = tgt.factor_weights(owner, ranks=3)
    before = call(small).detach()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    call(small).square().sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    twin = copy.deepcopy(small)  # after a call with gradients, when torch's RNNs hold products that cannot be copied
    optimizer.step()
    torch.testing.assert_close(call(twin), before)
    assert not torch.allclose(call(small), before)
    torch.testing.assert_close(call(copy.deepcopy(small.double()), torch.float64), call(small, torch.float64))
    buffer = io.BytesIO()
    torch.save(twin.state_dict(), buffer)
    buffer.seek(0)
    fresh = tgt.factor_weights(owner, ranks=3)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(call(fresh), before)


def test_saved_and_loaded(owner, tmp_path):
    small = nn.ModuleDict({"inner": tgt.factor_weights(owner, ranks=2)})
    tgt.save(tmp_path / "x", small)
    fresh = nn.ModuleDict({"inner": copy.deepcopy(owner)})
    for p in fresh.parameters():
        nn.init.zeros_(p)
        p.requires_grad_(False)
    again = tgt.load(tmp_path / "x", fresh)
    assert torch.equal(call(again["inner"]), call(small["inner"]))
    assert not any(p.requires_grad for p in again.parameters())
    stored = sum(tensor.numel() for tensor in load_file(tmp_path / "x").values())
    assert stored == sum(p.numel() for p in small.parameters())


def test_a_weight_assigned_is_cut_again_at_the_same_rank():
    small = tgt.factor_weights(nn.LSTM(12, 16), ranks=2)
    exact = torch.randn(64, 2) @ torch.randn(2, 12)
    small.weight_ih_l0 = exact
    torch.testing.assert_close(small.weight_ih_l0, exact)


@pytest.mark.filterwarnings("ignore")  # of torch's own exporter
def test_exported():
    small, x = tgt.factor_weights(nn.GRU(12, 16), ranks=2).eval(), torch.randn(4, 3, 12)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(small, (x,)).module()(x)[0], small(x)[0])


def shared():
    lstm = nn.LSTM(16, 16)
    lstm.weight_hh_l0 = lstm.weight_ih_l0
    return lstm


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tgt.factor_weights(nn.Linear(3, 4), tol=0.1), TypeError, "Linear.*nn.LSTM.*decompose_layer"),
        (lambda: tgt.factor_weights(nn.LSTM(3, 4)), ValueError, "tol.*ranks|ranks.*tol"),
        (lambda: tgt.factor_weights(tgt.factor_weights(nn.LSTM(12, 16), ranks=1), tol=0.1), ValueError, "parametrized"),
        (lambda: tgt.factor_weights(shared(), tol=0.1), ValueError, "twice"),
        (lambda: tgt.decompose_layer(nn.LSTM(3, 4), tol=0.1), TypeError, "LSTM"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("entry", [3, {"weight_ih_l0": 0}, {"weight_ih_l0": 13}, {"weight_ih_l0": True},
                                   {"weight_ih_l0": "2"}, {"bias_ih_l0": 1}, {"gone": 2}])  # fmt: skip
@pytest.mark.parametrize("name", ["", "gone"])
def test_files_that_do_not_fit(name, entry, tmp_path):
    lstm = nn.LSTM(12, 16)
    tgt.save(tmp_path / "x", tgt.factor_weights(lstm, ranks=2))
    with safe_open(tmp_path / "x", framework="pt") as file:
        metadata = file.metadata() | {"factored": json.dumps({name: entry})}
    save_file(load_file(tmp_path / "x"), tmp_path / "x", metadata)
    with pytest.raises(ValueError, match=r"does not fit the model; load onto"):
        tgt.load(tmp_path / "x", lstm)
