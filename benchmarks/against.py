"""tensorring side by side with other libraries."""

from __future__ import annotations

import datetime
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from benchmarks import cases, machine, problems
from benchmarks.floor import Floor, cp_floor
from benchmarks.peers.client import OURS, PEERS, THREADS, FailedError, Library
from benchmarks.peers.convergence import Libraries, real, swamps
from benchmarks.peers.race import Entry, extra_memory, forget, race
from benchmarks.peers.report import comparison, ratio, seconds
from benchmarks.problems import kept
from benchmarks.tables import table, write

HOW = f"""\
How it is measured. Every library runs in a process and an interpreter of its own, on {THREADS} threads, and gets the \
same arrays and the same starts; where it brings its own start, the table says so. Each warms up once (which also \
compiles our kernels where no cache of them is left), then they run in turn, so that whatever else the machine does \
touches all alike. Seconds are medians: of 5 to 15 runs, of 3 of what takes over 2 s, and the first and only one of \
what takes over 10 s. Reading files and conversion to a library's own types are not timed. Where a table names the \
number of sweeps, nobody tests for convergence, and tensorly, which can, skips its error of each sweep. Errors are \
relative, computed for all by the same code from the residual itself. "peer / ours" above 1 is in our favour. A peer \
that is missing or fails is shown with its own message."""


@contextmanager
def libraries() -> Iterator[Libraries]:
    """All of them; their processes end with the block."""
    all_of_them = {name: Library(name) for name in (OURS, *PEERS)}
    try:
        yield all_of_them
    finally:
        for library in all_of_them.values():
            library.close()


def versions(known: Libraries) -> str:
    """One line: what runs in which interpreter, or why it does not."""
    lines = []
    for name, library in known.items():
        try:
            found = library.ask("hello")["versions"]
            lines.append(", ".join(f"{package} {number}" for package, number in found.items()))
        except FailedError as error:
            lines.append(f"{name}: {error}")
    return "; ".join(lines) + "."


CP = {
    "200³, R 20": ((200, 200, 200), 20, "float64", 10),
    "400³, R 30": ((400, 400, 400), 30, "float64", 10),
    "60⁴, R 20": ((60,) * 4, 20, "float64", 10),
    "20⁵, R 10": ((20,) * 5, 10, "float64", 10),
    "200³, R 20, float32": ((200, 200, 200), 20, "float32", 10),
    "400³, R 30, float32": ((400, 400, 400), 30, "float32", 10),
    "60⁴, R 20, float32": ((60,) * 4, 20, "float32", 10),
    "64×64×9, R 67, 100 sweeps": ((64, 64, 9), 67, "float64", 100),
}


def cp(known: Libraries, folder: Path) -> str:
    """Sweeps of alternating least squares, and the floor under them."""
    rows, floors = [], {}
    for case, (shape, rank, dtype, sweeps) in tqdm(CP.items(), desc="CP-ALS"):
        x, start = problems.cp_problem(shape, rank, dtype)
        paths = kept(folder, "cp", x, start)
        options = {"rank": rank, "sweeps": sweeps}
        rows.append(
            (case, race([Entry(known[name], "cp_als", options) for name in (OURS, "tensorly", "pyttb")], *paths))
        )
        if sweeps == 10:
            floors[case] = cp_floor(x, rank, THREADS)
    return comparison(rows) + "\n\n" + _floors(rows, floors)


def _floors(rows: Sequence[tuple[str, list[Entry]]], floors: dict[str, Floor]) -> str:
    ours = {case: entries[0].median for case, entries in rows}
    lines = []
    for case, floor in floors.items():
        multi = "–" if floor.multi_sweep is None else seconds(10 * floor.multi_sweep)
        least, single = 10 * floor.least, ours.get(f"{case}, float32", float("nan"))
        lines.append(
            (case, seconds(10 * floor.two_passes), multi, seconds(ours[case]), f"{ours[case] / least:.2f}",
             "–" if math.isnan(single) else f"{ours[case] / single:.2f} ×")
        )  # fmt: skip
    text = (
        "The floor of ten sweeps: the sum over first-level contractions of max(bytes over the measured bandwidth, one "
        "matmul of that shape in its best orientation), for two passes a sweep and, where its partial results take at "
        "most a fifth of the tensor, for the multi-sweep tree. Measured in the same run, the fastest of 3 calls.\n\n"
    )
    head = ("case", "two passes, s", "multi-sweep, s", "ours, s", "ours / least floor", "float64 / float32, ours")
    return text + table(head, lines)


def tr(known: Libraries, folder: Path) -> str:
    """Sweeps of alternating least squares on a ring."""
    x, start = problems.tr_problem(200, 4)
    entries = [Entry(known[OURS], "tr_als", {"ranks": 4, "sweeps": 5})]
    for solve in ("normal_eq", "lstsq"):
        options = {"ranks": 4, "sweeps": 5, "seed": 1, "solve": solve}
        entries.append(Entry(known["tensorly"], "tr_als", options, label=f"tensorly {solve}"))
    return comparison([("200³, ranks 4", race(entries, *kept(folder, "tr", x, start)))])


