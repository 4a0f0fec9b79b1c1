"""`make demo`: tensors first, then a network, and both to files and back. Offline, with no files but packages'."""

from __future__ import annotations

import tempfile
from pathlib import Path

import digits_cnn
import images
import numpy as np
from sklearn.datasets import load_sample_image

import tensorring as tg


def save_and_reload() -> None:
    """Saves a decomposed photograph and reads it back."""
    result = tg.compress(load_sample_image("china.jpg").astype(np.float32), tol=0.1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photograph.safetensors"
        tg.save(path, result)
        again = tg.load(path)
        size = path.stat().st_size
    same = np.array_equal(again.tensor.to_dense(), result.tensor.to_dense())
    verdict = "equal bit for bit" if same else "DIFFERS"
    print(f"\nThe photograph at 10 %, saved in {size:,} bytes without pickle and read back: {verdict}.\n")
    print(result)


def main() -> None:
    """Runs the three parts."""
    images.main()
    save_and_reload()
    print("\n" + "─" * 110 + "\n")
    digits_cnn.main()


if __name__ == "__main__":
    main()
