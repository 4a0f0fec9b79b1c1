"""Small networks of every make at a tolerance: kept in each layer, counted right, and computing what they say."""

import copy

import pytest
import tensorring_torch as tgt
import torch
from torch import nn
from torch.nn.utils import parametrize

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
    pytest.mark.filterwarnings("ignore:LSTM with projections"),
]


class Words(nn.Module):
    """A classifier of word sequences: what it is made of stands in plain attributes."""

    def __init__(self, rnn):
        super().__init__()
        self.words, self.rnn, self.head = nn.Embedding(50, 16), rnn, nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.rnn(self.words(x))[0][:, -1])


class Steps(nn.Module):
    """Cells, called step by step, and layers in lists and dicts."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"down": nn.Conv1d(4, 16, 4, 2, 1), "up": nn.ConvTranspose1d(12, 8, 4, 2, 1)})
        self.cells = nn.ModuleList([nn.GRUCell(16, 12), nn.LSTMCell(12, 12), nn.RNNCell(12, 12)])

    def forward(self, x):
        first, second, third = self.cells
        x, state, found = self.parts["down"](x), None, []
        for step in x.unbind(2):
            a = first(step)
            state = second(a, state)
            found.append(third(state[0], a))
        return self.parts["up"](torch.stack(found, 2))


class Tied(nn.Module):
    """A language model whose words are read and written by one matrix."""

    def __init__(self):
        super().__init__()
        self.words, self.body, self.out = nn.Embedding(40, 16), nn.Linear(16, 16), nn.Linear(16, 40, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x):
        return self.out(torch.relu(self.body(self.words(x))))


def vgg():
    layers, channels = [], 3
    for width in (16, 32):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 10))


def volumes():
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 16, 3, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 8, 4),
    )  # fmt: skip


def transformer():
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3))


TOKENS = torch.randint(40, (3, 6), generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "vgg": (vgg, torch.randn(2, 3, 16, 16)),
    "volumes": (volumes, torch.randn(2, 1, 8, 8, 8)),
    "transformer": (transformer, torch.randn(2, 5, 8)),
    "lstm": (lambda: Words(nn.LSTM(16, 12, 2, bidirectional=True, batch_first=True)), TOKENS),
    "projected": (lambda: Words(nn.LSTM(16, 32, proj_size=24, batch_first=True)), TOKENS),
    "gru": (lambda: Words(nn.GRU(16, 24, batch_first=True)), TOKENS),
    "steps": (Steps, torch.randn(2, 4, 10)),
    "tied": (Tied, TOKENS),
}


def made(name):
    torch.manual_seed(0)
    build, x = NETWORKS[name]
    return build(), x


def dense_again(model, result):
    """The old network with the new weights, as plain layers: another way to compute the same."""
    model = copy.deepcopy(model)
    for layer in result.report.layers:
        old, new = model.get_submodule(layer.name), result.model.get_submodule(layer.name)
        if layer.form == "factored weights":
            for name, weight in old.named_parameters():
                part, _, leaf = name.rpartition(".")
                weight.data.copy_(getattr(new.get_submodule(part), leaf))
        elif layer.form != "dense":
            old.weight.data.copy_(tgt.dense_layer(new).weight)
    return model


@pytest.mark.parametrize("minimize", ["macs", "parameters", "time"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_at_a_tolerance(name, minimize):
    tol = 0.7
    model, x = made(name)
    state, modes = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
    result = tgt.compress(model, x, tol=tol, minimize=minimize)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    report, dense = result.report, dense_again(model, result)
    assert report.before.parameters == sum(p.numel() for p in model.parameters())
    assert report.after.parameters == sum(p.numel() for p in result.model.parameters())
    assert minimize == "time" or any(layer.form != "dense" for layer in report.layers)
    for layer in report.layers:
        assert layer.reason
        assert layer.after.parameters == sum(p.numel() for p in result.model.get_submodule(layer.name).parameters())
        old, new = model.get_submodule(layer.name), dense.get_submodule(layer.name)
        pairs = [(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True) if a.ndim > 1]
        errors = [float((a - b).detach().norm() / a.detach().norm()) for a, b in pairs]
        assert max(errors) <= tol + 1e-5
        if len(pairs) == 1:
            assert layer.error == pytest.approx(errors[0], abs=1e-5)
    for mode in (True, False):
        for net in (dense, result.model):
            net.train(mode)
        with torch.no_grad():
            torch.testing.assert_close(result.model(x), dense(x), rtol=1e-4, atol=1e-4)
    result.model.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in result.model.parameters())


def test_storage_alone_shrinks_where_storage_is_asked_for():
    for name, part in (
        ("lstm", "rnn"),
        ("transformer", "1.layers.0.self_attn"),
        ("steps", "cells.1"),
        ("gru", "words"),
    ):
        model, x = made(name)
        for minimize in ("macs", "time"):
            layers = {layer.name: layer for layer in tgt.compress(model, x, tol=0.7, minimize=minimize).report.layers}
            assert layers[part].form == "dense"
            assert "only its storage could shrink" in layers[part].reason
        report = tgt.compress(model, x, tol=0.7, minimize="parameters").report
        layer = next(layer for layer in report.layers if layer.name == part)
        assert layer.after.parameters < layer.before.parameters
        if name != "gru":
            assert layer.form == "factored weights"
            assert "time does not" in layer.reason
            assert len(layer.ranks) > 1
            assert "multiply-adds of recurrent layers and attention are not counted" in report.notes
        assert "1.layers.0.self_attn.out_proj" not in {layer.name for layer in report.layers}  # it goes with its owner


def test_one_recurrent_layer_or_attention_alone():
    torch.manual_seed(0)
    x = torch.randn(4, 2, 16)
    for module, example in ((nn.LSTM(16, 24), x), (nn.MultiheadAttention(16, 2), (x, x, x))):
        result = tgt.compress(module, example, tol=0.8, minimize="parameters")
        assert type(result.model).__mro__[1] is type(module)
        assert [layer.name for layer in result.report.layers] == [""]
        assert str(result.report).splitlines()[1].startswith("(model)")


def test_those_that_stay_and_why():
    model, x = made("lstm")
    other = nn.LSTM(16, 12, 2, bidirectional=True, batch_first=True)
    other.weight_ih_l0 = model.rnn.weight_ih_l0
    model.other = other
    reasons = {
        layer.name: layer.reason for layer in tgt.compress(model, x, tol=0.7, minimize="parameters").report.layers
    }
    assert "tied" in reasons["rnn"]
    assert "tied" in reasons["other"]
    model, x = made("gru")
    once = tgt.compress(model, x, tol=0.7, minimize="parameters").model
    reasons = {
        layer.name: layer.reason for layer in tgt.compress(once, x, tol=0.7, minimize="parameters").report.layers
    }
    assert "parametrized already" in reasons["rnn"]
    for selection in ({"include": "head"}, {"exclude": [nn.GRU, nn.Embedding]}):
        report = tgt.compress(model, x, tol=0.7, minimize="parameters", **selection).report
        assert {layer.name for layer in report.layers if layer.form != "dense"} == {"head"}
    with pytest.raises(ValueError, match="'words', 'rnn', 'head'"):
        tgt.compress(model, x, tol=0.7, include="rn")


def test_tied_weights_stay_tied():
    model, x = made("tied")
    for minimize in ("macs", "parameters"):
        result = tgt.compress(model, x, tol=0.7, minimize=minimize)
        assert result.model.out.weight is result.model.words.weight
        assert isinstance(result.model.body, nn.Sequential)


def test_hooks_modes_and_what_does_not_require_gradients_survive():
    model, x = made("lstm")
    seen = []
    model.rnn.register_forward_hook(lambda module, args, out: seen.append(type(module)))
    model.register_forward_pre_hook(lambda module, args: seen.append("model"))
    model.rnn.eval()
    model.rnn.weight_hh_l1.requires_grad_(False)
    model.head.requires_grad_(False)
    result = tgt.compress(model, x, tol=0.7, minimize="parameters")
    assert seen == ["model", nn.LSTM]  # one pass of the copy that told the sizes
    result.model(x)
    assert seen[2] == "model"
    assert issubclass(seen[3], nn.LSTM)
    assert result.model.training
    assert not result.model.rnn.training
    assert not any(p.requires_grad for p in result.model.head.parameters())
    factors = result.model.rnn.parametrizations["weight_hh_l1"].parameters()
    assert not any(factor.requires_grad for factor in factors)
    assert result.model.rnn.parametrizations["weight_hh_l0"].original0.requires_grad


@pytest.mark.parametrize("name", NETWORKS)
def test_a_copy_and_a_file_compute_the_same(name, tmp_path):
    model, x = made(name)
    small = tgt.compress(model, x, tol=0.7, minimize="parameters").model.eval()
    tgt.save(tmp_path / "small", small)
    loaded = tgt.load(tmp_path / "small", made(name)[0]).eval()
    with torch.no_grad():
        expected = small(x)
        torch.testing.assert_close(copy.deepcopy(small)(x), expected, rtol=0, atol=0)
        torch.testing.assert_close(loaded(x), expected)


def test_products_become_plain_weights_again():
    model, x = made("gru")
    small = tgt.compress(model, x, tol=0.7, minimize="parameters").model
    expected = small(x)
    for name in list(small.rnn.parametrizations):
        parametrize.remove_parametrizations(small.rnn, name)
    torch.testing.assert_close(small(x), expected)
