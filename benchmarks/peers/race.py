"""Libraries on the same data in turn: seconds, errors, memory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.client import FailedError, Library

PAUSE = 0.05  # seconds between calls, in which the threads of the library before fall asleep
LONG = 10.0  # seconds; a call that takes longer is made once, and what a first call costs more is nothing beside it


@dataclass
class Entry:
    """A library in a race: what it is asked, and what came of it."""

    library: Library
    case: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    seconds: list[float] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    failed: str = ""

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return self.label or self.library.name

    @property
    def median(self) -> float:
        """Seconds of the middle run; NaN where there is none."""
        return median(self.seconds) if self.seconds else float("nan")

    @property
    def done(self) -> bool:
        """True when it has run often enough, or failed."""
        return bool(self.failed) or (bool(self.seconds) and len(self.seconds) >= repeats_for(self.seconds[0]))

    def ask(self, do: str, job: object, **request: Any) -> dict[str, Any]:
        """The library's answer about this job; nothing, and its message kept, where it failed now or before."""
        if self.failed:
            return {}
        try:
            return self.library.ask(do, job=str(job), **request)
        except FailedError as error:
            self.failed = str(error)
            return {}

    def load(self, job: object, x: Path, start: Path | None, *, warm: bool) -> None:
        """Hands the data over; with `warm` one call is made that is not counted, unless it is very long."""
        begin = None if start is None else str(start)
        answer = self.ask("load", job, case=self.case, x=str(x), start=begin, options=self.options, warm=warm)
        if answer.get("seconds", 0.0) > LONG:
            self.seconds.append(answer["seconds"])


def repeats_for(first: float) -> int:
    """How many timed runs, by the first: 5 to 15 within some 4 s, 3 of what takes over 2 s, 1 of what is very long."""
    if first > LONG:
        return 1
    return 3 if first > 2 else max(5, min(15, int(4 / max(first, 1e-3))))


def race(entries: Iterable[Entry], x: Path, start: Path | None) -> list[Entry]:
    """Every entry on the same data, in turn, so that what else the machine does touches all alike.

    Each warms up once, then runs until it has run often enough.
    """
    entries = list(entries)
    for job, entry in enumerate(entries):
        entry.load(job, x, start, warm=True)
    while not all(entry.done for entry in entries):
        for job, entry in enumerate(entries):
            if not entry.done:
                time.sleep(PAUSE)
                answer = entry.ask("run", job)
                entry.seconds += [answer["seconds"]] if answer else []
    for job, entry in enumerate(entries):
        entry.result = entry.ask("error", job)
    forget(entry.library for entry in entries)
    return entries


def forget(libraries: Iterable[Library]) -> None:
    """Lets the processes drop their data."""
    for library in set(libraries):
        library.forget()


def extra_memory(entry: Entry, x: Path, start: Path | None, small: tuple[Path, Path | None]) -> int | None:
    """Bytes at the peak of a call beyond those before it, in a fresh process that has warmed up on a small tensor."""
    entry.library.close()
    entry.load("small", *small, warm=True)
    entry.load("large", x, start, warm=False)
    answer = entry.ask("memory", "large")
    entry.library.close()
    return answer.get("bytes")
