"""The edges: a progress bar for those who watch."""

from __future__ import annotations

from typing import Any


class progress:
    """A callback that draws one line: sweeps done, their rate, and the best relative error so far.

    Parameters
    ----------
    description
        Text in front of the bar.

    Raises
    ------
    ImportError
        Where tqdm is not installed.

    Notes
    -----
    Drawn by tqdm on standard error; the line stays when the run ends. One object may serve several runs, one after
    another.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> x = tg.random.cp((10, 11, 12), rank=2, rng=0).to_dense()
    >>> result = tg.cp_als(x, rank=2, tol=1e-6, callback=tg.progress("fit"))
    """

    def __init__(self, description: str = "sweeps") -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError("tg.progress needs tqdm: pip install tqdm, or pass a callback of your own") from None
        self._tqdm, self._description, self._bar = tqdm, description, None

    def __call__(self, sweep: int, error: float) -> None:
        """Draws the state after a sweep."""
        if self._bar is None:
            self._bar = self._tqdm(desc=self._description, unit=" sweeps")
        self._bar.update(sweep - self._bar.n)
        self._bar.set_postfix_str(f"error {error:.3e}", refresh=False)

    def close(self) -> None:
        """Ends the line; the methods call it when they end."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    _bar: Any
