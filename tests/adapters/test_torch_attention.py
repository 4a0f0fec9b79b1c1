"""Attention with projections of their own: the same function, smaller within budgets, and as it was where it can be."""

import copy
import itertools

import pytest
import tensorring_torch as tgt
import torch
from tensorring_torch.attention import Attention, can_open, close_attention, open_attention
from tensorring_torch.latency import Stopwatch
from torch import nn

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.usefixtures("few_options"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
    pytest.mark.filterwarnings("ignore:Support for mismatched"),
]
PADDED = torch.arange(6)[None] >= torch.tensor([6, 4, 3])[:, None]
CAUSAL = nn.Transformer.generate_square_subsequent_mask(6)
WIDE = 128  # numbers enough for two layers to be faster than one
OPTIONS = [{}, {"bias": False}, {"kdim": 6, "vdim": 10}, {"kdim": 6, "bias": False}]


def attention(batch_first, **options):
    torch.manual_seed(0)
    found = nn.MultiheadAttention(8, 2, batch_first=batch_first, **options).double()
    if found.in_proj_bias is not None:
        nn.init.normal_(found.in_proj_bias)
        nn.init.normal_(found.out_proj.bias)
    return found


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", ["none", "bool", "float", "of heads", "causal"])
@pytest.mark.parametrize("padding", ["none", "bool", "float"])
def test_it_computes_what_torch_does(options, batch_first, mask, padding):
    theirs = attention(batch_first, **options)
    ours = Attention(theirs)
    generator = torch.Generator().manual_seed(1)
    sizes = (8, options.get("kdim", 8), options.get("vdim", 8))
    inputs = [torch.randn(3, 6, n, dtype=torch.float64, generator=generator) for n in sizes]
    inputs = inputs if batch_first else [x.transpose(0, 1) for x in inputs]
    hidden = (torch.rand(6, 6, generator=generator) < 0.3) & ~torch.eye(6, dtype=torch.bool)
    masks = {
        "none": {},
        "bool": {"attn_mask": hidden},
        "float": {"attn_mask": torch.randn(6, 6, dtype=torch.float64, generator=generator)},
        "of heads": {"attn_mask": torch.randn(6, 6, 6, dtype=torch.float64, generator=generator)},
        "causal": {"attn_mask": CAUSAL.double(), "is_causal": True},
    }[mask]
    first = PADDED & (torch.arange(6) > 0)
    paddings = {"none": {}, "bool": {"key_padding_mask": first}, "float": {"key_padding_mask": -9.0 * first.double()}}
    for weights, average in itertools.product((True, False), (True, False)):
        more = masks | paddings[padding] | {"need_weights": weights, "average_attn_weights": average}
        out, told = ours(*inputs, **more)
        expected, expected_weights = theirs(*inputs, **more)
        torch.testing.assert_close(out, expected)
        assert (told is None) == (expected_weights is None)
        if weights:
            torch.testing.assert_close(told, expected_weights)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("batch_first", [True, False])
def test_without_a_batch_with_dropout_and_hints(batch_first):
    theirs = attention(batch_first)
    ours, x = Attention(theirs), torch.randn(6, 8, dtype=torch.float64)
    for each in ({}, {"need_weights": False}, {"key_padding_mask": PADDED[1]}, {"attn_mask": CAUSAL.double()}):
        for a, b in zip(ours(x, x, x, **each), theirs(x, x, x, **each), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b)
    for module in (ours, theirs):
        with pytest.raises(RuntimeError, match="attn_mask"):
            module(x, x, x, is_causal=True)
    wet = Attention(nn.MultiheadAttention(8, 2, dropout=0.5).double().train())
    assert not torch.equal(wet(x, x, x, need_weights=False)[0], wet(x, x, x, need_weights=False)[0])
    assert torch.equal(wet.eval()(x, x, x)[0], wet(x, x, x)[0])


def test_what_cannot_be_opened_stays():
    class Own(nn.MultiheadAttention):
        pass

    plain, hooked = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2)
    hooked.register_forward_hook(lambda *_: None)
    options = ({"add_bias_kv": True}, {"add_zero_attn": True}, {"device": "meta"})
    strange = [Own(8, 2), hooked, tgt.factor_weights(plain, ranks=2), nn.Linear(2, 2)]
    strange += [nn.MultiheadAttention(8, 2, **each) for each in options]
    assert [can_open(each) for each in strange] == [False] * len(strange)
    assert can_open(plain)
    tied = nn.ModuleList([plain, plain])
    assert open_attention(tied) == []


@pytest.mark.parametrize("options", OPTIONS[:2])
def test_closed_again_with_new_numbers(options):
    model = nn.ModuleDict({"a": attention(True, **options), "b": attention(True, **options)})
    model.a.in_proj_weight.requires_grad_(False)
    opened = copy.deepcopy(model).eval()
    names = open_attention(opened)
    assert names == ["a", "b"]
    assert not opened.a.q_proj.weight.requires_grad
    assert opened.b.q_proj.weight.requires_grad
    with torch.no_grad():
        for p in opened.parameters():
            p.mul_(1.5)
    opened.b.k_proj = tgt.decompose_layer(opened.b.k_proj, ranks=2)
    expected = copy.deepcopy(opened.a)
    close_attention(opened, model, names)
    assert [type(each) for each in (opened.a, opened.b)] == [nn.MultiheadAttention, Attention]
    assert not opened.a.in_proj_weight.requires_grad
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(opened.a(x, x, x)[0], expected(x, x, x)[0])
    assert torch.equal(model.a.in_proj_weight * 1.5, opened.a.in_proj_weight)


