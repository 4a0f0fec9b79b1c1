"""The CIFAR benchmark on a tiny network and noise: budgets are kept, steps go on where they were, pages show all."""

import sys

import numpy as np
import pytest
import torch
from tensorring_torch.latency import Stopwatch
from torch import nn

pytest.importorskip("tqdm")
from benchmarks import cifar, cifar_page, machine, resnet
from benchmarks.cache import Cache
from benchmarks.cifar_methods import METHODS, block_convolutions
from benchmarks.cifar_recipes import strongly_augmented
from benchmarks.networks import agreement, augmented, divergence, latencies, multiply_adds, parameters, predicted

torch.set_num_threads(1)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = {
        "stem": nn.Conv2d(3, 8, 3, padding=1, bias=False), "norm": nn.BatchNorm2d(8), "act": nn.ReLU(),
        "layer1": nn.Conv2d(8, 12, 3, padding=1), "act1": nn.ReLU(), "layer2": nn.Conv2d(12, 12, 3, padding=1),
        "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "linear": nn.Linear(12, 4),
    }  # fmt: skip
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model.eval()


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with noise for images, and the tiny network wherever a pretrained one is asked for."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 96), ("test", 20)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
        arrays[f"{part}_labels"] = rng.integers(0, 4, count)
    np.savez(tmp_path / "cifar10_sample.npz", **arrays)
    monkeypatch.setattr(resnet, "pretrained", lambda data, name: network())
    monkeypatch.setattr(machine, "describe", lambda packages: "a machine")
    return tmp_path


def run(monkeypatch, data, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["cifar", "--data", str(data), "--cache", str(data / "cache"), *arguments])
    cifar.main()


class Work(Stopwatch):
    """A clock by which a number stored is a second."""

    def measure(self, modules, inputs):
        return [float(parameters(module)) for module in modules]


# Pruning needs residual blocks, and has a file of its own.
@pytest.mark.parametrize("name", [name for name in METHODS if name != "pruned"])
def test_every_method_keeps_its_budget_and_leaves_the_dense_network(monkeypatch, name):
    monkeypatch.setattr("tensorring_torch.budgeted.Stopwatch", Work)
    dense, x = network(), torch.randn(32, 3, 8, 8)
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    ours = METHODS[name].apply(dense, 1.8, x).eval()
    if name not in ("dense", "vbmf"):
        assert parameters(ours) * 1.8 <= parameters(dense)
        assert parameters(ours) * 2.6 >= parameters(dense)
    assert predicted(ours, x).shape == (32, 4)
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())


@pytest.mark.parametrize("name", ["uniform", "cp-plain"])
def test_uniform_means_the_same_share_of_each_kernel(name):
    dense = network()
    ours = METHODS[name].apply(dense, 1.8, torch.randn(32, 3, 8, 8))
    assert isinstance(ours.get_submodule("stem"), nn.Conv2d)
    assert isinstance(ours.get_submodule("linear"), nn.Linear)
    shares = []
    for key, conv in block_convolutions(dense):
        terms = sum(conv.weight.shape[:2]) + 9
        rank = next(ours.get_submodule(key).children()).weight.shape[0]
        shares.append(((rank, rank + 1), conv.weight.numel() / terms))
    low, high = (pick(rank[k] / whole for rank, whole in shares) for k, pick in ((0, max), (1, min)))
    assert low < high + 1e-9, "there is one share of which all ranks are the most that it allows"


def test_the_steps_go_on_where_they_were(data, monkeypatch, capsys):
    arguments = ["--method", "cp-plain", "cut", "--ratio", "1.5", "--seeds", "1", "2", "--images", "32"]
    run(monkeypatch, data, *arguments, "--only", "fit")
    cache = Cache(data / "cache")
    names = {name for name, _ in cache.all()}
    assert names == {"resnet20-dense-1.0-0", "resnet20-cp-plain-1.5-0", "resnet20-cut-1.5-1", "resnet20-cut-1.5-2"}
    assert all("accuracy" not in figures and "latency" not in figures for _, figures in cache.all())
    run(monkeypatch, data, *arguments, "--only", "accuracy", "latency", "seconds")
    first = dict(cache.all())
    timed = {name for name, figures in first.items() if "quiet" in figures}
    assert timed == {"resnet20-cp-plain-1.5-0", "resnet20-cut-1.5-1"}, "what is made, of the first seed that there is"
    assert all(figures["quiet"]["seconds"] > 0 for figures in first.values() if "quiet" in figures)
    assert first["resnet20-dense-1.0-0"]["divergence"] == 0
    assert first["resnet20-dense-1.0-0"]["agreement"] == 1
    assert "latency" not in first["resnet20-cut-1.5-2"]
    x, y = resnet.images(data, "test")
    assert first["resnet20-dense-1.0-0"]["accuracy"] == resnet.accuracy(network(), x, y)
    monkeypatch.setattr(resnet, "told_right", lambda *_: pytest.fail("test images are looked at once a network"))
    capsys.readouterr()
    run(monkeypatch, data, *arguments)
    assert dict(cache.all()) == first, "nothing is made twice"
    printed = capsys.readouterr().out
    assert "## resnet20" in printed
    assert [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")] == [
        "method", "dense", "ours: cut", "plain CP, uniform ratio",
    ]  # fmt: skip


