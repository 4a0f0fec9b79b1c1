"""What long benchmarks leave behind: a folder of networks with their figures, and a record that outlives it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cache:
    """A folder with a file of figures and a file of weights for each network made.

    The record, if there is one, holds the figures alone, a line of JSON for each network, so that pages can be written
    and runs can go on where the folder is gone. What is in the folder counts before what is in the record.
    """

    folder: Path
    record: Path | None = None

    def figures(self, name: str) -> dict[str, Any] | None:
        """What is known of a network; None where it was not made."""
        return dict(self.all()).get(name)

    def keep(self, name: str, figures: dict[str, Any]) -> None:
        """In place of what was known."""
        (self.folder / f"{name}.json").write_text(json.dumps(figures), encoding="utf-8")

    def weights(self, name: str) -> Path:
        """The file of the network itself."""
        return self.folder / f"{name}.safetensors"

    def all(self) -> list[tuple[str, dict[str, Any]]]:
        """Names and figures of all networks, by name."""
        known = {}
        if self.record is not None and self.record.exists():
            for line in self.record.read_text(encoding="utf-8").splitlines():
                figures = json.loads(line)
                known[figures.pop("name")] = figures
        for path in self.folder.glob("*.json"):
            known[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        return sorted(known.items())

    def write_record(self) -> None:
        """Puts into the record what is in the folder; nothing where there is no record."""
        if self.record is not None:
            lines = [json.dumps({"name": name} | figures) for name, figures in self.all()]
            self.record.write_text("\n".join(lines) + "\n", encoding="utf-8")
