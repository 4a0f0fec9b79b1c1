"""The tensors that the benchmarks decompose."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tensorring as tg


def photograph() -> np.ndarray:
    """A colour photograph, 427 × 640 × 3, single precision (shipped with scikit-learn)."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg").astype(np.float32)


def digits() -> np.ndarray:
    """1,797 images of handwritten digits, 8 × 8, single precision (shipped with scikit-learn)."""
    from sklearn.datasets import load_digits

    return load_digits().images.astype(np.float32)


def noisy_cube(n: int = 200, rank: int = 20, noise: float = 0.1) -> np.ndarray:
    """n³ of multilinear rank `rank`, plus relative noise."""
    x = tg.random.tucker((n, n, n), ranks=rank, rng=0).to_dense()
    white = np.random.default_rng(1).standard_normal(x.shape)
    return x + noise * np.linalg.norm(x) / np.linalg.norm(white) * white


def power_law_kernel(channels: int = 512, size: int = 3) -> np.ndarray:
    """A single-precision kernel whose mode singular values decay like k^-½."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((channels, channels, size, size))
    for mode, n in enumerate(x.shape):
        basis = np.linalg.qr(rng.standard_normal((n, n))).Q * np.arange(1.0, n + 1) ** -0.5
        x = np.moveaxis(np.tensordot(x, basis, axes=(mode, 1)), -1, mode)
    return np.ascontiguousarray(x, dtype=np.float32)


def block_kernels(data: Path, network: str) -> dict[str, np.ndarray]:
    """The kernels of the residual blocks of a pretrained network, by name."""
    with np.load(data / f"cifar10_{network}.npz") as weights:
        names = [name for name in weights.files if name.startswith("layer") and weights[name].ndim == 4]
        return {name: weights[name] for name in names}
