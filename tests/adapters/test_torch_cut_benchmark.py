"""The benchmark of truncated cuts on a tiny network and noise: choices, retraining, the page and the picture."""

import sys

import pytest
import tensorring_torch as tgt
import torch
from torch import nn

import tensorring as tg

pytest.importorskip("tqdm")
from benchmarks import compressibility, compressibility_page, machine, resnet
from benchmarks.cache import Cache
from benchmarks.networks import parameters, predicted

torch.set_num_threads(1)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = {
        "conv1": nn.Conv2d(3, 6, 3), "act": nn.ReLU(), "layer1": nn.Conv2d(6, 8, 3), "act1": nn.ReLU(),
        "layer2": nn.Conv2d(8, 8, 3), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "linear": nn.Linear(8, 4),
    }  # fmt: skip
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model.eval()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that `main` filled from noise, with all that it looks at replaced by something tiny."""

    def images(data, part):
        count = 40 if part == "train" else 12
        return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count)), torch.arange(count) % 4

    monkeypatch.setattr(resnet, "images", images)
    monkeypatch.setattr(resnet, "pretrained", lambda data, name: network())
    monkeypatch.setattr(machine, "describe", lambda packages: "a machine")
    folder = tmp_path / "cache"
    words = f"compressibility --data {tmp_path} --cache {folder} --loss 0.3 0.7 --least 0.9 --epochs 1 --images 16"
    monkeypatch.setattr(sys, "argv", words.split())
    compressibility.main()
    return Cache(folder)


def test_from_the_command_to_the_page(cache, capsys, monkeypatch):
    figures = cache.figures("resnet20")
    assert (figures["images"], figures["test_images"], figures["score"]) == (16, 12, 1.0)
    assert [(row["least"], row["epochs"]) for row in figures["rows"]] == [(None, 0), (0.9, 0), (0.9, 1)]
    dense, before, after = figures["rows"]
    assert before["parameters"] == after["parameters"] < dense["parameters"] == parameters(network())
    assert "agreement" not in after
    monkeypatch.setattr(tgt, "compressibility", None)
    monkeypatch.setattr(tgt, "fine_tune", None)
    compressibility.main()  # all of it is there
    shown = capsys.readouterr().out
    assert "| layer1 | 1      |" in shown
    assert "| 90%" in shown
    assert r"O \| I h w" in shown


def test_best_cuts_save_most_where_the_score_stays():
    def cut(layer, modes, *truncations):
        keys = ("loss", "rank", "parameters", "score")
        shape, found = [8, 6, 3, 3], [dict(zip(keys, each, strict=True)) for each in truncations]
        return {"layer": layer, "modes": modes, "shape": shape, "values": [1.0] * 8, "truncations": found}

    cuts = [
        cut("a", [0], (0.1, 7, 434, 1.0), (0.5, 3, 186, 0.99), (0.7, 2, 124, 0.9)),
        cut("a", [0, 3], (0.1, 12, 504, 1.0), (0.5, 4, 168, 0.995), (0.7, 2, 84, 0.9)),
        cut("a", [1], (0.1, 5, 390, 0.98), (0.5, 1, 78, 1.0)),  # it stays at the second, but not up to it
        cut("b", [0], (0.1, 8, 640, 1.0), (0.5, 3, 240, 0.5)),  # at full rank nothing is saved
    ]
    assert compressibility.best_cuts(cuts, 0.99) == {"a": compressibility.Chosen((0, 3), 4)}
    assert compressibility.best_cuts(cuts, 0.9)["a"] == compressibility.Chosen((1,), 1)
    assert compressibility.best_cuts(cuts, 1.1) == {}
    assert [compressibility_page.borne(each) for each in cuts] == [(0.5, 3 / 8), (0.5, 0.5), (0.0, 1.0), (0.1, 1.0)]


def test_truncated_layers_compute_the_truncated_weights():
    dense = network()
    chosen = {
        "conv1": compressibility.Chosen((2,), 2),
        "layer1": compressibility.Chosen((0, 3), 2),
        "layer2": compressibility.Chosen((0, 1), 1),
        "linear": compressibility.Chosen((0,), 2),
    }
    model, x = compressibility.truncated(dense, chosen), torch.randn(2, 3, 8, 8)
    assert parameters(model) < parameters(dense)
    for name, cut in chosen.items():
        weight = dense.get_submodule(name).weight
        low = tg.cut_svd(weight.detach().numpy(), modes=cut.modes, ranks=cut.rank).tensor.to_dense()
        weight.data = torch.from_numpy(low)
    torch.testing.assert_close(predicted(model, x), predicted(dense, x))


def test_the_picture(cache, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from benchmarks import compressibility_plot

    compressibility_plot.draw(cache.figures("resnet20"), tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").stat().st_size > 1000
