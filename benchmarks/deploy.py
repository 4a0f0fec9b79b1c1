"""A CIFAR ResNet outside of torch: dense and compressed, in single precision and in eight bits, by onnxruntime.

python -m benchmarks.deploy --data DIR [--network resnet20] [--parameters 0.5] [--form cp …] [--write deploy.md]
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import tensorring_torch as tgt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks import machine, resnet
from benchmarks.networks import divergence, latencies, parameters, predicted
from benchmarks.tables import table, write

NEEDED = ("onnx", "onnxruntime", "onnxscript")
HEAD = ("network", "parameters", "file", "peak of activations", "ms, batch 1", "ms, batch 32", "KL from dense",
        "eight bits by", "accuracy")  # fmt: skip
# Training images that ranges are read from, and others by which the way to quantise is chosen.
CALIBRATION, HELD_OUT = 512, 1024


class Deployed:
    """An ONNX file, run on one thread; called like a network in torch."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = _options()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        return torch.from_numpy(self.session.run(None, {"images": x.numpy()})[0])


def compressed(dense: nn.Module, images: Tensor, options: argparse.Namespace) -> nn.Module:
    """The network that is compared with the dense one: fitted to images, without labels."""
    budget = tgt.Budget(parameters=options.parameters)
    return tgt.compress(dense, images[:1], budget=budget, formats=options.form, calibration=images).model.eval()