def test_networks_are_trained_on_and_kept(data, monkeypatch, capsys):
    """Our recipe, RSDTR's with its best epoch, MUSCO's steps from the dense network; each within its budget."""
    methods = ["--method", "cut", "cp-plain", "ring", "musco", "--ratio", "1.5"]
    arguments = [*methods, "--seeds", "0", "1", "--images", "32"]
    run(monkeypatch, data, *arguments, "--only", "fit")
    cache = Cache(data / "cache")
    starts = dict(cache.all())
    run(monkeypatch, data, *arguments, "--fine-tune", "3", "--clip", "0", "--only", "tune", "accuracy", "latency")
    after = {name: figures for name, figures in cache.all() if name not in starts}
    paces = {"cut": "0.001-0", "cp-plain": "0.001-0", "ring": "0.01-0", "musco": "0.001-0"}
    assert set(after) == {f"resnet20-{m}-1.5-{s}-3-{pace}" for m, pace in paces.items() for s in (0, 1)}
    for name, figures in after.items():
        assert figures["epochs"] == 3
        assert f"{figures['lr']}-0" == paces[figures["method"]]
        assert figures["clip"] is None
        assert figures["stop"] == "epochs"
        assert figures["parameters"] * 1.5 <= figures["dense_parameters"]
        assert "latency" not in figures
        again = cifar.loaded(cache, name, network())
        assert figures["accuracy"] == resnet.accuracy(again, *resnet.images(data, "test"))
    for kind in ("cut-1.5-0", "ring-1.5-0"):
        ours = cifar.loaded(cache, f"resnet20-{kind}", network())
        assert parameters(ours) == after[f"resnet20-{kind}-3-{paces[kind[:-6]]}"]["parameters"]
    kept = dict(cache.all())
    monkeypatch.setattr(resnet, "told_right", lambda *_: pytest.fail("test images are looked at once a network"))
    capsys.readouterr()
    run(monkeypatch, data, *arguments, "--fine-tune", "3", "--clip", "0", "--only", "tune", "accuracy", "page")
    assert dict(cache.all()) == kept, "nothing is made twice"
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line[1].strip() for line in lines[1:]] == [
        "dense", "ours: cut", "rings of equal error (RSDTR)", "plain CP, uniform ratio",
        "Tucker in three steps (MUSCO)",
    ]  # fmt: skip
    assert all(line[7].strip() for line in lines[2:])
    run(monkeypatch, data, *arguments, "--only", "page")
    assert "MUSCO" not in capsys.readouterr().out


def test_a_record_stands_in_for_networks_that_are_gone(data, monkeypatch, capsys):
    """Nothing in it is made again, but for what another seed begins with; and that keeps its figures."""
    record, cache = data / "record.jsonl", Cache(data / "cache")
    arguments = ["--method", "cp-plain", "--ratio", "1.5", "--images", "32", "--fine-tune", "1", "--clip", "0"]
    steps = ["--record", str(record), "--only", "fit", "tune", "accuracy", "page"]
    run(monkeypatch, data, *arguments, "--seeds", "0", *steps)
    printed, known = capsys.readouterr().out, record.read_text()
    for path in cache.folder.iterdir():
        path.unlink()
    run(monkeypatch, data, *arguments, "--seeds", "0", *steps)
    assert capsys.readouterr().out.splitlines()[-3:] == printed.splitlines()[-3:]
    assert not list(cache.folder.iterdir())
    run(monkeypatch, data, *arguments, "--seeds", "1", *steps)
    made = {path.name for path in cache.folder.glob("*.safetensors")}
    assert made == {"resnet20-cp-plain-1.5-0.safetensors", "resnet20-cp-plain-1.5-1-1-0.001-0.safetensors"}
    assert set(known.splitlines()) < set(record.read_text().splitlines())
    seeds = [line.split("|")[10].split(",") for line in capsys.readouterr().out.splitlines() if "plain CP" in line]
    assert len(seeds[-1]) == 2


