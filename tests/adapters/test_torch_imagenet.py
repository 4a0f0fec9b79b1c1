"""The benchmark for a network and pictures of one's own, on random weights and noise."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from safetensors.torch import save_file
from torch import nn

pytest.importorskip("tqdm")
pytest.importorskip("PIL")
from PIL import Image

from benchmarks import imagenet, machine
from benchmarks.networks import agreement, divergence, multiply_adds, parameters, predicted

torch.set_num_threads(1)
CLASSES, SIZE = 6, 64
NAMES = [f"n{k:02}" for k in (3, 11, 4, 1, 12, 7)]


class Block(nn.Module):
    """As in a ResNet-18: a shortcut with a convolution where the picture shrinks."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample = nn.Sequential()
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


def tiny() -> nn.Module:
    """The beginning, the blocks and the end of a ResNet-18, two blocks and few channels."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        Block(16, 16, 1), Block(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip


def pictures(root, count: int, seed: int) -> None:
    """Noise of several shapes and kinds, the same number for each class."""
    rng = np.random.default_rng(seed)
    shapes = [("RGB", (70, 90, 3)), ("L", (80, 64)), ("RGB", (64, 130, 3))]
    for name in NAMES:
        (root / name).mkdir(parents=True)
        for k in range(count):
            mode, shape = shapes[k % 3]
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).convert(mode).save(
                root / name / f"{k}.{('png', 'JPEG', 'jpg')[k % 3]}"
            )
        (root / name / "notes.txt").write_text("no picture")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Pictures of six classes, weights, and a machine without a name."""
    pictures(tmp_path / "train", 8, 0)
    pictures(tmp_path / "val", 3, 1)
    torch.manual_seed(0)
    save_file(tiny().state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(machine, "describe", lambda packages: "a machine")
    monkeypatch.setattr(imagenet, "TIMED", {1: 1, 32: 1})
    return tmp_path


def run(monkeypatch, capsys, data, *arguments: str) -> list[list[str]]:
    """The cells of the table that is printed."""
    given = ["--data", data, "--weights", data / "weights.safetensors", "--model", f"{__name__}:tiny"]
    given += ["--images", 24, "--held-out", 12, "--size", SIZE, *arguments]
    monkeypatch.setattr(sys, "argv", ["imagenet", *map(str, given)])
    capsys.readouterr()
    imagenet.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def dense_of(data) -> nn.Module:
    return imagenet.trained(f"{__name__}:tiny", data / "weights.safetensors")


def test_a_table_of_all_networks_with_what_is_true_of_them(data, monkeypatch, capsys):
    head, first, *others = run(monkeypatch, capsys, data, "--budget", 0.7, 0.5, "--fine-tune", 1, "--batch", 8,
                               "--save", data / "made")  # fmt: skip
    assert tuple(head) == imagenet.HEAD
    assert [cells[0] for cells in (first, *others)] == [
        "dense", "0.7 of parameters", "0.7 of parameters, tuned", "0.5 of parameters", "0.5 of parameters, tuned",
    ]  # fmt: skip
    dense, val = dense_of(data), imagenet.images(data, "val", SIZE)
    _, held_out, _ = imagenet.drawn(imagenet.images(data, "train", SIZE), 24, 12)
    assert first[2] == first[4] == "1.00"
    assert (first[-4], first[-3]) == ("100.0", "0.0000")
    x, y = (torch.stack([torch.as_tensor(each[k]) for each in val]) for k in (0, 1))
    expected = predicted(dense, held_out)
    for cells in others:
        file = data / "made" / f"{'-'.join(cells[0].replace(',', '').split())}.safetensors"
        model = tgt.load(file, dense_of(data)).eval()
        assert cells[1] == f"{parameters(model):,}"
        assert parameters(model) <= float(cells[0].split()[0]) * parameters(dense)
        assert cells[3] == f"{multiply_adds(model, x[:1]) / 1e6:.1f}"
        got, order = predicted(model, held_out), predicted(model, x).argsort(1, descending=True)
        assert float(cells[-4]) == pytest.approx(100 * agreement(expected, got), abs=0.06)
        assert float(cells[-3]) == pytest.approx(divergence(expected, got), abs=6e-5)
        right = order == y[:, None]
        assert float(cells[-2]) == pytest.approx(100 * right[:, 0].float().mean().item(), abs=0.006)
        assert float(cells[-1]) == pytest.approx(100 * right[:, :5].any(1).float().mean().item(), abs=0.006)
        assert all(float(cells[k]) > 0 for k in range(5, 9))


def test_arrays_without_validation_and_other_weights(data, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    where = data / "arrays"
    where.mkdir()
    images = rng.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    np.savez(where / "train.npz", images=images, labels=rng.integers(0, 6, 40))
    torch.save(dense_of(data).state_dict(), where / "weights.pt")
    asked = []

    def compress(model, example, *, budget, calibration):
        asked.append((len(example), budget, len(calibration)))
        return SimpleNamespace(model=model)

    monkeypatch.setattr(imagenet.tgt, "compress", compress)
    arguments = ["--data", where, "--weights", where / "weights.pt", "--images", 28, "--of"]
    for of in ("latency", "macs"):
        _, first, second = run(monkeypatch, capsys, data, *arguments, of)
        assert second[0] == f"0.5 of {of}"
        assert first[-4:] == second[-4:] == ["100.0", "0.0000", "", ""]
    assert asked == [(28, tgt.Budget(latency=0.5), 28), (1, tgt.Budget(macs=0.5), 28)]
    x = imagenet.images(where, "train", 7)[0][0]
    deviation, mean = (np.array(each)[:, None, None] for each in (imagenet.STD, imagenet.MEAN))
    np.testing.assert_allclose((x.numpy() * deviation + mean) * 255, images[0], atol=1e-4)


def test_pictures_are_cut_out_of_the_middle_and_normalised(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    # Three bands of 56 rows: at size 49 the shorter side, 56, is kept, so that the middle is of the middle band alone.
    bands = np.repeat(np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8), 56, axis=0)
    Image.fromarray(np.repeat(bands[:, None], 56, axis=1)).save(tmp_path / "train" / "a" / "x.png")
    x, label = imagenet.images(tmp_path, "train", 49)[0]
    assert (x.shape, label) == ((3, 49, 49), 0)
    levels = [
        (byte - mean) / deviation for byte, mean, deviation in zip((0, 1, 0), imagenet.MEAN, imagenet.STD, strict=True)
    ]
    torch.testing.assert_close(x, torch.tensor(levels)[:, None, None].expand(3, 49, 49))


def test_labels_are_places_in_the_order_of_the_folders(data):
    found = imagenet.images(data, "val", SIZE)
    assert len(found) == 3 * CLASSES
    assert all(path.parent.name == sorted(NAMES)[label] for path, label in found.files)


def test_what_is_held_out_is_neither_fitted_to_nor_trained_on():
    class Numbers:
        def __len__(self):
            return 30

        def __getitem__(self, k):
            return torch.full((1,), float(k)), 0

    fitted, held_out, rest = imagenet.drawn(Numbers(), 8, 10)
    trained = [int(x) for x, _ in rest]
    assert len(fitted) == 8
    assert set(fitted.flatten().tolist()) <= set(trained)
    assert sorted([*trained, *held_out.flatten().tolist()]) == list(range(30))
    assert torch.equal(imagenet.drawn(Numbers(), 8, 10)[1], held_out)


def test_mirrored_images_are_the_images_or_their_mirrors():
    torch.manual_seed(0)
    x = torch.arange(4.0).expand(100, 1, 2, 4)
    y = imagenet.mirrored(x)
    turned = (y == x.flip(3)).all((1, 2, 3))
    assert 30 < int(turned.sum()) < 70
    assert bool((turned | (y == x).all((1, 2, 3))).all())


def test_mistakes_are_told(data, monkeypatch, capsys):
    for arguments, message in (
        (["--data", data / "train"], "neither a folder train nor a file train.npz"),
        (["--images", 100], "got 48 training images; --images 100 and --held-out 12 ask for more"),
        (["--model", "torch"], "got --model torch; it is module:function"),
    ):
        with pytest.raises(ValueError, match=message):
            run(monkeypatch, capsys, data, *arguments)
    pictures(data / "few" / "train", 8, 0)
    (data / "few" / "val" / NAMES[0]).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"got 1 folders with 0 pictures in .*val, and a network of 6 classes"):
        run(monkeypatch, capsys, data, "--data", data / "few")
