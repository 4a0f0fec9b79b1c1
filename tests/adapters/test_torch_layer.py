"""A layer built from any low-rank tensor computes the convolution with that tensor; and back."""

import copy
import io
import math

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tensorring_torch.geometry import Geometry
from torch import nn

import tensorring as tg

torch.set_num_threads(1)
# torch itself says so of every even kernel with padding='same', the dense layer's included.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

DTYPES = {torch.float32: 1e-5, torch.float64: 1e-12}


def options(draw, axes, transposed):
    """The options of a convolution, in any combination that torch takes."""

    def each(low, high):
        return draw(st.tuples(*[st.integers(low, high)] * axes))

    few = axes == 3
    kernel, dilation, stride = each(1, 3 if few else 4), each(1, 2), each(1, 2 if few else 3)
    chosen = {"kernel_size": kernel, "dilation": dilation, "groups": draw(st.integers(1, 2 if few else 3))}
    if transposed:
        more = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
        return chosen | {"stride": stride, "padding": each(0, 2), "output_padding": tuple(more)}
    padding = draw(st.one_of(st.just("valid"), st.just("same"), st.just(each(0, 3))))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    return chosen | {"stride": 1 if padding == "same" else stride, "padding": padding, "padding_mode": mode}


@st.composite
def convolutions(draw):
    """A convolution of any kind with any combination of its options, and an input that it takes."""
    axes, transposed = draw(st.sampled_from([2, 2, 1, 3])), draw(st.sampled_from([False, False, True]))
    chosen = options(draw, axes, transposed)
    conv = getattr(nn, f"Conv{'Transpose' if transposed else ''}{axes}d")(
        chosen["groups"] * draw(st.integers(1, 4)),
        chosen["groups"] * draw(st.integers(1, 4)),
        **chosen,
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(list(DTYPES))),
    ).train(draw(st.booleans()))
    size = [draw(st.integers(1, 5))] * axes if transposed else [
        d * (k - 1) + draw(st.integers(4, 7)) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
    ]  # fmt: skip
    batch = draw(st.integers(0 if conv.padding_mode == "zeros" else 1, 3))
    drawn(draw, conv)
    x = torch.randn(batch, conv.in_channels, *size, dtype=conv.weight.dtype)
    assume(all(n > 0 for n in Geometry.of(conv).outputs(tuple(size))))
    return conv, x


