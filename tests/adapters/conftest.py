"""The adapter's tests need torch; without it they are left out, and the head of the report says so."""

import importlib.util

import pytest

HAS_TORCH = importlib.util.find_spec("torch") is not None
collect_ignore_glob = [] if HAS_TORCH else ["test_*.py"]


def pytest_report_header() -> str:
    """What pytest prints before the tests."""
    return "" if HAS_TORCH else "torch is not installed: tests/adapters are left out"


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Torch draws the same numbers in a test, whichever ran before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def few_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds, not minutes: fewer ranks and iterations than in earnest."""
    monkeypatch.setattr("tensorring_torch.calibration.curves._SHARES", (0.7, 0.4, 0.15, 0.04))
    monkeypatch.setattr("tensorring_torch.calibration.curves._SWEEPS", 15)
    monkeypatch.setattr("tensorring_torch.calibration.sequence._SWEEPS", 40)
    monkeypatch.setattr("tensorring_torch.calibration.reconstruct._STEPS", 40)
