"""Expanded layers compute what the layers did, are balanced, and can learn whatever those could."""

import copy
import itertools

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tensorring_torch.geometry import Geometry
from tensorring_torch.kinds import canonical_weight
from test_torch_layer import DTYPES, LAYERS, assert_close, assert_equivalent, weight_of
from torch import nn

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def matrices_of(layer):
    """The matrices that factors are factors of: one for each group, cut at the outputs, of transposed at the inputs."""
    weight = weight_of(layer).detach()
    parts = weight.chunk(getattr(layer, "groups", 1))
    return [(part.transpose(0, 1) if getattr(layer, "transposed", False) else part).flatten(1) for part in parts]


def can_be_expanded(layer):
    groups = getattr(layer, "groups", 1)
    return not isinstance(layer, nn.Embedding) and not (groups > 1 and groups == layer.in_channels)


@given(LAYERS, st.integers(2, 4))
def test_the_function_is_the_same(case, factors):
    layer, x = case
    before = copy.deepcopy(layer.state_dict())
    if not can_be_expanded(layer):
        with pytest.raises(ValueError, match="no layer can be expanded"):
            tgt.expand(layer, factors)
        return
    chain = tgt.expand(layer, factors)
    assert_equivalent(chain, layer, x)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert len(chain) == factors == len(chain.plan.links)
    assert chain.plan.form == "expanded"
    bond = min(matrices_of(layer)[0].shape)
    assert chain.plan.ranks == (bond,) * (factors - 1)
    shapes = [Geometry.of(part).one_group().weight_shape for part in chain]
    assert all(shape[:2] == (bond, bond) for shape in shapes[1:-1])
    thin = shapes[:-1] if getattr(layer, "transposed", False) else shapes[1:]
    assert all(set(shape[2:]) <= {1} for shape in thin)


@given(LAYERS, st.integers(2, 4))
def test_the_sum_of_squares_is_the_least_there_is(case, factors):
    """(1/N)·Σ‖W_k‖² = Σσ^{2/N}, and neighbours are balanced: W_k·W_kᴴ = W_{k+1}ᴴ·W_{k+1}."""
    layer, _ = case
    assume(can_be_expanded(layer))
    layer = layer.double()
    values = torch.cat([torch.linalg.svdvals(matrix) for matrix in matrices_of(layer)])
    assume(values.min() > 1e-6 * values.max())
    chain = tgt.expand(layer, factors)
    squares = sum(part.weight.square().sum() for part in chain) / factors
    torch.testing.assert_close(squares, (values ** (2 / factors)).sum(), rtol=1e-10, atol=0)
    for first, then in itertools.pairwise(chain):
        sides = [canonical_weight(part).detach().chunk(chain.plan.blocks) for part in (first, then)]
        for a, b in zip(*sides, strict=True):
            a, b = a.flatten(1), b.transpose(0, 1).flatten(1)
            torch.testing.assert_close(a @ a.T, b @ b.T, rtol=0, atol=1e-9 * float((a @ a.T).norm()))