@st.composite
def matrices(draw):
    """An nn.Linear or an nn.Embedding, and an input of any number of axes."""
    sizes, dtype = (draw(st.integers(1, 9)), draw(st.integers(1, 9))), draw(st.sampled_from(list(DTYPES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    if draw(st.booleans()):
        layer = nn.Linear(*sizes, bias=draw(st.booleans()), dtype=dtype)
        drawn(draw, layer)
        return layer, torch.randn(*shape, sizes[0], dtype=dtype)
    padding = draw(st.one_of(st.none(), st.integers(0, sizes[0] - 1)))
    flags = {"scale_grad_by_freq": draw(st.booleans()), "sparse": draw(st.booleans())}
    layer = nn.Embedding(*sizes, padding_idx=padding, dtype=dtype, **flags)
    drawn(draw, layer)
    return layer, torch.randint(sizes[0], tuple(shape))


LAYERS = st.one_of(convolutions(), convolutions(), matrices())


def drawn(draw, layer):
    """Other numbers, some of them not to be trained."""
    torch.manual_seed(draw(st.integers(0, 100)))
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
        parameter.requires_grad_(draw(st.booleans()))


def random_tensor(draw, shape):
    """Any format that layers are built from, at any ranks, in either precision."""
    modes = len(shape)
    kinds = ["tr", "tt", "tucker", "cut", "cp4"] + ["cp", "tucker-cp", "tucker-cp4", "btd"] * (modes > 2)
    kind, seed = draw(st.sampled_from(kinds)), draw(st.integers(0, 1000))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    ranks = st.integers(1, 4)
    if kind == "cut":
        rng, rank = np.random.default_rng(seed), draw(ranks)
        some = draw(st.lists(st.sampled_from(range(modes)), min_size=1, max_size=modes - 1, unique=True))
        left = rng.standard_normal((*(shape[k] for k in sorted(some)), rank)).astype(dtype)
        right = rng.standard_normal((rank, *(shape[k] for k in range(modes) if k not in some))).astype(dtype)
        return tg.CutTensor(left, right, tuple(sorted(some)))
    if kind == "btd":
        whole = draw(st.sampled_from([shape[2:], (math.prod(shape[2:]),)]))
        sizes = (min(draw(ranks), shape[0]), min(draw(ranks), shape[1]), *whole)
        return tg.random.btd((*shape[:2], *whole), terms=draw(ranks), ranks=sizes, rng=seed, dtype=dtype)
    if kind.startswith(("cp", "tucker-cp")):
        shape = shape if kind.endswith("4") else (*shape[:2], math.prod(shape[2:]))
        if not kind.startswith("tucker"):
            return tg.random.cp(shape, rank=draw(ranks), rng=seed, dtype=dtype)
        inner = (draw(ranks), draw(ranks))
        rng = np.random.default_rng(seed)
        matrices = [rng.standard_normal((n, r)).astype(dtype) for n, r in zip(shape, inner, strict=False)]
        return tgt.TuckerCPTensor(
            tg.random.cp((*inner, *shape[2:]), rank=draw(ranks), rng=seed, dtype=dtype), *matrices
        )
    count = modes - (kind == "tt")
    caps = tuple(draw(st.lists(ranks, min_size=count, max_size=count)))
    return getattr(tg.random, kind)(shape, ranks=caps, rng=seed, dtype=dtype)


def weight_of(layer):
    """The canonical weight, written out: outputs first, in each group."""
    if isinstance(layer, nn.Embedding):
        return layer.weight.T
    if not getattr(layer, "transposed", False):
        return layer.weight
    return torch.cat([part.transpose(0, 1) for part in layer.weight.chunk(layer.groups)])


def with_weight(layer, weight):
    """The same layer with another canonical weight."""
    weight = torch.tensor(weight, dtype=layer.weight.dtype)
    if isinstance(layer, nn.Embedding):
        weight = weight.T
    if getattr(layer, "transposed", False):
        weight = torch.cat([part.transpose(0, 1) for part in weight.chunk(layer.groups)])
    dense = copy.deepcopy(layer)
    dense.weight = nn.Parameter(weight.contiguous(), layer.weight.requires_grad)
    return dense


def dense_of(tensor, layer):
    dense = tensor.astype("float64" if layer.weight.dtype == torch.float64 else tensor.dtype).to_dense()
    return dense.reshape(-1, *weight_of(layer).shape[1:])


def assert_close(got, expected, tolerance):
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    assert torch.linalg.norm(got - expected) <= tolerance * torch.linalg.norm(expected)


def assert_equivalent(layers, dense, x):
    """Same output, same options, same state; undone, the same layer."""
    with torch.no_grad():
        assert_close(layers(x), dense(x), DTYPES[dense.weight.dtype])
    again = tgt.dense_layer(layers)
    assert type(again) is type(dense)
    assert repr(again) == repr(dense)
    assert_close(again.weight, dense.weight, DTYPES[dense.weight.dtype])
    for parameter in layers.parameters():
        assert parameter.is_leaf
        assert parameter.grad_fn is None
    assert all(module.training == dense.training for module in layers.modules())
    weights = [layer.weight for layer in layers if hasattr(layer, "weight")]
    assert all(weight.requires_grad == dense.weight.requires_grad for weight in (*weights, again.weight))
    if getattr(dense, "bias", None) is not None:
        assert torch.equal(again.bias, dense.bias)
        assert again.bias.requires_grad == dense.bias.requires_grad == layers[-1].bias.requires_grad
        assert again.bias is not dense.bias
    assert again.training == dense.training


@given(st.data(), LAYERS)
def test_any_tensor_becomes_its_layer(data, case):
    conv, x = case
    before = copy.deepcopy(conv.state_dict())
    tensor = random_tensor(data.draw, tuple(weight_of(conv).shape))
    layers = tgt.build_layer(tensor, like=conv)
    assert_equivalent(layers, with_weight(conv, dense_of(tensor, conv)), x)
    assert all(torch.equal(value, before[name]) for name, value in conv.state_dict().items())
    use = tgt.chain.Use.unknown(layers.plan.geometry, "macs")
    assert use.cost(layers.plan)[0] <= use.cost(use.dense_plan)[0]


@given(st.data(), LAYERS)
def test_unmerged_plans_compute_the_same(data, case):
    """The plans that cost too much on these small layers, folds and all, are as right as the chosen ones."""
    conv, x = case
    tensor = random_tensor(data.draw, tuple(weight_of(conv).shape))
    chain = tgt.chain.Chain.of([tensor], tgt.chain.Use.unknown(Geometry.of(conv), "macs"))
    kernels = tgt.chain._kernels(tensor, chain.plan.geometry.kernel)
    plan = tgt.plan.Plan(chain.plan.geometry, tuple(kernel.link for kernel in kernels))
    starts = (0, *(k for k in range(1, len(kernels)) if data.draw(st.booleans())))
    chain = tgt.chain.Chain((tensor,), plan.merged(starts), starts)
    assert_equivalent(chain.layers(conv), with_weight(conv, dense_of(tensor, conv)), x)


@given(st.data(), convolutions())
def test_one_tensor_for_each_group(data, case):
    conv, x = case
    assume(conv.groups > 1)
    outputs, *rest = weight_of(conv).shape
    kind = random_tensor(data.draw, (outputs // conv.groups, *rest))
    others = [kind.with_arrays([a * (g + 1) for a in kind.arrays]) for g in range(conv.groups - 1)]
    layers = tgt.build_layer([*others, kind], like=conv)
    dense = np.concatenate([dense_of(tensor, conv) for tensor in (*others, kind)])
    assert_equivalent(layers, with_weight(conv, dense), x)


@pytest.mark.parametrize("starts", [(0, 1, 2, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2)])
def test_groups_with_kernels_and_folds_of_their_own(starts):
    conv = nn.Conv2d(6, 9, (3, 2), groups=3, stride=(1, 2), padding=1).double()
    tensors = [tg.random.tr((3, 2, 3, 2), ranks=(2, r, 2, 3), rng=r) for r in (2, 3, 1)]
    padded = tgt.chain._padded(tensors)
    links = tuple(kernel.link for kernel in tgt.chain._kernels(padded[0], (3, 2)))
    plan = tgt.plan.Plan(Geometry.of(conv), links, blocks=3).merged(starts)
    layers = tgt.chain.Chain(tuple(padded), plan, starts).layers(conv)
    dense = np.concatenate([tensor.to_dense() for tensor in tensors])
    assert any(isinstance(layer, tgt.FoldBond) for layer in layers)
    assert_equivalent(layers, with_weight(conv, dense), torch.randn(2, 6, 8, 9).double())


@given(LAYERS, st.sampled_from(["tr", "tt", "tucker", "cut"]))
def test_at_the_error_floor_every_format_equals_the_layer(case, format):
    conv, x = case
    tol = 1e-7 if conv.weight.dtype == torch.float32 else 1e-14
    assert_equivalent(tgt.decompose_layer(conv, format=format, tol=tol), conv, x)


@pytest.mark.parametrize("format", ["tr", "tt", "tucker", "cut"])
@pytest.mark.parametrize("groups", [1, 2])
def test_decompose_layer_keeps_tol_and_caps(format, groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 24, 3, groups=groups)
    for tol in (0.0, 0.1, 0.3, 0.6, 0.9):
        approximation = tgt.dense_layer(tgt.decompose_layer(conv, format=format, tol=tol)).weight
        assert (approximation - conv.weight).norm() <= (tol + 1e-4) * conv.weight.norm()
    layers = tgt.decompose_layer(conv, format=format, ranks=2)
    assert max(layers.plan.ranks) <= (3 if format == "tucker" else 2)


def test_a_ring_with_much_to_gain_folds_its_open_bond():
    conv = nn.Conv2d(64, 64, 3, padding=1)
    ring = tg.random.tr((64, 64, 3, 3), ranks=(6, 4, 6, 6), rng=0, dtype="float32")
    layers = tgt.build_layer(ring, like=conv)
    kinds = [type(layer) for layer in layers]
    assert kinds == [nn.Conv2d, tgt.FoldBond, nn.Conv2d, nn.Conv2d, tgt.UnfoldBond, nn.Conv2d] or tgt.FoldBond in kinds
    x = torch.randn(3, 64, 9, 9)
    assert_equivalent(layers, with_weight(conv, ring.to_dense()), x)
    y = x.to(memory_format=torch.channels_last)
    assert_close(layers(y), layers(x), 1e-5)
    with pytest.raises(ValueError, match="need a batch"):
        layers(x[0])


def test_a_bond_of_one_needs_no_fold_and_no_batch():
    conv = nn.Conv2d(32, 32, 3, padding=1)
    ring = tg.random.tr((32, 32, 3, 3), ranks=(5, 1, 5, 5), rng=0, dtype="float32")
    layers = tgt.build_layer(ring, like=conv)
    assert [type(layer) for layer in layers] == [nn.Conv2d] * len(layers)
    x = torch.randn(32, 8, 8)
    assert_close(layers(x), with_weight(conv, ring.to_dense())(x), 1e-5)


def test_stride_comes_as_early_as_possible():
    conv = nn.Conv2d(32, 32, (1, 5), stride=(2, 3), padding=(0, 2))
    layers = tgt.build_layer(tg.random.tr((32, 32, 1, 5), ranks=(4, 1, 4, 4), rng=0), like=conv)
    strides = [layer.stride for layer in layers]
    assert strides[0][0] == 2
    assert np.prod(strides, axis=0).tolist() == [2, 3]


def test_half_precision_and_complex():
    conv = nn.Conv2d(8, 8, 3).to(torch.bfloat16)
    assert {p.dtype for p in tgt.decompose_layer(conv, tol=0.3).parameters()} == {torch.bfloat16}
    conv = nn.Conv2d(8, 8, 3, dtype=torch.complex128)
    layers = tgt.decompose_layer(conv, tol=1e-14)
    x = torch.randn(2, 8, 6, 6, dtype=torch.complex128)
    assert_close(layers(x), conv(x), 1e-12)


def test_arrays_of_other_libraries_and_read_only_ones():
    conv, ring = nn.Conv2d(4, 5, 3).double(), tg.random.tr((5, 4, 3, 3), ranks=2, rng=0)
    for array in ring.cores:
        array.flags.writeable = False
    expected = tgt.dense_layer(tgt.build_layer(ring, like=conv)).weight
    strict = pytest.importorskip("array_api_strict")
    for convert in (torch.tensor, strict.asarray):
        other = tg.TRTensor([convert(core) for core in ring.cores])
        assert torch.equal(tgt.dense_layer(tgt.build_layer(other, like=conv)).weight, expected)


def test_layers_are_ordinary_modules():
    """deepcopy, state_dict, dtype, training and gradients; dense_layer sees the trained weights."""
    conv = nn.Conv2d(16, 16, 3, padding=1)
    layers = tgt.decompose_layer(conv, format="tucker", ranks=4)
    twin = copy.deepcopy(layers)
    fresh = tgt.decompose_layer(nn.Conv2d(16, 16, 3, padding=1), format="tucker", ranks=4)
    fresh.load_state_dict(layers.state_dict())
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(fresh(x), layers(x))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    twin(x).square().mean().backward()
    optimizer.step()
    assert not torch.equal(twin(x), layers(x))
    assert_close(tgt.dense_layer(twin)(x), twin(x), 1e-5)
    assert_close(tgt.dense_layer(twin.double())(x.double()), twin(x.double()), 1e-12)
    assert not twin.eval().training
    buffer = io.BytesIO()
    torch.save(layers.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))


def test_global_random_state_is_not_used():
    conv = nn.Conv2d(8, 8, 3)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    tgt.dense_layer(tgt.decompose_layer(conv, tol=0.5))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.filterwarnings("ignore")  # of torch's own exporter
def test_exported_to_onnx_and_torch_export():
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    conv = nn.Conv2d(16, 16, 3, padding=1)
    x = torch.randn(2, 16, 8, 8)
    for tensor in (
        tg.random.tr((16, 16, 3, 3), ranks=(3, 2, 3, 3), rng=0, dtype="float32"),
        tg.random.tucker((16, 16, 3, 3), ranks=(4, 4, 3, 3), rng=0, dtype="float32"),
        tg.random.cp((16, 16, 3, 3), rank=5, rng=0, dtype="float32"),
    ):
        layers = tgt.build_layer(tensor, like=conv).eval()
        program = torch.export.export(layers, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        assert_close(program.module()(x[:1].repeat(5, 1, 1, 1)), layers(x[:1].repeat(5, 1, 1, 1)), 1e-6)
        file = io.BytesIO()
        torch.onnx.export(program, (), dynamo=True, verbose=False).save(file)
        session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_close(torch.from_numpy(got), layers(x), 1e-5)


CONV, RING = nn.Conv2d(4, 6, 3), tg.random.tr((6, 4, 3, 3), ranks=2, rng=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tgt.build_layer(RING, like=nn.Conv2d(4, 7, 3)), ValueError, r"\(6, 4, 3, 3\).*\(7, 4, 3, 3\)"),
        (lambda: tgt.build_layer(RING, like=nn.ConvTranspose2d(6, 4, 3)), ValueError, r"\(4, 6, 3, 3\)"),
        (lambda: tgt.build_layer(RING, like=nn.Linear(4, 6)), ValueError, r"\(6, 4\)"),
        (lambda: tgt.build_layer(RING, like=nn.BatchNorm2d(4)), TypeError, "BatchNorm2d.*nn.Conv1d.*nn.Embedding"),
        (lambda: tgt.decompose_layer(nn.Embedding(9, 5, max_norm=1.0), tol=0.1), ValueError, "max_norm"),
        (lambda: tgt.build_layer(block_terms_of_a_matrix(), like=nn.Linear(4, 6)), ValueError, "no groups"),
        (lambda: tgt.build_layer(RING, like=nn.LazyConv2d(6, 3)), ValueError, "run the model once"),
        (lambda: tgt.decompose_layer(nn.Conv2d(4, 6, 3, device="meta"), tol=0.1), ValueError, "without numbers"),
        (lambda: tgt.build_layer(RING, like=weight_normed()), ValueError, "weight norm"),
        (lambda: tgt.build_layer(RING.to_dense(), like=CONV), TypeError, "ndarray.*low-rank"),
        (lambda: tgt.build_layer(torch.zeros(6, 4, 3, 3), like=CONV), TypeError, "Tensor"),
        (
            lambda: tgt.build_layer(tg.tt_svd(RING.to_dense(), tol=0.1), like=CONV),
            TypeError,
            "Decomposition.*\\.tensor",
        ),
        (lambda: tgt.build_layer([], like=CONV), ValueError, r"\(6, 4, 3, 3\)"),
        (lambda: tgt.build_layer([RING, RING], like=CONV), ValueError, r"\(6, 4, 3, 3\)"),
        (
            lambda: tgt.build_layer(tg.random.cp((6, 4, 3), rank=2), like=CONV),
            ValueError,
            r"\(6, 4, 3\).*\(6, 4, 3, 3\)",
        ),
        (lambda: tgt.build_layer(tg.random.tt((6, 4, 9), ranks=2), like=CONV), ValueError, r"\(6, 4, 9\)"),
        (lambda: tgt.TuckerCPTensor(RING, None, None), TypeError, "TRTensor.*CPTensor"),
        (
            lambda: tgt.TuckerCPTensor(tg.random.cp((3, 2, 9), rank=2), np.ones((6, 2)), np.ones((4, 2))),
            ValueError,
            r"\(6, 2\).*r_out",
        ),
        (
            lambda: tgt.build_layer(tg.random.tr((6, 4, 3, 3), ranks=2, dtype="complex64"), like=CONV),
            TypeError,
            "imagin",
        ),
        (lambda: tgt.build_layer(mixed(), like=nn.Conv2d(8, 12, 3, groups=2)), ValueError, "one format"),
        (lambda: tgt.dense_layer(nn.Sequential(nn.Conv2d(4, 6, 3))), TypeError, "without a plan"),
        (lambda: tgt.dense_layer(CONV), TypeError, "Conv2d without a plan"),
        (lambda: tgt.dense_layer(tampered()), ValueError, "follow their plan"),
        (lambda: tgt.decompose_layer(CONV, format="cpd", tol=0.1), ValueError, "'cpd'.*cut, tucker, tt, tr, cp"),
        (lambda: tgt.decompose_layer(CONV), (TypeError, ValueError), "tol.*ranks|ranks.*tol"),
        (lambda: tgt.decompose_layer(CONV, tol=0.5, minimize="watts"), ValueError, "'watts'.*'parameters'"),
        (lambda: tgt.build_layer(RING, like=CONV, minimize="watts"), ValueError, "'watts'.*'parameters'"),
        (lambda: tgt.decompose_layer(CONV, tol=1.0), ValueError, "1.0"),
        (lambda: tgt.decompose_layer(CONV, tol=-0.1), ValueError, "-0.1"),
        (lambda: tgt.decompose_layer(CONV, tol="0.1"), TypeError, "0.1"),
        (lambda: tgt.decompose_layer(CONV, format="tucker", ranks=(2, 2, 2, 2)), ValueError, "r_out, r_in"),
        (lambda: tgt.decompose_layer(CONV, format="tt", ranks=(2, 2)), ValueError, "ranks"),
        (lambda: tgt.decompose_layer(CONV, format="cp", ranks=(2, 2)), ValueError, "one: the number of terms"),
        (lambda: tgt.decompose_layer(CONV, format="cp4"), ValueError, "tol.*rank|rank.*tol"),
        (lambda: tgt.decompose_layer(CONV, format="tucker-cp", ranks=(2, 2)), ValueError, "r_out, r_in, terms"),
        (lambda: tgt.decompose_layer(CONV, format="cut", ranks=0), ValueError, "0"),
        (lambda: tgt.decompose_layer(not_a_number(), tol=0.1), ValueError, r"0, 1, 2, 0.*nan"),
        (lambda: tgt.decompose_layer(nn.Bilinear(4, 6, 3), tol=0.1), TypeError, "Bilinear"),
        (lambda: tgt.decompose_layer("conv", tol=0.1), TypeError, "str"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def weight_normed():
    return nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3))


def block_terms_of_a_matrix():
    return tg.random.btd((6, 4), terms=2, ranks=(2, 2), rng=0)


def mixed():
    return [RING, tg.random.tt((6, 4, 3, 3), ranks=2)]


def tampered():
    layers = tgt.build_layer(RING, like=CONV)
    layers[0] = nn.Conv2d(4, 2, 5)
    return layers


def not_a_number():
    conv = nn.Conv2d(4, 6, 3)
    with torch.no_grad():
        conv.weight[0, 1, 2, 0] = float("nan")
    return conv
