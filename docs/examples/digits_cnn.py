"""Trains a small CNN on the digits images, compresses it at several tolerances, and reads it back from a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import tensorring_torch as tgt
import torch
from sklearn.datasets import load_digits
from tensorring_torch.latency import Stopwatch
from torch import Tensor, nn
from tqdm import tqdm

TOLERANCES = (0.1, 0.2, 0.3, 0.35, 0.4, 0.5)
LINE = "{:<14} {:>9} {:>11} {:>15} {:>8} {:>16}  {}"


def make_model() -> nn.Module:
    """Four convolutions and a linear layer, for 8 × 8 images."""
    layers: list[nn.Module] = []
    for before, after in ((1, 64), (64, 128), (128, 128), (128, 256)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(
        *layers[:6], nn.MaxPool2d(2), *layers[6:], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)
    )


def load_images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train with, and every fifth held out."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    held_out = torch.arange(len(labels)) % 5 == 0
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int = 12) -> None:
    """AdamW with a one-cycle schedule; images shifted by up to a pixel."""
    steps = epochs * (len(images) // 64)
    # Strong decay: kernels of smaller norm have fewer directions that matter, and compress further.
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    model.train()
    for _ in tqdm(range(steps), desc="training", leave=False):
        batch = torch.randint(len(images), (64,))
        row, column = (int(shift) for shift in torch.randint(-1, 2, (2,)))
        loss = nn.functional.cross_entropy(model(images[batch].roll((row, column), (2, 3))), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images told right."""
    return (model(images).argmax(1) == labels).float().mean().item()


def save_and_reload(model: nn.Module, make: Callable[[], nn.Module], images: Tensor) -> str:
    """Saves a compressed model, restores it onto a freshly built dense one, and compares their outputs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "compressed.safetensors"
        tgt.save(path, model)
        restored = tgt.load(path, make()).eval()
        size = path.stat().st_size
    same = torch.equal(model(images), restored(images))
    return f"Saved in {size:,} bytes without pickle and read back: outputs {'equal bit for bit' if same else 'DIFFER'}."


def main() -> None:
    """Prints accuracy, parameters, multiply-adds and latency, dense and compressed."""
    torch.manual_seed(0)
    images, labels, held_images, held_labels = load_images()
    dense = make_model()
    train(dense, images, labels)
    results = [tgt.compress(dense, images[:1], tol=tol) for tol in tqdm(TOLERANCES, desc="compressing", leave=False)]
    models = [dense, *(result.model for result in results)]
    times = [1e3 * seconds for seconds in Stopwatch().measure(models, held_images[:256])]
    print(f"A CNN on 8 × 8 digits, {len(images)} images to train with, {len(held_images)} held out, no fine-tuning:\n")
    print(LINE.format("model", "held-out", "parameters", "multiply-adds", "ms/256", "against dense", "forms"))
    report = results[0].report
    counts = [(report.before.parameters, report.before.multiply_adds)]
    counts += [(result.report.after.parameters, result.report.after.multiply_adds) for result in results]
    names = ["dense", *(f"tol={tol}" for tol in TOLERANCES)]
    forms = ["", *(" ".join(layer.form for layer in result.report.layers) for result in results)]
    for name, model, (parameters, macs), ms, form in zip(names, models, counts, times, forms, strict=True):
        score = accuracy(model, held_images, held_labels)
        speed = f"{times[0] / ms:.2f} × as fast"
        print(LINE.format(name, f"{score:.2%}", f"{parameters:,}", f"{macs:,}", f"{ms:.2f}", speed, form))
    print("\nWhat was done to the layers at tol=0.3:\n")
    print(results[2].report)
    print("\n" + save_and_reload(results[2].model, make_model, held_images))


if __name__ == "__main__":
    main()
