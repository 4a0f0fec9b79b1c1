"""`make bench`: all benchmarks that need no GPU, and the tables of docs/benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import direct


def main() -> None:
    """Reads the command line and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with cifar10_resnet20.npz and the others")
    direct.main(parser.parse_args().data)


if __name__ == "__main__":
    main()
