"""Hypothesis profiles (HYPOTHESIS_PROFILE = ci, dev or long), and the array libraries that everything runs on."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tensorring import LowRankTensor
from tensorring._array import to_host

# xp fixtures are stateless; sampling a tensor is slow only in the eyes of a health check.
_QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile(
    "ci", max_examples=50, derandomize=True, deadline=None, database=None, print_blob=True, suppress_health_check=_QUIET
)
settings.register_profile("dev", max_examples=10, deadline=None, print_blob=True, suppress_health_check=_QUIET)
settings.register_profile("long", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

DTYPES = ("float32", "float64", "complex64", "complex128")


@dataclass(frozen=True)
class Backend:
    """One array library and one of its devices."""

    name: str
    namespace: Any
    asarray: Callable[[np.ndarray], Any]

    def __repr__(self) -> str:
        return self.name

    def to_numpy(self, x: Any) -> np.ndarray:
        """The array on the host; fails unless it is one of this library, on this device."""
        like = self.asarray(np.zeros(1))
        assert type(x) is type(like), f"got {type(x)} from {self.name}"
        assert getattr(x, "device", None) == getattr(like, "device", None)
        return to_host(x)

    def tensor(self, t: LowRankTensor) -> LowRankTensor:
        """A low-rank tensor of NumPy arrays, in this library."""
        return t.with_arrays([self.asarray(array) for array in t.arrays])


def _numpy() -> Backend:
    return Backend("numpy", np, np.asarray)


def _strict() -> Backend:
    xp = pytest.importorskip("array_api_strict")
    device = xp.Device("device1")
    return Backend("array_api_strict", xp, lambda x: xp.asarray(x, device=device))


def _cupy() -> Backend:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no GPU: {error}")
    if count == 0:
        pytest.skip("no GPU")
    return Backend("cupy", cupy, cupy.asarray)


_BACKENDS = {"numpy": _numpy, "strict": _strict, "cupy": _cupy}


@pytest.fixture(params=_BACKENDS, scope="session")
def xp(request: pytest.FixtureRequest) -> Backend:
    """NumPy, array-api-strict on a device that NumPy cannot read, and CuPy where there is a GPU."""
    return _BACKENDS[request.param]()


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    """The four dtypes that tensors hold, by name."""
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts at the same place in every test."""
    return np.random.default_rng(20261121)


@pytest.fixture
def gaussian(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """gaussian(shape, dtype): independent entries; complex where the dtype is."""

    def draw(shape: tuple[int, ...], dtype: str = "float64") -> np.ndarray:
        x = rng.standard_normal(shape)
        if "complex" in dtype:
            x = x + 1j * rng.standard_normal(shape)
        return x.astype(dtype)

    return draw