def test_strong_augmentation_follows_the_seed_and_mixes():
    x = torch.zeros(64, 3, 8, 8)
    x[:, 0] = torch.arange(64.0).reshape(-1, 1, 1)
    torch.manual_seed(0)
    first = strongly_augmented(x)
    torch.manual_seed(0)
    assert torch.equal(strongly_augmented(x), first)
    assert first.shape == x.shape
    assert torch.isfinite(first).all()
    assert not torch.equal(strongly_augmented(x), first)


def test_loaded_networks_are_those_that_were_made(data, monkeypatch):
    run(monkeypatch, data, "--method", "auto", "--ratio", "1.5", "--seeds", "0", "--images", "32", "--only", "fit")
    cache = Cache(data / "cache")
    name = "resnet20-auto-1.5-0"
    again = cifar.tgt.load(cache.weights(name), network()).eval()
    figures = cache.figures(name)
    assert figures is not None
    assert parameters(again) == figures["parameters"]
    _, held_out = cifar.split(resnet.images(data, "train")[0])
    expected, got = predicted(network(), held_out), predicted(again, held_out)
    assert divergence(expected, got) == pytest.approx(figures["divergence"], rel=1e-4, abs=1e-7)
    assert agreement(expected, got) == pytest.approx(figures["agreement"], abs=0.02)


def test_held_out_images_are_no_calibration_images():
    x = torch.arange(1.0, 41.0).reshape(40, 1, 1, 1).expand(40, 3, 8, 8).contiguous()
    rest, held_out = cifar.split(x)
    assert len(rest) == len(held_out) == 20
    assert set(rest.unique().tolist()).isdisjoint(held_out.unique().tolist())
    assert all(torch.equal(a, b) for a, b in zip(cifar.split(x), (rest, held_out), strict=True))


def test_a_line_is_the_mean_of_its_seeds():
    rows = [
        {"network": "resnet20", "method": "auto", "ratio": 4.0, "seed": seed, "parameters": 50, "dense_parameters": 200,
         "multiply_adds": 10**6, "divergence": 0.1 * seed, "agreement": 0.9, "seconds": 10.0 * seed,
         "accuracy": 0.9, "test_images": 100, "right": f"{seed % 2}" * 20 + "1" * 80}
        for seed in (1, 2)
    ]  # fmt: skip
    dense = {"method": "dense", "right": "0" * 5 + "1" * 95, "accuracy": 0.95}
    cells = dict(zip(cifar_page.HEAD, cifar_page.line(rows, [dense]), strict=False))
    apart = np.array([0.5] * 5 + [-0.5] * 15 + [0.0] * 80)
    assert cells["vs dense"] == f"{100 * apart.mean():+.1f} ± {100 * apart.std(ddof=1) / 10:.1f}"
    for row in rows:  # as read back from a table
        del row["right"]
        row["difference_error"] = 0.012
    cells = dict(zip(cifar_page.HEAD, cifar_page.line(rows, [dense]), strict=False))
    assert cells["vs dense"] == f"{100 * apart.mean():+.1f} ± 1.2"
    assert cells["ratio"] == "4.00"
    assert cells["accuracy, %"] == "90.0 ± 3.0"
    assert cells["KL"] == "0.1500"
    assert cells["seconds"] == "10", "of the first seed"
    assert cells["seeds"] == "2"
    assert cells["ms, batch 1"] == ""


def test_multiply_adds_latencies_and_divergence():
    model, x = network(), torch.randn(1, 3, 8, 8)
    assert multiply_adds(model, x) == 64 * 9 * (3 * 8 + 8 * 12 + 12 * 12) + 12 * 4
    assert not any(layer._forward_hooks for layer in model.modules())
    assert all(found > 0 for found in latencies([model, model], x, 2))
    logits = torch.randn(5, 4)
    assert divergence(logits, logits + 1) == pytest.approx(0, abs=1e-6)
    assert divergence(logits, -logits) > 0.1


def test_augmented_images_are_moved_and_mirrored():
    x = torch.arange(1.0, 65.0).reshape(1, 1, 8, 8).expand(200, 2, 8, 8)
    y = augmented(x, torch.Generator().manual_seed(0))
    assert y.shape == x.shape
    padded = {flip: nn.functional.pad(x[0].flip(2) if flip else x[0], (4, 4, 4, 4)) for flip in (False, True)}
    windows = {
        (flip, r, c): image[:, r : r + 8, c : c + 8]
        for flip, image in padded.items()
        for r in range(9)
        for c in range(9)
    }
    seen = {next(key for key, window in windows.items() if torch.equal(window, image)) for image in y}
    assert len(seen) > 100
