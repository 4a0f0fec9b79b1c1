"""Files: what was saved comes back, and nothing else gets in."""

import json
import pickle
import struct

import pytest
import tensorring_torch as tgt
import torch
from safetensors.torch import load_file, save_file
from torch import nn

torch.set_num_threads(1)


def network(channels=16, dtype=torch.float32):
    layers = [nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, 24, 3, groups=2, bias=False)]
    return nn.Sequential(*layers).to(dtype)


@pytest.fixture
def small():
    torch.manual_seed(0)
    model = network()
    model[1].running_mean.normal_()
    return tgt.compress(model, torch.zeros(1, 3, 12, 12), tol=0.6).model


@pytest.fixture
def path(tmp_path, small):
    tgt.save(tmp_path / "small.safetensors", small)
    return tmp_path / "small.safetensors"


def test_saved_and_loaded_onto_a_fresh_dense_model(small, path):
    fresh = network().eval()
    fresh[3].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    again = tgt.load(path, fresh)
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(again(x), small.eval()(x))
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
    assert not again.training
    assert not any(module.training for module in again.modules())
    assert not any(p.requires_grad for name, p in again[3].named_parameters() if "weight" in name)
    assert again[0].plan == small[0].plan if hasattr(small[0], "plan") else not hasattr(again[0], "plan")
    for old, new in zip(small, again, strict=True):
        if hasattr(old, "plan"):
            assert new.plan == old.plan
            assert torch.equal(tgt.dense_layer(new).weight, tgt.dense_layer(old).weight)
    assert any(hasattr(layer, "plan") for layer in again)


def test_every_form_comes_back(tmp_path):
    torch.manual_seed(0)
    for format in ("tr", "tt", "tucker", "cut", "cp", "cp4", "tucker-cp"):
        model = nn.Sequential(nn.Conv2d(8, 12, 3, groups=2, stride=2, padding=1, padding_mode="reflect"))
        model[0] = tgt.decompose_layer(model[0], format=format, ranks=2)
        tgt.save(tmp_path / "x", model)
        fresh = nn.Sequential(nn.Conv2d(8, 12, 3, groups=2, stride=2, padding=1, padding_mode="reflect"))
        x = torch.randn(2, 8, 9, 9)
        assert torch.equal(tgt.load(tmp_path / "x", fresh)(x), model(x))


def test_one_layer_alone(tmp_path):
    layers = tgt.decompose_layer(nn.Conv2d(8, 8, 3), tol=0.5)
    tgt.save(tmp_path / "x", layers)
    x = torch.randn(1, 8, 6, 6)
    assert torch.equal(tgt.load(tmp_path / "x", nn.Conv2d(8, 8, 3))(x), layers(x))


def test_tied_tensors_and_layers(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(8, 8, 3, padding=1)
            self.b = self.a
            self.c, self.d = nn.Linear(4, 4), nn.Linear(4, 4)
            self.d.weight = self.c.weight
            self.register_buffer("view", torch.arange(6.0)[::2])

        def forward(self, x):
            return self.b(self.a(x))

    model = Tied()
    model.a = model.b = tgt.decompose_layer(model.a, format="tucker", ranks=3)
    tgt.save(tmp_path / "x", model)
    again = tgt.load(tmp_path / "x", Tied())
    assert again.a is again.b
    assert again.c.weight is again.d.weight
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(again(x), model(x))
    stored = load_file(tmp_path / "x")
    assert sum(tensor.numel() for tensor in stored.values()) == sum(p.numel() for p in model.parameters()) + 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(tmp_path, dtype):
    model = network(dtype=dtype)
    model[3] = tgt.decompose_layer(model[3], tol=0.5)
    tgt.save(tmp_path / "x", model)
    again = tgt.load(tmp_path / "x", network(dtype=dtype))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r"'0.weight'.*float32"):
        tgt.load(tmp_path / "x", network())


