"""The file of a run: all that it takes to go on exactly where it was, rewritten whole after each epoch."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tensorring_torch.checkpoint import write_whole

FORMAT = "tensorring_torch.run.1"


class RunFile:
    """Where a run is kept; `identity` names all that has to be the same for it to go on."""

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self.path, self.identity = Path(path), dict(identity)

    def write(self, state: Mapping[str, Any]) -> None:
        """Complete or not at all: an interrupt leaves the file of the epoch before."""
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "identity": self.identity, "state": dict(state)}, buffer)
        write_whole(self.path, buffer.getvalue())

    def read(self) -> dict[str, Any] | None:
        """The state kept, on the CPU; None where there is no file yet.

        Raises
        ------
        ValueError
            If it is no file of a run, or one of another run: the message names what differs.
        """
        if not self.path.exists():
            return None
        content = io.BytesIO(self.path.read_bytes())
        try:
            kept = torch.load(content, map_location="cpu", weights_only=True)
        except Exception as error:  # on bytes of another kind torch raises anything
            raise ValueError(
                f"{self.path}: not a file of a run ({type(error).__name__}); fine_tune writes one"
            ) from error
        if not isinstance(kept, dict) or kept.get("format") != FORMAT:
            raise ValueError(f"{self.path}: not a file of a run; fine_tune writes one: give the name of a new file")
        self._check(kept["identity"])
        state: dict[str, Any] = kept["state"]
        return state

    def _check(self, kept: Mapping[str, Any]) -> None:
        for name in (*self.identity, *kept):
            old, new = kept.get(name), self.identity.get(name)
            if old != new:
                raise ValueError(
                    f"{self.path} holds a run with {name}={old!r}, and this one has {new!r}: a run goes on as it "
                    "began; give what it had, or the name of a new file"
                )


def digest(model: nn.Module | None) -> str | None:
    """A short text that tells apart networks with other tensors, names, shapes or dtypes."""
    if model is None:
        return None
    whole = hashlib.sha256()
    for name, value in model.state_dict().items():
        whole.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        whole.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()[:16]
