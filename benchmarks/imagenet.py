"""A network and pictures of your own, such as ImageNet: compressed within budgets, beside the dense one.

python -m benchmarks.imagenet --data DIR --weights FILE --model torchvision.models:resnet18 [--budget 0.5 …] [--of macs]

`--model` names a function that makes the dense network, with any numbers in it; `--weights` is the state dict of the
trained one, a safetensors file or one of torch.save. DIR holds `train` and, where top-1 and top-5 are wanted, `val`:
each a folder with a folder of pictures for each class, or `train.npz` and `val.npz` with `images` (bytes, N × 3 ×
height × width) and `labels`. Of the training images some are drawn that networks are fitted to, without labels, and
others that they are compared with the dense one on; with `--fine-tune` those are not trained on either. The images of
`val` choose nothing: they are looked at once a network, when it is complete.
"""

from __future__ import annotations

import argparse
import copy
import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorring_torch as tgt
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

import tensorring as tg
from benchmarks import machine
from benchmarks.networks import agreement, divergence, multiply_adds, parameters, predicted, side_by_side
from benchmarks.resnet import MEAN, STD
from benchmarks.tables import table, write

HEAD = ("network", "parameters", "ratio", "multiply-adds, M", "ratio", "ms, batch 1", "dense", "ms, batch 32", "dense",
        "agreement, %", "KL", "top-1, %", "top-5, %")  # fmt: skip
# Batch sizes that are timed, and how often each.
TIMED = {1: 40, 32: 10}
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}


class Folder(Dataset[tuple[Tensor, int]]):
    """Pictures in a folder for each class, classes in the order of their names; read when they are asked for."""

    def __init__(self, root: Path, size: int) -> None:
        self.root, self.size = root, size
        self.classes = sorted(each.name for each in root.iterdir() if each.is_dir())
        self.files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((root / name).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The middle of a picture whose shorter side is made 8/7 of the size, as networks are tested by custom."""
        path, label = self.files[index]
        with Image.open(path) as file:
            picture = file.convert("RGB")
        scale = self.size * 8 / 7 / min(picture.size)
        width, height = (round(scale * side) for side in picture.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        picture = picture.crop((left, top, left + self.size, top + self.size))
        return normalised(torch.from_numpy(np.array(picture)).permute(2, 0, 1)), label


class Arrays(Dataset[tuple[Tensor, int]]):
    """The images of an npz file, of the size they have."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.images, self.labels = torch.from_numpy(file["images"]), file["labels"].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return normalised(self.images[index]), self.labels[index]


Images = Folder | Arrays


def normalised(image: Tensor) -> Tensor:
    """Bytes as numbers of about unit size, by the means and deviations of ImageNet."""
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    return (image.float() / 255 - mean) / deviation


def images(data: Path, part: str, size: int) -> Images | None:
    """The `train` or `val` images; None where there are none."""
    folder, file = data / part, data / f"{part}.npz"
    return Folder(folder, size) if folder.is_dir() else Arrays(file) if file.is_file() else None


def trained(model: str, weights: Path) -> nn.Module:
    """The dense network, in eval mode."""
    module, _, name = model.partition(":")
    if not name:
        raise ValueError(f"got --model {model}; it is module:function, such as torchvision.models:resnet18")
    dense: nn.Module = getattr(importlib.import_module(module), name)()
    safe = weights.suffix == ".safetensors"
    dense.load_state_dict(load_file(weights) if safe else torch.load(weights, map_location="cpu", weights_only=True))
    return dense.eval()


def drawn(train: Images, fitted: int, held_out: int) -> tuple[Tensor, Tensor, Subset[tuple[Tensor, int]]]:
    """Images to fit to, images held out, and all but those held out; always the same."""
    count = fitted + held_out
    if len(train) < count:
        raise ValueError(f"got {len(train)} training images; --images {fitted} and --held-out {held_out} ask for more")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    x = torch.stack([train[k][0] for k in tqdm(order[:count], desc="images")])
    return x[:fitted], x[fitted:], Subset(train, order[:fitted] + order[count:])


def check_classes(part: Images | None, classes: int) -> None:
    """Labels are places in the order of the folders, so that all have to be there."""
    if isinstance(part, Folder) and (len(part.classes) != classes or not len(part)):
        raise ValueError(
            f"got {len(part.classes)} folders with {len(part)} pictures in {part.root}, and a network of {classes} "
            "classes; labels are places in the order of the folders: give one for each class"
        )


def networks(
    dense: nn.Module, x: Tensor, rest: Dataset[tuple[Tensor, int]], options: argparse.Namespace
) -> Iterator[tuple[str, nn.Module]]:
    """All that are compared, each as soon as it is made."""
    yield "dense", dense
    example = x[: 32 if options.of == "latency" else 1]
    for fraction in options.budget:
        name = f"{fraction:g} of {options.of}"
        model = tgt.compress(dense, example, budget=tgt.Budget(**{options.of: fraction}), calibration=x).model
        yield name, model
        if options.fine_tune:
            name += ", tuned"
            loader = DataLoader(rest, options.batch, shuffle=True, num_workers=options.workers)
            recipe = {"epochs": options.fine_tune, "lr": options.lr, "augment": mirrored, "validation": 0}
            yield name, tgt.fine_tune(model, dense, loader, callback=tg.progress(name), **recipe).model


def mirrored(x: Tensor) -> Tensor:
    """Half of the images."""
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)