def test_weight_decay_from_there_lowers_the_nuclear_norm():
    """Plain decay of two factors, nothing else: the sum of squares stays at its minimum, so W shrinks as a whole."""
    torch.manual_seed(0)
    chain = tgt.expand(nn.Linear(6, 5, dtype=torch.float64))
    optimizer = torch.optim.SGD(chain.parameters(), lr=0.1, weight_decay=0.5)
    for parameter in chain.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(20):
        optimizer.step()
    values = torch.linalg.svdvals(tgt.dense_layer(chain).weight)
    squares = sum(part.weight.square().sum() for part in chain) / 2
    torch.testing.assert_close(squares, values.sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("factors", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_directions_that_a_weight_has_not_can_be_learnt(kind, dtype, factors):
    """Dead filters and zeros: the same function, and a gradient that reaches every direction of the weight."""
    for dead in (2, slice(None)):
        torch.manual_seed(0)
        layer, x = kind(6, 8, 3, dtype=dtype), torch.randn(2, 6, 6, 5, dtype=dtype)
        with torch.no_grad():
            layer.weight[dead] = 0  # outputs, or inputs of the transposed one: rows of its matrix
        chain = tgt.expand(layer, factors)
        with torch.no_grad():
            torch.testing.assert_close(chain(x), layer(x), rtol=0, atol=1e-12)
        (matrix,) = matrices_of(layer)
        rank = int(torch.linalg.matrix_rank(matrix))
        first = canonical_weight(chain[0]).detach().flatten(1)
        gram = first @ first.mH
        torch.testing.assert_close(gram, torch.diag(gram.diagonal()), rtol=0, atol=1e-10)
        assert (gram.diagonal().abs() > 0).all(), "all of its channels carry something"
        (chain(x) - torch.randn_like(layer(x))).abs().square().sum().backward()
        (new,) = matrices_of(tgt.dense_layer(_moved(chain)))
        assert int(torch.linalg.matrix_rank(new)) == len(matrix) > rank


def _moved(chain):
    """One small step down."""
    moved = copy.deepcopy(chain)
    with torch.no_grad():
        for new, old in zip(moved.parameters(), chain.parameters(), strict=True):
            new -= 1e-3 * old.grad
    return moved


def test_a_layer_of_zeros_learns():
    torch.manual_seed(0)
    layer, target, x = nn.Linear(5, 4), nn.Linear(5, 4), torch.randn(64, 5)
    nn.init.zeros_(layer.weight)
    for factors in (2, 3):
        chain = tgt.expand(layer, factors)
        optimizer = torch.optim.Adam(chain.parameters(), lr=0.03)
        for _ in range(300):
            loss = (chain(x) - target(x).detach()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 1e-4


class Block(nn.Module):
    """A residual block that halves the image, with a convolution on its shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.shortcut = nn.Sequential(nn.Conv2d(4, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8))

    def forward(self, x):
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


def test_shortcuts_are_expanded_too():
    torch.manual_seed(0)
    model, x = nn.Sequential(Block(), Block().conv2, nn.Flatten(), nn.Linear(8 * 3 * 3, 5)), torch.randn(3, 4, 6, 6)
    for training in (True, False):
        wide = tgt.expand(model.train(training), factors=3)
        torch.testing.assert_close(wide(x), copy.deepcopy(model)(x), rtol=1e-5, atol=1e-5)
    shortcut = wide[0].shortcut[0]
    assert [(conv.kernel_size, conv.stride) for conv in shortcut] == [((1, 1), (2, 2))] + [((1, 1), (1, 1))] * 2
    assert [tuple(conv.weight.shape) for conv in shortcut] == [(4, 4, 1, 1), (4, 4, 1, 1), (8, 4, 1, 1)]
    assert [conv.stride for conv in wide[0].conv1] == [(2, 2), (1, 1), (1, 1)]
    assert [tuple(conv.weight.shape) for conv in wide[0].conv2] == [(8, 8, 3, 3), (8, 8, 1, 1), (8, 8, 1, 1)]
    assert isinstance(wide[0].shortcut[1], nn.BatchNorm2d)
    wide(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in wide.parameters())
    assert tgt.sensitivity_penalty(wide).isfinite()


def test_saved_loaded_and_undone(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(Block(), nn.ConvTranspose2d(8, 6, 4, stride=2, groups=2), nn.Flatten(), nn.Linear(384, 3))
    wide, x = tgt.expand(model.eval()), torch.randn(2, 4, 6, 6)
    tgt.save(tmp_path / "wide", wide)
    again = tgt.load(tmp_path / "wide", model)
    assert torch.equal(again(x), wide(x))
    assert again[1].plan == wide[1].plan
    assert torch.equal(copy.deepcopy(wide)(x), wide(x))
    assert repr(tgt.dense_layer(again[0].shortcut[0])) == repr(model[0].shortcut[0])
    torch.testing.assert_close(torch.export.export(wide, (x,)).module()(x), wide(x))


def test_what_stays():
    """Whatever compress would leave, embeddings, and what is expanded already."""
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, args, output: None)
    tied = nn.Linear(4, 4)
    model = nn.ModuleDict({
        "embedding": nn.Embedding(9, 4), "depthwise": nn.Conv1d(4, 8, 3, groups=4), "hooked": hooked,
        "normed": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "tied": tied, "again": tied,
        "attention": nn.MultiheadAttention(4, 2), "lstm": nn.LSTM(4, 4),
        "cut": tgt.decompose_layer(nn.Linear(9, 9), ranks=2), "plain": nn.Linear(4, 4), "other": nn.Linear(4, 4),
    })  # fmt: skip
    wide = tgt.expand(model, exclude="other")
    assert repr(wide["plain"]) != repr(model["plain"])
    same = [name for name in model if name != "plain"]
    assert all(repr(wide[name]) == repr(model[name]) for name in same)
    assert wide["tied"] is wide["again"] is not tied
    twice = tgt.expand(wide)
    assert (twice["plain"].plan, len(twice["other"])) == (wide["plain"].plan, 2)
    only = tgt.expand(model, include=["plain", "tied"])
    assert (len(only["plain"]), repr(only["other"])) == (2, repr(model["other"]))


def test_modes_devices_and_layouts_are_kept():
    conv = nn.Conv2d(4, 6, 3).requires_grad_(False).eval()
    frozen = tgt.expand(nn.Sequential(conv, nn.ReLU()))
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen[0].training
    assert frozen[1].training
    lined = tgt.expand(nn.Sequential(nn.Conv2d(4, 6, 3)).to(memory_format=torch.channels_last))
    assert lined[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    half = tgt.expand(nn.Linear(8, 8).bfloat16())
    assert all(p.dtype == torch.bfloat16 for p in half.parameters())
    with torch.inference_mode():
        made = tgt.expand(nn.Linear(4, 4))
    made(torch.ones(1, 4)).sum().backward()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64, torch.complex128])
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_of_any_dtype_and_size(dtype, scale):
    torch.manual_seed(0)
    layer, x = nn.Conv1d(5, 7, 3, bias=False, dtype=dtype), torch.randn(2, 5, 9, dtype=dtype)
    with torch.no_grad():
        layer.weight *= scale
        for factors in (2, 5):
            precise = dtype in (torch.float64, torch.complex128)
            assert_close(tgt.expand(layer, factors)(x), layer(x), 1e-13 if precise else 1e-5)


def test_a_transformer_runs_as_before():
    torch.manual_seed(0)
    model, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.randn(2, 3, 8)
    wide = tgt.expand(model)
    with torch.no_grad():
        torch.testing.assert_close(wide(x), model(x), rtol=1e-5, atol=1e-5)
    assert [len(wide.linear1), len(wide.linear2)] == [2, 2]
    assert repr(wide.self_attn) == repr(model.self_attn)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tgt.expand(nn.Linear(2, 2), 1), ValueError, "got factors=1; it is an int of at least 2"),
        (lambda: tgt.expand(nn.Linear(2, 2), 2.0), ValueError, "got factors=2.0"),
        (lambda: tgt.expand(nn.Linear(2, 2), True), ValueError, "got factors=True"),
        (lambda: tgt.expand([]), TypeError, "got a list for the model"),
        (lambda: tgt.expand(nn.ReLU()), ValueError, "got a ReLU of which no layer can be expanded .there are no conv"),
        (lambda: tgt.expand(nn.Sequential(nn.Conv2d(4, 4, 1, groups=4))), ValueError, "'0': depthwise: there are no"),
        (lambda: tgt.expand(nn.Linear(2, 2), include="fc"), ValueError, "got include='fc', which matches no module"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_weight_that_is_not_finite_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight[0, 1] = np.nan
    with pytest.raises(ValueError, match=r"x\[0, 1\] is nan") as caught:
        tgt.expand(model)
    assert caught.value.__notes__ == ["in layer '1'"]
