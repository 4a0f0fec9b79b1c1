"""What the process of every library runs: one request a line in, one answer a line out.

Run by interpreters that hold one peer each, so it asks for nothing but the standard library and NumPy. A library is a
table of cases: name -> function (x, start, options) that does everything that is not to be timed and returns two
functions: `run()`, which is timed, and `read(result)`, which gives the format, its arrays and the number of sweeps.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Read = tuple[str, list[np.ndarray], int | None]
Case = Callable[[np.ndarray, list[np.ndarray], dict[str, Any]], tuple[Callable[[], Any], Callable[[Any], Read]]]
# (x, start, options) -> the relative error after each sweep, as the library itself estimates it.
Trace = Callable[[np.ndarray, list[np.ndarray], dict[str, Any]], list[float]]


def halves(form: str, arrays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A low-rank tensor as left @ right: the rows are the first mode, the columns all others in C order."""
    arrays = [np.asarray(array, dtype=np.float64) for array in arrays]
    if form == "cp":
        weights, first, *others = arrays
        right = reduce(lambda a, b: (a[:, None] * b).reshape(-1, weights.size), others, np.ones((1, weights.size)))
        return first * weights, right.T
    if form == "tucker":
        core, first, *others = arrays
        for factor in others:  # the first rank that is left goes, its mode comes last
            core = np.tensordot(core, factor, axes=(1, 1))
        return first, core.reshape(core.shape[0], -1)
    if form == "tr":
        first, *others = arrays
        chain = reduce(lambda a, b: np.tensordot(a, b, axes=1), others)
        chain = np.moveaxis(chain, -1, 0)
        return np.moveaxis(first, 1, 0).reshape(first.shape[1], -1), chain.reshape(chain.shape[0] * chain.shape[1], -1)
    raise ValueError(f"got the format {form!r}; known are cp, tucker and tr, of which a train is one with a bond of 1")


def relative_error(x: np.ndarray, form: str, arrays: list[np.ndarray]) -> float:
    """‖x − x̂‖ / ‖x‖ from the residual itself, in double precision, the same code for every library."""
    left, right = halves(form, arrays)
    rows = x.reshape(x.shape[0], -1)
    step = max(1, 2**22 // rows.shape[1])
    squared = norm = 0.0
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float64)
        norm += float(np.vdot(block, block))
        block -= left[start : start + step] @ right
        squared += float(np.vdot(block, block))
    return float(np.sqrt(squared / norm))


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def extra_memory(run: Callable[[], object]) -> int:
    """Bytes resident at the peak of a call beyond those before it, whoever allocated them (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


class Library:
    """The jobs that were loaded, and what can be asked of them."""

    def __init__(self, packages: list[str], cases: dict[str, Case], traces: dict[str, Trace] | None = None) -> None:
        self.packages, self.cases, self.traces = packages, cases, traces or {}
        self.tensors: dict[str, np.ndarray] = {}
        self.jobs: dict[str, Any] = {}

    def hello(self) -> dict[str, Any]:
        """The versions in use."""
        return {"versions": {package: version(package) for package in self.packages}}

    def load(
        self, *, job: str, case: str, x: str, start: str | None, options: dict[str, Any], warm: bool
    ) -> dict[str, Any]:
        """Data into the library's own types, and one call that is not counted; seconds of that call."""
        if case not in self.cases:
            raise NotImplementedError(f"not there yet: {case}")
        if x not in self.tensors:
            self.tensors[x] = np.load(x)
        run, read = self.cases[case](self.tensors[x], arrays_of(start), options)
        self.jobs[job] = [run, read, self.tensors[x], None]
        return self.run(job=job) if warm else {}

    def run(self, *, job: str) -> dict[str, Any]:
        """Seconds of one call."""
        work = self.jobs[job]
        gc.collect()
        began = time.perf_counter()
        work[3] = work[0]()
        return {"seconds": time.perf_counter() - began}

    def memory(self, *, job: str) -> dict[str, Any]:
        """Extra memory of one call."""
        return {"bytes": extra_memory(self.jobs[job][0])}

    def error(self, *, job: str) -> dict[str, Any]:
        """How good the last result is, and how large."""
        _, read, x, result = self.jobs[job]
        form, arrays, sweeps = read(result)
        return {
            "error": relative_error(x, form, arrays),
            "parameters": sum(array.size for array in arrays),
            "dtype": str(arrays[-1].dtype),
            "ranks": [int(n) for n in arrays[0].shape] if form == "tucker" else [int(a.shape[-1]) for a in arrays],
            "sweeps": sweeps,
        }

    def trace(self, *, case: str, x: str, start: str | None, options: dict[str, Any]) -> dict[str, Any]:
        """The error after each sweep."""
        return {"errors": [float(error) for error in self.traces[case](np.load(x), arrays_of(start), options)]}

    def clear(self) -> dict[str, Any]:
        """Forgets all data."""
        self.jobs.clear()
        self.tensors.clear()
        gc.collect()
        return {}


def arrays_of(path: str | None) -> list[np.ndarray]:
    """The arrays of a start, in their order."""
    if path is None:
        return []
    with np.load(path) as file:
        return [file[name] for name in file.files]


def serve(library: Library) -> None:
    """Answers until the input ends. What libraries print goes to the error stream, out of the way of answers."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(library, request.pop("do"))(**request)
        except Exception as error:  # whatever a library throws is its row in the table
            first = (str(error).splitlines() or [""])[0]
            answer = {"failed": f"{type(error).__name__}: {first}"}
        answers.write(json.dumps(answer) + "\n")
