"""CP to an error, or until it converges: where sweeps crawl, and on measured tensors."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

from benchmarks import cases, problems
from benchmarks.peers.client import OURS, FailedError, Library
from benchmarks.peers.race import Entry, race
from benchmarks.peers.report import ratio, seconds
from benchmarks.problems import kept
from benchmarks.tables import table

Libraries = dict[str, Library]

STARTS, CAP = 3, 2000
METHODS = {
    "ours": (OURS, "cp_als", {}),
    "ours, cp_lm": (OURS, "cp_lm", {}),
    "tensorly": ("tensorly", "cp_als", {}),
    "tensorly, line search": ("tensorly", "cp_als", {"linesearch": True}),
    "pyttb": ("pyttb", "cp_als", {}),
}


def swamps(known: Libraries, folder: Path) -> str:
    """Sweeps and seconds to an error, where alternating least squares crawls."""
    text = (
        f"Noise-free tensors, {STARTS} random starts, the same for all, {CAP:,} sweeps at most. Sweeps: until the "
        "error first falls to the target, by the library's own account. Seconds: of a run of just so many sweeps "
        "without tests of convergence; they count our extrapolations that are thrown away, sweeps do not. Medians over "
        "the starts that arrive."
    )
    head = ("case", "target", "method", "starts that arrive", "sweeps", "seconds", "least error of the others")
    lines = []
    for case, problem in tqdm(problems.swamps().items(), desc="swamps"):
        lines += [(case, *line) for line in _crawl(known, folder, *problem)]
    return text + "\n\n" + table(head, lines)


def _crawl(
    known: Libraries, folder: Path, x: np.ndarray, rank: int, target: float
) -> list[tuple[float, str, str, object, str, str]]:
    """One line for each method."""
    arrived: dict[str, list[Entry]] = {name: [] for name in METHODS}
    others: dict[str, list[float]] = {name: [] for name in METHODS}
    failed: dict[str, str] = {}
    for seed in range(STARTS):
        paths = kept(folder, "swamp", x, problems.cp_start(x.shape, rank, seed))
        for name, (library, method, extra) in METHODS.items():
            options = {"rank": rank, "sweeps": CAP, **extra}
            try:
                errors = _errors(known[library], method, paths, options)
            except FailedError as error:
                failed[name] = str(error)
                continue
            if min(errors) <= target:
                options["sweeps"] = next(k for k, error in enumerate(errors, 1) if error <= target)
                arrived[name].append(Entry(known[library], method, options))
            else:
                others[name].append(min(errors))
        race([entry for entries in arrived.values() for entry in entries if not entry.seconds], *paths)
    lines = []
    for name, entries in arrived.items():
        sweeps = median(entry.options["sweeps"] for entry in entries) if entries else "–"
        taken = seconds(median(entry.median for entry in entries)) if entries else "–"
        least = f"{min(others[name]):.1e}" if others[name] else failed.get(name, "–")
        lines.append((target, name, f"{len(entries)} of {STARTS}", sweeps, taken, least))
    return lines


def _errors(library: Library, case: str, paths: tuple[Path, Path | None], options: dict[str, object]) -> list[float]:
    """The error after each sweep, by the library's own account."""
    x, start = map(str, paths)
    errors: list[float] = library.ask("trace", case=case, x=x, start=start, options=options)["errors"]
    return errors


# Ranks, and sweeps that tensorly may make: it takes minutes for more on the large ones.
REAL = {
    "il2": ((3, 6), 500),
    "covid19": ((3, 6), 500),
    "kinetic": ((3, 6), 500),
    "indian_pines": ((10, 20), 100),
    "photograph": ((10, 20), 100),
}


def real(known: Libraries, folder: Path) -> str:
    """Measured tensors, fitted as a user would: default starts, until converged."""
    try:
        known["tensorly"].ask("datasets", folder=str(folder))
    except FailedError as error:
        return f"The tensors that tensorly ships could not be read: {error}"
    np.save(folder / "photograph.npy", cases.photograph().astype(np.float64))
    rows = []
    for name, (ranks, sweeps) in tqdm(REAL.items(), desc="real tensors"):
        x, missing = _filled(np.load(folder / f"{name}.npy"))
        for rank in ranks:
            options = {"rank": rank, "sweeps": sweeps}
            fits = ((OURS, {}), (OURS, {"stall": 1e-8}), ("tensorly", {}))
            entries = [Entry(known[library], "cp_fit", options | more) for library, more in fits]
            ours, longer, peer = race(entries, *kept(folder, "real", x))
            size = "×".join(map(str, x.shape))
            compared = (ratio(peer, ours), _verdict(ours, peer), _verdict(longer, peer))
            rows.append((name, size, missing, rank, *_fit(ours), *_fit(longer), *_fit(peer), *compared))
    text = (
        "CP as a user calls it: each library's own start and tests of convergence; ours with nothing but the rank, and "
        "again with stall=1e-8. tensorly gets up to 500 sweeps; of the last two tensors 100, its default, for it takes "
        "minutes for more. Missing entries are set to zero, the same for both: fits that leave them out are no part of "
        "this page."
    )
    whose = ("ours", "ours, 1e-8", "tensorly")
    each = (f"{what}, {who}" for who in whose for what in ("error", "sweeps", "s"))
    verdicts = ("tensorly / ours", "as good and faster", "the same, 1e-8")
    head = ("tensor", "shape", "missing", "rank", *each, *verdicts)
    return text + "\n\n" + table(head, rows)


def _filled(x: np.ndarray) -> tuple[np.ndarray, str]:
    """Zeros for what is missing, and how much that is."""
    missing = np.isnan(x)
    return np.where(missing, 0.0, x), f"{missing.mean():.1%}"


def _fit(entry: Entry) -> tuple[str, ...]:
    if entry.failed:
        return "failed", "–", entry.failed
    return f"{entry.result['error']:.6f}", str(entry.result["sweeps"]), seconds(entry.median)


def _verdict(ours: Entry, peer: Entry) -> str:
    if ours.failed or peer.failed:
        return "–"
    good = ours.result["error"] <= peer.result["error"] * (1 + 1e-5)
    fast = ours.median <= peer.median
    return "yes" if good and fast else " and ".join(["worse"] * (not good) + ["slower"] * (not fast))