def rewritten(path, tensors=None, **metadata):
    """The file with some of its parts exchanged."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        old = json.loads(file.read(length))["__metadata__"]
    new = {key: value for key, value in (old | metadata).items() if value is not None}
    save_file(load_file(path) if tensors is None else tensors, path, new)


def plan_with(path, **changes):
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        layers = json.loads(json.loads(file.read(length))["__metadata__"]["layers"])
    layers["3"] = {key: value for key, value in (layers["3"] | changes).items() if value != "drop"}
    rewritten(path, layers=json.dumps(layers))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-10]), "not a complete"),
        (lambda p: p.write_bytes(p.read_bytes()[:100]), "not a complete"),
        (lambda p: p.write_bytes(b""), "not a complete"),
        (lambda p: p.write_bytes(b"\xff" * 64), "not a complete"),
        (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "not a complete"),
        (lambda p: save_file({"a": torch.zeros(1)}, p), "tensorring_torch"),
        (lambda p: rewritten(p, version="99"), "99"),
        (lambda p: rewritten(p, version="1"), "'1'.*version '2'"),
        (lambda p: rewritten(p, format="other"), "other"),
        (lambda p: rewritten(p, layers=None), "'layers'"),
        (lambda p: rewritten(p, layers="{"), "'layers'"),
        (lambda p: rewritten(p, layers="[1]"), "'layers'.*list"),
        (lambda p: rewritten(p, layers="[" * 100_000), "'layers'"),
        (lambda p: rewritten(p, layers='{"3": 5}'), "'3'"),
        (lambda p: rewritten(p, layers="{}"), r"in the file but not in the model|in the model but not in the file"),
        (lambda p: rewritten(p, tied='{"x": "y"}'), "'x'.*'y'"),
        (lambda p: rewritten(p, tied='{"x": 1}'), "'x'"),
        (lambda p: plan_with(p, links=[[10**12, 16, [1, 1], 1], [16, 10**12, [3, 3], 1]]), "10000000000000|claims"),
        (lambda p: plan_with(p, links=[[10**400, 16, [1, 1], 1], [16, 10**400, [3, 3], 1]]), "claims"),
        (lambda p: plan_with(p, links=[[4, 16, [1, 1], 1], [16, 4, [3, 1], 1]]), "'3'.*together"),
        (lambda p: plan_with(p, links=[[4, 16, [9, 1], 1], [16, 4, [1, 3], 1]]), "'3'"),
        (lambda p: plan_with(p, links=[[-4, 16, [1, 1], 1], [16, -4, [3, 3], 1]]), "positive"),
        (lambda p: plan_with(p, links=[[4.0, 16, [1, 1], 1], [16, 4, [3, 3], 1]]), "positive"),
        (lambda p: plan_with(p, links=[[True, 16, [1, 1], 1], [16, 1, [3, 3], 1]]), "positive"),
        (lambda p: plan_with(p, links=[[1, 2, [3, 4], 5, 6]]), "'3'"),
        (lambda p: plan_with(p, links=[]), "'3'"),
        (lambda p: plan_with(p, links=[[4, 16, [1, 1], 1], [4, 4, [3, 3], 3], [16, 4, [1, 1], 1]]), "'3'.*evenly"),
        (lambda p: plan_with(p, links=[[4, 16, [3, 3], 1], [16, 4, [1, 1], 4]]), "'3'.*the last has one"),
        (
            lambda p: plan_with(
                p, links=[[4, 16, [1, 1], 1], [4, 4, [3, 3], 2], [4, 4, [1, 1], 4], [16, 4, [1, 1], 0]]
            ),
            "positive",
        ),
        (lambda p: plan_with(p, links="abc"), "'3'"),
        (lambda p: plan_with(p, links="drop"), "'3'"),
        (lambda p: plan_with(p, blocks=7), "'3'.*7 blocks"),
        (lambda p: plan_with(p, ranks="many"), "'3'"),
        (lambda p: plan_with(p, geometry={}), "'3'"),
        (lambda p: plan_with(p, geometry="drop"), "'3'"),
        (lambda p: rewritten(p, tensors=dict(list(load_file(p).items())[1:])), "in the model but not in the file"),
        (lambda p: rewritten(p, tensors=load_file(p) | {"more": torch.zeros(2)}), "'more'.*not in the model"),
        (lambda p: rewritten(p, tensors=load_file(p) | {"1.bias": torch.zeros(2)}), r"'1.bias'.*\(2,\)"),
    ],
)
def test_spoiled_files(path, spoil, message):
    spoil(path)
    with pytest.raises(ValueError, match=message):
        tgt.load(path, network())


def test_models_that_do_not_fit(path):
    for model, message in (
        (network(channels=20), "does not fit|model needs"),
        (nn.Sequential(), "no layer of that name"),
        (tgt.load(path, network()), "does not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            tgt.load(path, model)
    with pytest.raises(TypeError, match=r"dict.*nn.Module"):
        tgt.load(path, {})


def test_paths_and_atomic_writes(tmp_path, small, path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        tgt.load(tmp_path / "none", network())
    with pytest.raises(IsADirectoryError):
        tgt.load(tmp_path, network())
    with pytest.raises(FileNotFoundError):
        tgt.save(tmp_path / "no" / "folder", small)
    with pytest.raises(TypeError, match=r"list.*nn.Module"):
        tgt.save(path, [])
    content = path.read_bytes()

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        tgt.save(path, network())
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_state_that_is_no_tensor(tmp_path):
    class Extra(nn.Module):
        def get_extra_state(self):
            return {"anything": 1}

    with pytest.raises(TypeError, match=r"_extra_state.*dict"):
        tgt.save(tmp_path / "x", Extra())
