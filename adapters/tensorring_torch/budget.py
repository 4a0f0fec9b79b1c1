"""What a compressed network may cost, as fractions of the dense one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Real


@dataclass(frozen=True)
class Budget:
    """Fractions of the dense network in (0, 1]: of its parameters, multiply-adds and measured latency; any of them.

    Parameters
    ----------
    parameters
        Of all parameters of the network; buffers are not counted.
    macs
        Of the multiply-adds of one forward pass of the example input, in convolutions and linear layers.
    latency
        Of the seconds that one forward pass of the example input takes, measured on the device of the model, as it was
        given. What comes back has the channels last, and batch norms folded, where that is faster.

    Raises
    ------
    TypeError, ValueError
        If a fraction is no number in (0, 1], or none is given.

    Examples
    --------
    >>> import tensorring_torch as tgt
    >>> tgt.Budget(parameters=0.25, latency=0.8)
    Budget(parameters=0.25, macs=None, latency=0.8)
    """

    parameters: float | None = None
    macs: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.asked.items():
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"got {name}={value!r}; it is a fraction of the dense network, a number in (0, 1]")
            if not 0 < value <= 1:
                raise ValueError(f"got {name}={value!r}; it is a fraction of the dense network, in (0, 1]")
        if not self.asked:
            raise ValueError("got a Budget of nothing; give parameters=, macs= or latency=, fractions in (0, 1]")

    @property
    def asked(self) -> dict[str, float]:
        """{name: fraction} of those that are given."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def tightened(self, factor: float) -> Budget:
        """All fractions times `factor`."""
        return Budget(**{name: factor * value for name, value in self.asked.items()})