class Reader(nn.Module):
    def __init__(self, kind="encoder"):
        super().__init__()
        width = WIDE if kind == "wide" else 16
        layer = nn.TransformerEncoderLayer(width, 4, width, batch_first=True, dropout=0.0)
        self.kind, self.body = kind, nn.TransformerEncoder(layer, 2)
        if kind == "both":
            self.body = nn.Transformer(16, 4, 1, 1, 16, batch_first=True, dropout=0.0)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        h = self.body(x, x[:, :3]) if self.kind == "both" else self.body(x)
        return self.head(h.mean(1))


def made(kind="encoder"):
    torch.manual_seed(0)
    return Reader(kind).eval(), torch.randn(96, 6, WIDE if kind == "wide" else 16).cumsum(1)


def size(model):
    return sum(p.numel() for p in model.parameters())


def error(ours, model, x):
    with torch.no_grad():
        return float((ours(x) - model(x)).norm() / model(x).norm())


@pytest.mark.parametrize("kind", ["encoder", "both"])
@pytest.mark.parametrize("by_data", [True, False])
def test_attention_shrinks_within_budgets(kind, by_data, tmp_path):
    model, x = made(kind)
    state = copy.deepcopy(model.state_dict())
    data = {"calibration": x} if by_data else {}
    result = tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.4), **data)
    small, rows = result.model, {row.name: row for row in result.report.layers}
    assert size(small) <= 0.4 * size(model)
    assert result.report.before.parameters == size(model)
    cut = [name for name, row in rows.items() if "_proj" in name and row.form != "dense"]
    assert cut, "the attention is half of the network"
    assert all(rows[name].after.parameters == size(small.get_submodule(name)) for name in cut)
    assert 0 < error(small, model, x) < 1
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    tgt.save(tmp_path / "small", small)
    again = tgt.load(tmp_path / "small", made(kind)[0])
    assert error(again, small, x) == 0
    small.train()(x[:4]).sum().backward()
    program = torch.export.export(again.eval(), (x[:4],))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x[:4]), again(x[:4]), rtol=1e-4, atol=1e-5)


def test_what_stays_dense_is_torchs_own_attention_again():
    model, x = made()
    kinds = {name: type(part) for name, part in model.named_modules()}
    for options in (
        {"exclude": nn.MultiheadAttention},
        {"exclude": "*.self_attn"},
        {"include": "body.layers.0.linear*"},
    ):
        result = tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.9), calibration=x, **options)
        assert type(result.model.body.layers[1].self_attn) is nn.MultiheadAttention
        assert {row.reason for row in result.report.layers if "_proj" in row.name} <= {"excluded", "not included"}
    result = tgt.compress(model, x[:2], budget=tgt.Budget(parameters=1.0), calibration=x)
    assert {name: type(part) for name, part in result.model.named_modules()} == kinds
    assert error(result.model, model, x) < 1e-5
    only = tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.8), include=nn.MultiheadAttention)
    assert {row.name.split(".")[3] for row in only.report.layers if row.form != "dense"} == {"self_attn"}


def test_budgets_of_latency_leave_attention_whole(monkeypatch):
    class Clock(Stopwatch):
        def measure(self, modules, inputs):
            return [size(module) + 1e-9 for module in modules]

    monkeypatch.setattr("tensorring_torch.budgeted.Stopwatch", Clock)
    model, x = made("wide")
    result = tgt.compress(model, x[:2], budget=tgt.Budget(latency=0.9), formats="cut")
    kinds = [type(part) for part in result.model.modules()]
    assert kinds.count(nn.MultiheadAttention) == 2
    assert Attention not in kinds
    assert not any("q_proj" in row.name for row in result.report.layers)
    assert size(result.model) <= 0.9 * size(model)


def test_steps_take_attention_along():
    model, x = made()
    for options in ({"steps": 2}, {"layers_at_once": 6}):
        schedule = tgt.Schedule(model, x[:2], budget=tgt.Budget(parameters=0.5), calibration=x, **options)
        sizes = [size(step.model) for step in schedule]
        assert sizes[-1] <= 0.5 * size(model) * (1 + 1e-6)
        assert sizes == sorted(sizes, reverse=True)
        assert any("_proj" in row.name and row.form != "dense" for row in schedule.report.layers)


def test_files_name_attention_that_is_not_there(tmp_path):
    model, x = made()
    small = tgt.compress(model, x[:2], budget=tgt.Budget(parameters=0.4)).model
    tgt.save(tmp_path / "small", small)
    model.body.layers[1].self_attn = nn.Identity()
    with pytest.raises(ValueError, match=r"attention 'body.layers.1.self_attn' is not in the model"):
        tgt.load(tmp_path / "small", model)
