"""`make bench`: all benchmarks that need no GPU, and the tables of docs/benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import against, degeneracy, direct, kernels

PAGES = ("kernels", "direct", "peers", "degeneracy")


def main() -> None:
    """Reads the command line and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with cifar10_resnet20.npz and the others")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        help=f"pages, {', '.join(PAGES)}, which are written; or parts of peers, which are printed: "
        f"{','.join(against.PARTS)}",
    )
    options = parser.parse_args()
    wanted = options.only or list(PAGES)
    parts = [part for part in wanted if part not in PAGES]
    if unknown := [part for part in parts if part not in against.PARTS]:
        parser.error(f"got --only {','.join(unknown)}; known are {', '.join((*PAGES, *against.PARTS))}")
    if "kernels" in wanted:
        kernels.main()
    if "direct" in wanted:
        direct.main(options.data)
    if "degeneracy" in wanted:
        degeneracy.main(options.data)
    if "peers" in wanted or parts:
        against.main(() if "peers" in wanted else parts)


if __name__ == "__main__":
    main()
