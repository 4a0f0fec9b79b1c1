"""The processes of the libraries, asked in turn."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

THREADS = 2
HERE = Path(__file__).resolve().parent
VENVS = HERE.parent.parent / ".venv-bench"
PEERS = ("tensorly", "pyttb", "torchTT", "tntorch")
OURS = "tensorring"
PINNED = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(THREADS)
)


class FailedError(Exception):
    """What a library said instead of an answer."""


def interpreter(name: str) -> Path:
    """The Python of a library: our own, or the one of its virtual environment."""
    return Path(sys.executable) if name == OURS else VENVS / name / "bin" / "python"


class Library:
    """One library in one process, started when it is first asked, and again after it died."""

    def __init__(self, name: str, command: Sequence[str] | None = None, *, patience: float = 300.0) -> None:
        self.name, self.patience = name, patience
        self._command = command or [str(interpreter(name)), str(HERE / f"{name}_worker.py")]
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to a request; FailedError with the library's own words where there is none."""
        process = self._process if self._process is not None and self._process.poll() is None else self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            process.stdin.flush()
            line = self._line(process)
        except BrokenPipeError:
            line = ""
        if not line:
            raise FailedError(self._last_words())
        answer = json.loads(line)
        if "failed" in answer:
            raise FailedError(answer["failed"])
        return answer

    def forget(self) -> None:
        """Drops the data of a process that runs."""
        if self._process is not None:
            try:
                self.ask("clear")
            except FailedError:
                self.close()

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def _started(self) -> subprocess.Popen[str]:
        self.close()
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - closed with the process
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env={**os.environ, **PINNED, "PYTHONDONTWRITEBYTECODE": "1"},
            )
        except OSError as error:
            self.close()
            raise FailedError(f"not installed: {error.strerror} ({install_message(self.name)})") from None
        return self._process

    def _line(self, process: subprocess.Popen[str]) -> str:
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            if not waiting.select(self.patience):
                self.close()
                raise FailedError(f"no answer within {self.patience:.0f} s")
        return process.stdout.readline()  # type: ignore[union-attr]

    def _last_words(self) -> str:
        assert self._process is not None
        assert self._log is not None
        code = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        self.close()
        return f"ended with code {code}: {lines[-1] if lines else 'no message'}"


def install_message(name: str) -> str:
    """The last line of what its installation said."""
    log = VENVS / name / "install.log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return lines[-1].strip() if lines else "make bench-peers builds it"