def tucker(known: Libraries, folder: Path) -> str:
    """Sweeps of higher-order orthogonal iteration, from a start that is given and from each library's HOSVD."""
    x = cases.noisy_cube()
    x_path, start = kept(folder, "tucker", x, problems.tucker_start(x.shape, 20))
    options = {"ranks": [20] * 3, "sweeps": 5}
    rows = []
    for case, path in (("200³, ranks 20, start given", start), ("200³, ranks 20, start by HOSVD", None)):
        rows.append(
            (case, race([Entry(known[name], "hooi", options) for name in (OURS, "tensorly", "pyttb")], x_path, path))
        )
    return comparison(rows)


def direct(known: Libraries, folder: Path) -> str:
    """TT-SVD and HOSVD at a tolerance, on the noisy cube."""
    x, start = kept(folder, "direct", cases.noisy_cube())
    lines, notes = [], []
    options = {"tol": 0.11, "algorithm": "svd"}
    trains = [Entry(known[name], "tt_svd", options) for name in (OURS, "torchTT", "tntorch")]
    trains.append(Entry(known["tntorch"], "tt_svd", options | {"algorithm": "eig"}, label="tntorch, eig"))
    tuckers = [Entry(known[name], "tucker_hosvd", options) for name in (OURS, "pyttb")]
    for method, entries in (("TT-SVD", trains), ("HOSVD", tuckers)):
        ours = race(entries, x, start)[0]
        for entry in entries:
            notes += [f"- {entry.name}, {method}: {entry.failed}"] if entry.failed else []
            made = entry.result
            what = (made["ranks"], f"{made['parameters']:,}", f"{made['error']:.5f}") if made else ("failed", "–", "–")
            lines.append((method, entry.name, *what, seconds(entry.median), len(entry.seconds), ratio(entry, ours)))
    head = ("method", "library", "ranks", "parameters", "error", "seconds", "runs", "of ours")
    return "\n".join([table(head, lines), *(["", *notes] if notes else [])])


def memory(known: Libraries, folder: Path) -> str:
    """Peak memory of two sweeps beyond the input."""
    x, cp_start = problems.cp_problem((400,) * 3, 30)
    small_x, small_start = problems.cp_problem((100,) * 3, 30)  # large enough to load all that the large one needs
    cp_options, tr_options = {"rank": 30, "sweeps": 2}, {"ranks": 4, "sweeps": 2, "seed": 1, "solve": "normal_eq"}
    jobs = [(name, "cp_als", cp_options, cp_start, small_start) for name in (OURS, "tensorly", "pyttb")]
    ring, small_ring = problems.tr_problem(400, 4)[1], problems.tr_problem(100, 4)[1]
    jobs += [(name, "tr_als", tr_options, ring, small_ring) for name in (OURS, "tensorly")]
    lines = []
    for name, case, options, start, small in tqdm(jobs, desc="memory"):
        paths = kept(folder, "memory", x, start)
        entry = Entry(known[name], case, options)
        extra = extra_memory(entry, *paths, small=kept(folder, "small", small_x, small))
        lines.append(
            (f"{case}, 400³", name, f"failed: {entry.failed}" if extra is None else f"{extra / x.nbytes:.3f} × x")
        )
    return table(("case", "library", "extra memory"), lines)


PARTS: dict[str, tuple[str, Callable[[Libraries, Path], str]]] = {
    "cp": ("CP-ALS, ten sweeps", cp),
    "tr": ("TR-ALS, five sweeps", tr),
    "tucker": ("HOOI, five sweeps", tucker),
    "svd": ("TT-SVD and HOSVD, tol 0.11, 200³ of multilinear rank 20 and 10 % noise", direct),
    "memory": ("Memory", memory),
    "swamps": ("CP where sweeps crawl", swamps),
    "real": ("Measured tensors", real),
}


def main(parts: Sequence[str] = ()) -> None:
    """Runs all and writes docs/benchmarks/peers.md; of some parts alone, prints the tables."""
    texts = [f"# Against other libraries\n\nWritten by `make bench`, {datetime.date.today().isoformat()}.\n\n{HOW}"]
    with libraries() as known, tempfile.TemporaryDirectory() as folder:
        texts += [machine.describe(()), versions(known)]
        for part in parts or PARTS:
            title, run = PARTS[part]
            texts.append(f"## {title}\n\n{run(known, Path(folder))}")
            print(f"\n{texts[-1]}\n", flush=True)
            forget(known.values())
    if not parts:
        write("peers.md", "\n\n".join(texts))