def row(name: str, pair: tuple[nn.Module, nn.Module], x: Tensor, expected: Tensor) -> list[str]:
    """All but the accuracy, of the second network beside the first; latencies are those of the processor."""
    (numbers, work), (numbers_left, work_left) = ((parameters(each), multiply_adds(each, x[:1])) for each in pair)
    cells = [name, f"{numbers_left:,}", f"{numbers / numbers_left:.2f}"]
    cells += [f"{work_left / 1e6:.1f}", f"{work / work_left:.2f}"]
    dense, model = (copy.deepcopy(each).cpu() for each in pair)
    for size, repeats in TIMED.items():
        theirs, ours, _ = side_by_side(dense, model, x[:1].cpu().repeat(size, 1, 1, 1), repeats)
        cells += [f"{ours:.1f}", f"{theirs:.1f}"]
    got = predicted(pair[1], x)
    return [*cells, f"{100 * agreement(expected, got):.1f}", f"{divergence(expected, got):.4f}"]


def top(model: nn.Module, val: Images, options: argparse.Namespace) -> tuple[str, str]:
    """Top-1 and top-5 accuracy in per cent."""
    first = five = 0
    for x, y in tqdm(DataLoader(val, options.batch, num_workers=options.workers), desc="val"):
        logits = predicted(model, x.to(options.device)).cpu()
        right = logits.topk(min(5, logits.shape[1])).indices == y[:, None]
        first, five = first + int(right[:, 0].sum()), five + int(right.sum())
    return f"{100 * first / len(val):.2f}", f"{100 * five / len(val):.2f}"


def page(options: argparse.Namespace) -> str:
    """The table, the machine, and what was asked for."""
    train, val = (images(options.data, part, options.size) for part in ("train", "val"))
    if train is None:
        raise ValueError(f"got {options.data}, which has neither a folder train nor a file train.npz to draw from")
    dense = trained(options.model, options.weights).to(options.device)
    fitted, held_out, rest = drawn(train, options.images, options.held_out)
    fitted, held_out = fitted.to(options.device), held_out.to(options.device)
    expected = predicted(dense, held_out)
    for part in (train, val):
        check_classes(part, expected.shape[1])
    rows = []
    for name, model in networks(dense, fitted, rest, options):
        accuracy = ("", "") if val is None else top(model, val, options)
        rows.append((*row(name, (dense, model), held_out, expected), *accuracy))
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            tgt.save(options.save / f"{'-'.join(name.replace(',', '').split())}.safetensors", model)
    seen = 0 if val is None else len(val)
    return f"""# {options.model}

{options.weights.name}. {len(fitted)} images to fit to, without labels; agreement and KL of the outputs with those of
the dense network on {len(held_out)} others; {options.fine_tune} epochs of tuning; accuracy on {seen} images.
Times are those of both networks in turn, each in the layout it is faster in, on {torch.get_num_threads()} threads.
{machine.describe(("torch", "numpy"))}

{table(HEAD, rows)}
"""


def main() -> None:
    """Reads the command line and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train and val")
    parser.add_argument("--weights", type=Path, required=True, help="state dict of the dense network")
    parser.add_argument("--model", default="torchvision.models:resnet18", help="module:function that makes it")
    parser.add_argument("--budget", nargs="+", type=float, default=[0.5], help="fractions of the dense network")
    parser.add_argument(
        "--of", choices=("parameters", "macs", "latency"), default="parameters", help="what they are of"
    )
    parser.add_argument("--images", type=int, default=512, help="how many to fit to")
    parser.add_argument("--held-out", type=int, default=1024, help="how many to compare on")
    parser.add_argument("--size", type=int, default=224, help="height and width of what is cut out of pictures")
    parser.add_argument("--fine-tune", type=int, default=0, metavar="EPOCHS", help="on all training images")
    parser.add_argument("--lr", type=float, default=0.01, help="of that")
    parser.add_argument("--batch", type=int, default=128, help="images in a batch of that, and of val")
    parser.add_argument("--workers", type=int, default=0, help="processes that read them")
    parser.add_argument("--device", default="cpu", help="of all but the latencies in the table")
    parser.add_argument("--save", type=Path, help="folder for the networks; it may exist")
    parser.add_argument("--write", default="", help="name of a page to write under docs/benchmarks")
    options = parser.parse_args()
    torch.manual_seed(0)
    write(options.write, page(options))


if __name__ == "__main__":
    main()
