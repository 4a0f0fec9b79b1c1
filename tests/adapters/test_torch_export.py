"""Leaving the lab: compressed networks with residual sums exported, compiled, cast, copied, saved, and as they were."""

import copy
import io
import shutil

import pytest
import tensorring_torch as tgt
import torch
from torch import nn
from torch.nn import functional

import tensorring as tg

torch.set_num_threads(1)

FORMATS = ("cut", "tucker", "tt", "tr", "cp")


class Block(nn.Module):
    """Two convolutions, the second one with groups; where it strides, the shortcut is a convolution too."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, groups=2)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(before, after, 1, stride=stride)

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.blocks(functional.relu(self.stem(x))).mean((2, 3)))


def network():
    """Kernels of low rank in every format, and statistics that a training would have left."""
    torch.manual_seed(0)
    model = Network().eval()
    for seed, module in enumerate(model.modules()):
        if isinstance(module, nn.Conv2d):
            kernel = torch.from_numpy(tg.random.cp(tuple(module.weight.shape), rank=3, rng=seed).to_dense())
            gain = (2 * module.out_channels) ** 0.5 / kernel.norm()
            module.weight.data = (gain * kernel).float()
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture(scope="module", params=FORMATS)
def small(request):
    """The network in one format, and images."""
    torch.manual_seed(1)
    x = torch.randn(3, 3, 12, 12)
    result = tgt.compress(network(), x, tol=0.1, formats=[request.param])
    changed = [layer for layer in result.report.layers if layer.form != "dense"]
    assert len(changed) >= 3
    return result.model, x


def assert_close(got, expected, tol):
    error = (got.detach().double() - expected.detach().double()).norm() / expected.detach().double().norm()
    assert error <= tol


@pytest.mark.filterwarnings("ignore")  # of torch's own exporter
def test_exported_and_run_by_onnxruntime(small):
    """With a batch of any size."""
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x = small
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    other = torch.randn(5, *x.shape[1:])
    assert_close(program.module()(other), model(other), 1e-6)
    file = io.BytesIO()
    torch.onnx.export(program, (), dynamo=True, verbose=False).save(file)
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for images in (x, other):
        (got,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        assert_close(torch.from_numpy(got), model(images), 1e-4)


@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
def test_compiled_without_a_break_in_the_graph(small):
    model, x = small
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_close(compiled(x), model(x), 1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_to_machine_code():
    torch._dynamo.reset()
    x = torch.randn(3, 3, 12, 12)
    model = tgt.compress(network(), x, tol=0.1, formats=["tr"]).model
    with torch.no_grad():
        assert_close(torch.compile(model, fullgraph=True)(x), model(x), 1e-5)


def test_channels_last(small):
    model, x = small
    turned = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert_close(turned(x.to(memory_format=torch.channels_last)), model(x), 1e-5)
    images = model.stem(x.to(memory_format=torch.channels_last))
    assert_close(images, model.stem(x), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(small, dtype):
    """Weights in half, and autocast: as near as the dense network with the same kernels comes, within a factor."""
    model, x = small
    with torch.no_grad():
        expected = model(x)
        halved = copy.deepcopy(model).to(dtype)
        assert {parameter.dtype for parameter in halved.parameters()} == {dtype}
        found = [halved(x.to(dtype))]
        with torch.autocast("cpu", dtype=dtype):
            found.append(model(x))
    for got in found:
        assert got.dtype == dtype
        assert_close(got, expected, 16 * torch.finfo(dtype).eps)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_compressed_in_half_precision():
    x = torch.randn(2, 3, 12, 12)
    for dtype in (torch.bfloat16, torch.float16):
        result = tgt.compress(network().to(dtype), x.to(dtype), tol=0.1, formats=["tucker", "cut"])
        assert {parameter.dtype for parameter in result.model.parameters()} == {dtype}
        assert all(layer.error <= 0.1 + 4 * torch.finfo(dtype).eps for layer in result.report.layers)
        wide = tgt.compress(network().to(dtype).float(), x, tol=0.1, formats=["tucker", "cut"])
        assert [layer.ranks for layer in wide.report.layers] == [layer.ranks for layer in result.report.layers]
        assert_close(result.model(x.to(dtype)), wide.model(x), 16 * torch.finfo(dtype).eps)


def test_copied_saved_and_loaded(small, tmp_path):
    model, x = small
    expected = model(x)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(x), expected)
    tgt.save(tmp_path / "small.safetensors", model)
    again = tgt.load(tmp_path / "small.safetensors", network())
    assert torch.equal(again(x), expected)
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_trained_on_in_mixed_precision(small):
    """Every factor gets a gradient, in its own dtype."""
    model, x = copy.deepcopy(small[0]).train(), small[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(x).float().square().mean()
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()