def export(model: nn.Module, x: Tensor, path: Path) -> Path:
    """The network as an ONNX file for batches of any size; batch norms are folded on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        exported = torch.onnx.export(program, (), dynamo=True, verbose=False, input_names=["images"])
    assert exported is not None
    exported.save(str(path))
    return path


def quantised(path: Path, calibration: Tensor, held_out: Tensor, logits: Tensor) -> tuple[Path, str]:
    """The file in eight bits, in the way that comes nearest to the dense network's logits, and which way that is."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    found = []
    for channels, operators in product((False, True), (None, ["Conv", "Gemm"])):
        made = path.with_stem(f"{path.stem}_{len(found)}")
        quantize_static(
            path,
            made,
            _reader(calibration),
            quant_format=QuantFormat.QOperator,
            op_types_to_quantize=operators,
            per_channel=channels,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        way = f"{'channel' if channels else 'tensor'}, {'layers and sums' if operators is None else 'layers'}"
        found.append((divergence(logits, predicted(Deployed(made), held_out)), made, way))
    _, best, way = min(found)
    return best, way


def _reader(images: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(images.split(64))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    return Reader()


def peak_of_activations(path: Path, x: Tensor) -> int:
    """Bytes that the input and all live intermediate results take at most, as onnxruntime's profile tells."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = _options()
        # Without a plan from the sizes of an earlier run each result is allocated when it is made.
        options.enable_mem_pattern = False
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, {"images": x.numpy()})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event["args"] for event in events if event["name"].endswith("_kernel_time")]
    used = [int(node["mem_bytes_requested_in_use"]) for node in nodes]
    before = used[0] - int(nodes[0]["mem_requested_in_use_delta"])
    return int(x.nbytes) + max(used) - before


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


def rows(options: argparse.Namespace, folder: Path) -> Iterator[tuple[object, ...]]:
    """Dense, compressed, and both in eight bits; the test images are looked at once a row, last."""
    dense = resnet.pretrained(options.data, options.network)
    train, _ = resnet.images(options.data, "train")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    calibration, held_out = train[order].split([CALIBRATION, len(train) - CALIBRATION])
    held_out = held_out[:HELD_OUT]
    logits = predicted(dense, held_out)
    networks = {"dense": dense, "compressed": compressed(dense, calibration, options)}
    sizes = {name: parameters(model) for name, model in networks.items()}
    plain = {name: export(model, train, folder / f"{name}.onnx") for name, model in networks.items()}
    eight = {name: quantised(path, calibration, held_out, logits) for name, path in tqdm(plain.items(), "eight bits")}
    files = [("dense", plain["dense"], ""), ("compressed", plain["compressed"], "")]
    files += [(name, *eight[name]) for name in networks]
    models: list[Any] = [Deployed(path) for _, path, _ in files]
    one, batch = latencies(models, train[:1], 200), latencies(models, train[:32])
    apart = [divergence(logits, predicted(model, held_out)) for model in models]
    x, y = resnet.images(options.data, "test")
    scores = [resnet.accuracy(model, x, y) for model in models]
    for k, (name, path, way) in enumerate(files):
        bytes_used = (f"{path.stat().st_size / 1e3:,.0f} kB", f"{peak_of_activations(path, train[:1]) / 1e3:,.0f} kB")
        times = (f"{one[k]:.2f}", f"{batch[k]:.1f}")
        yield (f"{name}, int8" if way else name, f"{sizes[name]:,}", *bytes_used, *times, f"{apart[k]:.4f}",
               way, f"{scores[k]:.4f}")  # fmt: skip


def main() -> None:
    """Reads the command line and prints or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_sample.npz and the networks")
    parser.add_argument("--network", choices=resnet.BLOCKS, default="resnet20")
    parser.add_argument("--parameters", type=float, default=0.5, help="the budget, a fraction of the dense network's")
    parser.add_argument("--form", nargs="+", help="formats; by default what suits the budget")
    parser.add_argument("--write", default="", help="name of a page to write under docs/benchmarks")
    options = parser.parse_args()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        parser.exit(message=f"skipped: {', '.join(missing)} not installed\n")
    needed = [options.data / f"cifar10_{name}.npz" for name in ("sample", options.network)]
    absent = [str(path) for path in needed if not path.exists()]
    if absent:
        parser.exit(message=f"skipped: no {', '.join(absent)}\n")
    logging.disable(logging.WARNING)  # of torch's exporter, and advice of the quantiser's
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lines = list(rows(options, Path(folder)))
    text = "\n\n".join(_page(options, lines))
    write(options.write, text)


def _page(options: argparse.Namespace, lines: list[tuple[object, ...]]) -> Iterator[str]:
    command = f"python -m benchmarks.deploy --data DIR --network {options.network} --parameters {options.parameters:g}"
    if options.form:
        command += f" --form {' '.join(options.form)}"
    yield f"# {options.network} outside of torch: single precision and eight bits"
    yield (
        f"Written by `{command}`. Compressed within Budget(parameters={options.parameters:g}), fitted to "
        f"{CALIBRATION} training images without labels. Each network as an ONNX file, batch norms folded, run by "
        "onnxruntime on one thread; latencies are medians of the four in turn. CP, the default for a budget of "
        "parameters, stores least; with few channels it is slower than the dense layers, and holds more results."
    )
    yield (
        f"Eight bits: static, weights signed and activations unsigned, ranges from the same "
        f"images; of four ways (a scale for each tensor or channel; sums and all else, or layers alone) the "
        f"one with the smallest KL from the dense network's outputs on {HELD_OUT:,} other training images. Accuracy: "
        "846 test images, once a row, last; one standard error is about a point."
    )
    yield (
        "Peak of activations: batch 1, the input and all results alive at the end of a node, from onnxruntime's "
        "profile of its allocator; weights and the scratch memory of kernels are not in it. In single precision "
        "onnxruntime lays channels out in blocks of 16 (AVX-512; else 8), and copies where a rank is no multiple of it."
    )
    yield machine.describe(("torch", "onnxruntime", "tensorring"))
    yield table(HEAD, lines)
    wrong = [1 - float(str(line[-1])) for line in lines]
    yield (
        f"Eight bits cost the dense network {100 * (wrong[2] - wrong[0]):.2f} points of accuracy, the compressed one "
        f"{100 * (wrong[3] - wrong[1]):.2f} (asked: at most one point more)."
    )


if __name__ == "__main__":
    main()
