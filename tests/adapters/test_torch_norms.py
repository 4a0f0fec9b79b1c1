"""Folded batch norms: the same outputs from fewer modules, and whatever cannot be folded stays."""

import copy
import operator

import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorring_torch.kinds import canonical_weight
from test_torch_layer import convolutions
from test_torch_walk import Block, Uses
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def disturbed(model, seed=0, decades=1.0):
    """Statistics, gains and shifts as training may leave them, in place; some gains are 0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like):
        return torch.randn(like.shape, generator=generator).to(like)

    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
            norm.running_var.copy_(10 ** (decades * normal(norm.running_var)).clamp(-3 * decades, 3 * decades))
            norm.running_mean.copy_(normal(norm.running_mean) * norm.running_var.sqrt())
            if norm.affine:
                norm.weight.data.copy_(normal(norm.weight) * (normal(norm.weight) > -1))
                norm.bias.data.copy_(normal(norm.bias))
    return model


def norms(model):
    return [name for name, part in model.named_modules() if isinstance(part, tuple(NORMS.values()))]


def outputs(model, x):
    """By torch itself, in double precision."""
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(x.double())


def check(model, x, left=(), tolerance=2e-5):
    """Folded, with these norms left, the model computes the same; and it is itself as it was."""
    state, modes = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
    folded = tgt.fold_norms(model, x)
    assert norms(folded) == list(left)
    assert not any(part.training for part in folded.modules())
    assert modes == [part.training for part in model.modules()]
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    wanted = outputs(model, x)
    assert wanted.norm() > 0, "outputs that are all zero tell nothing"
    with torch.no_grad():
        error = (folded(x).double() - wanted).norm() / wanted.norm()
    assert error <= tolerance
    return folded


def magnitude(layer, norm, x):
    """Sums of the absolute values of all that is added up: what rounding is relative to."""
    layer, norm = copy.deepcopy(layer).double(), copy.deepcopy(norm).double().eval()
    for parameter in layer.parameters():
        parameter.data.abs_()
    norm.running_mean = -norm.running_mean.abs()
    if norm.affine:
        norm.weight.data.abs_()
        norm.bias.data.abs_()
    with torch.no_grad():
        return norm(layer(x.double().abs()))


def check_one(model, x):
    layer, norm = model
    frozen = not layer.weight.requires_grad
    folded = tgt.fold_norms(model, x)
    assert type(folded[0]) is type(layer)
    assert type(folded[1]) is nn.Identity
    assert folded[0].weight.dtype == layer.weight.dtype
    assert folded[0].weight.stride() == layer.weight.stride()
    assert folded[0].weight.requires_grad != frozen
    assert folded[0].bias.requires_grad == (layer.bias if layer.bias is not None else layer.weight).requires_grad
    with torch.no_grad():
        error = (folded(x).double() - outputs(model, x)).abs()
    steps = 4 * canonical_weight(layer)[0].numel() + 16
    tiny = torch.finfo(x.dtype).tiny
    assert (error <= steps * torch.finfo(x.dtype).eps * magnitude(layer, norm, x) + tiny).all()


@st.composite
def norms_after(draw, channels, axes, dtype):
    norm = NORMS[axes](
        channels,
        affine=draw(st.booleans()),
        momentum=draw(st.sampled_from([None, 0.1])),
        eps=draw(st.sampled_from([1e-5, 1e-3])),
    )
    return disturbed(norm, draw(st.integers(0, 1000)), decades=draw(st.sampled_from([0.3, 1.0, 3.0]))).to(dtype)


@given(st.data(), convolutions(), st.booleans())
def test_one_convolution_of_any_kind(data, case, channels_last):
    layer, x = case
    if channels_last and len(layer.kernel_size) == 2:
        layer = layer.to(memory_format=torch.channels_last)
    norm = data.draw(norms_after(layer.out_channels, len(layer.kernel_size), layer.weight.dtype))
    check_one(nn.Sequential(layer, norm), x)


@given(st.data(), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_one_linear_layer(data, inputs, channels, bias):
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    layer = nn.Linear(inputs, channels, bias=bias, dtype=dtype)
    check_one(nn.Sequential(layer, data.draw(norms_after(channels, 0, dtype))), torch.randn(3, inputs, dtype=dtype))


CHAINS = {
    "plain": nn.Conv2d(8, 12, 5, padding=1, stride=2),
    "grouped": nn.Conv2d(8, 12, 3, groups=2, bias=False),
    "transposed": nn.ConvTranspose2d(8, 12, 3, stride=2, groups=2, output_padding=1),
    "one axis": nn.Conv1d(8, 12, 5, bias=False),
    "three axes": nn.Conv3d(8, 12, 3),
    "linear": nn.Linear(8, 12, bias=False),
}


@pytest.mark.parametrize("layer", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("form", ["cut", "tucker", "tt", "tr", "cp", "cp4", "tucker-cp", "btd"])
def test_chains_take_up_a_norm_in_their_last_layer(form, layer):
    torch.manual_seed(0)
    axes = len(getattr(layer, "kernel_size", ()))
    if axes == 0 and form != "cut":
        return  # of a matrix every form is the cut
    ranks = (2, 2, 2) if form == "btd" else (2,) * (axes + 2) if form == "tr" else 3
    chain = tgt.decompose_layer(layer, format=form, ranks=ranks)
    assert len(chain) > 1
    if form == "tr" and axes == 2:
        assert any(isinstance(part, tgt.FoldBond) for part in chain)
    model = disturbed(nn.Sequential(chain, NORMS[axes](12), nn.ReLU()))
    x = torch.randn(3, 8, *(6,) * axes)
    folded = check(model, x)
    assert repr(folded[0][:-1]) == repr(chain[:-1])
    dense = tgt.fold_norms(nn.Sequential(tgt.dense_layer(chain), model[1]), x)[0]
    torch.testing.assert_close(tgt.dense_layer(folded[0]).weight, dense.weight)
    torch.testing.assert_close(tgt.dense_layer(folded[0]).bias, dense.bias)


def resnet():
    torch.manual_seed(0)
    blocks = [Block(operator.add), Block(operator.iadd), Block(torch.add, "projection")]
    stem = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 8), nn.Dropout(), nn.BatchNorm1d(8), nn.Linear(8, 5)]
    return disturbed(nn.Sequential(*stem, *blocks, *head)), torch.randn(16, 3, 8, 8)


def test_a_residual_network_keeps_no_norm_and_folding_again_changes_nothing():
    model, x = resnet()
    assert len(norms(model)) == 9
    model[3].norm1.eval()
    folded = check(model, x)
    again = tgt.fold_norms(folded, x)
    assert repr(again) == repr(folded)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), folded.parameters(), strict=True))
    assert not {p.data_ptr() for p in folded.parameters()} & {p.data_ptr() for p in model.parameters()}
    exported = torch.export.export(folded, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(x), folded(x))
    folded.train()(x).square().sum().backward()


@pytest.mark.parametrize("formats", [None, "cut", "tucker", "tt", "tr", "cp"])
def test_before_compressing_or_after(formats, tmp_path):
    model, x = resnet()
    small = tgt.compress(model, x[:1], tol=0.5, formats=formats, minimize="parameters").model
    assert any(hasattr(part, "plan") for part in small.modules())
    folded = check(small, x)
    tgt.save(tmp_path / "small", folded)
    loaded = tgt.load(tmp_path / "small", tgt.fold_norms(resnet()[0], x))
    with torch.no_grad():
        assert torch.equal(loaded(x), folded(x))
    before = tgt.compress(tgt.fold_norms(model, x), x[:1], tol=0.5, formats=formats, minimize="parameters")
    assert before.report.after.parameters < before.report.before.parameters


def test_within_a_budget_by_data(monkeypatch, tmp_path):
    monkeypatch.setattr("tensorring_torch.calibration.curves._SHARES", (0.7, 0.3))
    monkeypatch.setattr("tensorring_torch.calibration.curves._SWEEPS", 5)
    monkeypatch.setattr("tensorring_torch.calibration.sequence._SWEEPS", 10)
    model, x = resnet()
    dense = tgt.fold_norms(model, x)
    for start in (dense, model):
        small = tgt.compress(start, x[:1], budget=tgt.Budget(parameters=0.7), calibration=x).model
        folded = check(small, x)
        tgt.save(tmp_path / "small", folded)
        with torch.no_grad():
            assert torch.equal(tgt.load(tmp_path / "small", dense)(x), folded(x))


X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Inside(nn.Module):
    """Calls a layer that another one, which it also calls, is made of."""

    def __init__(self):
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(4, 1, batch_first=True), nn.BatchNorm1d(4)

    def forward(self, x):
        h = x[:, 0, :, :4]
        return self.norm(self.attention.out_proj(h[:, 0])) + self.attention(h, h, h)[0][:, 0]


def as_function(norm, x):
    return functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


class Rectified(nn.BatchNorm2d):
    def forward(self, input):
        return torch.relu(as_function(self, input))


def hooked(net, name):
    net.get_submodule(name).register_forward_hook(lambda module, args, out: 2 * out)
    return net


def replaced_forward(net):
    net.norm.forward = lambda z: z + 1
    return net


def tied(net):
    net.other = nn.Conv2d(4, 4, 1)
    net.other.weight = net.layer.weight
    return net


def aliased(net):
    net.again = net.norm
    return net


def plain(net, x):
    return net.norm(net.layer(x))


torch.manual_seed(0)  # the weights of these are the same whatever was imported before
STAYS = {
    "the norm serves twice": Uses(lambda net, x: net.norm(net.layer(x)) + net.norm(x)),
    "the layer serves twice": Uses(lambda net, x: net.norm(net.layer(x)) + net.layer(-x)),
    "the output is used elsewhere": Uses(lambda net, x: net.norm(z := net.layer(x)) + z),
    "the output is changed in place": Uses(lambda net, x: (z := net.layer(x)).mul_(2) * 0 + net.norm(z)),
    "the norm comes first": Uses(lambda net, x: net.layer(torch.relu(net.norm(x)))),
    "something is between": Uses(lambda net, x: net.norm(torch.relu(net.layer(x)))),
    "the layer's weight is read": Uses(lambda net, x: net.norm(net.layer(x)) + functional.conv2d(x, net.layer.weight)),
    "the norm's numbers are read": Uses(lambda net, x: net.norm(net.layer(x)) + as_function(net.norm, x)),
    "the layer is part of another": Inside(),
    "a norm of another kind": nn.Sequential(nn.Conv2d(4, 4, 1), Rectified(4)),
    "tied": tied(Uses(plain)),
    "two places": aliased(Uses(plain)),
    "hook on the layer": hooked(Uses(plain), "layer"),
    "hook on the norm": hooked(Uses(plain), "norm"),
    "another forward": replaced_forward(Uses(plain)),
    "computed weight": Uses(plain, parametrizations.weight_norm(nn.Conv2d(4, 4, 1))),
    "linear layer on sequences": nn.Sequential(nn.Flatten(2), nn.Linear(36, 4), nn.BatchNorm1d(4)),
    "linear layer on images": nn.Sequential(nn.Linear(6, 4), nn.BatchNorm2d(4)),
    "image without a batch": nn.Sequential(nn.Flatten(2), nn.Flatten(0, 1), nn.Conv1d(12, 36, 1), nn.BatchNorm1d(36)),
    "TT-matrix": nn.Sequential(nn.Flatten(), tgt.tt_linear(nn.Linear(144, 6), ranks=3), nn.BatchNorm1d(6)),
}  # fmt: skip


@pytest.mark.parametrize("model", STAYS.values(), ids=STAYS)
def test_those_that_stay(model):
    disturbed(model)
    check(model, X, left=norms(model))


def test_others_are_folded_beside_those_that_stay():
    torch.manual_seed(0)
    bare = nn.BatchNorm2d(4, track_running_stats=False)
    model = nn.Sequential(
        *(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), bare),
        *(nn.Conv2d(4, 4, 1), nn.Identity(), nn.BatchNorm2d(4), nn.Flatten()),
        *(tgt.tt_linear(nn.Linear(144, 8), ranks=3), nn.BatchNorm1d(8), nn.Linear(8, 3), nn.BatchNorm1d(3)),
    )
    check(disturbed(model), X, left=["5", "11"])


def test_chains_that_stay():
    torch.manual_seed(0)
    chain = tgt.decompose_layer(nn.Conv2d(4, 4, 3, padding=1), format="tr", ranks=(2, 2, 2, 2))
    check(disturbed(nn.Sequential(chain, nn.BatchNorm2d(4), chain, nn.BatchNorm2d(4))), X, left=["1", "3"])
    check(hooked(disturbed(nn.Sequential(copy.deepcopy(chain), nn.BatchNorm2d(4))), "0"), X, left=["1"])
    words = tgt.decompose_layer(nn.Embedding(20, 6), ranks=2)
    model = disturbed(nn.Sequential(words, nn.BatchNorm1d(5))).eval()  # of five words each
    x = torch.randint(20, (3, 5))
    folded = tgt.fold_norms(model, x)
    assert norms(folded) == ["1"]
    assert torch.equal(folded(x), model(x))


class Up(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.norm = nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6)

    def forward(self, x, like):
        return self.norm(self.up(x, output_size=like.shape[2:]))


def test_several_inputs_and_an_output_size():
    model, like = disturbed(Up()).eval(), torch.randn(3, 6, 14, 14)
    folded = tgt.fold_norms(model, (X, like))
    assert norms(folded) == []
    with torch.no_grad():
        torch.testing.assert_close(folded(X, like), model(X, like))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
def test_half_precision(dtype, tolerance):
    model, x = resnet()
    check(model.to(dtype), x.to(dtype), tolerance=tolerance)


@pytest.mark.parametrize(("weight", "variance", "mean"), [(1.0, 1e-10, 0.0), (2e-3, 1e8, 0.0), (1.0, 1e-6, 100.0)])
def test_numbers_that_a_dtype_cannot_hold_stay_in_the_norm(weight, variance, mean):
    """In float16 the weights would be infinite, or too small for all their digits, or the bias would be infinite."""
    model = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4, eps=1e-12))
    model[0].weight.data.fill_(weight)
    model[1].running_var.fill_(variance)
    model[1].running_mean.fill_(mean)
    assert norms(tgt.fold_norms(model, X)) == []
    model[0].half()  # as mixed precision does
    assert norms(tgt.fold_norms(model, X.half())) == ["1"]


class Branching(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x) if x.sum() > -1e9 else x


def test_what_cannot_be_traced_is_folded_in_parts():
    model, x = resnet()
    model = Branching(model)
    with pytest.raises(ValueError, match=r"cannot be traced.*fold parts of it by themselves"):
        tgt.fold_norms(model, x)
    wanted = outputs(model, x)
    model.body = tgt.fold_norms(model.body, x)
    with torch.no_grad():
        assert (model(x) - wanted).norm() <= 2e-5 * wanted.norm()
    assert repr(tgt.fold_norms(model, x)) == repr(model), "without norms nothing needs to be traced"


def test_what_is_no_network_or_no_input():
    model, x = resnet()
    with pytest.raises(TypeError, match=r"it is an nn\.Module"):
        tgt.fold_norms(model.state_dict(), x)
    with pytest.raises(TypeError, match="positional"):
        tgt.fold_norms(model, {"input": x})
    with pytest.raises(ValueError, match="does not run on"):
        tgt.fold_norms(model, x[0, 0, 0])


def test_inside_inference_mode_and_inputs_written_to():
    model, x = resnet()
    with torch.inference_mode():
        folded = tgt.fold_norms(model, x * 1)
    folded(x).sum().backward()
    writes, given = nn.Sequential(nn.ReLU(inplace=True), *model), x.clone()
    tgt.fold_norms(writes, x)
    assert torch.equal(x, given)
