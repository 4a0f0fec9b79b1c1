"""The adapter's tests need torch; without it they are left out, and the head of the report says so."""

import importlib.util

HAS_TORCH = importlib.util.find_spec("torch") is not None
collect_ignore_glob = [] if HAS_TORCH else ["test_*.py"]


def pytest_report_header() -> str:
    """What pytest prints before the tests."""
    return "" if HAS_TORCH else "torch is not installed: tests/adapters are left out"
